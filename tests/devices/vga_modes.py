"""Register values of VGA modes 3, 12h and 13h, as every VGA BIOS sets them (IBM's mode tables)."""

from __future__ import annotations

from jitvm.devices.vga import Vga

MISC = {0x03: 0x67, 0x12: 0xE3, 0x13: 0x63}
SEQUENCER = {0x03: "03 00 03 00 02", 0x12: "03 01 0f 00 06", 0x13: "03 01 0f 00 0e"}
CRTC = {
    0x03: "5f 4f 50 82 55 81 bf 1f 00 4f 0d 0e 00 00 00 00 9c 8e 8f 28 1f 96 b9 a3 ff",
    0x12: "5f 4f 50 82 54 80 0b 3e 00 40 00 00 00 00 00 00 ea 8c df 28 00 e7 04 e3 ff",
    0x13: "5f 4f 50 82 54 80 bf 1f 00 41 00 00 00 00 00 00 9c 8e 8f 28 40 96 b9 a3 ff",
}
GRAPHICS = {0x03: "00 00 00 00 00 10 0e 0f ff", 0x12: "00 00 00 00 00 00 05 0f ff", 0x13: "00 00 00 00 00 40 05 0f ff"}
ATTRIBUTES = {
    0x03: "00 01 02 03 04 05 14 07 38 39 3a 3b 3c 3d 3e 3f 0c 00 0f 08 00",
    0x12: "00 01 02 03 04 05 14 07 38 39 3a 3b 3c 3d 3e 3f 01 00 0f 00 00",
    0x13: "00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 41 00 0f 00 00",
}


def set_registers(vga: Vga, port: int, values: str) -> None:
    """Write an index/data pair of ports 3C0h + `port` from register 0 on."""
    for index, value in enumerate(bytes.fromhex(values)):
        vga.core.write(port, 1, index)
        vga.core.write(port + 1, 1, value)


def set_mode(vga: Vga, mode: int) -> None:
    vga.core.write(2, 1, MISC[mode])
    set_registers(vga, 4, SEQUENCER[mode])
    vga.crtc_color.write(0, 2, 0x0011)
    for index, value in enumerate(bytes.fromhex(CRTC[mode])):
        vga.crtc_color.write(0, 2, value << 8 | index)
    set_registers(vga, 0xE, GRAPHICS[mode])
    vga.status_color.read(0, 1)
    for index, value in enumerate(bytes.fromhex(ATTRIBUTES[mode])):
        vga.core.write(0, 1, index)
        vga.core.write(0, 1, value)
    vga.core.write(0, 1, 0x20)
    vga.core.write(8, 1, 0)
    for color in range(256):
        for part in (color & 0x3F, color >> 2 & 0x3F, 0x3F - (color & 0x3F)):
            vga.core.write(9, 1, part)
