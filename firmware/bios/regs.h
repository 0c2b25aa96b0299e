/* The registers of whoever called a BIOS service; entry.S builds this on our own stack. */
#ifndef REGS_H
#define REGS_H

#include "types.h"

/* A general register as a whole or in parts. */
#define REG(letter) \
    union { \
        u32 e##letter##x; \
        u16 letter##x; \
        struct { u8 letter##l, letter##h; }; \
    }

struct regs {
    union { u32 edi; u16 di; };
    union { u32 esi; u16 si; };
    u32 ebp;
    REG(b);
    REG(d);
    REG(c);
    REG(a);
    u16 ds, es, fs, gs;
    u16 flags, pad;
    u32 caller_esp;  /* where IP, CS and FLAGS of the caller are */
    u16 caller_ss, pad2;
};

#define FLAG_CF 0x0001
#define FLAG_ZF 0x0040
#define FLAG_IF 0x0200

static inline void set_flag(struct regs *r, u16 flag, int on)
{
    r->flags = on ? r->flags | flag : r->flags & ~flag;
}

/* Call INT vector with the registers of r (all but segments other than ES), and store what
 * it returns there (entry.S). */
void call_int(u32 vector, struct regs *r);

#endif
