/* CPU identification: CPUID where EFLAGS.ID can be changed, else 386 or 486 by EFLAGS.AC.
 * Source: Intel SDM volume 1, chapter 20. */
#include "cpu.h"
#include "console.h"
#include "types.h"

#define EFLAGS_AC 0x00040000
#define EFLAGS_ID 0x00200000
#define BRAND_FIRST 0x80000002
#define BRAND_LAST 0x80000004

struct cpuid {
    u32 a, b, c, d;
};

static struct cpuid cpuid(u32 leaf)
{
    struct cpuid answer;
    asm volatile("cpuid" : "=a"(answer.a), "=b"(answer.b), "=c"(answer.c), "=d"(answer.d)
                 : "a"(leaf), "c"(0));
    return answer;
}

static int can_change(u32 flag)
{
    u32 before, after;
    asm volatile("pushfl; pushfl; popl %0; movl %0, %1; xorl %2, %0; pushl %0; popfl; pushfl; popl %0; popfl"
                 : "=&r"(after), "=&r"(before) : "ri"(flag));
    return ((before ^ after) & flag) != 0;
}

u32 cpu_features(void)
{
    if (!can_change(EFLAGS_ID) || cpuid(0).a < 1)
        return 0;
    return cpuid(1).d;
}

static void print_brand(void)
{
    for (u32 leaf = BRAND_FIRST; leaf <= BRAND_LAST; leaf++) {
        union { struct cpuid words; char text[16]; } part = {.words = cpuid(leaf)};
        for (u32 i = 0; i < sizeof part.text && part.text[i]; i++)
            print_char(part.text[i]);
    }
}

void cpu_print(void)
{
    union { u32 words[3]; char text[13]; } vendor = {.text = ""};
    struct cpuid leaf;
    u32 family, model, last;
    if (!can_change(EFLAGS_ID)) {
        print("CPU: %s without CPUID\n", can_change(EFLAGS_AC) ? "486" : "386");
        return;
    }
    leaf = cpuid(0);
    last = leaf.a;
    vendor.words[0] = leaf.b;
    vendor.words[1] = leaf.d;
    vendor.words[2] = leaf.c;
    print("CPU: %s", vendor.text);
    if (last >= 1) {
        leaf = cpuid(1);
        family = leaf.a >> 8 & 15;
        model = leaf.a >> 4 & 15;
        if (family == 6 || family == 15)
            model |= leaf.a >> 12 & 0xF0;
        if (family == 15)
            family += leaf.a >> 20 & 0xFF;
        print(" family %u model %u stepping %u features %08x %08x", family, model, leaf.a & 15, leaf.d, leaf.c);
    }
    leaf = cpuid(0x80000000);
    if (leaf.a >= BRAND_LAST && leaf.a < 0x80010000) {
        print("\nCPU: ");
        print_brand();
    }
    print("\n");
}
