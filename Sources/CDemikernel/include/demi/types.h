/* The types of the C ABI. All structures are packed (alignment 1): copy a member before you take its address. */
#ifndef DEMI_TYPES_H
#define DEMI_TYPES_H

#include <demi/cc.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Segments in a scatter-gather array. (For more pieces in one push: `demi_pushv`.) */
#define DEMI_SGARRAY_MAXSIZE 1

/**
 * Names one submitted operation until a wait call has handed out its completion. 0 and all ones are never valid; a token that outlived
 * its operation is recognised, and answered with EINVAL.
 */
typedef uint64_t demi_qtoken_t;

/** A segment: `sgaseg_len` bytes at `sgaseg_buf`. */
typedef struct DEMI_PACKED demi_sgaseg {
    void *sgaseg_buf;
    uint32_t sgaseg_len;
} demi_sgaseg_t;

/**
 * A scatter-gather array: what `push` sends and `pop` delivers.
 *
 * Memory comes from `demi_sgaalloc` or from a completed pop, and goes back through `demi_sgafree`, once. Before a push the application may
 * move `sgaseg_buf` forward and shorten `sgaseg_len`, as long as the segment stays within its allocation.
 */
typedef struct DEMI_PACKED demi_sgarray {
    void *sga_buf; /**< The allocation. Belongs to the libOS; leave it as it is. */
    uint32_t sga_numsegs;
    demi_sgaseg_t sga_segs[DEMI_SGARRAY_MAXSIZE];
    struct sockaddr_in sga_addr; /**< After a pop from an IPv4 datagram socket: the sender. Zero otherwise. */
} demi_sgarray_t;

/** What a completion is about. */
typedef enum demi_opcode {
    DEMI_OPC_INVALID = 0,
    DEMI_OPC_PUSH = 1,
    DEMI_OPC_POP = 2,
    DEMI_OPC_ACCEPT = 3,
    DEMI_OPC_CONNECT = 4,
    DEMI_OPC_CLOSE = 5,
    DEMI_OPC_FAILED = 6 /**< The operation failed; `qr_ret` holds a positive errno. */
} demi_opcode_t;

/** What an accept delivers. */
typedef struct DEMI_PACKED demi_accept_result {
    int32_t qd;              /**< The new connection. The application closes it. */
    struct sockaddr_in addr; /**< Its remote address over IPv4; zero over IPv6, where `demi_getpeername` tells. */
} demi_accept_result_t;

/** A completion. */
typedef struct DEMI_PACKED demi_qresult {
    enum demi_opcode qr_opcode;
    int32_t qr_qd;         /**< The queue that the operation was submitted to. */
    demi_qtoken_t qr_qt;   /**< The operation's token, no longer valid. */
    int64_t qr_ret;        /**< 0, or a positive errno when `qr_opcode` is DEMI_OPC_FAILED. */
    union {
        demi_sgarray_t sga;        /**< DEMI_OPC_POP: what arrived; the application frees it. A segment of length 0 is the end of stream. */
        demi_accept_result_t ares; /**< DEMI_OPC_ACCEPT */
    } qr_value;
} demi_qresult_t;

/** The reference implementation's: would receive latency statistics, a name (not terminated by NUL), its length, a value. */
typedef void (*demi_callback_t)(const char *, uint32_t, uint64_t);

/** What `demi_init` takes. All zero is fine: the environment says what else there is to say. */
struct DEMI_PACKED demi_args {
    int argc;
    char *const *argv;
    demi_callback_t callback; /**< NULL; not called. */
};

/* The ABI, byte by byte. */
DEMI_ASSERT(pointers_have_64_bits, sizeof(void *) == 8);
DEMI_ASSERT(qtoken_size, sizeof(demi_qtoken_t) == 8);
DEMI_ASSERT(opcode_size, sizeof(enum demi_opcode) == 4);
DEMI_ASSERT(sgaseg_size, sizeof(demi_sgaseg_t) == 12);
DEMI_ASSERT(sgaseg_buf_offset, offsetof(demi_sgaseg_t, sgaseg_buf) == 0);
DEMI_ASSERT(sgaseg_len_offset, offsetof(demi_sgaseg_t, sgaseg_len) == 8);
DEMI_ASSERT(sgarray_size, sizeof(demi_sgarray_t) == 40);
DEMI_ASSERT(sga_buf_offset, offsetof(demi_sgarray_t, sga_buf) == 0);
DEMI_ASSERT(sga_numsegs_offset, offsetof(demi_sgarray_t, sga_numsegs) == 8);
DEMI_ASSERT(sga_segs_offset, offsetof(demi_sgarray_t, sga_segs) == 12);
DEMI_ASSERT(sga_addr_offset, offsetof(demi_sgarray_t, sga_addr) == 24);
DEMI_ASSERT(accept_result_size, sizeof(demi_accept_result_t) == 20);
DEMI_ASSERT(accept_qd_offset, offsetof(demi_accept_result_t, qd) == 0);
DEMI_ASSERT(accept_addr_offset, offsetof(demi_accept_result_t, addr) == 4);
DEMI_ASSERT(qresult_size, sizeof(demi_qresult_t) == 64);
DEMI_ASSERT(qr_opcode_offset, offsetof(demi_qresult_t, qr_opcode) == 0);
DEMI_ASSERT(qr_qd_offset, offsetof(demi_qresult_t, qr_qd) == 4);
DEMI_ASSERT(qr_qt_offset, offsetof(demi_qresult_t, qr_qt) == 8);
DEMI_ASSERT(qr_ret_offset, offsetof(demi_qresult_t, qr_ret) == 16);
DEMI_ASSERT(qr_value_offset, offsetof(demi_qresult_t, qr_value) == 24);
DEMI_ASSERT(args_size, sizeof(struct demi_args) == 20);
DEMI_ASSERT(args_argc_offset, offsetof(struct demi_args, argc) == 0);
DEMI_ASSERT(args_argv_offset, offsetof(struct demi_args, argv) == 4);
DEMI_ASSERT(args_callback_offset, offsetof(struct demi_args, callback) == 12);

#ifdef __cplusplus
}
#endif

#endif
