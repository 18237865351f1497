/* Scenario strings of the QUIC interop runner, and a few parameters more that every scenario takes. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "impair.h"

struct scenario scenario = {
    .repeat = 1,
    .burst = {UINT64_MAX, UINT64_MAX},
    .queue = UINT64_MAX,
    .reorder_delay = 5 * SECOND / 1000,
    .dark = {true, true},
};

static const struct {
    const char *name;
    enum kind kind;
} kinds[] = {
    {"simple-p2p", SIMPLE_P2P}, {"drop-rate", DROP_RATE}, {"droplist", DROPLIST},
    {"corrupt-rate", CORRUPT_RATE}, {"blackhole", BLACKHOLE}, {"rebind", REBIND},
};

struct unit {
    const char *name;
    double factor;
};

static const struct unit times[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"min", 60e9}, {NULL, 0}};
static const struct unit rates[] = {
    {"bps", 1}, {"kbps", 1e3}, {"Mbps", 1e6}, {"Gbps", 1e9}, {"b/s", 1}, {"kb/s", 1e3}, {"Mb/s", 1e6}, {NULL, 0},
};
static const struct unit plain[] = {{"", 1}, {NULL, 0}};

static bool number(const char *text, const struct unit *units, double *out)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || !(value >= 0 && value < 1e18))
        return false;
    for (; units->name; units++) {
        if (strcasecmp(end, units->name) == 0) {
            *out = value * units->factor;
            return *out < 1e18;
        }
    }
    return false;
}

static bool parse_list(const char *text, struct list *list)
{
    char *end;
    list->count = 0;
    while (*text) {
        uint64_t item = strtoull(text, &end, 10);
        if (end == text || (*end && *end != ','))
            return false;
        list->items = realloc(list->items, (list->count + 1) * sizeof(uint64_t));
        list->items[list->count++] = item;
        text = *end ? end + 1 : end;
    }
    return list->count > 0;
}

static bool parse_direction(const char *text, bool *dark)
{
    bool both = strcmp(text, "both") == 0;
    dark[TO_CLIENT] = both || strcmp(text, "toclient") == 0;
    dark[TO_SERVER] = both || strcmp(text, "toserver") == 0;
    return dark[TO_CLIENT] || dark[TO_SERVER];
}

enum type { TIME, BANDWIDTH, PERCENT, COUNT, LIST, DIRECTION, SWITCH };

static const struct {
    const char *name;
    enum kind kinds; /* the scenarios that have it */
    enum type type;
    void *to;
} parameters[] = {
    {"delay", ANY, TIME, &scenario.delay},
    {"bandwidth", ANY, BANDWIDTH, &scenario.bandwidth},
    {"queue", ANY, COUNT, &scenario.queue},
    {"rate_to_client", DROP_RATE | CORRUPT_RATE, PERCENT, &scenario.rate[TO_CLIENT]},
    {"rate_to_server", DROP_RATE | CORRUPT_RATE, PERCENT, &scenario.rate[TO_SERVER]},
    {"burst_to_client", DROP_RATE | CORRUPT_RATE, COUNT, &scenario.burst[TO_CLIENT]},
    {"burst_to_server", DROP_RATE | CORRUPT_RATE, COUNT, &scenario.burst[TO_SERVER]},
    {"drops_to_client", DROPLIST, LIST, &scenario.drops[TO_CLIENT]},
    {"drops_to_server", DROPLIST, LIST, &scenario.drops[TO_SERVER]},
    {"on", BLACKHOLE, TIME, &scenario.on},
    {"off", BLACKHOLE, TIME, &scenario.off},
    {"repeat", BLACKHOLE, COUNT, &scenario.repeat},
    {"direction", BLACKHOLE, DIRECTION, scenario.dark},
    {"first-rebind", REBIND, TIME, &scenario.first_rebind},
    {"rebind-freq", REBIND, TIME, &scenario.rebind_freq},
    {"rebind-addr", REBIND, SWITCH, &scenario.rebind_addr},
    {"jitter", ANY, TIME, &scenario.jitter},
    {"reorder", ANY, PERCENT, &scenario.reorder},
    {"reorder-delay", ANY, TIME, &scenario.reorder_delay},
    {"duplicate", ANY, PERCENT, &scenario.duplicate},
    {"mtu", ANY, COUNT, &scenario.mtu},
    {"mtu-at", ANY, TIME, &scenario.mtu_at},
};

static bool parse(enum type type, const char *value, void *to)
{
    double n = 0;
    switch (type) {
    case TIME:
    case COUNT:
        if (!number(value, type == TIME ? times : plain, &n))
            return false;
        *(uint64_t *)to = (uint64_t)n;
        return true;
    case BANDWIDTH:
        return number(value, rates, to) && *(double *)to >= 1;
    case PERCENT:
        return number(value, plain, to) && *(double *)to <= 100;
    case LIST:
        return parse_list(value, to);
    case DIRECTION:
        return parse_direction(value, to);
    case SWITCH:
        *(bool *)to = strcmp(value, "0") != 0 && strcmp(value, "false") != 0;
        return true;
    }
    return false;
}

static const char *parameter(const char *word)
{
    size_t length = strcspn(word, "=");
    const char *value = word[length] ? word + length + 1 : "";
    for (size_t i = 0; i < sizeof parameters / sizeof *parameters; i++) {
        if (strlen(parameters[i].name) == length && strncmp(parameters[i].name, word, length) == 0) {
            if (!(parameters[i].kinds & scenario.kind))
                return "the scenario has no such parameter";
            return parse(parameters[i].type, value, parameters[i].to) ? NULL : "the value is not understood";
        }
    }
    return "there is no such parameter";
}

const char *scenario_word(const char *word)
{
    if (word[0] == '-')
        return scenario.kind ? parameter(word + strspn(word, "-")) : "the scenario's name comes first";
    if (scenario.kind)
        return "there is a scenario already";
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(word, kinds[i].name) == 0) {
            scenario.kind = kinds[i].kind;
            return NULL;
        }
    return "there is no such scenario";
}
