/*
 * The baseline: the same echo as a good engineer writes it on plain epoll, without Demikernel. One thread, non-blocking sockets, TCP_NODELAY,
 * level-triggered events in batches of 64. `epoll-echo --help` tells how to run it.
 */
#define _GNU_SOURCE
#include "epoll-echo.h"

#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>

static const char help[] =
    "usage: epoll-echo serve [options]\n"
    "       epoll-echo ping  [options]\n"
    "\n"
    "  --transport tcp|udp   default tcp\n"
    "  --address HOST:PORT   numeric; [HOST]:PORT for IPv6; default 127.0.0.1:7000; serve takes port 0\n"
    "  --poll | --block      spin on epoll_wait, or sleep in it (default)\n"
    "  --cpu N               run on this core only\n"
    "ping:\n"
    "  --size BYTES          of a message, default 64\n"
    "  --count N             round trips over all clients, default 100000\n"
    "  --clients N           connections with one message under way each, default 1\n"
    "  --warmup N            round trips before the first that counts, default 10000\n"
    "  --seconds N           stop after this time at the latest, default 0: no limit\n"
    "  --json                one JSON object instead of a line of text; times in ns\n"
    "\n"
    "examples:\n"
    "  epoll-echo serve --address 127.0.0.1:0 --poll --cpu 0\n"
    "  epoll-echo ping --address 127.0.0.1:7000 --clients 32 --poll --cpu 1 --json\n"
    "\n"
    "exit status: 0 done, 1 failed, 2 usage\n";

_Noreturn void die(const char *what) {
    fprintf(stderr, "epoll-echo: %s: %s\n", what, strerror(errno));
    exit(1);
}

_Noreturn static void usage_error(const char *what, const char *value) {
    fprintf(stderr, "epoll-echo: %s: '%s' (try --help)\n", what, value);
    exit(2);
}

void watch(int epoll, int operation, int descriptor, uint32_t events, void *context) {
    struct epoll_event event = {.events = events, .data.ptr = context};
    if (epoll_ctl(epoll, operation, descriptor, &event) != 0) die("epoll_ctl");
}

int make_epoll(void) {
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0) die("epoll_create1");
    return epoll;
}

int make_signal_descriptor(void) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &signals, NULL) != 0) die("sigprocmask");
    int descriptor = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    if (descriptor < 0) die("signalfd");
    return descriptor;
}

void set_no_delay(int socket) {
    int one = 1;
    if (setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0) die("TCP_NODELAY");
}

static void pin(unsigned long core) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(core, &cores);
    if (sched_setaffinity(0, sizeof cores, &cores) != 0) die("--cpu");
}

static void parse_address(struct settings *settings, const char *text) {
    char host[INET6_ADDRSTRLEN + 2];
    const char *colon = strrchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : 0;
    bool bracketed = length >= 2 && text[0] == '[' && text[length - 1] == ']';
    if (bracketed) text++, length -= 2;
    if (!colon || length == 0 || length >= sizeof host) usage_error("not an address", text);
    memcpy(host, text, length);
    host[length] = 0;
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *found;
    if (getaddrinfo(host, colon + 1, &hints, &found) != 0) usage_error("not an address", text);
    memcpy(&settings->address, found->ai_addr, found->ai_addrlen);
    settings->address_size = found->ai_addrlen;
    freeaddrinfo(found);
}

static unsigned long number(const char *option, const char *text, unsigned long least, unsigned long most) {
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno != 0 || end == text || *end != 0 || text[0] == '-' || value < least || value > most) usage_error(option, text);
    return value;
}

int main(int argc, char **argv) {
    enum { TRANSPORT = 1, ADDRESS, SIZE, COUNT, CLIENTS, WARMUP, SECONDS, POLL, BLOCK, JSON, CPU, HELP };
    static const struct option options[] = {
        {"transport", required_argument, NULL, TRANSPORT}, {"address", required_argument, NULL, ADDRESS},
        {"size", required_argument, NULL, SIZE},           {"count", required_argument, NULL, COUNT},
        {"clients", required_argument, NULL, CLIENTS},     {"warmup", required_argument, NULL, WARMUP},
        {"seconds", required_argument, NULL, SECONDS},     {"cpu", required_argument, NULL, CPU},
        {"poll", no_argument, NULL, POLL},                 {"block", no_argument, NULL, BLOCK},
        {"json", no_argument, NULL, JSON},                 {"help", no_argument, NULL, HELP},
        {NULL, 0, NULL, 0},
    };
    struct settings settings = {.size = 64, .count = 100000, .warmup = 10000, .clients = 1};
    parse_address(&settings, "127.0.0.1:7000");
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case TRANSPORT:
            if (strcmp(optarg, "tcp") != 0 && strcmp(optarg, "udp") != 0) usage_error("--transport", optarg);
            settings.udp = optarg[0] == 'u';
            break;
        case ADDRESS: parse_address(&settings, optarg); break;
        case SIZE: settings.size = number("--size", optarg, 1, 1ul << 26); break;
        case COUNT: settings.count = number("--count", optarg, 1, 1ul << 40); break;
        case CLIENTS: settings.clients = (unsigned)number("--clients", optarg, 1, 1ul << 20); break;
        case WARMUP: settings.warmup = number("--warmup", optarg, 0, 1ul << 40); break;
        case SECONDS: settings.seconds = (unsigned)number("--seconds", optarg, 0, 1ul << 20); break;
        case POLL: settings.poll = true; break;
        case BLOCK: settings.poll = false; break;
        case JSON: settings.json = true; break;
        case CPU: pin(number("--cpu", optarg, 0, CPU_SETSIZE - 1)); break;
        case HELP: fputs(help, stdout); return 0;
        default: return 2;
        }
    }
    if (optind + 1 != argc) usage_error("one subcommand, serve or ping, is needed", optind < argc ? argv[argc - 1] : "");
    if (settings.udp && settings.size > DATAGRAM_MAXIMUM) usage_error("--size", "more than a datagram holds");
    signal(SIGPIPE, SIG_IGN);
    if (strcmp(argv[optind], "serve") == 0) return serve(&settings);
    if (strcmp(argv[optind], "ping") == 0) return ping(&settings);
    usage_error("unknown subcommand", argv[optind]);
}
