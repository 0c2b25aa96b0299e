"""ACPI tables: what firmware and operating systems read of a board, made for fw_cfg."""
