"""jitvm: an x86 PC emulator whose CPU is readable Python, compiled by Numba."""

__version__ = "0.1.0"
