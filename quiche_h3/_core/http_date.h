/* The date of a response (RFC 9110 6.6.1), made once a second. Used by one thread at a time: under the GIL. */
#ifndef QUICHE_H3_HTTP_DATE_H
#define QUICHE_H3_HTTP_DATE_H

#include <stdint.h>
#include <stdio.h>
#include <time.h>

#define HTTP_DATE_LEN 29

/* `now` as an HTTP-date (RFC 9110 5.6.7). Not by strftime: its names of days and months follow the locale. */
static inline const uint8_t *http_date(time_t now)
{
    static char text[64];
    static time_t made;
    static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    if (now != made) {
        struct tm t;
        gmtime_r(&now, &t);
        snprintf(text, sizeof(text), "%s, %02d %s %04d %02d:%02d:%02d GMT", days[t.tm_wday], t.tm_mday,
                 months[t.tm_mon], t.tm_year + 1900, t.tm_hour, t.tm_min, t.tm_sec);
        made = now;
    }
    return (const uint8_t *)text;
}

#endif
