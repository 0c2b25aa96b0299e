/* What ROM guests in C share: ports, printing, control registers, gates. They start in flat.S. */
#ifndef FLAT_H
#define FLAT_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define PORT_DEBUG 0xE9
#define PORT_DEBUG_EXIT 0xF4

static inline void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void out16(u16 port, u16 value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static inline u8 in8(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void put(char c) { out8(PORT_DEBUG, c); }
static inline void puts(const char *text)
{
    while (*text)
        put(*text++);
}
static inline void put_hex(u32 value, int digits)
{
    while (digits--)
        put("0123456789abcdef"[value >> 4 * digits & 15]);
}

/* Through isa-debug-exit: QEMU's status is code * 2 + 1. Bochs ends by its port 8900h, before the other one. */
static inline void leave(u8 code)
{
    const char *word = "Shutdown";
    while (*word)
        out8(0x8900, *word++);
    out8(PORT_DEBUG_EXIT, code);
    for (;;)
        __asm__ volatile("cli; hlt");
}

#define READ_CR(n) ({ u32 value_; __asm__ volatile("mov %%cr" #n ", %0" : "=r"(value_)); value_; })
#define WRITE_CR(n, value) __asm__ volatile("mov %0, %%cr" #n : : "r"((u32)(value)) : "memory")
static inline void invlpg(u32 lin) { __asm__ volatile("invlpg (%0)" : : "r"(lin) : "memory"); }
static inline void compiler_fence(void) { __asm__ volatile("" : : : "memory"); }
static inline void pause(void) { __asm__ volatile("pause" : : : "memory"); }

struct registers {
    u32 eax, ebx, ecx, edx;
};
static inline struct registers cpuid(u32 leaf)
{
    struct registers r;
    __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(0) : "memory");
    return r;
}

/* What an interrupt pushes at the same level, and a 32-bit interrupt gate. */
struct frame {
    u32 eip, cs, eflags;
};
struct gate {
    u16 low, selector, type, high;
};
struct pointer {
    u16 limit;
    u32 base;
} __attribute__((packed));
static inline void set_gate(struct gate *gate, u32 handler)
{
    gate->low = handler;
    gate->selector = 8;
    gate->type = 0x8E00;
    gate->high = handler >> 16;
}
static inline void load_idt(struct gate *idt, u32 n)
{
    struct pointer pointer = {n * sizeof *idt - 1, (u32)idt};
    __asm__ volatile("lidt %0" : : "m"(pointer));
}
#define INTERRUPT __attribute__((interrupt))

#endif
