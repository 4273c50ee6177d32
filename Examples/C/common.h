/* What the examples share: the command line, the handling of errors, a few lines around the calls. Needs _POSIX_C_SOURCE 200809L. */
#ifndef EXAMPLES_COMMON_H
#define EXAMPLES_COMMON_H

#include <demi/libos.h>
#include <demi/sga.h>
#include <demi/wait.h>
#include <signal.h>
#include <stddef.h>

struct program {
    const char *name;
    const char *usage;          /* what --help prints */
    const char *address_option; /* "--listen" or "--address" */
    const char *roles[2];       /* the subcommands; NULL for none */
};

struct options {
    int role; /* index in `roles` */
    struct sockaddr_storage address;
    socklen_t address_size;
    size_t size;  /* --size: bytes of a message */
    size_t count; /* --count: messages */
    size_t bytes; /* --bytes: in all */
};

/* Prints a mistake to standard error and exits with 2; exits with 0 after --help. */
struct options parse_options(int argc, char **argv, const struct program *program);

/* Set by SIGINT and SIGTERM once `start` has run; loops that wait with a timeout look at it. */
extern volatile sig_atomic_t stop;

/* A timeout after which to look at `stop`: a quarter of a second. */
extern const struct timespec quarter_second;

/* Starts the libOS on this thread and the handling of signals. */
void start(const struct program *program);

/* Ends the program with status 1 and "name: what: reason" unless `error` is 0. */
void check(const char *what, int error);
/* The same for mistakes that have no errno. */
void fail(const char *what);

/* Waits for ever, or until a signal, and checks that the operation succeeded. */
demi_qresult_t wait_for(const char *what, demi_qtoken_t token);

/* A socket of the address's family, bound to it. */
int bound_socket(const struct options *options, int type);

/* Takes one connection on a new listening socket, which it closes again. */
int accept_one(const struct options *options);

/* A TCP connection to the address. */
int connect_to(const struct options *options);

/* An array of `size` bytes, or the end of the program. */
demi_sgarray_t allocate(size_t size);

/* Pushes the array, gives it back and waits until it is pushed. */
void push_and_free(int queue, demi_sgarray_t *array);

/* The bytes of a popped array; their number goes to `length`. */
unsigned char *bytes_of(const demi_sgarray_t *array, size_t *length);

#endif
