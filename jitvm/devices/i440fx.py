"""The host bridge of an Intel 440FX PCIset (82441FX), as QEMU's "pc" board presents it.

Intel 82441FX/82442FX datasheet (290549), section 3.2: PAM0-PAM6 (59h-5Fh) and SMRAM (72h).  Identity, subsystem and
reset values are those of QEMU 7.2, by which SeaBIOS knows where it is; 57h holds the RAM size in units of 8 MiB, which
QEMU puts there for coreboot.

Not modelled: DRAM timing and row boundaries (60h-67h), buffers, error reporting, the turbo reset register; they are
stored without effect.  The memory hole of DRAMC/FDHC.
"""

from __future__ import annotations

from collections.abc import Callable

from jitvm.devices.base import Snapshot
from jitvm.devices.pci import PciFunction
from jitvm.trace import SILENT, Trace

COREBOOT_RAM, PAM0, SMRAM = 0x57, 0x59, 0x72
PAM_READ, PAM_WRITE = 1, 2
D_OPEN, D_CLS, D_LCK, G_SMRAME, C_BASE_SEG = 0x40, 0x20, 0x10, 0x08, 0x02
SMRAM_WRITABLE = D_OPEN | D_CLS | D_LCK | G_SMRAME


def _segments() -> list[tuple[int, int, int, int]]:
    """(register, shift, gpa, size) of the thirteen segments, lowest address first."""
    found = [(PAM0 + 1 + k // 2, 4 * (k & 1), 0xC_0000 + 0x4000 * k, 0x4000) for k in range(12)]
    return [*found, (PAM0, 4, 0xF_0000, 0x1_0000)]


SEGMENTS = _segments()


class I440fx(PciFunction):
    """8086:1237 at 00.0.

    `on_pam(gpa, size, read_ram, write_ram)` is called for each segment whose attributes changed: reads go to RAM or to
    PCI (the ROM), writes to RAM or to PCI.  `on_smram(everyone, smm)`: A0000h-BFFFFh is RAM for every access, or for
    accesses in system management mode only.  Before the first call all of it belongs to PCI.
    """

    def __init__(
        self,
        ram_size: int,
        on_pam: Callable[[int, int, bool, bool], None],
        on_smram: Callable[[bool, bool], None],
        trace: Trace = SILENT,
    ) -> None:
        super().__init__("i440fx", vendor=0x8086, device=0x1237, class_code=0x060000, revision=2, trace=trace)
        self._on_pam, self._on_smram = on_pam, on_smram
        for offset in range(0x40, 0x100):
            self.define(offset, 1, 0, 0xFF)
        self.define(COREBOOT_RAM, 1, min(ram_size >> 23, 255), 0xFF)
        self.define(PAM0, 1, 0, 0x30)
        for offset in range(PAM0 + 1, PAM0 + 7):
            self.define(offset, 1, 0, 0x33)
        self.define(SMRAM, 1, C_BASE_SEG, SMRAM_WRITABLE)
        self._pam = [0] * len(SEGMENTS)
        self._smram = (False, False)

    def config_write(self, offset: int, size: int, value: int) -> None:
        """SMRAM freezes, closed, when D_LCK is set."""
        before = self.config[SMRAM]
        super().config_write(offset, size, value)
        if before & D_LCK:
            self.config[SMRAM] = before
        elif self.config[SMRAM] & D_LCK:
            self.config[SMRAM] &= ~D_OPEN
        self._apply()

    def config_written(self, offset: int, size: int) -> None:
        if offset >= 0x40 and not self.wrote(PAM0, offset, size, 7) and not self.wrote(SMRAM, offset, size):
            self.unmodelled_register(offset, size)

    def _apply(self) -> None:
        for k, (register, shift, gpa, size) in enumerate(SEGMENTS):
            attributes = self.config[register] >> shift & 3
            if attributes != self._pam[k]:
                self._pam[k] = attributes
                self._on_pam(gpa, size, bool(attributes & PAM_READ), bool(attributes & PAM_WRITE))
        smram = self.config[SMRAM]
        enabled = bool(smram & G_SMRAME)
        state = (enabled and bool(smram & D_OPEN), enabled and not smram & D_OPEN)
        if state != self._smram:
            self._smram = state
            self._on_smram(*state)

    def reset(self) -> None:
        super().reset()
        self._apply()

    def restore(self, state: Snapshot) -> None:
        super().restore(state)
        self._apply()
