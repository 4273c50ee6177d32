/* The echo server. TCP: one read and one write an event, what does not fit waits for EPOLLOUT. UDP: recvmmsg and sendmmsg. */
#define _GNU_SOURCE
#include "epoll-echo.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SCRATCH_SIZE = 256 * 1024, DATAGRAMS_AT_ONCE = 32 };

struct connection {
    int socket;
    size_t sent, length; /* of `rest` */
    char *rest;          /* what the peer has yet to take; while there is any, nothing is read */
};

struct server {
    int epoll, socket;
    bool accepting; /* false while the process has no descriptor left */
    char *scratch;
    struct mmsghdr messages[DATAGRAMS_AT_ONCE];
    struct iovec pieces[DATAGRAMS_AT_ONCE];
    struct sockaddr_storage senders[DATAGRAMS_AT_ONCE];
};

static void accept_all(struct server *server) {
    for (;;) {
        int socket = accept4(server->socket, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (socket < 0 && (errno == EMFILE || errno == ENFILE)) {
            /* The event would come again at once and for ever: look away until a connection closes. */
            watch(server->epoll, EPOLL_CTL_MOD, server->socket, 0, server);
            server->accepting = false;
        }
        if (socket < 0 && (errno == ECONNABORTED || errno == EINTR)) continue;
        if (socket < 0) return;
        struct connection *connection = calloc(1, sizeof *connection);
        if (!connection) {
            close(socket);
            return;
        }
        connection->socket = socket;
        set_no_delay(socket);
        watch(server->epoll, EPOLL_CTL_ADD, socket, EPOLLIN, connection);
    }
}

static void finish(struct server *server, struct connection *connection) {
    close(connection->socket); /* which also ends the watch */
    free(connection->rest);
    free(connection);
    if (server->accepting) return;
    watch(server->epoll, EPOLL_CTL_MOD, server->socket, EPOLLIN, server);
    server->accepting = true;
}

/* Both answer false when the connection is over. */
static bool send_rest(struct server *server, struct connection *connection) {
    size_t left = connection->length - connection->sent;
    ssize_t sent = send(connection->socket, connection->rest + connection->sent, left, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    connection->sent += (size_t)sent;
    if ((size_t)sent < left) return true;
    free(connection->rest);
    connection->rest = NULL;
    watch(server->epoll, EPOLL_CTL_MOD, connection->socket, EPOLLIN, connection);
    return true;
}

static bool echo(struct server *server, struct connection *connection) {
    ssize_t received = recv(connection->socket, server->scratch, SCRATCH_SIZE, 0);
    if (received == 0) return false;
    if (received < 0) return errno == EAGAIN || errno == EINTR;
    ssize_t sent = send(connection->socket, server->scratch, (size_t)received, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) return false;
    if (sent < 0) sent = 0;
    if (sent == received) return true;
    connection->length = (size_t)(received - sent);
    connection->sent = 0;
    connection->rest = malloc(connection->length);
    if (!connection->rest) return false;
    memcpy(connection->rest, server->scratch + sent, connection->length);
    watch(server->epoll, EPOLL_CTL_MOD, connection->socket, EPOLLOUT, connection);
    return true;
}

static void echo_datagrams(struct server *server) {
    for (int i = 0; i < DATAGRAMS_AT_ONCE; i++) {
        server->pieces[i] = (struct iovec){server->scratch + (size_t)i * 65536, 65536};
        server->messages[i].msg_hdr = (struct msghdr){
            .msg_name = &server->senders[i], .msg_namelen = sizeof server->senders[i], .msg_iov = &server->pieces[i], .msg_iovlen = 1};
    }
    int received = recvmmsg(server->socket, server->messages, DATAGRAMS_AT_ONCE, 0, NULL);
    for (int i = 0; i < received; i++) server->pieces[i].iov_len = server->messages[i].msg_len;
    for (int sent = 0; sent < received;) {
        int now = sendmmsg(server->socket, server->messages + sent, (unsigned)(received - sent), 0);
        sent += now > 0 ? now : 1; /* one that cannot be sent is lost, as datagrams are */
    }
}

static void announce(int socket) {
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    char host[INET6_ADDRSTRLEN];
    if (getsockname(socket, (struct sockaddr *)&address, &size) != 0) die("getsockname");
    const struct sockaddr_in *four = (const struct sockaddr_in *)&address;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&address;
    bool is_four = address.ss_family == AF_INET;
    if (!inet_ntop(address.ss_family, is_four ? (const void *)&four->sin_addr : (const void *)&six->sin6_addr, host, sizeof host))
        die("inet_ntop");
    printf(is_four ? "listening on %s:%d\n" : "listening on [%s]:%d\n", host, ntohs(is_four ? four->sin_port : six->sin6_port));
    if (fflush(stdout) != 0) die("standard output");
}

int serve(const struct settings *settings) {
    struct server *server = calloc(1, sizeof *server);
    if (!server) die("memory");
    server->accepting = true;
    server->scratch = malloc(settings->udp ? (size_t)DATAGRAMS_AT_ONCE * 65536 : SCRATCH_SIZE);
    if (!server->scratch) die("memory");
    server->epoll = make_epoll();
    int signals = make_signal_descriptor(), one = 1, kind = settings->udp ? SOCK_DGRAM : SOCK_STREAM;
    server->socket = socket(settings->address.ss_family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (server->socket < 0) die("socket");
    if (!settings->udp && setsockopt(server->socket, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0) die("SO_REUSEADDR");
    if (bind(server->socket, (const struct sockaddr *)&settings->address, settings->address_size) != 0) die("bind");
    if (!settings->udp && listen(server->socket, SOMAXCONN) != 0) die("listen");
    watch(server->epoll, EPOLL_CTL_ADD, signals, EPOLLIN, NULL);
    watch(server->epoll, EPOLL_CTL_ADD, server->socket, EPOLLIN, server);
    announce(server->socket);

    struct epoll_event events[EVENTS_AT_ONCE];
    for (;;) {
        int ready = wait_events(server->epoll, events, settings);
        if (ready < 0 && errno != EINTR) die("epoll_wait");
        for (int i = 0; i < ready; i++) {
            void *context = events[i].data.ptr;
            if (!context) return 0; /* the process's end frees everything */
            if (context == server) {
                if (settings->udp) echo_datagrams(server);
                else accept_all(server);
                continue;
            }
            struct connection *connection = context;
            bool alive = connection->rest ? send_rest(server, connection) : echo(server, connection);
            if (!alive) finish(server, connection);
        }
    }
}
