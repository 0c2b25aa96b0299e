"""PAM shadowing, SMRAM and the identity that SeaBIOS looks for."""

from __future__ import annotations

from jitvm.devices.i440fx import I440fx


class Board:
    def __init__(self, ram_size: int = 128 << 20) -> None:
        self.pam: list[tuple[int, int, bool, bool]] = []
        self.smram: list[tuple[bool, bool]] = []
        self.chip = I440fx(ram_size, lambda *a: self.pam.append(a), lambda *a: self.smram.append(a))


def test_identity_is_qemus() -> None:
    chip = Board().chip
    assert [chip.register(o, 4) for o in (0, 4, 8, 0x0C, 0x2C)] == [0x1237_8086, 0, 0x0600_0002, 0, 0x1100_1AF4]
    assert chip.register(0x57, 1) == 0x10 and chip.register(0x72, 1) == 0x02


def test_ram_size_for_coreboot_is_capped() -> None:
    assert Board(8 << 30).chip.register(0x57, 1) == 255


def test_seabios_makes_the_bios_area_writable() -> None:
    b = Board()
    b.chip.config_write(0x58, 4, 0x3333_3000)
    b.chip.config_write(0x5C, 4, 0x3333_3333)
    assert b.chip.register(0x58, 4) == 0x3333_3000
    assert (0xF_0000, 0x1_0000, True, True) in b.pam and (0xC_0000, 0x4000, True, True) in b.pam
    assert sum(size for _, size, _, _ in b.pam) == 0x4_0000
    assert len({gpa for gpa, *_ in b.pam}) == 13


def test_seabios_locks_it_again() -> None:
    b = Board()
    b.chip.config_write(0x58, 4, 0x3333_3000)
    b.pam.clear()
    b.chip.config_write(0x58, 4, 0x1111_1000)
    assert (0xF_0000, 0x1_0000, True, False) in b.pam and (0xC_4000, 0x4000, True, False) in b.pam


def test_each_nibble_is_one_segment() -> None:
    b = Board()
    b.chip.config_write(0x5B, 1, 0x20)
    assert b.pam == [(0xC_C000, 0x4000, False, True)]
    b.pam.clear()
    b.chip.config_write(0x5B, 1, 0x20)
    assert b.pam == []
    b.chip.config_write(0x5F, 1, 0x01)
    assert b.pam == [(0xE_8000, 0x4000, True, False)]


def test_reserved_pam_bits_stay_zero() -> None:
    b = Board()
    b.chip.config_write(0x59, 2, 0xFFFF)
    assert b.chip.register(0x59, 2) == 0x3330


def test_smram_opens_and_closes() -> None:
    b = Board()
    b.chip.config_write(0x72, 1, 0x4A)
    b.chip.config_write(0x72, 1, 0x0A)
    b.chip.config_write(0x72, 1, 0x02)
    assert b.smram == [(True, False), (False, True), (False, False)]
    assert b.chip.register(0x72, 1) == 0x02


def test_a_locked_smram_stays_closed() -> None:
    b = Board()
    b.chip.config_write(0x72, 1, 0x5A)
    assert b.chip.register(0x72, 1) == 0x1A and b.smram == [(False, True)]
    b.chip.config_write(0x72, 1, 0x4A)
    assert b.chip.register(0x72, 1) == 0x1A
    b.chip.reset()
    assert b.chip.register(0x72, 1) == 0x02 and b.smram[-1] == (False, False)


def test_reset_gives_the_rom_back() -> None:
    b = Board()
    b.chip.config_write(0x59, 1, 0x30)
    b.chip.reset()
    assert b.pam == [(0xF_0000, 0x1_0000, True, True), (0xF_0000, 0x1_0000, False, False)]


def test_restore_maps_again() -> None:
    b = Board()
    b.chip.config_write(0x59, 1, 0x10)
    state = b.chip.snapshot()
    b.chip.reset()
    b.pam.clear()
    b.chip.restore(state)
    assert b.pam == [(0xF_0000, 0x1_0000, True, False)]
