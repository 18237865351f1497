/* impair: a relay that makes a network worse, in a way that can be repeated.
 *
 *   impair [--listen=ADDRESS:PORT] --upstream=ADDRESS:PORT [--seed=N] [--log=FILE] SCENARIO
 *   impair --client-namespace=NAME --server-namespace=NAME [--seed=N] [--log=FILE] SCENARIO
 *
 * The first form relays UDP on one machine; the second is a wire between a TUN device ("impair") in each of two
 * network namespaces. SCENARIO is what the QUIC interop runner gives to its simulator, as one word or several:
 *
 *   simple-p2p --delay=15ms --bandwidth=10Mbps --queue=25
 *   drop-rate ... --rate_to_client=30 --rate_to_server=30 --burst_to_client=3 --burst_to_server=3
 *   corrupt-rate ... (as drop-rate)        droplist ... --drops_to_client=1,2 --drops_to_server=2,3
 *   blackhole ... --on=5s --off=2s [--repeat=1] [--direction=both|toclient|toserver]
 *   rebind ... --first-rebind=1s [--rebind-freq=5s] [--rebind-addr]
 *
 * Delay, bandwidth and queue may be left out. Every scenario also takes --jitter=TIME, --reorder=PERCENT with
 * --reorder-delay=TIME, --duplicate=PERCENT, and --mtu=BYTES of IP with --mtu-at=TIME (larger packets vanish). Times
 * count from the first UDP packet. It prints {"port": N}, then takes words of a scenario from standard input, one a
 * line, and "rebind"; it ends when that ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "impair.h"

static int poller, timer;
static const struct wire *wire;
static FILE *log_file;
static uint64_t random_state;
static char timer_source, input_source; /* their addresses are what counts */

_Noreturn void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("impair: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

unsigned random_below(unsigned n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)((random_state >> 33) % n);
}

void watch(int fd, void *source)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
        die("epoll_ctl: %s", strerror(errno));
}

void unwatch(int fd)
{
    epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL);
}

/* ---- words: of the command line and of standard input ---- */

static void take_words(char *text)
{
    const char *problem;
    char *rest, *word = strtok_r(text, " \n", &rest);
    for (; word; word = strtok_r(NULL, " \n", &rest)) {
        if (strcmp(word, "rebind") == 0 && scenario.kind)
            wire->rebind();
        else if ((problem = scenario_word(word)))
            die("%s: %s", word, problem);
    }
}

/* Returns false when standard input has ended. */
static bool take_input(void)
{
    static char text[4096];
    static size_t used;
    ssize_t n = read(STDIN_FILENO, text + used, sizeof text - 1 - used);
    char *end;
    if (n <= 0)
        return false;
    used += (size_t)n;
    text[used] = 0;
    while ((end = strchr(text, '\n'))) {
        *end = 0;
        take_words(text);
        used -= (size_t)(end + 1 - text);
        memmove(text, end + 1, used + 1);
    }
    if (used == sizeof text - 1)
        die("a line is too long");
    return true;
}

/* ---- the loop ---- */

/* When the next rebinding of the scenario is due. */
static uint64_t next_rebind(uint64_t done)
{
    if (scenario.kind != REBIND || !scenario.first_rebind || (done && !scenario.rebind_freq))
        return UINT64_MAX;
    return scenario.first_rebind + done * scenario.rebind_freq;
}

static void set_timer(uint64_t at)
{
    static uint64_t set = UINT64_MAX;
    struct itimerspec when = {0};
    if (at == set)
        return;
    set = at;
    if (at != UINT64_MAX)
        when.it_value = (struct timespec){(time_t)(at / SECOND), (long)(at % SECOND)};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

/* In the order of time, however late this process comes to it: what was due before a rebinding still arrives, and has
 * the client answer from its new address. */
static void work_off(void)
{
    static uint64_t rebinds;
    struct packet *packet;
    uint64_t now = now_ns(), since = link_since_start(now), at;
    for (;;) {
        at = since ? next_rebind(rebinds) : UINT64_MAX;
        if (at != UINT64_MAX)
            at += now - since;
        if (at <= now && at <= link_next()) {
            wire->rebind();
            rebinds++;
        } else if ((packet = link_take(now))) {
            wire->deliver(packet);
            free(packet);
        } else {
            break;
        }
    }
    set_timer(at < link_next() ? at : link_next());
}

static void run(void)
{
    struct epoll_event events[64];
    for (;;) {
        if (log_file)
            fflush(log_file);
        int n = epoll_wait(poller, events, 64, -1);
        for (int i = 0; i < n; i++) {
            void *source = events[i].data.ptr;
            uint64_t expirations;
            if (source == &input_source) {
                if (!take_input())
                    return;
            } else if (source == &timer_source) {
                if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
                    die("timer: %s", strerror(errno));
            } else {
                wire->read(source);
            }
        }
        work_off();
    }
}

static const char *option(const char *argument, const char *name)
{
    size_t length = strlen(name);
    return strncmp(argument, name, length) == 0 && argument[length] == '=' ? argument + length + 1 : NULL;
}

int main(int argc, char **argv)
{
    const char *listen = NULL, *upstream = NULL, *client = NULL, *server = NULL, *log = NULL, *value;
    uint64_t seed = 1;
    unsigned port = 0;
    int i;
    for (i = 1; i < argc && argv[i][0] == '-'; i++) {
        if ((value = option(argv[i], "--listen")))
            listen = value;
        else if ((value = option(argv[i], "--upstream")))
            upstream = value;
        else if ((value = option(argv[i], "--client-namespace")))
            client = value;
        else if ((value = option(argv[i], "--server-namespace")))
            server = value;
        else if ((value = option(argv[i], "--log")))
            log = value;
        else if ((value = option(argv[i], "--seed")))
            seed = strtoull(value, NULL, 10);
        else
            die("%s: no such option", argv[i]);
    }
    if (!upstream == !(client && server))
        die("give --upstream, or --client-namespace and --server-namespace");
    wire = upstream ? &udp_wire : &tun_wire;
    while (i < argc)
        take_words(argv[i++]);
    if (!scenario.kind)
        die("no scenario is given");
    if (log && !(log_file = fopen(log, "we")))
        die("%s: %s", log, strerror(errno));
    random_state = seed;
    prctl(PR_SET_TIMERSLACK, 1);
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    link_start(seed, log_file);
    if (upstream)
        port = udp_open(listen, upstream);
    else
        tun_open(client, server);
    watch(timer, &timer_source);
    watch(STDIN_FILENO, &input_source);
    printf("{\"port\": %u}\n", port);
    fflush(stdout);
    run();
    return 0;
}
