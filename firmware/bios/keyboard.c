/* Keystrokes: IRQ 1 turns scan codes of set 1 into BIOS keystrokes (scan code << 8 | ASCII) in
 * the ring buffer of the BIOS data area, INT 16h hands them out. US layout.
 * Source: IBM PS/2 and PC BIOS Interface Technical Reference, INT 09h and 16h. */
#include "bda.h"
#include "board.h"
#include "kbc.h"
#include "keyboard.h"
#include "pic.h"
#include "power.h"
#include "regs.h"

#define SHIFT_RIGHT 0x01
#define SHIFT_LEFT 0x02
#define CTRL 0x04
#define ALT 0x08
#define SCROLL_LOCK 0x10
#define NUM_LOCK 0x20
#define CAPS_LOCK 0x40
#define INSERT 0x80
#define FLAGS3_E1 0x01
#define FLAGS3_E0 0x02
#define FLAGS3_101_KEYS 0x10

#define SC_CTRL 0x1D
#define SC_SHIFT_LEFT 0x2A
#define SC_SHIFT_RIGHT 0x36
#define SC_PRINT 0x37
#define SC_ALT 0x38
#define SC_CAPS 0x3A
#define SC_NUM 0x45
#define SC_SCROLL 0x46
#define SC_KEYPAD 0x47
#define SC_INSERT 0x52
#define SC_DELETE 0x53
#define SC_F11 0x57
#define SC_F12 0x58

/* Scan codes 01 to 39. */
static const char plain[] =
    "\x1B" "1234567890-=\b\tqwertyuiop[]\r\0asdfghjkl;'`\0\\zxcvbnm,./\0*\0 ";
static const char shifted[] =
    "\x1B" "!@#$%^&*()_+\b\0QWERTYUIOP{}\r\0ASDFGHJKL:\"~\0|ZXCVBNM<>?\0*\0 ";

static const char keypad_shifted[] = "789-456+1230.";

/* Control with a key of the keypad, 47 to 53. */
static const u8 keypad_control[] = {
    0x77, 0x8D, 0x84, 0x8E, 0x73, 0x8F, 0x74, 0x90, 0x75, 0x91, 0x76, 0x92, 0x93,
};

int keyboard_put(u16 key)
{
    u16 tail = bda_read16(BDA_KBD_TAIL);
    u16 next = tail + 2;
    if (next >= bda_read16(BDA_KBD_END))
        next = bda_read16(BDA_KBD_START);
    if (next == bda_read16(BDA_KBD_HEAD))
        return 0;
    bda_write16(tail, key);
    bda_write16(BDA_KBD_TAIL, next);
    return 1;
}

static u16 keypad_key(u8 code, u8 flags, int extended)
{
    u8 index = code - SC_KEYPAD;
    int numeric = !extended && !(flags & NUM_LOCK) != !(flags & (SHIFT_LEFT | SHIFT_RIGHT));
    if (flags & ALT) {
        char digit = keypad_shifted[index];
        if (extended)
            return (code + 0x50) << 8;
        if (digit >= '0' && digit <= '9') {
            bda_write8(BDA_KBD_ALT, bda_read8(BDA_KBD_ALT) * 10 + digit - '0');
            return 0;
        }
        return code << 8;
    }
    if (flags & CTRL)
        return keypad_control[index] << 8 | (extended ? 0xE0 : 0);
    if (code == 0x4A || code == 0x4E || numeric)
        return code << 8 | keypad_shifted[index];
    if (code == SC_INSERT)
        bda_write8(BDA_KBD_FLAGS, bda_read8(BDA_KBD_FLAGS) ^ INSERT);
    return code << 8 | (extended ? 0xE0 : 0);
}

static u16 function_key(u8 code, u8 flags)
{
    u8 base = code - 0x3B;
    if (code >= SC_F11) {
        base = code - SC_F11;
        return ((flags & ALT ? 0x8B : flags & CTRL ? 0x89 :
                 flags & (SHIFT_LEFT | SHIFT_RIGHT) ? 0x87 : 0x85) + base) << 8;
    }
    return ((flags & ALT ? 0x68 : flags & CTRL ? 0x5E :
             flags & (SHIFT_LEFT | SHIFT_RIGHT) ? 0x54 : 0x3B) + base) << 8;
}

static u16 control_key(u8 code, char c)
{
    if (c >= 'a' && c <= 'z')
        return code << 8 | (c & 0x1F);
    switch (c) {
    case '2': return 0x0300;
    case '6': return 0x071E;
    case '-': return 0x0C1F;
    case '[': return 0x1A1B;
    case ']': return 0x1B1D;
    case '\\': return 0x2B1C;
    case '\b': return 0x0E7F;
    case '\t': return 0x9400;
    case '\r': return 0x1C0A;
    case '*': return 0x9600;
    case ' ': return 0x3920;
    case 0x1B: return 0x011B;
    default: return 0;
    }
}

/* The keystroke of a key that went down, 0 for none. */
static u16 key_of(u8 code, u8 flags, int extended)
{
    int shift = (flags & (SHIFT_LEFT | SHIFT_RIGHT)) != 0;
    char c;
    if (extended && code == 0x1C)
        return flags & ALT ? 0xA600 : flags & CTRL ? 0xE00A : 0xE00D;
    if (extended && code == 0x35)
        return flags & ALT ? 0xA400 : flags & CTRL ? 0x9500 : 0xE02F;
    if (code >= SC_KEYPAD && code <= SC_DELETE)
        return keypad_key(code, flags, extended);
    if ((code >= 0x3B && code <= 0x44) || code == SC_F11 || code == SC_F12)
        return function_key(code, flags);
    if (code == 0x56)
        return flags & (ALT | CTRL) ? 0 : code << 8 | (shift ? '|' : '\\');
    if (code < 1 || code > 0x39 || !plain[code - 1])
        return 0;
    c = plain[code - 1];
    if (flags & ALT) {
        if (code >= 0x02 && code <= 0x0D)
            return (code + 0x76) << 8;
        return code == 0x39 ? 0x3920 : code == 0x0F ? 0xA500 : code << 8;
    }
    if (flags & CTRL)
        return control_key(code, c);
    if (c >= 'a' && c <= 'z' && flags & CAPS_LOCK)
        shift = !shift;
    return code << 8 | (u8)(shift ? shifted[code - 1] : c);
}

/* Keys that only change the shift state; 1 when the code is one of them. */
static int shift_key(u8 code, int down, int extended)
{
    u8 flags = bda_read8(BDA_KBD_FLAGS), flags2 = bda_read8(BDA_KBD_FLAGS2);
    u8 bit = 0, lock = 0;
    switch (code) {
    case SC_SHIFT_LEFT: bit = extended ? 0 : SHIFT_LEFT; break;
    case SC_SHIFT_RIGHT: bit = extended ? 0 : SHIFT_RIGHT; break;
    case SC_CTRL: bit = CTRL; break;
    case SC_ALT: bit = ALT; break;
    case SC_CAPS: lock = CAPS_LOCK; break;
    case SC_NUM: lock = NUM_LOCK; break;
    case SC_SCROLL: lock = SCROLL_LOCK; break;
    default: return 0;
    }
    if (extended && code == SC_SCROLL)
        return 0;  /* Ctrl-Break */
    if (down) {
        flags |= bit;
        if (lock && !(flags2 & lock))
            flags ^= lock;
        flags2 |= lock;
    } else {
        flags &= ~bit;
        flags2 &= ~lock;
        if (code == SC_ALT && bda_read8(BDA_KBD_ALT)) {
            keyboard_put(bda_read8(BDA_KBD_ALT));
            bda_write8(BDA_KBD_ALT, 0);
        }
    }
    bda_write8(BDA_KBD_FLAGS, flags);
    bda_write8(BDA_KBD_FLAGS2, flags2);
    return 1;
}

static void handle_code(u8 code)
{
    u8 flags3 = bda_read8(BDA_KBD_FLAGS3);
    int extended = flags3 & FLAGS3_E0;
    u8 flags;
    u16 key;
    if (code == 0xE0 || code == 0xE1) {
        bda_write8(BDA_KBD_FLAGS3, flags3 | (code == 0xE0 ? FLAGS3_E0 : FLAGS3_E1));
        return;
    }
    if (flags3 & FLAGS3_E1) {
        /* Pause: E1 1D 45 E1 9D C5, which makes no keystroke. */
        if ((code & 0x7F) != SC_CTRL)
            bda_write8(BDA_KBD_FLAGS3, flags3 & ~FLAGS3_E1);
        return;
    }
    bda_write8(BDA_KBD_FLAGS3, flags3 & ~FLAGS3_E0);
    if (shift_key(code & 0x7F, !(code & 0x80), extended) || code & 0x80)
        return;
    flags = bda_read8(BDA_KBD_FLAGS);
    if (code == SC_DELETE && (flags & (CTRL | ALT)) == (CTRL | ALT))
        reset_machine();
    if (code == SC_SCROLL && extended) {
        struct regs none = {.es = 0};
        bda_write8(BDA_BREAK, 0x80);
        bda_write16(BDA_KBD_HEAD, bda_read16(BDA_KBD_TAIL));
        call_int(0x1B, &none);
        keyboard_put(0);
        return;
    }
    if (code == SC_PRINT && extended) {
        struct regs none = {.es = 0};
        call_int(0x05, &none);
        return;
    }
    key = key_of(code, flags, extended);
    if (key)
        keyboard_put(key);
}

void int09(struct regs *r)
{
    (void)r;
    irq_count[IRQ_KEYBOARD]++;
    if (inb(PORT_KBC) & KBC_STATUS_OUTPUT_FULL) {
        /* INT 15h AH=4F may change the code or swallow it (CF clear). */
        struct regs intercept = {.eax = 0x4F00 | inb(PORT_KBC_DATA)};
        call_int(0x15, &intercept);
        if (intercept.flags & FLAG_CF)
            handle_code(intercept.al);
    }
    irq_end(IRQ_KEYBOARD);
}

void keyboard_init(void)
{
    bda_write16(BDA_KBD_HEAD, BDA_KBD_BUFFER);
    bda_write16(BDA_KBD_TAIL, BDA_KBD_BUFFER);
    bda_write16(BDA_KBD_START, BDA_KBD_BUFFER);
    bda_write16(BDA_KBD_END, BDA_KBD_BUFFER_END);
    bda_write8(BDA_KBD_FLAGS3, FLAGS3_101_KEYS);
    kbc_init();
    irq_unmask(IRQ_KEYBOARD);
}

/* What a program that knows 84 keys gets: no E0 in the ASCII half. */
static u16 as_84_keys(u16 key)
{
    if (key >> 8 == 0xE0)
        return (key & 0xFF) == '/' ? 0x3500 | '/' : 0x1C00 | (key & 0xFF);
    return (key & 0xFF) == 0xE0 ? key & 0xFF00 : key;
}

static int peek(u16 *key)
{
    u16 head = bda_read16(BDA_KBD_HEAD);
    if (head == bda_read16(BDA_KBD_TAIL))
        return 0;
    *key = bda_read16(head);
    return 1;
}

static u16 wait_key(void)
{
    u16 key, head;
    while (!peek(&key))
        irq_sleep();
    head = bda_read16(BDA_KBD_HEAD) + 2;
    if (head >= bda_read16(BDA_KBD_END))
        head = bda_read16(BDA_KBD_START);
    bda_write16(BDA_KBD_HEAD, head);
    return key;
}

void int16(struct regs *r)
{
    u16 key;
    int there;
    switch (r->ah) {
    case 0x00:
        r->ax = as_84_keys(wait_key());
        break;
    case 0x10:
        r->ax = wait_key();
        break;
    case 0x01:
    case 0x11:
        there = peek(&key);
        set_flag(r, FLAG_ZF, !there);
        if (there)
            r->ax = r->ah == 0x01 ? as_84_keys(key) : key;
        break;
    case 0x02:
        r->al = bda_read8(BDA_KBD_FLAGS);
        break;
    case 0x05:
        r->al = !keyboard_put(r->cx);
        break;
    case 0x12:
        r->al = bda_read8(BDA_KBD_FLAGS);
        r->ah = bda_read8(BDA_KBD_FLAGS2);
        break;
    }
}
