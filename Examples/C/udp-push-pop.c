/*
 * One side pushes bytes in datagrams, the other pops and checks every one. Datagrams get lost, so each carries the position of its first byte,
 * the other side answers with how far it has come, and what is not acknowledged in time is pushed again.
 */
#define _POSIX_C_SOURCE 200809L
#include "common.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static const struct program program = {
    "udp-push-pop",
    "usage: udp-push-pop pop|push [--address HOST:PORT] [--size BYTES] [--bytes N]\n"
    "\n"
    "`pop` receives at the address, `push` sends to it.\n"
    "  --address HOST:PORT  numeric, IPv4; default 127.0.0.1:7000\n"
    "  --size BYTES         in a datagram; default 64\n"
    "  --bytes N            in all, the same on both sides; default 1000000\n"
    "\n"
    "example: udp-push-pop pop &     and then: udp-push-pop push --size 1024\n",
    "--address",
    {"pop", "push"}};

enum { PERIOD = 251, HEADER = sizeof(uint64_t), ATTEMPTS = 20 };

static void push_datagram(int queue, demi_sgarray_t *array, const struct sockaddr_in *to) {
    demi_qtoken_t token;
    check("demi_pushto", demi_pushto(&token, queue, array, (const struct sockaddr *)to, sizeof *to));
    check("demi_sgafree", demi_sgafree(array));
    wait_for("push", token);
}

/* Pops one datagram of at least a header. Answers 0 when none has come within a quarter of a second. */
static int pop_datagram(int queue, demi_sgarray_t *array) {
    demi_qtoken_t token;
    demi_qresult_t result;
    int error;
    check("demi_pop", demi_pop(&token, queue));
    error = demi_wait(&result, token, &quarter_second);
    if (error == ETIMEDOUT) {
        check("demi_cancel", demi_cancel(token));
        error = demi_wait(&result, token, NULL);
    }
    check("demi_wait", error);
    if (result.qr_opcode == DEMI_OPC_FAILED && result.qr_ret == ECANCELED) return 0;
    if (result.qr_opcode == DEMI_OPC_FAILED) check("pop", (int)result.qr_ret);
    *array = result.qr_value.sga;
    if (array->sga_segs[0].sgaseg_len >= HEADER) return 1;
    check("demi_sgafree", demi_sgafree(array));
    return 0;
}

static uint64_t header_of(const demi_sgarray_t *array) {
    uint64_t header;
    memcpy(&header, array->sga_segs[0].sgaseg_buf, sizeof header);
    return header;
}

static void push_all(int queue, const struct options *options) {
    struct sockaddr_in to;
    uint64_t position = 0, acknowledged;
    int attempt = 0;
    memcpy(&to, &options->address, sizeof to);
    while (position < options->bytes) {
        size_t left = options->bytes - position, size = left < options->size ? left : options->size, length, i;
        demi_sgarray_t array = allocate(HEADER + size);
        unsigned char *bytes = bytes_of(&array, &length);
        if (stop) fail("stopped by a signal");
        if (++attempt > ATTEMPTS) fail("nobody answers");
        memcpy(bytes, &position, HEADER);
        for (i = 0; i < size; i++) bytes[HEADER + i] = (unsigned char)((position + i) % PERIOD);
        push_datagram(queue, &array, &to);
        if (!pop_datagram(queue, &array)) continue;
        acknowledged = header_of(&array);
        check("demi_sgafree", demi_sgafree(&array));
        if (acknowledged <= position) continue;
        position = acknowledged;
        attempt = 0;
    }
}

static void pop_all(int queue, const struct options *options) {
    uint64_t position = 0;
    int silent = 0;
    /* Stays a while after the last byte, because the answer to it may be the one that is lost. */
    while (position < options->bytes || silent < 2) {
        demi_sgarray_t array, answer;
        struct sockaddr_in sender;
        size_t length, i;
        const unsigned char *bytes;
        if (stop) fail("stopped by a signal");
        if (!pop_datagram(queue, &array)) {
            silent++;
            continue;
        }
        silent = 0;
        bytes = bytes_of(&array, &length);
        sender = array.sga_addr;
        if (header_of(&array) == position) { /* else one that came twice */
            for (i = HEADER; i < length; i++)
                if (bytes[i] != (position + i - HEADER) % PERIOD) fail("a byte changed on its way");
            position += length - HEADER;
        }
        check("demi_sgafree", demi_sgafree(&array));
        answer = allocate(HEADER);
        memcpy(bytes_of(&answer, &length), &position, HEADER);
        push_datagram(queue, &answer, &sender);
    }
    if (position != options->bytes) fail("more came than expected: is --bytes the same on both sides?");
}

int main(int argc, char **argv) {
    struct options options = parse_options(argc, argv, &program);
    int queue;
    if (options.address.ss_family != AF_INET) {
        fputs("udp-push-pop: the address must be IPv4\n", stderr);
        return 2;
    }
    start(&program);
    if (options.role == 0) {
        queue = bound_socket(&options, SOCK_DGRAM);
        pop_all(queue, &options);
    } else {
        check("demi_socket", demi_socket(&queue, AF_INET, SOCK_DGRAM, 0));
        push_all(queue, &options);
    }
    check("demi_close", demi_close(queue));
    printf("%s %lu bytes\n", options.role == 0 ? "popped" : "pushed", (unsigned long)options.bytes);
    return 0;
}
