"""The error tree: every error that a user can meet is a `JitvmError` with one line that says what, where and what to do.

    JitvmError
    ├── ConfigError     a bad option value, unknown device, contradicting options
    ├── ImageError      a BIOS, option ROM or ELF that is missing, empty, oversized or broken
    ├── BackendError    a disk, socket, pty or file of the host that can't be opened, read or written
    ├── CacheError      the code cache is not usable (the caller warns and goes on without)
    └── EngineError     the accelerator can't start or can't compile

Guest faults are data (`jitvm.isa.state`), never one of these.
"""


class JitvmError(Exception):
    """Base of all errors meant for the user; the command line prints it as one line and exits with status 2."""


class ConfigError(JitvmError):
    """An option or a combination of options that makes no sense."""


class ImageError(JitvmError):
    """A firmware, kernel or ELF file that can't be used."""


class BackendError(JitvmError):
    """A file, disk, socket or terminal of the host that can't be used."""


class CacheError(JitvmError):
    """The cache folder can't be used; never fatal."""


class EngineError(JitvmError):
    """The accelerator can't do what it must."""
