/* A UDP echo server: each datagram goes back to where it came from. */
#define _POSIX_C_SOURCE 200809L
#include "common.h"

#include <errno.h>
#include <stdio.h>

static const struct program program = {
    "udp-echo",
    "usage: udp-echo [--listen HOST:PORT]\n"
    "\n"
    "Echoes UDP datagrams, until SIGINT or SIGTERM.\n"
    "  --listen HOST:PORT   numeric, IPv4; default 127.0.0.1:7000\n"
    "\n"
    "example: LIBOS=catnap udp-echo --listen 0.0.0.0:7000     and then: nc -u 127.0.0.1 7000\n",
    "--listen",
    {NULL, NULL}};

int main(int argc, char **argv) {
    struct options options = parse_options(argc, argv, &program);
    demi_qtoken_t pop, push = 0; /* 0 is never a token: no push is under way */
    int queue;
    start(&program);
    if (options.address.ss_family != AF_INET) fail("an array tells its sender over IPv4 only");
    queue = bound_socket(&options, SOCK_DGRAM);
    check("demi_pop", demi_pop(&pop, queue));

    while (!stop) {
        demi_qresult_t result;
        demi_sgarray_t array;
        struct sockaddr_in sender;
        int error = push ? demi_wait(&result, push, &quarter_second) : demi_wait(&result, pop, &quarter_second);
        if (error == ETIMEDOUT) continue;
        check("demi_wait", error);
        if (push) {
            push = 0; /* one that failed is a datagram lost, as datagrams are */
            check("demi_pop", demi_pop(&pop, queue));
            continue;
        }
        if (result.qr_opcode == DEMI_OPC_POP) {
            array = result.qr_value.sga;
            sender = array.sga_addr; /* a copy: members of the packed structures are not aligned */
            if (array.sga_segs[0].sgaseg_len > 0)
                error = demi_pushto(&push, queue, &array, (const struct sockaddr *)&sender, sizeof sender);
            if (error != 0) push = 0;
            check("demi_sgafree", demi_sgafree(&array));
        }
        if (!push) check("demi_pop", demi_pop(&pop, queue));
    }
    check("demi_close", demi_close(queue));
    return 0;
}
