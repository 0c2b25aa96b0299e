/* Formatted output on the serial line and the VGA text screen. */
#include "console.h"
#include "regs.h"
#include "serial.h"

u8 console_targets = CONSOLE_SERIAL;

static void vga_char(char c)
{
    struct regs r = {.eax = 0x0E00 | (u8)c, .ebx = 0x0007};
    call_int(0x10, &r);
}

void print_char(char c)
{
    if (c == '\n')
        print_char('\r');
    if (console_targets & CONSOLE_SERIAL)
        serial_send(c);
    if (console_targets & CONSOLE_VGA)
        vga_char(c);
}

static void print_padding(u32 length, u32 width, char c)
{
    for (; length < width; length++)
        print_char(c);
}

static void print_number(u32 value, u32 base, u32 width, char padding)
{
    char digits[10];
    u32 n = 0;
    do {
        digits[n++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    print_padding(n, width, padding);
    while (n)
        print_char(digits[--n]);
}

static void print_string(const char *s, u32 width)
{
    u32 length = 0;
    for (; s[length]; length++)
        print_char(s[length]);
    print_padding(length, width, ' ');
}

void print(const char *format, ...)
{
    __builtin_va_list arguments;
    __builtin_va_start(arguments, format);
    for (; *format; format++) {
        u32 width = 0;
        char padding = ' ';
        if (*format != '%') {
            print_char(*format);
            continue;
        }
        format++;
        if (*format == '-')
            format++;
        else if (*format == '0')
            padding = *format++;
        for (; *format >= '0' && *format <= '9'; format++)
            width = width * 10 + *format - '0';
        switch (*format) {
        case 's':
            print_string(__builtin_va_arg(arguments, const char *), width);
            break;
        case 'c':
            print_char(__builtin_va_arg(arguments, int));
            break;
        case 'u':
            print_number(__builtin_va_arg(arguments, u32), 10, width, padding);
            break;
        case 'x':
            print_number(__builtin_va_arg(arguments, u32), 16, width, padding);
            break;
        default:
            print_char(*format);
        }
    }
    __builtin_va_end(arguments);
}
