"""The chips of the board.  None of them sees a CPU, a bus, another device, a thread or the host's clock."""
