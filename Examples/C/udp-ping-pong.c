/* A datagram goes to and fro. One that is not back within a second is lost: the client cancels its pop, counts it and goes on. */
#define _POSIX_C_SOURCE 200809L
#include "common.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static const struct program program = {
    "udp-ping-pong",
    "usage: udp-ping-pong server|client [--address HOST:PORT] [--size BYTES] [--count N]\n"
    "\n"
    "The server sends each datagram back until SIGINT or SIGTERM; the client makes the round trips.\n"
    "  --address HOST:PORT  numeric, IPv4; default 127.0.0.1:7000\n"
    "  --size BYTES         of a datagram, at least 8; default 64\n"
    "  --count N            round trips that the client makes; default 1000\n"
    "\n"
    "example: udp-ping-pong server &     and then: udp-ping-pong client --count 100000\n",
    "--address",
    {"server", "client"}};

static void serve(int queue) {
    demi_qtoken_t token;
    check("demi_pop", demi_pop(&token, queue));
    while (!stop) {
        demi_qresult_t result;
        demi_sgarray_t array;
        struct sockaddr_in sender;
        int error = demi_wait(&result, token, &quarter_second);
        if (error == ETIMEDOUT) continue;
        check("demi_wait", error);
        if (result.qr_opcode != DEMI_OPC_POP) check("pop", (int)result.qr_ret);
        array = result.qr_value.sga;
        sender = array.sga_addr;
        check("demi_pushto", demi_pushto(&token, queue, &array, (const struct sockaddr *)&sender, sizeof sender));
        check("demi_sgafree", demi_sgafree(&array));
        wait_for("push", token);
        check("demi_pop", demi_pop(&token, queue));
    }
}

/* Answers whether the datagram came back. */
static int round_trip(int queue, const struct options *options, uint64_t number) {
    static const struct timespec second = {1, 0};
    demi_sgarray_t array = allocate(options->size);
    demi_qtoken_t token;
    demi_qresult_t result;
    size_t length;
    uint64_t returned;
    int error;
    unsigned char *bytes = bytes_of(&array, &length);
    memset(bytes, 0x5a, length);
    memcpy(bytes, &number, sizeof number);
    check("demi_pushto", demi_pushto(&token, queue, &array, (const struct sockaddr *)&options->address, options->address_size));
    check("demi_sgafree", demi_sgafree(&array));
    wait_for("push", token);

    for (;;) {
        check("demi_pop", demi_pop(&token, queue));
        error = demi_wait(&result, token, &second);
        if (error == ETIMEDOUT) {
            check("demi_cancel", demi_cancel(token));
            check("demi_wait", demi_wait(&result, token, NULL)); /* at once: cancelled, or here in the last moment */
        } else {
            check("demi_wait", error);
        }
        if (result.qr_opcode == DEMI_OPC_FAILED && result.qr_ret == ECANCELED) return 0;
        if (result.qr_opcode == DEMI_OPC_FAILED) check("pop", (int)result.qr_ret);
        array = result.qr_value.sga;
        bytes = bytes_of(&array, &length);
        if (length != options->size || bytes[length - 1] != (length > 8 ? 0x5a : bytes[7])) fail("a datagram changed on its way");
        memcpy(&returned, bytes, sizeof returned);
        check("demi_sgafree", demi_sgafree(&array));
        if (returned == number) return 1; /* else one that was given up for lost */
    }
}

int main(int argc, char **argv) {
    struct options options = parse_options(argc, argv, &program);
    unsigned long lost = 0;
    size_t i;
    int queue;
    if (options.address.ss_family != AF_INET || options.size < 8) {
        fputs("udp-ping-pong: the address must be IPv4, --size at least 8\n", stderr);
        return 2;
    }
    start(&program);
    if (options.role == 0) {
        queue = bound_socket(&options, SOCK_DGRAM);
        serve(queue);
        check("demi_close", demi_close(queue));
        return 0;
    }
    check("demi_socket", demi_socket(&queue, AF_INET, SOCK_DGRAM, 0));
    for (i = 0; i < options.count && !stop; i++) lost += !round_trip(queue, &options, i);
    check("demi_close", demi_close(queue));
    printf("%lu round trips of %lu bytes, %lu lost\n", (unsigned long)i - lost, (unsigned long)options.size, lost);
    return lost == 0 ? 0 : 1;
}
