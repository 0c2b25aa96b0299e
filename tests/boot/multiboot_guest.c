/* A multiboot kernel that says on COM1 what it was given and leaves by isa-debug-exit.  FLAT: its header has addresses. */
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

#define STRING_OF(x) #x
#define STRING(x) STRING_OF(x)
#ifdef FLAT
#define FLAGS 0x10003
#define ADDRESSES ".long header, header, end_of_data, end_of_bss, entry\n"
#else
#define FLAGS 0x3
#define ADDRESSES ""
#endif

__asm__(".section .header, \"ax\"\n"
        "header: .long 0x1BADB002, " STRING(FLAGS) ", -0x1BADB002 - " STRING(FLAGS) "\n" ADDRESSES
        ".globl entry\n"
        "entry: movl $end_of_bss, %esp\n"
        "pushl %ebx\n"
        "pushfl\n"
        "pushl %eax\n"
        "call say_all\n"
        ".text");

struct info {
    u32 flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr;
    u32 drives[2], config_table, boot_loader_name;
};
struct module {
    u32 start, end, string, reserved;
};
struct entry {
    u32 size, base, base_high, length, length_high, type;
};

static volatile u32 initialised = 0x12345678;
static volatile u8 stack_and_more[0x5000];

static void out(u16 port, u8 value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void character(char c)
{
    u8 status;
    do
        __asm__ volatile("inb %1, %0" : "=a"(status) : "Nd"((u16)0x3FD));
    while (!(status & 0x20));
    out(0x3F8, c);
}

static void string(const char *s)
{
    while (*s)
        character(*s++);
}

static void hex(const char *what, u32 value)
{
    string(what);
    for (int at = 28; at >= 0; at -= 4)
        character("0123456789abcdef"[value >> at & 15]);
}

static void segment(const char *name, u16 selector)
{
    u32 rights, limit;
    __asm__("lar %1, %0" : "=r"(rights) : "r"((u32)selector));
    __asm__("lsl %1, %0" : "=r"(limit) : "r"((u32)selector));
    string(name);
    hex(" ", rights & 0xF0FE00);
    hex(" ", limit);
    string("\n");
}

#define SEGMENT(name) ({ u16 selector; __asm__("movw %%" name ", %0" : "=r"(selector)); segment(name, selector); })

void say_all(u32 magic, u32 eflags, const struct info *info)
{
    u32 cr0, not_zero = 0;
    __asm__("movl %%cr0, %0" : "=r"(cr0));
    hex("magic ", magic);
    hex("\ncr0 ", cr0);
    hex("\nvm and if ", eflags & 0x20200);
    hex("\ndata ", initialised);
    for (u32 k = 0; k < sizeof stack_and_more / 2; k++)
        not_zero |= stack_and_more[k];
    hex(" ", not_zero);
    string("\n");
    SEGMENT("cs");
    SEGMENT("ds");
    SEGMENT("es");
    SEGMENT("fs");
    SEGMENT("gs");
    SEGMENT("ss");
    hex("flags ", info->flags);
    hex("\nboot device ", info->boot_device);
    string("\ncommand line '");
    string((const char *)info->cmdline);
    string("'\nloader ");
    string((const char *)info->boot_loader_name);
    string("\n");
    const struct module *module = (const struct module *)info->mods_addr;
    for (u32 k = 0; k < info->mods_count; k++, module++) {
        hex("module ", module->start);
        hex(" ", module->end);
        string(" '");
        string((const char *)module->string);
        string("': ");
        for (u32 at = module->start; at < module->end; at++)
            character(*(const char *)at);
        string("\n");
    }
    hex("memory ", info->mem_lower);
    hex(" ", info->mem_upper);
    string("\n");
    for (u32 at = info->mmap_addr; at < info->mmap_addr + info->mmap_length;) {
        const struct entry *entry = (const struct entry *)at;
        hex("map ", entry->base_high);
        hex("", entry->base);
        hex(" ", entry->length_high);
        hex("", entry->length);
        hex(" ", entry->type);
        string("\n");
        at += entry->size + 4;
    }
    out(0xF4, 0x31);
    for (;;)
        __asm__ volatile("hlt");
}
