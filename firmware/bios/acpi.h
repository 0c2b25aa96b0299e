/* ACPI tables for whoever is booted (acpi.c). */
#ifndef ACPI_H
#define ACPI_H

/* Put what fw_cfg holds into memory; without it, or without room, there are none. */
void acpi_init(void);

#endif
