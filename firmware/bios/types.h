/* Integer types, ports and memory outside of segment F000. */
#ifndef TYPES_H
#define TYPES_H

#include "layout.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define NULL ((void *)0)
#define PACKED __attribute__((packed))
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static inline u8 inb(u16 port)
{
    u8 value;
    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline u16 inw(u16 port)
{
    u16 value;
    asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline u32 inl(u16 port)
{
    u32 value;
    asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void outb(u16 port, u8 value)
{
    asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outw(u16 port, u16 value)
{
    asm volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outl(u16 port, u32 value)
{
    asm volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline void irq_disable(void)
{
    asm volatile("cli" : : : "memory");
}

static inline void irq_enable(void)
{
    asm volatile("sti" : : : "memory");
}

/* Sleep until an interrupt; STI holds interrupts off until HLT has begun. */
static inline void irq_sleep(void)
{
    asm volatile("sti; hlt; cli" : : : "memory");
}

/* One byte, word or double word at seg:off. FS belongs to these functions. */
static inline u8 far_read8(u16 seg, u32 off)
{
    u8 value;
    asm volatile("movw %1, %%fs; movb %%fs:(%2), %0" : "=q"(value) : "r"(seg), "r"(off) : "memory");
    return value;
}

static inline u16 far_read16(u16 seg, u32 off)
{
    u16 value;
    asm volatile("movw %1, %%fs; movw %%fs:(%2), %0" : "=r"(value) : "r"(seg), "r"(off) : "memory");
    return value;
}

static inline u32 far_read32(u16 seg, u32 off)
{
    u32 value;
    asm volatile("movw %1, %%fs; movl %%fs:(%2), %0" : "=r"(value) : "r"(seg), "r"(off) : "memory");
    return value;
}

static inline void far_write8(u16 seg, u32 off, u8 value)
{
    asm volatile("movw %1, %%fs; movb %0, %%fs:(%2)" : : "q"(value), "r"(seg), "r"(off) : "memory");
}

static inline void far_write16(u16 seg, u32 off, u16 value)
{
    asm volatile("movw %1, %%fs; movw %0, %%fs:(%2)" : : "r"(value), "r"(seg), "r"(off) : "memory");
}

static inline void far_write32(u16 seg, u32 off, u32 value)
{
    asm volatile("movw %1, %%fs; movl %0, %%fs:(%2)" : : "r"(value), "r"(seg), "r"(off) : "memory");
}

#define bda_read8(off) far_read8(BDA_SEG, off)
#define bda_read16(off) far_read16(BDA_SEG, off)
#define bda_read32(off) far_read32(BDA_SEG, off)
#define bda_write8(off, value) far_write8(BDA_SEG, off, value)
#define bda_write16(off, value) far_write16(BDA_SEG, off, value)
#define bda_write32(off, value) far_write32(BDA_SEG, off, value)

/* What gcc expects of a freestanding environment, and copies between segments (memory.c). */
void *memcpy(void *to, const void *from, u32 size);
void *memset(void *to, int value, u32 size);
int memcmp(const void *a, const void *b, u32 size);
void far_copy(u16 to_seg, u32 to, u16 from_seg, u32 from, u16 size);

#endif
