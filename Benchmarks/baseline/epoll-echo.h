/* What the two halves of the baseline share: the settings, the clock, and how they wait. */
#ifndef BASELINE_EPOLL_ECHO_H
#define BASELINE_EPOLL_ECHO_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { EVENTS_AT_ONCE = 64, DATAGRAM_MAXIMUM = 65507 };

struct settings {
    bool udp, poll, json;
    struct sockaddr_storage address;
    socklen_t address_size;
    size_t size;               /* bytes a message */
    uint64_t count, warmup;    /* round trips, over all clients */
    unsigned clients, seconds; /* seconds: 0 for no limit */
};

int serve(const struct settings *settings);
int ping(const struct settings *settings);

/* Prints "what: reason of errno" and ends the process. Only for set-up: nothing that a peer does leads here. */
_Noreturn void die(const char *what);

void watch(int epoll, int operation, int descriptor, uint32_t events, void *context);
int make_epoll(void);
/* A descriptor that becomes readable on SIGINT and SIGTERM, so that no wait can miss one. */
int make_signal_descriptor(void);
void set_no_delay(int socket);

/* Spins with --poll, sleeps with --block. */
static inline int wait_events(int epoll, struct epoll_event *events, const struct settings *settings) {
    return epoll_wait(epoll, events, EVENTS_AT_ONCE, settings->poll ? 0 : -1);
}

#endif
