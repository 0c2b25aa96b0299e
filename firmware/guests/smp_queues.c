/* smp_torture: queues by CMPXCHG and CMPXCHG8B. */
#include "smp.h"

/* ---- queues ------------------------------------------------------------------------------------------------------------- */
#define CELLS 16
#define TOKENS 64 /* of a processor, a round */
static struct {
    volatile u32 sequence, value;
} cells[CELLS];
static volatile u32 queue_in, queue_out, taken, seen_tokens[MAX_CPUS * TOKENS / 32];
static volatile u32 newest[MAX_CPUS][MAX_CPUS];

/* A bounded queue: a cell's sequence number says whose turn it is. */
static int put_token(u32 value)
{
    for (;;) {
        u32 at = queue_in, sequence = cells[at % CELLS].sequence;
        if (sequence == at) {
            if (cmpxchg(&queue_in, at, at + 1) == at) {
                cells[at % CELLS].value = value;
                cells[at % CELLS].sequence = at + 1;
                return 1;
            }
        } else if ((int)(sequence - at) < 0)
            return 0;
    }
}
static int get_token(u32 *value)
{
    for (;;) {
        u32 at = queue_out, sequence = cells[at % CELLS].sequence;
        if (sequence == at + 1) {
            if (cmpxchg(&queue_out, at, at + 1) == at) {
                *value = cells[at % CELLS].value;
                cells[at % CELLS].sequence = at + CELLS;
                return 1;
            }
        } else if ((int)(sequence - (at + 1)) < 0)
            return 0;
    }
}
void test_queue(u32 me)
{
    u32 sent = 0, value;
    if (me == 0)
        for (u32 k = 0; k < CELLS; k++)
            cells[k].sequence = k;
    barrier();
    while (taken < n_cpus * TOKENS) {
        if (sent < TOKENS && put_token(me * TOKENS + sent))
            sent++;
        if (get_token(&value)) {
            if (lock_bts(&seen_tokens[value / 32], value % 32))
                fail(0x400); /* twice */
            u32 from = value / TOKENS;
            if (newest[me][from] > value)
                fail(0x401); /* overtaken */
            newest[me][from] = value;
            xadd(&taken, 1);
        } else
            pause();
    }
}
void check_queue(void)
{
    for (u32 k = 0; k < n_cpus * TOKENS / 32; k++)
        if (seen_tokens[k] != 0xFFFFFFFF)
            fail(0x410);
}

#define NODES 8
static struct {
    volatile u32 next, owner;
} nodes[NODES + 1];
static volatile u64 top; /* a node and how often it was changed */

/* A stack whose head counts its changes, so that a node that came back is noticed. */
static void push_node(u32 node)
{
    u64 old = top;
    do
        nodes[node].next = (u32)old;
    while (!cmpxchg8b(&top, &old, ((old & ~0xFFFFFFFFull) + (1ull << 32)) | node));
}
static u32 pop_node(void)
{
    u64 old = top;
    do
        if (!(u32)old)
            return 0;
    while (!cmpxchg8b(&top, &old, ((old & ~0xFFFFFFFFull) + (1ull << 32)) | nodes[(u32)old].next));
    return (u32)old;
}
void test_stack(u32 me)
{
    if (me == 0)
        for (u32 k = 1; k <= NODES; k++)
            push_node(k);
    barrier();
    for (u32 i = 0; i < rounds * 32;) {
        u32 node = pop_node();
        if (!node) {
            pause();
            continue;
        }
        if (nodes[node].owner)
            fail(0x500);
        nodes[node].owner = me + 1;
        compiler_fence();
        if (nodes[node].owner != me + 1)
            fail(0x501);
        nodes[node].owner = 0;
        push_node(node);
        i++;
    }
}
void check_stack(void)
{
    u32 seen = 0, node;
    while ((node = pop_node()) != 0)
        seen += 1u << node;
    if (seen != (2u << NODES) - 2)
        fail(0x510);
}
