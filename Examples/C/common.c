/* What the examples have in common: options, signals, checks, sockets. */
#define _POSIX_C_SOURCE 200809L
#include "common.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

volatile sig_atomic_t stop;
const struct timespec quarter_second = {0, 250000000};
static const char *program_name = "example";

static void on_signal(int number) {
    (void)number;
    stop = 1;
}

static void usage_error(const struct program *program, const char *what, const char *value) {
    fprintf(stderr, "%s: %s: '%s' (try --help)\n", program->name, what, value ? value : "");
    exit(2);
}

static void parse_address(struct options *options, const struct program *program, const char *text) {
    char host[64];
    const char *colon = strrchr(text, ':'), *begin = text;
    size_t length = colon ? (size_t)(colon - text) : 0;
    struct addrinfo hints, *found;
    if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
        begin++;
        length -= 2;
    }
    if (!colon || length == 0 || length >= sizeof host) usage_error(program, "not HOST:PORT", text);
    memcpy(host, begin, length);
    host[length] = 0;
    memset(&hints, 0, sizeof hints);
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    hints.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(host, colon + 1, &hints, &found) != 0) usage_error(program, "not a numeric HOST:PORT", text);
    memcpy(&options->address, found->ai_addr, found->ai_addrlen);
    options->address_size = found->ai_addrlen;
    freeaddrinfo(found);
}

static size_t parse_number(const struct program *program, const char *option, const char *text) {
    char *end;
    unsigned long value;
    errno = 0;
    value = strtoul(text, &end, 10);
    if (errno != 0 || end == text || *end != 0 || text[0] == '-' || value == 0) usage_error(program, option, text);
    return value;
}

struct options parse_options(int argc, char **argv, const struct program *program) {
    struct options options;
    int i = 1;
    memset(&options, 0, sizeof options);
    options.size = 64;
    options.count = 1000;
    options.bytes = 1000000;
    parse_address(&options, program, "127.0.0.1:7000");
    for (; i < argc && strcmp(argv[i], "--help") != 0; i++) continue;
    if (i < argc) {
        fputs(program->usage, stdout);
        exit(0);
    }
    i = 1;
    if (program->roles[0]) {
        while (options.role < 2 && (argc < 2 || strcmp(argv[1], program->roles[options.role]) != 0)) options.role++;
        if (options.role == 2) usage_error(program, "a subcommand is needed", argv[1]);
        i = 2;
    }
    for (; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!value) usage_error(program, "an option without its value, or an unknown one", argv[i]);
        else if (strcmp(argv[i], program->address_option) == 0) parse_address(&options, program, value);
        else if (strcmp(argv[i], "--size") == 0) options.size = parse_number(program, "--size", value);
        else if (strcmp(argv[i], "--count") == 0) options.count = parse_number(program, "--count", value);
        else if (strcmp(argv[i], "--bytes") == 0) options.bytes = parse_number(program, "--bytes", value);
        else usage_error(program, "unknown option", argv[i]);
    }
    return options;
}

void start(const struct program *program) {
    struct sigaction action;
    struct demi_args args;
    program_name = program->name;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    if (sigaction(SIGINT, &action, NULL) != 0 || sigaction(SIGTERM, &action, NULL) != 0) check("sigaction", errno);
    memset(&args, 0, sizeof args);
    check("demi_init", demi_init(&args));
}

void check(const char *what, int error) {
    if (error == 0) return;
    fprintf(stderr, "%s: %s: %s\n", program_name, what, strerror(error));
    exit(1);
}

void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", program_name, what);
    exit(1);
}

demi_qresult_t wait_for(const char *what, demi_qtoken_t token) {
    demi_qresult_t result;
    int error = demi_wait(&result, token, &quarter_second);
    while (error == ETIMEDOUT && !stop) error = demi_wait(&result, token, &quarter_second);
    if (error == ETIMEDOUT) fail("stopped by a signal");
    check(what, error);
    if (result.qr_opcode == DEMI_OPC_FAILED) check(what, (int)result.qr_ret);
    return result;
}

int bound_socket(const struct options *options, int type) {
    int queue;
    check("demi_socket", demi_socket(&queue, options->address.ss_family, type, 0));
    check("demi_bind", demi_bind(queue, (const struct sockaddr *)&options->address, options->address_size));
    return queue;
}

int accept_one(const struct options *options) {
    demi_qtoken_t token;
    demi_qresult_t result;
    int listener = bound_socket(options, SOCK_STREAM);
    check("demi_listen", demi_listen(listener, 1));
    check("demi_accept", demi_accept(&token, listener));
    result = wait_for("accept", token);
    check("demi_close", demi_close(listener));
    return result.qr_value.ares.qd;
}

int connect_to(const struct options *options) {
    demi_qtoken_t token;
    int queue;
    check("demi_socket", demi_socket(&queue, options->address.ss_family, SOCK_STREAM, 0));
    check("demi_connect", demi_connect(&token, queue, (const struct sockaddr *)&options->address, options->address_size));
    wait_for("connect", token);
    return queue;
}

demi_sgarray_t allocate(size_t size) {
    demi_sgarray_t array = demi_sgaalloc(size);
    if (array.sga_numsegs == 0) check("demi_sgaalloc", ENOMEM);
    return array;
}

void push_and_free(int queue, demi_sgarray_t *array) {
    demi_qtoken_t token;
    check("demi_push", demi_push(&token, queue, array));
    /* The libOS holds its own reference, so the array may go back before the push has completed. */
    check("demi_sgafree", demi_sgafree(array));
    wait_for("push", token);
}

unsigned char *bytes_of(const demi_sgarray_t *array, size_t *length) {
    *length = array->sga_segs[0].sgaseg_len;
    return array->sga_segs[0].sgaseg_buf;
}
