/* Where the BIOS lives: constants shared by C and assembly. */
#ifndef LAYOUT_H
#define LAYOUT_H

#define BIOS_SEG 0xF000
#define BIOS_LINEAR 0xF0000
#define BDA_SEG 0x0040

/* Stacks: one of STACK_SIZE bytes per nesting of calls that come from a foreign stack. */
#define STACK_SIZE_LOG2 11
#define STACK_LEVELS 4

/* Scratch memory of the POST and of the self-tests, free before the boot sector runs. */
#define SCRATCH_LINEAR 0x10000

/* Stack of option ROMs, below this, in segment 0. */
#define ROM_STACK 0x7000

/* Selectors of the GDT in pm.S. */
#define SEL_CODE32 0x08   /* base F0000 */
#define SEL_FLAT32 0x10   /* base 0, 4 GiB */
#define SEL_STACK32 0x18  /* base F0000, 64 KiB, 32-bit stack */
#define SEL_CODE16 0x20   /* base F0000, 64 KiB */
#define SEL_DATA16 0x28   /* base F0000, 64 KiB */
#define SEL_HIGH 0x30     /* base 1 MiB, 4 KiB: the self-test's segment */
#define SEL_BIG16 0x38   /* base 0, 4 GiB, 16-bit stack: big real mode */
#define SEL_BEYOND 0x40  /* the GDT ends before it */

#endif
