"""Host resources behind devices: character devices, disks, displays."""
