/* TCP and UDP over loopback, both ends in this thread's libOS. */
#include "abi.h"

#include <stdlib.h>
#include <unistd.h>

static void test_echo(void) {
    struct connection pair = connection_pair();
    push_text(pair.client, "to the server");
    pops_text(pair.server, "to the server");
    push_text(pair.server, "and back");
    pops_text(pair.client, "and back");

    demi_qtoken_t token = 0;
    answers(connect4(&token, pair.client, pair.address), EISCONN, "demi_connect: a connected socket is EISCONN");
    answers(demi_listen(pair.client, 1), EISCONN, "demi_listen: a connected socket is EISCONN");
    answers(demi_shutdown(pair.client, 99), EINVAL, "demi_shutdown: a nonsense direction is EINVAL");
    answers(demi_pop(&token, pair.listener), ENOTCONN, "demi_pop: a listening socket is ENOTCONN");

    struct sockaddr_in local, remote, cut;
    socklen_t local_size = sizeof local, remote_size = sizeof remote, cut_size = 4;
    ok(demi_getsockname(pair.client, (struct sockaddr *)&local, &local_size) == 0 &&
           demi_getpeername(pair.server, (struct sockaddr *)&remote, &remote_size) == 0 && local_size == sizeof local &&
           remote_size == sizeof remote && local.sin_family == AF_INET && local.sin_port == remote.sin_port &&
           local.sin_addr.s_addr == remote.sin_addr.s_addr,
       "the client's local address is the server's remote address");
    memset(&cut, 0xff, sizeof cut);
    ok(demi_getpeername(pair.server, (struct sockaddr *)&cut, &cut_size) == 0 && cut_size == sizeof cut && cut.sin_family == AF_INET &&
           cut.sin_port == remote.sin_port && cut.sin_addr.s_addr == 0xffffffff,
       "an address is cut off where its room ends, and tells its size");
    answers(demi_getpeername(pair.listener, (struct sockaddr *)&remote, &remote_size), ENOTCONN, "demi_getpeername: a listener is ENOTCONN");

    answers(demi_shutdown(pair.client, SHUT_WR), 0, "the client ends its direction");
    pops_end(pair.server, "the server pops the end of the stream");
    demi_sgarray_t array = array_of("x");
    answers(demi_push(&token, pair.client, &array), EPIPE, "demi_push: after demi_shutdown it is EPIPE");
    answers(demi_sgafree(&array), 0, "the array is freed");
    push_text(pair.server, "the other direction");
    pops_text(pair.client, "the other direction");
    answers(demi_close(pair.server), 0, "the server closes");
    pops_end(pair.client, "the client pops the end of the stream");
    answers(demi_close(pair.client), 0, "the client closes");
    answers(demi_close(pair.listener), 0, "the listener closes");
}

static void test_large_push(void) {
    enum { SIZE = 4 << 20 };
    struct connection pair = connection_pair();
    demi_sgarray_t array = demi_sgaalloc(SIZE);
    demi_qtoken_t tokens[2] = {0, 0};
    demi_qresult_t result;
    size_t received = 0, i;
    int intact = 1, pushed = 0, error = 0, offset = 0;
    if (!ok(array.sga_numsegs == 1, "4 MiB are allocated")) return;
    for (i = 0; i < SIZE; i++) ((unsigned char *)array.sga_segs[0].sgaseg_buf)[i] = (unsigned char)(i % 251);
    ok(demi_push(&tokens[0], pair.client, &array) == 0 && demi_pop(&tokens[1], pair.server) == 0, "and pushed, while the peer pops");
    answers(demi_sgafree(&array), 0, "and freed at once");
    while (error == 0 && received < SIZE) {
        /* The push's token comes first in the array until it has completed, then only the pop's is waited for. */
        error = demi_wait_any(&result, &offset, pushed ? tokens + 1 : tokens, pushed ? 1 : 2, &long_enough);
        if (error != 0 || result.qr_opcode == DEMI_OPC_FAILED) break;
        if (result.qr_opcode == DEMI_OPC_PUSH) {
            pushed = 1;
            continue;
        }
        array = result.qr_value.sga;
        for (i = 0; i < array.sga_segs[0].sgaseg_len; i++)
            intact &= ((unsigned char *)array.sga_segs[0].sgaseg_buf)[i] == (received + i) % 251;
        received += i;
        error = demi_sgafree(&array);
        if (error == 0 && received < SIZE) error = demi_pop(&tokens[1], pair.server);
    }
    ok(error == 0 && received == SIZE && intact, "all bytes arrive, once and in order");
    if (!pushed) completes(tokens[0], DEMI_OPC_PUSH, "the push completes");
    close_connection(&pair);
}

static void test_failures(void) {
    struct connection pair = connection_pair();
    demi_qtoken_t pop = 0, accept = 0, connect = 0;
    demi_qresult_t result;
    ok(demi_pop(&pop, pair.server) == 0 && demi_accept(&accept, pair.listener) == 0, "a pop and an accept wait");
    answers(demi_wait(&result, pop, &at_once), ETIMEDOUT, "a timeout of zero polls once");
    struct timespec moment = {0, 2000000};
    answers(demi_wait(&result, pop, &moment), ETIMEDOUT, "a timeout passes");
    push_text(pair.client, "late");
    demi_sgarray_t array = completes(pop, DEMI_OPC_POP, "the token outlives both").qr_value.sga;
    answers(demi_sgafree(&array), 0, "its array is freed");

    answers(demi_pop(&pop, pair.server), 0, "a pop waits");
    answers(demi_cancel(pop), 0, "it is cancelled");
    fails(pop, ECANCELED, "a cancelled pop completes with ECANCELED");
    answers(demi_cancel(pop), EINVAL, "demi_cancel: a used-up token is EINVAL");
    push_text(pair.client, "unharmed");
    pops_text(pair.server, "unharmed");

    answers(demi_pop(&pop, pair.server), 0, "a pop waits");
    ok(demi_close(pair.server) == 0 && demi_close(pair.client) == 0 && demi_close(pair.listener) == 0, "this end closes, then the others");
    fails(pop, ECANCELED, "a pop of a closed connection completes with ECANCELED");
    fails(accept, ECANCELED, "an accept of a closed listener completes with ECANCELED");

    struct sockaddr_in nobody;
    int socket = bound(SOCK_STREAM, &nobody);
    answers(demi_close(socket), 0, "a port is left again");
    answers(demi_socket(&socket, AF_INET, SOCK_STREAM, 0), 0, "a socket is made");
    answers(connect4(&connect, socket, nobody), 0, "and connects to where nobody listens");
    fails(connect, ECONNREFUSED, "a refused connection completes with ECONNREFUSED");
    answers(demi_close(socket), 0, "it closes");

    struct linger abort = {1, 0};
    pair = connection_pair();
    answers(demi_pop(&pop, pair.server), 0, "a pop waits");
    answers(demi_setsockopt(pair.client, SOL_SOCKET, SO_LINGER, &abort, sizeof abort), 0, "the client lingers for 0 seconds");
    answers(demi_close(pair.client), 0, "and closes, which resets the connection");
    fails(pop, ECONNRESET, "the peer's pop completes with ECONNRESET");
    ok(demi_close(pair.server) == 0 && demi_close(pair.listener) == 0, "the rest closes");
}

static void test_ipv6(void) {
    struct sockaddr_in6 address, peer;
    struct sockaddr_in four = loopback(0);
    socklen_t size = sizeof address, peer_size = sizeof peer;
    int listener = -1, client = -1;
    demi_qtoken_t tokens[2] = {0, 0};
    demi_qresult_t results[2];
    memset(results, 0, sizeof results);
    memset(&address, 0, sizeof address);
    address.sin6_family = AF_INET6;
    address.sin6_addr = in6addr_loopback;
    answers(demi_socket(&listener, AF_INET6, SOCK_STREAM, 0), 0, "an IPv6 socket is made");
    answers(demi_bind(listener, (struct sockaddr *)&four, sizeof four), EAFNOSUPPORT, "demi_bind: an IPv4 address on an IPv6 socket is EAFNOSUPPORT");
    answers(demi_bind(listener, (struct sockaddr *)&address, sizeof four), EINVAL, "demi_bind: an IPv6 address of IPv4's size is EINVAL");
    int error = demi_bind(listener, (struct sockaddr *)&address, sizeof address);
    if (error == EADDRNOTAVAIL) {
        skip("this machine has no ::1");
        demi_close(listener);
        return;
    }
    answers(error, 0, "it binds to ::1");
    answers(demi_getsockname(listener, (struct sockaddr *)&address, &size), 0, "and tells its port");
    ok(size == sizeof address && address.sin6_port != 0, "which is not 0");
    ok(demi_listen(listener, 1) == 0 && demi_accept(&tokens[0], listener) == 0 && demi_socket(&client, AF_INET6, SOCK_STREAM, 0) == 0 &&
           demi_connect(&tokens[1], client, (struct sockaddr *)&address, sizeof address) == 0 &&
           demi_wait_all(results, tokens, 2, &long_enough) == 0 && results[0].qr_opcode == DEMI_OPC_ACCEPT &&
           results[1].qr_opcode == DEMI_OPC_CONNECT,
       "two IPv6 sockets connect");
    int server = results[0].qr_value.ares.qd;
    push_text(client, "over IPv6");
    pops_text(server, "over IPv6");
    ok(demi_getpeername(client, (struct sockaddr *)&peer, &peer_size) == 0 && peer_size == sizeof peer && peer.sin6_port == address.sin6_port &&
           memcmp(&peer.sin6_addr, &in6addr_loopback, sizeof peer.sin6_addr) == 0,
       "the peer's address is ::1 and the listener's port");
    ok(demi_close(client) == 0 && demi_close(server) == 0 && demi_close(listener) == 0, "all three close");
}

static void test_wildcard(void) {
    struct sockaddr_in any = loopback(0), found;
    socklen_t size = sizeof found;
    int socket = -1;
    any.sin_addr.s_addr = htonl(INADDR_ANY);
    answers(demi_socket(&socket, AF_INET, SOCK_STREAM, 0), 0, "a socket is made");
    ok(demi_getsockname(socket, (struct sockaddr *)&found, &size) == 0 && size == sizeof found && found.sin_family == AF_INET && found.sin_port == 0,
       "an unbound socket's address is its family and zero");
    answers(bind4(socket, any), 0, "INADDR_ANY and port 0 bind");
    ok(demi_getsockname(socket, (struct sockaddr *)&found, &size) == 0 && found.sin_port != 0 && found.sin_addr.s_addr == htonl(INADDR_ANY),
       "to a free port");
    answers(demi_close(socket), 0, "it closes");
}

void test_sockets(void) {
    test_echo();
    test_large_push();
    test_failures();
    test_wildcard();
    test_ipv6();
}

/* What a kernel socket sends can be empty; what 17 pieces hold is one datagram all the same. */
static void test_odd_datagrams(int to, struct sockaddr_in address) {
    int kernel = socket(AF_INET, SOCK_DGRAM, 0);
    demi_qtoken_t token = 0;
    struct iovec pieces[17];
    char *memory = demi_malloc(17);
    ok(kernel >= 0 && sendto(kernel, "", 0, 0, (struct sockaddr *)&address, sizeof address) == 0, "a kernel socket sends an empty datagram");
    pops_end(to, "which is popped as a segment of length 0");
    ok(kernel >= 0 && sendto(kernel, "x", 1, 0, (struct sockaddr *)&address, sizeof address) == 1, "and one of a byte");
    pops_text(to, "x");
    if (kernel >= 0) close(kernel);
    memcpy(memory, "seventeen pieces!", 17);
    for (int i = 0; i < 17; i++) pieces[i] = (struct iovec){memory + i, 1};
    answers(connect4(&token, to, address), 0, "a UDP socket connects to itself");
    completes(token, DEMI_OPC_CONNECT, "and completes");
    answers(demi_pushv(&token, to, pieces, 17), 0, "seventeen pieces are pushed");
    demi_free(memory);
    completes(token, DEMI_OPC_PUSH, "and the push completes");
    pops_text(to, "seventeen pieces!");
}

void test_datagrams(void) {
    struct sockaddr_in one_address, two_address, short_address;
    int one = bound(SOCK_DGRAM, &one_address), two = bound(SOCK_DGRAM, &two_address);
    demi_qtoken_t token = 0, pop = 0;
    demi_sgarray_t array = array_of("datagram"), popped;
    short_address = two_address;
    answers(demi_pushto(&token, one, &array, (struct sockaddr *)&short_address, 3), EINVAL, "demi_pushto: a wrong size is EINVAL");
    answers(demi_pushto(&token, one, &array, (struct sockaddr *)&two_address, sizeof two_address), 0, "a datagram is pushed");
    answers(demi_sgafree(&array), 0, "and freed");
    completes(token, DEMI_OPC_PUSH, "and the push completes");
    answers(demi_pop(&pop, two), 0, "the other socket pops");
    popped = completes(pop, DEMI_OPC_POP, "the datagram").qr_value.sga;
    struct sockaddr_in sender = popped.sga_addr;
    ok(popped.sga_segs[0].sgaseg_len == 8 && memcmp(popped.sga_segs[0].sgaseg_buf, "datagram", 8) == 0, "whole");
    ok(sender.sin_family == AF_INET && sender.sin_port == one_address.sin_port && sender.sin_addr.s_addr == one_address.sin_addr.s_addr,
       "with its sender's address");
    answers(demi_pushto(&token, two, &popped, (struct sockaddr *)&sender, sizeof sender), 0, "what was popped is pushed back as it is");
    answers(demi_sgafree(&popped), 0, "and freed");
    completes(token, DEMI_OPC_PUSH, "and the push completes");
    pops_text(one, "datagram");

    answers(connect4(&token, one, two_address), 0, "a UDP socket connects");
    completes(token, DEMI_OPC_CONNECT, "and completes");
    push_text(one, "connected");
    pops_text(two, "connected");
    array = demi_sgaalloc(70000);
    answers(demi_push(&token, one, &array), EMSGSIZE, "demi_push: more than a datagram holds is EMSGSIZE");
    answers(demi_sgafree(&array), 0, "it is freed");
    answers(demi_pop(&pop, two), 0, "a pop waits");
    ok(demi_close(one) == 0 && demi_close(two) == 0, "both sockets close");
    fails(pop, ECANCELED, "the pop completes with ECANCELED");

    one = bound(SOCK_DGRAM, &one_address);
    test_odd_datagrams(one, one_address);
    answers(demi_close(one), 0, "the socket closes");

    struct connection pair = connection_pair();
    array = array_of("x");
    answers(demi_pushto(&token, pair.client, &array, (struct sockaddr *)&pair.address, sizeof pair.address), ENOTSUP,
            "demi_pushto: a TCP socket is ENOTSUP");
    answers(demi_sgafree(&array), 0, "the array is freed");
    close_connection(&pair);
}
