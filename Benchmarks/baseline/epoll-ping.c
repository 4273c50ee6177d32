/*
 * The measuring client: all connections in one thread, one message under way on each. A round trip is from before the send to after the last
 * byte has been read; its end is the next one's beginning, so that the clock is read once a round trip.
 */
#define _GNU_SOURCE
#include "epoll-echo.h"
#include "histogram.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { TICKS_PER_SECOND = 10, TICKS_UNTIL_LOST = 10 }; /* a datagram that is not back within a second is lost */

struct client {
    int socket;
    unsigned silent_ticks;
    bool waits_to_send;
    uint64_t began, sequence, round_trips;
    size_t sent, received;
    char *message, *answer;
};

struct run {
    const struct settings *settings;
    int epoll;
    unsigned living, ticks;
    bool measuring, done;
    uint64_t completed, errors, began;
    struct client *clients;
    struct histogram histogram;
};

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void fail(struct run *run, struct client *client) {
    run->errors++;
    close(client->socket);
    client->socket = -1;
    if (--run->living == 0) run->done = true;
}

static void send_message(struct run *run, struct client *client) {
    size_t left = run->settings->size - client->sent;
    ssize_t sent = send(client->socket, client->message + client->sent, left, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR && !(run->settings->udp && errno == ECONNREFUSED)) {
        fail(run, client);
        return;
    }
    if (sent > 0) client->sent += (size_t)sent;
    bool waits = client->sent < run->settings->size && !run->settings->udp;
    if (waits == client->waits_to_send) return;
    client->waits_to_send = waits;
    watch(run->epoll, EPOLL_CTL_MOD, client->socket, waits ? EPOLLIN | EPOLLOUT : EPOLLIN, client);
}

static void begin_round_trip(struct run *run, struct client *client, uint64_t time) {
    size_t marked = run->settings->size < sizeof client->sequence ? run->settings->size : sizeof client->sequence;
    client->sequence++;
    memcpy(client->message, &client->sequence, marked);
    client->sent = client->received = 0;
    client->silent_ticks = 0;
    client->began = time;
    send_message(run, client);
}

static void begin_measuring(struct run *run, uint64_t time) {
    run->measuring = true;
    run->completed = 0;
    run->began = time;
    for (unsigned i = 0; i < run->settings->clients; i++) run->clients[i].round_trips = 0;
}

static void receive(struct run *run, struct client *client) {
    const struct settings *settings = run->settings;
    ssize_t received = recv(client->socket, client->answer + client->received, settings->size - client->received, 0);
    if (received < 0 && (errno == EAGAIN || errno == EINTR || (settings->udp && errno == ECONNREFUSED))) return;
    if (received < 0 || (received == 0 && !settings->udp)) {
        fail(run, client);
        return;
    }
    client->received += (size_t)received;
    if (client->received < settings->size) {
        if (settings->udp) client->received = 0; /* a stray: only whole messages count */
        return;
    }
    if (memcmp(client->answer, client->message, settings->size) != 0) {
        if (settings->udp) client->received = 0; /* the answer to a message given up for lost: this one's is still to come */
        else fail(run, client);
        return;
    }
    uint64_t time = now();
    if (run->measuring) histogram_record(&run->histogram, time - client->began);
    client->round_trips++;
    run->completed++;
    if (!run->measuring && run->completed >= settings->warmup) begin_measuring(run, time);
    else if (run->measuring && run->completed == settings->count) {
        run->done = true;
        return;
    }
    begin_round_trip(run, client, time);
}

static void tick(struct run *run, int timer) {
    uint64_t expirations;
    if (read(timer, &expirations, sizeof expirations) != sizeof expirations) return;
    run->ticks += (unsigned)expirations;
    if (run->settings->seconds && run->ticks >= run->settings->seconds * TICKS_PER_SECOND) run->done = true;
    for (unsigned i = 0; run->settings->udp && i < run->settings->clients; i++) {
        struct client *client = &run->clients[i];
        client->silent_ticks += (unsigned)expirations;
        if (client->socket < 0 || client->silent_ticks < TICKS_UNTIL_LOST) continue;
        run->errors++;
        begin_round_trip(run, client, now());
    }
}

static void open_client(struct run *run, struct client *client) {
    const struct settings *settings = run->settings;
    client->socket = socket(settings->address.ss_family, (settings->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    if (client->socket < 0) die("socket");
    if (connect(client->socket, (const struct sockaddr *)&settings->address, settings->address_size) != 0) die("connect");
    if (!settings->udp) set_no_delay(client->socket);
    if (fcntl(client->socket, F_SETFL, O_NONBLOCK) != 0) die("O_NONBLOCK");
    client->message = malloc(settings->size);
    client->answer = malloc(settings->size);
    if (!client->message || !client->answer) die("memory");
    unsigned number = (unsigned)(client - run->clients);
    for (size_t i = 0; i < settings->size; i++) client->message[i] = (char)(i * 7 + number);
    watch(run->epoll, EPOLL_CTL_ADD, client->socket, EPOLLIN, client);
}

static void report(struct run *run, uint64_t ended) {
    const struct settings *settings = run->settings;
    uint64_t least = UINT64_MAX, most = 0, count = run->measuring ? run->completed : 0;
    for (unsigned i = 0; i < settings->clients; i++) {
        uint64_t round_trips = run->measuring ? run->clients[i].round_trips : 0;
        if (round_trips < least) least = round_trips;
        if (round_trips > most) most = round_trips;
    }
    uint64_t p50 = histogram_percentile(&run->histogram, 50), p99 = histogram_percentile(&run->histogram, 99),
             p999 = histogram_percentile(&run->histogram, 99.9);
    double seconds = (double)(ended - run->began) / 1e9, per_second = count && seconds > 0 ? (double)count / seconds : 0;
    const char *transport = settings->udp ? "udp" : "tcp";
    if (settings->json)
        printf("{\"libos\":\"epoll\",\"transport\":\"%s\",\"size\":%zu,\"clients\":%u,\"count\":%" PRIu64 ",\"p50\":%" PRIu64
               ",\"p99\":%" PRIu64 ",\"p999\":%" PRIu64 ",\"perSecond\":%.0f,\"errors\":%" PRIu64 ",\"clientMinimum\":%" PRIu64
               ",\"clientMaximum\":%" PRIu64 "}\n",
               transport, settings->size, settings->clients, count, p50, p99, p999, per_second, run->errors, least, most);
    else
        printf("epoll %s %zu B, %u client(s), %" PRIu64 " round trips: p50 %.2f µs, p99 %.2f µs, p99.9 %.2f µs, %.0f/s, %" PRIu64
               " error(s); a client made %" PRIu64 " to %" PRIu64 "\n",
               transport, settings->size, settings->clients, count, (double)p50 / 1e3, (double)p99 / 1e3, (double)p999 / 1e3, per_second,
               run->errors, least, most);
}

int ping(const struct settings *settings) {
    struct run *run = calloc(1, sizeof *run);
    if (!run) die("memory");
    run->settings = settings;
    run->living = settings->clients;
    run->clients = calloc(settings->clients, sizeof *run->clients);
    if (!run->clients) die("memory");
    run->epoll = make_epoll();
    int signals = make_signal_descriptor(), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct itimerspec period = {{0, 1000000000 / TICKS_PER_SECOND}, {0, 1000000000 / TICKS_PER_SECOND}};
    if (timer < 0 || timerfd_settime(timer, 0, &period, NULL) != 0) die("timerfd");
    watch(run->epoll, EPOLL_CTL_ADD, signals, EPOLLIN, NULL);
    watch(run->epoll, EPOLL_CTL_ADD, timer, EPOLLIN, run);
    for (unsigned i = 0; i < settings->clients; i++) open_client(run, &run->clients[i]);
    run->began = now();
    if (settings->warmup == 0) begin_measuring(run, run->began);
    for (unsigned i = 0; i < settings->clients; i++) begin_round_trip(run, &run->clients[i], now());

    struct epoll_event events[EVENTS_AT_ONCE];
    while (!run->done) {
        int ready = wait_events(run->epoll, events, settings);
        if (ready < 0 && errno != EINTR) die("epoll_wait");
        for (int i = 0; i < ready && !run->done; i++) {
            void *context = events[i].data.ptr;
            if (!context) run->done = true;
            else if (context == run) tick(run, timer);
            else {
                struct client *client = context;
                if (client->waits_to_send && (events[i].events & EPOLLOUT)) send_message(run, client);
                if (client->socket >= 0 && (events[i].events & ~(uint32_t)EPOLLOUT)) receive(run, client);
            }
        }
    }
    report(run, now());
    return run->errors == 0 && run->measuring ? 0 : 1;
}
