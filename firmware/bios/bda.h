/* The BIOS data area, segment 0040 (layout: IBM PC/AT Technical Reference, section 5). */
#ifndef BDA_H
#define BDA_H

#define BDA_COM 0x00
#define BDA_EQUIPMENT 0x10
#define BDA_MEMORY_KB 0x13
#define BDA_KBD_FLAGS 0x17
#define BDA_KBD_FLAGS2 0x18
#define BDA_KBD_ALT 0x19
#define BDA_KBD_HEAD 0x1A
#define BDA_KBD_TAIL 0x1C
#define BDA_KBD_BUFFER 0x1E
#define BDA_KBD_BUFFER_END 0x3E
#define BDA_LAST_IRQ 0x6B
#define BDA_TICKS 0x6C
#define BDA_MIDNIGHT 0x70
#define BDA_BREAK 0x71
#define BDA_RESET_FLAG 0x72
#define BDA_DISK_STATUS 0x74
#define BDA_DISK_COUNT 0x75
#define BDA_COM_TIMEOUT 0x7C
#define BDA_KBD_START 0x80
#define BDA_KBD_END 0x82
#define BDA_DISK_IRQ 0x8E
#define BDA_KBD_FLAGS3 0x96
#define BDA_KBD_LEDS 0x97
#define BDA_WAIT_FLAG_PTR 0x98
#define BDA_WAIT_COUNT 0x9C
#define BDA_WAIT_ACTIVE 0xA0

#define EQUIPMENT_FPU 0x0002
#define EQUIPMENT_PS2_MOUSE 0x0004
#define EQUIPMENT_VIDEO_80X25 0x0020
#define EQUIPMENT_COM_SHIFT 9

#endif
