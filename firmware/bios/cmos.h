/* CMOS RAM and the clock in it (cmos.c). */
#ifndef CMOS_H
#define CMOS_H

#include "types.h"

/* MC146818 registers. */
#define RTC_SECONDS 0x00
#define RTC_SECONDS_ALARM 0x01
#define RTC_MINUTES 0x02
#define RTC_MINUTES_ALARM 0x03
#define RTC_HOURS 0x04
#define RTC_HOURS_ALARM 0x05
#define RTC_DAY 0x07
#define RTC_MONTH 0x08
#define RTC_YEAR 0x09
#define RTC_A 0x0A
#define RTC_B 0x0B
#define RTC_C 0x0C
#define RTC_D 0x0D
#define CMOS_CHECKSUM_FIRST 0x10
#define CMOS_CHECKSUM_LAST 0x2D
#define CMOS_CHECKSUM 0x2E
#define CMOS_CENTURY 0x32
#define CMOS_SCRATCH 0x6F  /* used by nobody: the self-test's */

#define RTC_A_UIP 0x80
#define RTC_A_NORMAL 0x26      /* 32768 Hz crystal, periodic rate 1024 Hz */
#define RTC_A_DIVIDER_RESET 0x76
#define RTC_B_SET 0x80
#define RTC_B_PIE 0x40
#define RTC_B_AIE 0x20
#define RTC_B_UIE 0x10
#define RTC_B_24H 0x02
#define RTC_C_PF 0x40
#define RTC_C_AF 0x20
#define RTC_C_UF 0x10
#define RTC_D_VALID 0x80

u8 cmos_read(u8 index);
void cmos_write(u8 index, u8 value);
u16 cmos_checksum(void);

#endif
