/* 8042 keyboard controller and the commands of a PS/2 keyboard. */
#include "kbc.h"
#include "board.h"
#include "pit.h"

#define WAIT_US 20000
#define RESET_WAIT_US 1000000

static int wait_status(u8 mask, u8 value, u32 us)
{
    struct timeout t;
    if ((inb(PORT_KBC) & mask) == value)
        return 1;
    timeout_start(&t, us);
    do {
        if ((inb(PORT_KBC) & mask) == value)
            return 1;
    } while (!timeout_over(&t));
    return (inb(PORT_KBC) & mask) == value;
}

static int receive_within(u32 us)
{
    if (!wait_status(KBC_STATUS_OUTPUT_FULL, KBC_STATUS_OUTPUT_FULL, us))
        return -1;
    return inb(PORT_KBC_DATA);
}

int kbc_receive(void)
{
    return receive_within(WAIT_US);
}

int kbc_command(u8 command)
{
    if (!wait_status(KBC_STATUS_INPUT_FULL, 0, WAIT_US))
        return 0;
    outb(PORT_KBC, command);
    return wait_status(KBC_STATUS_INPUT_FULL, 0, WAIT_US);
}

int kbc_data(u8 data)
{
    if (!wait_status(KBC_STATUS_INPUT_FULL, 0, WAIT_US))
        return 0;
    outb(PORT_KBC_DATA, data);
    return wait_status(KBC_STATUS_INPUT_FULL, 0, WAIT_US);
}

void kbc_flush(void)
{
    for (u32 i = 0; i < 64 && inb(PORT_KBC) & KBC_STATUS_OUTPUT_FULL; i++)
        inb(PORT_KBC_DATA);
}

void kbc_set_mode(u8 mode)
{
    kbc_command(KBC_WRITE_MODE);
    kbc_data(mode);
}

int keyboard_command(u8 command)
{
    if (!kbc_data(command))
        return -1;
    return receive_within(command == KEYBOARD_RESET ? RESET_WAIT_US : WAIT_US);
}

void kbc_init(void)
{
    kbc_command(KBC_DISABLE_KEYBOARD);
    kbc_command(KBC_DISABLE_MOUSE);
    kbc_flush();
    kbc_set_mode(KBC_MODE_SYSTEM | KBC_MODE_NO_MOUSE | KBC_MODE_TRANSLATE);
    keyboard_command(KEYBOARD_ENABLE);
    kbc_flush();
    kbc_set_mode(KBC_MODE_NORMAL);
}
