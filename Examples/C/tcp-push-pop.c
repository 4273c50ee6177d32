/* One side pushes a stream of bytes, the other pops and checks every one. */
#define _POSIX_C_SOURCE 200809L
#include "common.h"

#include <stdio.h>

static const struct program program = {
    "tcp-push-pop",
    "usage: tcp-push-pop pop|push [--address HOST:PORT] [--size BYTES] [--bytes N]\n"
    "\n"
    "`pop` takes one connection and reads it to its end; `push` connects and writes.\n"
    "  --address HOST:PORT  numeric, [HOST]:PORT for IPv6; default 127.0.0.1:7000\n"
    "  --size BYTES         pushed at once; default 64\n"
    "  --bytes N            in all, the same on both sides; default 1000000\n"
    "\n"
    "example: tcp-push-pop pop --bytes 10000000 &     and then: tcp-push-pop push --bytes 10000000 --size 65536\n",
    "--address",
    {"pop", "push"}};

enum { PERIOD = 251 }; /* a prime: a piece that is lost or doubled shifts the pattern */

static void push_all(int queue, const struct options *options) {
    size_t sent = 0, length, i;
    while (sent < options->bytes) {
        size_t left = options->bytes - sent;
        demi_sgarray_t array = allocate(left < options->size ? left : options->size);
        unsigned char *bytes = bytes_of(&array, &length);
        for (i = 0; i < length; i++) bytes[i] = (unsigned char)((sent + i) % PERIOD);
        push_and_free(queue, &array);
        sent += length;
    }
}

static size_t pop_all(int queue) {
    size_t received = 0, length, i;
    do {
        demi_qtoken_t token;
        demi_sgarray_t array;
        const unsigned char *bytes;
        check("demi_pop", demi_pop(&token, queue));
        array = wait_for("pop", token).qr_value.sga;
        bytes = bytes_of(&array, &length);
        for (i = 0; i < length; i++)
            if (bytes[i] != (received + i) % PERIOD) fail("a byte changed on its way");
        received += length;
        check("demi_sgafree", demi_sgafree(&array));
    } while (length > 0); /* a segment of length 0 is the end of the stream */
    return received;
}

int main(int argc, char **argv) {
    struct options options = parse_options(argc, argv, &program);
    int queue;
    start(&program);
    if (options.role == 0) {
        queue = accept_one(&options);
        if (pop_all(queue) != options.bytes) fail("the stream ended early, or late");
    } else {
        queue = connect_to(&options);
        push_all(queue, &options);
    }
    check("demi_close", demi_close(queue));
    printf("%s %lu bytes\n", options.role == 0 ? "popped" : "pushed", (unsigned long)options.bytes);
    return 0;
}
