"""Why a vCPU came back from translated code: KVM's words and numbers (Linux, Documentation/virt/kvm/api.rst)."""

from __future__ import annotations

from enum import IntEnum


class ExitReason(IntEnum):
    """The `exit_reason` of a run."""

    UNKNOWN = 0
    IO = 2
    DEBUG = 4
    HLT = 5
    MMIO = 6
    IRQ_WINDOW_OPEN = 7
    SHUTDOWN = 8
    INTR = 10
    INTERNAL_ERROR = 17


class Outcome(IntEnum):
    """What the vCPU loop does after an exit was handled; all but HANDLED end the loop's turn."""

    HANDLED = 0
    HLT = 1
    INTERRUPT = 2
    DEBUG = 3
    ERROR = 4
