/*
 * PDPIX: the calls. Conventions for all of them:
 *
 * - The answer is 0, or a *positive* errno. `errno` itself means nothing after a call. Bad input never ends the process.
 * - ENOSYS: this thread has no libOS, because `demi_init` was not called on it or failed. One libOS per thread; descriptors, tokens and
 *   memory belong to the thread that made them. EINVAL: a pointer that must not be NULL is NULL. EBADF: no such queue descriptor.
 * - Queue descriptors start at 500, the lowest free one first, so that they never collide with small file descriptors.
 * - accept, connect, push and pop only submit: they store a token, which a wait call of wait.h turns into the completion. ENOMEM: no room for
 *   one more operation. What goes wrong later is in the completion.
 * - Every call gives the scheduler one turn. "Complexity" leaves that turn out.
 */
#ifndef DEMI_LIBOS_H
#define DEMI_LIBOS_H

#include <demi/cc.h>
#include <demi/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Starts a libOS on this thread: the one that the environment variable LIBOS names, with the settings of the YAML file that CONFIG_PATH names.
 *
 * `args` is read during the call only; its `argc` and `argv` carry nothing that the libOSes use. `callback` may be NULL, and is not called:
 * the reference implementation's latency statistics are not made.
 *
 * Returns: 0. EEXIST: the thread has a libOS. EINVAL: `args` is NULL, `argc` is negative; a setting is wrong. ENODEV: LIBOS names no libOS
 * of this build. EILSEQ: the settings file is not UTF-8. ENOENT and the like: it cannot be read. ENOMEM. Whatever the device answers. A failed
 * call leaves nothing behind and may be repeated. The reason goes to standard error in words.
 */
int demi_init(const struct demi_args *args) DEMI_NONNULL(1);

/* --- sockets ------------------------------------------------------------------------------------------------------- */

/**
 * Makes a socket queue: `domain` AF_INET or AF_INET6 (ours), `type` SOCK_STREAM (TCP) or SOCK_DGRAM (UDP); `protocol` 0, IPPROTO_TCP or
 * IPPROTO_UDP to match.
 *
 * Returns: 0, and the descriptor in `sockqd_out`. EINVAL. ENOTSUP: another domain or type. EPROTONOSUPPORT: a protocol that does not match.
 * EMFILE: no descriptor left. ENOMEM. ENOSYS. Complexity: constant.
 */
int demi_socket(int *sockqd_out, int domain, int type, int protocol) DEMI_NONNULL(1);

/**
 * Gives a socket its local address. `size` is exactly that of `struct sockaddr_in` or, for AF_INET6, `struct sockaddr_in6`. The wildcard
 * address and port 0 are allowed (ours); `demi_getsockname` tells the port.
 *
 * Returns: 0. EBADF. ENOTSOCK. EINVAL: NULL, wrong size, bound already. EAFNOSUPPORT: not the socket's family. EADDRINUSE. EADDRNOTAVAIL: not an
 * address of this host. EACCES. ENOSYS. Complexity: constant.
 */
int demi_bind(int sockqd, const struct sockaddr *addr, socklen_t size) DEMI_NONNULL(2);

/**
 * Lets a bound TCP socket take connections; up to `backlog` of them wait to be accepted.
 *
 * Returns: 0. EBADF. ENOTSOCK. EINVAL: `backlog` below 1. EDESTADDRREQ: not bound. EISCONN: connected. EADDRINUSE. ENOTSUP: not a TCP socket.
 * ENOSYS. Complexity: constant.
 */
int demi_listen(int sockqd, int backlog);

/**
 * Submits an accept. The completion (DEMI_OPC_ACCEPT) carries the new descriptor, which the application closes.
 *
 * Returns: 0, and the token in `qt_out`. EBADF. ENOTSOCK. EINVAL: NULL, the socket does not listen. ENOMEM. ENOSYS.
 * Later: ECANCELED, ECONNABORTED, EMFILE. Complexity: constant.
 */
int demi_accept(demi_qtoken_t *qt_out, int sockqd) DEMI_NONNULL(1);

/**
 * Submits a connect. For UDP it sets where `demi_push` sends to, and from whom `demi_pop` receives. `size` as in `demi_bind`.
 *
 * Returns: 0, and the token. EBADF. ENOTSOCK. EINVAL: NULL, wrong size. EAFNOSUPPORT. EOPNOTSUPP: the socket listens. EINPROGRESS: it is
 * connecting. EISCONN: it is connected. ENOMEM. ENOSYS. Later: ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, ECANCELED.
 * Complexity: constant.
 */
int demi_connect(demi_qtoken_t *qt_out, int sockqd, const struct sockaddr *addr, socklen_t size) DEMI_NONNULL(1, 3);

/**
 * Ours. Ends one direction of a connection: `how` is SHUT_RD, SHUT_WR or SHUT_RDWR. What was pushed before is still sent; the peer then pops
 * the end of stream.
 *
 * Returns: 0. EBADF. ENOTSOCK. EINVAL: another `how`. ENOTCONN. ENOSYS. Complexity: constant.
 */
int demi_shutdown(int qd, int how);

/**
 * Closes a queue of any kind. Its pending operations complete as DEMI_OPC_FAILED with ECANCELED; their tokens still have to be waited for.
 * What was pushed and completed is still sent, as SO_LINGER says.
 *
 * Returns: 0. EBADF. ENOSYS. Complexity: linear in the queue's pending operations.
 */
int demi_close(int qd);

/** Sets an option: SO_LINGER (`struct linger`), SO_REUSEADDR, SO_KEEPALIVE, SO_SNDBUF, SO_RCVBUF at SOL_SOCKET; TCP_NODELAY at IPPROTO_TCP (`int`).
 *
 * Returns: 0. EBADF. ENOTSOCK. EINVAL: NULL, wrong size, value out of range. ENOPROTOOPT: unknown option. ENOTSUP: unknown level. ENOSYS.
 * Complexity: constant.
 */
int demi_setsockopt(int qd, int level, int optname, const void *optval, socklen_t optlen) DEMI_NONNULL(4);

/**
 * Reads an option; `optlen` holds the room at `optval` and is set to what was stored.
 *
 * Returns: as `demi_setsockopt`. Complexity: constant.
 */
int demi_getsockopt(int qd, int level, int optname, void *optval, socklen_t *optlen) DEMI_NONNULL(4, 5);

/**
 * Tells the peer's address. `addrlen` holds the room at `addr` and is set to the address's size; what does not fit is cut off.
 *
 * Returns: 0. EBADF. ENOTSOCK. EINVAL: NULL. ENOTCONN. ENOSYS. Complexity: constant.
 */
int demi_getpeername(int qd, struct sockaddr *addr, socklen_t *addrlen) DEMI_NONNULL(2, 3);

/**
 * Ours. Tells the local address, as `demi_getpeername`; all zero but for the family while the socket is not bound.
 *
 * Returns: 0. EBADF. ENOTSOCK. EINVAL: NULL. ENOSYS. Complexity: constant.
 */
int demi_getsockname(int qd, struct sockaddr *addr, socklen_t *addrlen) DEMI_NONNULL(2, 3);

/* --- input and output, for queues of every kind ------------------------------------------------------------------------ */

/**
 * Submits a push of `sga`, without copying it. The libOS takes its own reference: the application may free the array at once, and must not
 * write to the memory until the push has completed. Completion (DEMI_OPC_PUSH) means: TCP and UDP, handed to the network; memory queue, stored
 * or popped; file, appended (durable when opened with O_DSYNC).
 *
 * Returns: 0, and the token. EBADF. EINVAL: NULL, `sga_numsegs` not 1, length 0, a segment outside its allocation, memory that is not this
 * heap's. ENOTCONN: a socket that is not connected. EPIPE: after `demi_shutdown`. EMSGSIZE: larger than a datagram. ENOMEM. ENOSYS. Later:
 * ECONNRESET, EPIPE, ETIMEDOUT, ENOSPC, EIO, ECANCELED. Complexity: constant.
 */
int demi_push(demi_qtoken_t *qt_out, int qd, const demi_sgarray_t *sga) DEMI_NONNULL(1, 3);

/**
 * Submits a push of one datagram to `dest`; as `demi_push` otherwise. `size` as in `demi_bind`. An unbound socket gets a local port.
 *
 * Returns: 0, and the token. What `demi_push` answers but ENOTCONN, and EINVAL: wrong size. ENOTSUP: not a UDP socket. EAFNOSUPPORT.
 * Complexity: constant.
 */
int demi_pushto(demi_qtoken_t *qt_out, int sockqd, const demi_sgarray_t *sga, const struct sockaddr *dest, socklen_t size)
    DEMI_NONNULL(1, 3, 4);

/**
 * Ours. Submits a push of `iovcnt` pieces (up to 1,024) as one: one datagram, one element of a memory queue, one append. Every piece lies
 * within memory of `demi_malloc` or `demi_sgaalloc`; pieces of length 0 are skipped. Ownership as in `demi_push`. The pieces' array is read
 * during the call only.
 *
 * Returns: 0, and the token. What `demi_push` answers, and EINVAL: `iovcnt` out of range, no bytes at all. Complexity: linear in `iovcnt`.
 */
int demi_pushv(demi_qtoken_t *qt_out, int qd, const struct iovec *iov, int iovcnt) DEMI_NONNULL(1, 3);

/**
 * Submits a pop. The completion (DEMI_OPC_POP) carries an array that the application owns and frees: what has arrived (TCP), one datagram with
 * its sender in `sga_addr` (UDP), one pushed element (memory queue), bytes from the cursor on (file). A segment of length 0 is the end of
 * the stream or file; such an array is freed like any other.
 *
 * Returns: 0, and the token. EBADF. EINVAL: NULL. ENOTCONN: a TCP socket that is not connected or that listens, a UDP socket that is not
 * bound. ENOMEM. ENOSYS. Later: ECONNRESET, ETIMEDOUT, EIO, ENOMEM, ECANCELED. Complexity: constant.
 */
int demi_pop(demi_qtoken_t *qt_out, int qd) DEMI_NONNULL(1);

/* --- memory queues and files (ours) ---------------------------------------------------------------------------------- */

/**
 * Makes a memory queue: first in, first out, bounded. What is pushed is popped, in the same pieces, without a copy.
 *
 * Returns: 0, and the descriptor. EINVAL: NULL. EMFILE. ENOMEM. ENOSYS. Complexity: constant.
 */
int demi_queue(int *qd_out) DEMI_NONNULL(1);

/**
 * Opens a file; `flags` as for open(2): O_RDONLY, O_WRONLY or O_RDWR, with O_CREAT, O_EXCL, O_TRUNC and O_DSYNC. A push appends, whatever the
 * cursor; a pop reads from the cursor, which starts at 0. A new file has mode 0666 less the umask.
 *
 * Returns: 0, and the descriptor. EINVAL: NULL, bad flags. ENOENT, EEXIST, EACCES, EISDIR and what else open(2) answers. EMFILE. ENOTSUP: this
 * libOS has no files. ENOMEM. ENOSYS.
 */
int demi_open(int *qd_out, const char *path, int flags) DEMI_NONNULL(1, 2);

/**
 * Creates a file, or empties it, and opens it for reading and writing. `mode` is the new file's, less the umask.
 *
 * Returns: as `demi_open`.
 */
int demi_creat(int *qd_out, const char *path, mode_t mode) DEMI_NONNULL(1, 2);

/**
 * Moves a file's cursor: `whence` is SEEK_SET, SEEK_CUR or SEEK_END. EBUSY while a pop is pending.
 *
 * Returns: 0. EBADF. ESPIPE: not a file. EINVAL: another `whence`, a position before the start. ENOSYS. Complexity: constant.
 */
int demi_lseek(int qd, off_t offset, int whence);

/**
 * Sets a file's length; a shorter file loses its end, a longer one gains zeros. A cursor behind the new end moves to it. EBUSY while a push is pending.
 *
 * Returns: 0. EBADF. EINVAL: not a file, `length` negative, not open for writing. EFBIG, EIO. ENOSYS.
 */
int demi_truncate(int qd, off_t length);

#ifdef __cplusplus
}
#endif

#endif
