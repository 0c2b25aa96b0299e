/* Self-tests of the keyboard controller and the keyboard. */
#include "board.h"
#include "kbc.h"
#include "pic.h"
#include "pit.h"
#include "selftest.h"

#define SELF_TEST_PASSED 0x55
#define INTERFACE_GOOD 0x00
#define KEYBOARD_PASSED 0xAA
#define KEYBOARD_ID1 0xAB
#define MODE_QUIET (KBC_MODE_SYSTEM | KBC_MODE_NO_MOUSE | KBC_MODE_NO_KEYBOARD)
#define IRQ_WAIT_US 50000

static void begin(u8 mode)
{
    irq_disable();
    kbc_flush();
    kbc_set_mode(mode);
}

static const char *end(const char *result)
{
    kbc_flush();
    kbc_set_mode(KBC_MODE_NORMAL);
    return result;
}

const char *test_kbc_self(void)
{
    begin(MODE_QUIET);
    kbc_command(KBC_SELF_TEST);
    if (kbc_receive() != SELF_TEST_PASSED)
        return end("self-test");
    kbc_set_mode(MODE_QUIET);
    kbc_command(KBC_TEST_KEYBOARD);
    return end(kbc_receive() == INTERFACE_GOOD ? NULL : "interface test");
}

const char *test_kbc_mode(void)
{
    static const u8 modes[] = {MODE_QUIET, MODE_QUIET | KBC_MODE_TRANSLATE};
    for (u32 i = 0; i < COUNT(modes); i++) {
        begin(modes[i]);
        kbc_command(KBC_READ_MODE);
        if (kbc_receive() != modes[i])
            return end("mode not kept");
    }
    kbc_command(KBC_READ_OUTPUT_PORT);
    return end(kbc_receive() & 1 ? NULL : "reset line low");
}

const char *test_keyboard(void)
{
    int id;
    begin(KBC_MODE_SYSTEM | KBC_MODE_NO_MOUSE);
    if (keyboard_command(KEYBOARD_RESET) != KEYBOARD_ACK)
        return end("no answer to reset");
    if (kbc_receive() != KEYBOARD_PASSED)
        return end("reset");
    if (keyboard_command(KEYBOARD_IDENTIFY) != KEYBOARD_ACK || kbc_receive() != KEYBOARD_ID1)
        return end("identify");
    id = kbc_receive();
    if (id != 0x83 && id != 0x41 && id != 0xC1)
        return end("another kind of keyboard");
    if (keyboard_command(KEYBOARD_ECHO) != KEYBOARD_ECHO)
        return end("echo");
    for (u8 leds = 0; leds < 8; leds += 7)
        if (keyboard_command(KEYBOARD_LEDS) != KEYBOARD_ACK || keyboard_command(leds) != KEYBOARD_ACK)
            return end("LEDs");
    if (keyboard_command(KEYBOARD_LEDS) != KEYBOARD_ACK || keyboard_command(0) != KEYBOARD_ACK)
        return end("LEDs");
    return end(keyboard_command(KEYBOARD_ENABLE) == KEYBOARD_ACK ? NULL : "enable");
}

/* The answer to an echo comes as an interrupt like a key; EE is no key. */
const char *test_keyboard_irq(void)
{
    struct timeout t;
    volatile u16 *count = &irq_count[IRQ_KEYBOARD];
    u16 before = *count;
    kbc_data(KEYBOARD_ECHO);
    irq_enable();
    timeout_start(&t, IRQ_WAIT_US);
    while (*count == before && !timeout_over(&t))
        ;
    return *count == before ? "no interrupt" : NULL;
}
