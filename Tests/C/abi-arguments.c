/* Bad arguments: NULLs, descriptors, tokens, counts, sizes, addresses, states. */
#include "abi.h"

#include <limits.h>
#include <netinet/tcp.h>
#include <unistd.h>

static void test_null(void) {
    int socket = -1, queue = -1, offset = 0;
    demi_qtoken_t token = 0;
    demi_qresult_t result;
    struct sockaddr_in address = loopback(9);
    struct sockaddr *generic = (struct sockaddr *)&address;
    socklen_t size = sizeof address;
    int one = 1;
    demi_sgarray_t array = array_of("x");
    ok(demi_socket(&socket, AF_INET, SOCK_DGRAM, 0) == 0 && demi_queue(&queue) == 0, "a socket and a queue are made");
    answers(demi_socket(NULL, AF_INET, SOCK_STREAM, 0), EINVAL, "demi_socket: NULL is EINVAL");
    answers(demi_queue(NULL), EINVAL, "demi_queue: NULL is EINVAL");
    answers(demi_bind(socket, NULL, size), EINVAL, "demi_bind: NULL is EINVAL");
    answers(demi_accept(NULL, socket), EINVAL, "demi_accept: NULL is EINVAL");
    answers(demi_connect(NULL, socket, generic, size), EINVAL, "demi_connect: a NULL token is EINVAL");
    answers(demi_connect(&token, socket, NULL, size), EINVAL, "demi_connect: a NULL address is EINVAL");
    answers(demi_push(NULL, queue, &array), EINVAL, "demi_push: a NULL token is EINVAL");
    answers(demi_push(&token, queue, NULL), EINVAL, "demi_push: a NULL array is EINVAL");
    answers(demi_pushto(NULL, socket, &array, generic, size), EINVAL, "demi_pushto: a NULL token is EINVAL");
    answers(demi_pushto(&token, socket, NULL, generic, size), EINVAL, "demi_pushto: a NULL array is EINVAL");
    answers(demi_pushto(&token, socket, &array, NULL, size), EINVAL, "demi_pushto: a NULL address is EINVAL");
    answers(demi_pushv(&token, queue, NULL, 1), EINVAL, "demi_pushv: NULL pieces are EINVAL");
    answers(demi_pop(NULL, queue), EINVAL, "demi_pop: NULL is EINVAL");
    answers(demi_setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, NULL, sizeof one), EINVAL, "demi_setsockopt: NULL is EINVAL");
    answers(demi_getsockopt(socket, SOL_SOCKET, SO_REUSEADDR, NULL, &size), EINVAL, "demi_getsockopt: a NULL value is EINVAL");
    answers(demi_getsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &one, NULL), EINVAL, "demi_getsockopt: a NULL size is EINVAL");
    answers(demi_getpeername(socket, NULL, &size), EINVAL, "demi_getpeername: a NULL address is EINVAL");
    answers(demi_getpeername(socket, generic, NULL), EINVAL, "demi_getpeername: a NULL size is EINVAL");
    answers(demi_getsockname(socket, NULL, &size), EINVAL, "demi_getsockname: a NULL address is EINVAL");
    answers(demi_getsockname(socket, generic, NULL), EINVAL, "demi_getsockname: a NULL size is EINVAL");
    answers(demi_sgafree(NULL), EINVAL, "demi_sgafree: NULL is EINVAL");
    answers(demi_open(NULL, "/dev/null", 0), EINVAL, "demi_open: a NULL descriptor is EINVAL");
    answers(demi_open(&queue, NULL, 0), EINVAL, "demi_open: a NULL path is EINVAL");
    answers(demi_creat(NULL, "/dev/null", 0), EINVAL, "demi_creat: a NULL descriptor is EINVAL");
    answers(demi_creat(&queue, NULL, 0), EINVAL, "demi_creat: a NULL path is EINVAL");
    answers(demi_wait(NULL, 1, &at_once), EINVAL, "demi_wait: NULL is EINVAL");
    token = 1;
    answers(demi_wait_any(NULL, &offset, &token, 1, &at_once), EINVAL, "demi_wait_any: a NULL result is EINVAL");
    answers(demi_wait_any(&result, NULL, &token, 1, &at_once), EINVAL, "demi_wait_any: a NULL offset is EINVAL");
    answers(demi_wait_any(&result, &offset, NULL, 1, &at_once), EINVAL, "demi_wait_any: NULL tokens are EINVAL");
    answers(demi_wait_all(NULL, &token, 1, &at_once), EINVAL, "demi_wait_all: NULL results are EINVAL");
    answers(demi_wait_all(&result, NULL, 1, &at_once), EINVAL, "demi_wait_all: NULL tokens are EINVAL");
    answers(demi_wait_next_n(NULL, 1, &offset, &at_once), EINVAL, "demi_wait_next_n: NULL results are EINVAL");
    answers(demi_wait_next_n(&result, 1, NULL, &at_once), EINVAL, "demi_wait_next_n: a NULL count is EINVAL");
    answers(demi_pop(&token, queue), 0, "a failed demi_open or demi_creat leaves its descriptor's place alone");
    answers(demi_close(queue), 0, "the queue closes");
    fails(token, ECANCELED, "and its pop is cancelled");
    answers(demi_sgafree(&array), 0, "failed pushes took nothing: the array is freed once");
    answers(demi_close(socket), 0, "the socket closes");
}

static void test_bad_descriptors(void) {
    static const int bad[] = {-1, 0, 2, 499, 500, 100000, INT_MAX, INT_MIN};
    struct sockaddr_in address = loopback(9);
    struct sockaddr *generic = (struct sockaddr *)&address;
    demi_sgarray_t array = array_of("x");
    void *memory = demi_malloc(16);
    struct iovec piece = {memory, 16};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int qd = bad[i], one = 1;
        socklen_t size = sizeof address, room = sizeof one;
        demi_qtoken_t token = 0;
        int wrong = (demi_listen(qd, 1) != EBADF) << 0 | (demi_bind(qd, generic, size) != EBADF) << 1 |
                    (demi_accept(&token, qd) != EBADF) << 2 | (demi_connect(&token, qd, generic, size) != EBADF) << 3 |
                    (demi_close(qd) != EBADF) << 4 | (demi_shutdown(qd, SHUT_WR) != EBADF) << 5 |
                    (demi_push(&token, qd, &array) != EBADF) << 6 | (demi_pushto(&token, qd, &array, generic, size) != EBADF) << 7 |
                    (demi_pushv(&token, qd, &piece, 1) != EBADF) << 8 | (demi_pop(&token, qd) != EBADF) << 9 |
                    (demi_setsockopt(qd, SOL_SOCKET, SO_REUSEADDR, &one, room) != EBADF) << 10 |
                    (demi_getsockopt(qd, SOL_SOCKET, SO_REUSEADDR, &one, &room) != EBADF) << 11 |
                    (demi_getpeername(qd, generic, &size) != EBADF) << 12 | (demi_getsockname(qd, generic, &size) != EBADF) << 13 |
                    (demi_lseek(qd, 0, SEEK_SET) != EBADF) << 14 | (demi_truncate(qd, 0) != EBADF) << 15;
        answers(wrong, 0, "every call answers EBADF to a bad descriptor (got: the calls that did not, one bit each)");
    }
    answers(demi_sgafree(&array), 0, "the array is still the caller's");
    demi_free(memory);
}

static void test_bad_tokens(void) {
    int queue = -1, offset = 0;
    demi_qtoken_t live = 0, used = 0;
    demi_qresult_t results[2];
    struct timespec negative = {-1, 0}, too_many = {0, 1000000000};
    answers(demi_queue(&queue), 0, "a queue is made");
    push_text(queue, "used");
    answers(demi_pop(&used, queue), 0, "a pop is submitted");
    demi_sgarray_t array = completes(used, DEMI_OPC_POP, "and waited for").qr_value.sga;
    answers(demi_sgafree(&array), 0, "its array is freed");
    answers(demi_pop(&live, queue), 0, "another pop is submitted");
    const demi_qtoken_t bad[] = {0, UINT64_MAX, 12345, used, live + (UINT64_C(2) << 32), live ^ UINT64_C(0x80000000)};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        demi_qtoken_t mixed[2] = {live, bad[i]};
        ok(demi_wait(results, bad[i], NULL) == EINVAL && demi_wait_any(results, &offset, &bad[i], 1, NULL) == EINVAL &&
               demi_wait_any(results, &offset, mixed, 2, &at_once) == EINVAL && demi_wait_all(results, mixed, 2, NULL) == EINVAL &&
               demi_cancel(bad[i]) == EINVAL,
           "every call answers EINVAL to a token that is unknown or used up, without waiting");
    }
    answers(demi_wait_any(results, &offset, &live, 0, &at_once), EINVAL, "demi_wait_any: no token is EINVAL");
    answers(demi_wait_any(results, &offset, &live, -1, &at_once), EINVAL, "demi_wait_any: a negative count is EINVAL");
    answers(demi_wait_any(results, &offset, &live, INT_MIN, &at_once), EINVAL, "demi_wait_any: the most negative count is EINVAL");
    answers(demi_wait_all(results, &live, 0, &at_once), EINVAL, "demi_wait_all: no token is EINVAL");
    answers(demi_wait_all(results, &live, -1, &at_once), EINVAL, "demi_wait_all: a negative count is EINVAL");
    answers(demi_wait_next_n(results, 0, &offset, &at_once), EINVAL, "demi_wait_next_n: room for none is EINVAL");
    answers(demi_wait_next_n(results, -1, &offset, &at_once), EINVAL, "demi_wait_next_n: a negative count is EINVAL");
    answers(demi_wait(results, live, &negative), EINVAL, "demi_wait: a negative timeout is EINVAL");
    answers(demi_wait(results, live, &too_many), EINVAL, "demi_wait: 1,000,000,000 nanoseconds are EINVAL");
    answers(demi_wait(results, live, &at_once), ETIMEDOUT, "after all that the live token still waits");
    answers(demi_close(queue), 0, "the queue closes");
    fails(live, ECANCELED, "its pending pop completes with ECANCELED");
}

static void test_socket_arguments(void) {
    int qd = -1;
    answers(demi_socket(&qd, AF_UNIX, SOCK_STREAM, 0), ENOTSUP, "demi_socket: another domain is ENOTSUP");
    answers(demi_socket(&qd, -1, SOCK_STREAM, 0), ENOTSUP, "demi_socket: a nonsense domain is ENOTSUP");
    answers(demi_socket(&qd, AF_INET, SOCK_RAW, 0), ENOTSUP, "demi_socket: another type is ENOTSUP");
    answers(demi_socket(&qd, AF_INET, -1, 0), ENOTSUP, "demi_socket: a nonsense type is ENOTSUP");
    answers(demi_socket(&qd, AF_INET, SOCK_STREAM, IPPROTO_UDP), EPROTONOSUPPORT, "demi_socket: UDP over a stream is EPROTONOSUPPORT");
    answers(demi_socket(&qd, AF_INET, SOCK_STREAM, IPPROTO_TCP), 0, "demi_socket: TCP by name is fine");
    answers(demi_close(qd), 0, "it closes");
}

static void test_states(void) {
    struct sockaddr_in taken, foreign = loopback(0), fresh = loopback(0);
    int first = bound(SOCK_STREAM, &taken), second = -1, queue = -1;
    demi_qtoken_t token = 0;
    demi_sgarray_t array = array_of("x");
    foreign.sin_addr.s_addr = htonl(0xc6336401); /* 198.51.100.1, RFC 5737: nobody's */
    answers(demi_socket(&second, AF_INET, SOCK_STREAM, 0), 0, "a socket is made");
    answers(demi_listen(second, 1), EDESTADDRREQ, "demi_listen: an unbound socket is EDESTADDRREQ");
    answers(demi_accept(&token, second), EINVAL, "demi_accept: a socket that does not listen is EINVAL");
    answers(demi_push(&token, second, &array), ENOTCONN, "demi_push: an unconnected socket is ENOTCONN");
    answers(demi_pop(&token, second), ENOTCONN, "demi_pop: an unconnected socket is ENOTCONN");
    answers(demi_shutdown(second, SHUT_WR), ENOTCONN, "demi_shutdown: an unconnected socket is ENOTCONN");
    answers(demi_bind(second, (struct sockaddr *)&fresh, sizeof fresh - 1), EINVAL, "demi_bind: a short size is EINVAL");
    answers(demi_bind(second, (struct sockaddr *)&fresh, sizeof fresh + 1), EINVAL, "demi_bind: a long size is EINVAL");
    answers(demi_bind(second, (struct sockaddr *)&fresh, 0), EINVAL, "demi_bind: size 0 is EINVAL");
    answers(bind4(second, foreign), EADDRNOTAVAIL, "demi_bind: a foreign address is EADDRNOTAVAIL");
    answers(demi_listen(first, 0), EINVAL, "demi_listen: a backlog of 0 is EINVAL");
    answers(demi_listen(first, -1), EINVAL, "demi_listen: a negative backlog is EINVAL");
    answers(bind4(first, fresh), EINVAL, "demi_bind: twice is EINVAL");
    answers(demi_listen(first, 1), 0, "demi_listen: a bound socket listens");
    answers(bind4(second, taken), EADDRINUSE, "demi_bind: an address in use is EADDRINUSE");
    answers(bind4(second, fresh), 0, "demi_bind: after all those failures the socket binds");
    answers(connect4(&token, first, taken), EOPNOTSUPP, "demi_connect: a listening socket is EOPNOTSUPP");
    answers(demi_close(first), 0, "the listener closes");
    answers(demi_close(second), 0, "the other socket closes");

    answers(demi_socket(&second, AF_INET, SOCK_DGRAM, 0), 0, "a UDP socket is made");
    answers(demi_push(&token, second, &array), ENOTCONN, "demi_push: an unconnected UDP socket is ENOTCONN");
    answers(demi_accept(&token, second), EINVAL, "demi_accept: a UDP socket is EINVAL: it does not listen");
    answers(bind4(second, loopback(0)), 0, "it binds");
    answers(demi_listen(second, 1), ENOTSUP, "demi_listen: a UDP socket is ENOTSUP");
    answers(demi_close(second), 0, "it closes");

    answers(demi_queue(&queue), 0, "a memory queue is made");
    answers(demi_listen(queue, 1), ENOTSOCK, "demi_listen: a memory queue is ENOTSOCK");
    answers(bind4(queue, fresh), ENOTSOCK, "demi_bind: a memory queue is ENOTSOCK");
    answers(demi_accept(&token, queue), ENOTSOCK, "demi_accept: a memory queue is ENOTSOCK");
    answers(connect4(&token, queue, fresh), ENOTSOCK, "demi_connect: a memory queue is ENOTSOCK");
    answers(demi_shutdown(queue, SHUT_WR), ENOTSOCK, "demi_shutdown: a memory queue is ENOTSOCK");
    answers(demi_lseek(queue, 0, SEEK_SET), ESPIPE, "demi_lseek: a memory queue is ESPIPE");
    answers(demi_truncate(queue, 0), EINVAL, "demi_truncate: a memory queue is EINVAL");
    answers(demi_close(queue), 0, "it closes");
    answers(demi_sgafree(&array), 0, "the array that nobody took is freed");
}

static void test_options(void) {
    int socket = -1, value = 1, found = 0;
    struct linger linger = {1, 3}, found_linger = {0, 0};
    socklen_t size = sizeof found;
    answers(demi_socket(&socket, AF_INET, SOCK_STREAM, 0), 0, "a socket is made");
    answers(demi_setsockopt(socket, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0, "SO_LINGER is set");
    size = sizeof found_linger;
    ok(demi_getsockopt(socket, SOL_SOCKET, SO_LINGER, &found_linger, &size) == 0 && size == sizeof linger && found_linger.l_onoff != 0 &&
           found_linger.l_linger == 3,
       "and read back");
    static const struct {
        int level, name;
        const char *text;
    } flags[] = {{IPPROTO_TCP, TCP_NODELAY, "TCP_NODELAY is set and read back"},
                 {SOL_SOCKET, SO_KEEPALIVE, "SO_KEEPALIVE is set and read back"},
                 {SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR is set and read back"}};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        found = 0;
        size = sizeof found;
        ok(demi_setsockopt(socket, flags[i].level, flags[i].name, &value, sizeof value) == 0 &&
               demi_getsockopt(socket, flags[i].level, flags[i].name, &found, &size) == 0 && size == sizeof found && found != 0,
           flags[i].text);
    }
    value = 65536;
    found = 0;
    size = sizeof found;
    ok(demi_setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &value, sizeof value) == 0 &&
           demi_getsockopt(socket, SOL_SOCKET, SO_RCVBUF, &found, &size) == 0 && found >= value,
       "SO_RCVBUF is set, and at least that large");
    found = 0;
    size = sizeof found;
    ok(demi_setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &value, sizeof value) == 0 &&
           demi_getsockopt(socket, SOL_SOCKET, SO_SNDBUF, &found, &size) == 0 && found >= value,
       "SO_SNDBUF is set, and at least that large");
    answers(demi_setsockopt(socket, SOL_SOCKET, SO_LINGER, &linger, 4), EINVAL, "demi_setsockopt: a wrong size is EINVAL");
    answers(demi_setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &value, 1), EINVAL, "demi_setsockopt: a size of 1 is EINVAL");
    answers(demi_setsockopt(socket, SOL_SOCKET, 9999, &value, sizeof value), ENOPROTOOPT, "demi_setsockopt: an unknown option is ENOPROTOOPT");
    answers(demi_setsockopt(socket, 9999, SO_LINGER, &value, sizeof value), ENOTSUP, "demi_setsockopt: an unknown level is ENOTSUP");
    size = sizeof found;
    answers(demi_getsockopt(socket, SOL_SOCKET, 9999, &found, &size), ENOPROTOOPT, "demi_getsockopt: an unknown option is ENOPROTOOPT");
    size = sizeof found;
    answers(demi_getsockopt(socket, 9999, SO_LINGER, &found, &size), ENOTSUP, "demi_getsockopt: an unknown level is ENOTSUP");
    size = 1;
    answers(demi_getsockopt(socket, SOL_SOCKET, SO_LINGER, &found_linger, &size), EINVAL, "demi_getsockopt: too little room is EINVAL");
    answers(demi_close(socket), 0, "the socket closes");
}

void test_arguments(void) {
    test_null();
    test_bad_descriptors();
    test_bad_tokens();
    test_socket_arguments();
    test_states();
    test_options();
}
