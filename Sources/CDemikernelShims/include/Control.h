/* The control socket's system calls that Swift cannot make: variadic ones, and structures that the Glibc module leaves out. */
#ifndef DEMIKERNEL_CONTROL_H
#define DEMIKERNEL_CONTROL_H

#include <fcntl.h>
#include <linux/sockios.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* The user at the other end of a Unix socket (SO_PEERCRED), as it was when it connected; -1 where there is none. */
static inline int64_t dk_peer_user(int socket) {
    struct { int32_t process; uint32_t user; uint32_t group; } credentials;
    socklen_t size = sizeof credentials;
    return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 ? (int64_t)credentials.user : -1;
}

/* fcntl(2) is variadic. */
static inline int dk_descriptor_make_blocking(int descriptor) {
    int flags = fcntl(descriptor, F_GETFL);
    return flags < 0 ? -1 : fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK);
}

/* Seconds that a send or a receive on the socket waits; 0 for ever. */
static inline int dk_socket_timeouts(int socket, int seconds) {
    struct { long seconds, microseconds; } time = {seconds, 0};
    return setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) | setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
}

/* Bytes that wait in a kernel socket: to be read (SIOCINQ), or to be sent or acknowledged (SIOCOUTQ); 0 where the kernel does not say. */
static inline int dk_socket_queued(int socket, unsigned long queue) {
    int count = 0;
    return ioctl(socket, queue, &count) == 0 && count > 0 ? count : 0;
}

/* What the kernel says of a TCP connection of its own (TCP_INFO). Times in microseconds; what an older kernel does not fill in is 0. */
typedef struct {
    uint8_t state, ca_state, backoff, options;
    uint32_t round_trip, variation, minimum_round_trip, timeout, window, threshold, segment, send_window, receive_window, unsent, retransmissions;
    /* Segments that are out, and those of them that were selectively acknowledged; of a listener, connections that wait, and its backlog. */
    uint32_t unacknowledged, acknowledged;
} dk_tcp_information;

/* Where include/uapi/linux/tcp.h has the fields of struct tcp_info, which only ever grows: the C library's and the kernel's headers, which both
   declare it, do not agree. */
static inline uint32_t dk_tcp_information_word(const uint8_t *_Nonnull bytes, size_t offset) {
    uint32_t word;
    memcpy(&word, bytes + offset, sizeof word);
    return word;
}

static inline int dk_tcp_information_get(int socket, dk_tcp_information *_Nonnull result) {
    uint8_t info[256];
    socklen_t size = sizeof info;
    memset(info, 0, sizeof info);
    if (getsockopt(socket, 6 /* IPPROTO_TCP */, 11 /* TCP_INFO */, info, &size) != 0) return -1;
    result->state = info[0];
    result->ca_state = info[1];
    result->backoff = info[4];
    result->options = info[5];
    result->timeout = dk_tcp_information_word(info, 8);
    result->segment = dk_tcp_information_word(info, 16);
    result->unacknowledged = dk_tcp_information_word(info, 24);
    result->acknowledged = dk_tcp_information_word(info, 28);
    result->round_trip = dk_tcp_information_word(info, 68);
    result->variation = dk_tcp_information_word(info, 72);
    result->threshold = dk_tcp_information_word(info, 76);
    result->window = dk_tcp_information_word(info, 80);
    result->receive_window = dk_tcp_information_word(info, 96);
    result->retransmissions = dk_tcp_information_word(info, 100);
    result->unsent = dk_tcp_information_word(info, 144);
    result->minimum_round_trip = dk_tcp_information_word(info, 148);
    result->send_window = dk_tcp_information_word(info, 228);
    return 0;
}

#endif
