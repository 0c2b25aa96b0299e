/* Run single instructions of guest code on the host's own CPU.
 *
 * A freestanding x86-64 Linux program: no C library, so that no thread-local
 * storage depends on the FS base that the guest code owns.  It reads a batch
 * of cases on standard input and writes one result per case on standard
 * output.  All of it happens inside the signal handler: a case is entered by
 * rewriting the signal frame and returning from the handler, with TF set, and
 * left by the debug trap or the fault that the kernel turns into a signal.
 *
 * The wire format (little endian, no padding) is described by the structures
 * below and mirrored by native.py.
 */
#include <asm/ldt.h>
#include <asm/sigcontext.h>
#include <asm/unistd.h>
#include <asm/siginfo.h>
#include <linux/mman.h>
#include <linux/signal.h>
#include <asm/ucontext.h>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define WINDOW 0x100000ul
#define WINDOW_SIZE 0x10000ul

#define EFL_TF 0x100u

enum layout { FLAT32, WINDOW16, WINDOW32, SPLIT16, SPLIT32, LONG64, N_LAYOUTS };

struct case_header {
    u32 layout;
    u32 steps;
    u64 regs[16]; /* rax rcx rdx rbx rsp rbp rsi rdi r8..r15 */
    u64 ip;
    u64 flags;
    u64 fs_base, gs_base;
    u32 n_pokes;
    u32 code_length; /* the run ends when IP leaves the code */
    u32 has_fx;      /* an FXSAVE image (64-bit form) follows, and one goes back */
    u32 zero;
};

#define FX_SIZE 416 /* x87, MXCSR, XMM0-15; the rest is the kernel's */
#define FX_MXCSR 24
#define FX_HEADER 512 /* XSAVE's header: bit 0 and 1 of its first word say that x87 and SSE state is there */

struct poke {
    u32 offset, length;
};

struct result_header {
    u64 regs[16];
    u64 ip;
    u64 flags;
    u64 address;
    u32 signal, code;
    u32 vector, error;
    u32 steps;
    u32 n_changes;
};

/* Segments of the split layouts: every register has its own base and limit.
 * native.py has the same table. */
struct segment {
    u32 base, limit;
    u32 expand_down;
};
static const struct segment split[6] = {
    /* es */ {0x101000, 0x6fff, 0},
    /* cs */ {0x100000, 0xffff, 0},
    /* ss */ {0x108000, 0x7fff, 0},
    /* ds */ {0x102000, 0x4fff, 0},
    /* fs */ {0x100000, 0x0fff, 1},
    /* gs */ {0x100800, 0x37ff, 0},
};

enum { ES, CS, SS, DS, FS, GS };

static u16 selectors[N_LAYOUTS][6];

static long sys(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

void *memcpy(void *to, const void *from, unsigned long n)
{
    void *d = to;
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n) : : "memory");
    return to;
}

void *memset(void *to, int value, unsigned long n)
{
    void *d = to;
    __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(value) : "memory");
    return to;
}

static _Noreturn void leave(int status)
{
    for (;;)
        sys(__NR_exit, status, 0, 0, 0, 0, 0);
}

static void complain(const char *text)
{
    unsigned long n = 0;
    while (text[n])
        n++;
    sys(__NR_write, 2, (long)text, n, 0, 0, 0);
}

/* ---- input and output ------------------------------------------------- */

static u8 input[1 << 20], output[1 << 20];
static unsigned long in_pos, in_end, out_pos;

static void flush(void)
{
    unsigned long done = 0;
    while (done < out_pos) {
        long n = sys(__NR_write, 1, (long)(output + done), out_pos - done, 0, 0, 0);
        if (n <= 0)
            leave(4);
        done += n;
    }
    out_pos = 0;
}

/* The next n input bytes in one piece, or 0 at the end of the input. */
static const void *take(unsigned long n)
{
    if (n > sizeof input)
        leave(5);
    if (in_end - in_pos < n) {
        unsigned long kept = in_end - in_pos;
        for (unsigned long i = 0; i < kept; i++)
            input[i] = input[in_pos + i];
        in_pos = 0;
        in_end = kept;
        while (in_end < n) {
            long got = sys(__NR_read, 0, (long)(input + in_end), sizeof input - in_end, 0, 0, 0);
            if (got < 0)
                leave(6);
            if (got == 0)
                return 0;
            in_end += got;
        }
    }
    in_pos += n;
    return input + in_pos - n;
}

static void *reserve(unsigned long n)
{
    if (sizeof output - out_pos < n)
        flush();
    out_pos += n;
    return output + out_pos - n;
}

/* ---- the guest's memory ----------------------------------------------- */

static u8 *const window = (u8 *)WINDOW;
static u64 background[WINDOW_SIZE / 8], expected[WINDOW_SIZE / 8];

/* Write the changed words as runs, put the background back. */
static u32 report_changes(void)
{
    u64 *now = (u64 *)WINDOW;
    u32 n_changes = 0;
    for (unsigned i = 0; i < WINDOW_SIZE / 8; i++) {
        if (__builtin_expect(now[i] == expected[i], 1))
            continue;
        for (unsigned k = 0; k < 8; k++) {
            u8 value = now[i] >> (8 * k);
            if (value == (u8)(expected[i] >> (8 * k)))
                continue;
            struct { u16 offset; u8 value, zero; } *change = reserve(4);
            change->offset = i * 8 + k;
            change->value = value;
            change->zero = 0;
            n_changes++;
        }
        now[i] = expected[i];
    }
    return n_changes;
}

static struct { u32 offset, length; } poked[4096];
static u32 n_poked;

static void unpoke(void)
{
    for (u32 i = 0; i < n_poked; i++) {
        memcpy(window + poked[i].offset, (u8 *)background + poked[i].offset, poked[i].length);
        memcpy((u8 *)expected + poked[i].offset, (u8 *)background + poked[i].offset,
               poked[i].length);
    }
    n_poked = 0;
}

/* ---- cases ------------------------------------------------------------ */

static struct case_header current;
static u8 initial_fx[FX_SIZE] = {0x7f, 0x03, [FX_MXCSR] = 0x80, 0x1f};
static u32 steps_done;
static int running, fsgsbase;

static void set_segments(const u16 *s)
{
    __asm__ volatile("mov %w0, %%ds\n\tmov %w1, %%es\n\tmov %w2, %%fs\n\tmov %w3, %%gs"
                     :
                     : "r"(s[DS]), "r"(s[ES]), "r"(s[FS]), "r"(s[GS]));
}

static void load_case(struct ucontext *uc)
{
    const struct case_header *header = take(sizeof current);
    struct sigcontext *sc = &uc->uc_mcontext;
    if (!header) {
        flush();
        leave(0);
    }
    current = *header;
    if (current.layout >= N_LAYOUTS || current.n_pokes > 4096)
        leave(7);
    /* In the signal frame: sigreturn loads it. */
    u8 *fx = (u8 *)sc->fpstate;
    memcpy(fx, current.has_fx ? take(FX_SIZE) : initial_fx, FX_MXCSR + 4);
    memcpy(fx + FX_MXCSR + 8, (current.has_fx ? input + in_pos - FX_SIZE : initial_fx) + FX_MXCSR + 8,
           FX_SIZE - FX_MXCSR - 8);
    *(u64 *)(fx + FX_HEADER) |= 3;
    for (u32 i = 0; i < current.n_pokes; i++) {
        struct poke poke = *(const struct poke *)take(sizeof poke);
        const u8 *bytes = take(poke.length);
        if (poke.offset + poke.length > WINDOW_SIZE)
            leave(8);
        memcpy(window + poke.offset, bytes, poke.length);
        memcpy((u8 *)expected + poke.offset, bytes, poke.length);
        poked[i].offset = poke.offset;
        poked[i].length = poke.length;
    }
    n_poked = current.n_pokes;
    sc->rax = current.regs[0];
    sc->rcx = current.regs[1];
    sc->rdx = current.regs[2];
    sc->rbx = current.regs[3];
    sc->rsp = current.regs[4];
    sc->rbp = current.regs[5];
    sc->rsi = current.regs[6];
    sc->rdi = current.regs[7];
    u64 *high = &sc->r8;
    for (int i = 0; i < 8; i++)
        high[i] = current.regs[8 + i];
    sc->rip = current.ip;
    sc->eflags = current.flags | EFL_TF;
    const u16 *s = selectors[current.layout];
    if (!s[CS] || !s[SS]) {
        complain("the kernel refuses such a segment in the local descriptor table\n");
        leave(3);
    }
    sc->cs = s[CS];
    sc->ss = s[SS];
    uc->uc_flags |= UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
    set_segments(s);
    if (current.layout == LONG64) {
        if (fsgsbase)
            __asm__ volatile("wrfsbase %0\n\twrgsbase %1"
                             :
                             : "r"(current.fs_base), "r"(current.gs_base));
        else if (current.fs_base | current.gs_base)
            leave(9);
    }
    steps_done = 0;
}

/* Whether the debug trap of TF ended an instruction.  Under some hypervisors
 * DR6.BS is now and then lost, and the kernel then says TRAP_BRKPT as it does
 * for ICEBP: the byte before IP tells the two apart. */
static int stepped(int signal, const struct siginfo *info, const struct ucontext *uc)
{
    if (signal != SIGTRAP || uc->uc_mcontext.trapno != 1)
        return 0;
    if (info->si_code == TRAP_TRACE)
        return 1;
    u64 last = uc->uc_mcontext.rip - 1, into = last - current.ip;
    if (current.layout != FLAT32 && current.layout != LONG64)
        last += WINDOW; /* the base of CS */
    return into >= current.code_length || *(const u8 *)last != 0xf1;
}

static void store_result(int signal, const struct siginfo *info, const struct ucontext *uc)
{
    const struct sigcontext *sc = &uc->uc_mcontext;
    if (sizeof output - out_pos < sizeof(struct result_header) + FX_SIZE + 4 * WINDOW_SIZE)
        flush();
    struct result_header *r = reserve(sizeof *r);
    r->regs[0] = sc->rax;
    r->regs[1] = sc->rcx;
    r->regs[2] = sc->rdx;
    r->regs[3] = sc->rbx;
    r->regs[4] = sc->rsp;
    r->regs[5] = sc->rbp;
    r->regs[6] = sc->rsi;
    r->regs[7] = sc->rdi;
    const u64 *high = &sc->r8;
    for (int i = 0; i < 8; i++)
        r->regs[8 + i] = high[i];
    r->ip = sc->rip;
    r->flags = sc->eflags;
    r->address = sc->cr2;
    r->signal = signal;
    r->code = stepped(signal, info, uc) ? TRAP_TRACE : info->si_code;
    r->vector = sc->trapno;
    r->error = sc->err;
    r->steps = steps_done;
    if (current.has_fx)
        memcpy(reserve(FX_SIZE), (const u8 *)sc->fpstate, FX_SIZE);
    r->n_changes = report_changes();
    unpoke();
}

__attribute__((used)) void handle(int signal, const struct siginfo *info, struct ucontext *uc)
{
    if (running) {
        if (stepped(signal, info, uc)) {
            steps_done++;
            u64 into = uc->uc_mcontext.rip - current.ip;
            if (steps_done < current.steps && into < current.code_length) {
                uc->uc_mcontext.eflags |= EFL_TF;
                /* A 64-bit handler does not use the data segments and the
                 * kernel leaves them alone: nothing else to restore. */
                return;
            }
        }
        store_result(signal, info, uc);
    }
    running = 1;
    load_case(uc);
}

/* The kernel clears TF, RF and DF for a handler, but not NT, AC and ID. */
void entry(void);
void restorer(void);
void _start(void);
__asm__(".globl entry\n"
        "entry:\n"
        "  pushfq\n"
        "  andq $~0x244000, (%rsp)\n"
        "  popfq\n"
        "  jmp handle\n"
        ".globl restorer\n"
        "restorer:\n"
        "  mov $15, %eax\n" /* rt_sigreturn */
        "  syscall\n"
        ".globl _start\n"
        "_start:\n"
        "  mov %rsp, %rdi\n"
        "  and $-16, %rsp\n"
        "  call start\n"
        "  ud2\n");

/* One descriptor of the local descriptor table; its selector, or 0. */
static u16 descriptor(const struct segment *s, int code, int wide)
{
    static int index;
    struct user_desc d;
    memset(&d, 0, sizeof d);
    d.entry_number = index++;
    d.base_addr = s->base;
    d.limit = s->limit;
    d.seg_32bit = wide;
    d.contents = code ? MODIFY_LDT_CONTENTS_CODE
                      : s->expand_down ? MODIFY_LDT_CONTENTS_STACK : MODIFY_LDT_CONTENTS_DATA;
    d.useable = 1;
    if (sys(__NR_modify_ldt, 0x11, (long)&d, sizeof d, 0, 0, 0) != 0)
        return 0;
    return d.entry_number << 3 | 7;
}

/* Leaves null selectors where the kernel refuses: load_case then says so. */
static void make_segments(void)
{
    static const struct segment whole = {WINDOW, WINDOW_SIZE - 1, 0};
    static const u16 flat[6] = {0x2b, 0x23, 0x2b, 0x2b, 0x2b, 0x2b};
    static const u16 wide[6] = {0x2b, 0x33, 0x2b, 0x2b, 0, 0};
    memcpy(selectors[FLAT32], flat, sizeof flat);
    memcpy(selectors[LONG64], wide, sizeof wide);
    for (int big = 0; big < 2; big++) {
        u16 code = descriptor(&whole, 1, big), data = descriptor(&whole, 0, big);
        for (int i = 0; i < 6; i++) {
            selectors[WINDOW16 + big][i] = i == CS ? code : data;
            selectors[SPLIT16 + big][i] = descriptor(&split[i], i == CS, big);
        }
    }
}

__attribute__((used)) void start(const u64 *stack)
{
    const u64 *p = stack + 2 + stack[0];
    while (*p)
        p++; /* the environment */
    for (p++; p[0]; p += 2)
        if (p[0] == 26) /* AT_HWCAP2; bit 1: user code may write FS and GS bases */
            fsgsbase = p[1] >> 1 & 1;
    long at = sys(__NR_mmap, WINDOW, WINDOW_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (at != (long)WINDOW) {
        complain("cannot map the guest window at its fixed address\n");
        leave(2);
    }
    make_segments();
    const void *first = take(WINDOW_SIZE);
    if (!first)
        leave(0);
    memcpy(background, first, WINDOW_SIZE);
    memcpy(expected, first, WINDOW_SIZE);
    memcpy(window, first, WINDOW_SIZE);

    /* Above 4 GiB, where the kernel places it: it takes a guest's ESP that lies in this stack for a handler's. */
    const u64 size = 1 << 16;
    at = sys(__NR_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at < 0) {
        complain("cannot map a stack for signals\n");
        leave(2);
    }
    stack_t alternate = {.ss_sp = (void *)at, .ss_size = size};
    sys(__NR_sigaltstack, (long)&alternate, 0, 0, 0, 0, 0);
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = (__sighandler_t)entry;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTORER;
    action.sa_restorer = restorer;
    action.sa_mask = ~0ul;
    static const int signals[] = {SIGTRAP, SIGSEGV, SIGILL, SIGFPE, SIGBUS};
    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++)
        sys(__NR_rt_sigaction, signals[i], (long)&action, 0, 8, 0, 0);
    /* A stray system call of the guest code ends the child instead of doing
     * harm: strict seccomp leaves read, write, exit and sigreturn. */
    sys(__NR_prctl, 22 /* PR_SET_SECCOMP */, 1 /* SECCOMP_MODE_STRICT */, 0, 0, 0, 0);
    __asm__ volatile("int3");
    leave(10);
}
