/*
 * Waiting for completions. Conventions: see libos.h. In all of these:
 *
 * - `timeout` is relative; NULL waits for ever, zero polls once; a negative one, or nanoseconds beyond 999,999,999, is EINVAL.
 * - A token is used up by the call that hands out its completion. ETIMEDOUT uses up none.
 * - An operation that failed is a completion like any other: the call answers 0, `qr_opcode` is DEMI_OPC_FAILED, `qr_ret` an errno.
 */
#ifndef DEMI_WAIT_H
#define DEMI_WAIT_H

#include <demi/types.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

struct timespec; /* <time.h> keeps it from strict C99 unless _POSIX_C_SOURCE is defined. */

/**
 * Waits for one operation.
 *
 * Returns: 0, with the completion in `qr_out`. EINVAL: `qr_out` is NULL, the token is unknown or used up, a bad timeout. ETIMEDOUT. ENOSYS.
 * Complexity: constant, plus what runs meanwhile.
 */
int demi_wait(demi_qresult_t *qr_out, demi_qtoken_t qt, const struct timespec *timeout) DEMI_NONNULL(1);

/**
 * Waits for the first of many operations.
 *
 * Later tokens are not starved by earlier ones. Only the one token is used up; its offset goes to `ready_offset`, so that the caller puts
 * the next operation's token in its place.
 *
 * Returns: 0. EINVAL: a NULL pointer, `num_qts` below 1, a bad timeout, or a token that names no operation: at once where it stands first,
 * else when the call has nothing to hand out (of more than 4,096 tokens a zero timeout checks 64). None is used up then. ETIMEDOUT. ENOSYS.
 * Complexity: amortised constant over calls with the same, re-armed array; linear in `num_qts` when the array is new.
 */
int demi_wait_any(demi_qresult_t *qr_out, int *ready_offset, const demi_qtoken_t qts[], int num_qts,
                  const struct timespec *timeout) DEMI_NONNULL(1, 2, 3);

/**
 * Waits until something has completed, whatever it is, and takes up to `num_qrs` completions in the order in which they happened.
 *
 * The caller finds its operations by `qr_qt` and needs no array of tokens. `num_qrs_out` is at least 1 on success, 0 on failure.
 *
 * Returns: 0. EINVAL: a NULL pointer, `num_qrs` below 1, a bad timeout. ETIMEDOUT. ENOSYS.
 * Complexity: linear in the completions delivered.
 */
int demi_wait_next_n(demi_qresult_t *qr_out, int num_qrs, int *num_qrs_out, const struct timespec *timeout) DEMI_NONNULL(1, 3);

/**
 * Ours. Waits for all of the operations; the completion of `qts[i]` goes to `qrs_out[i]`.
 *
 * Returns: 0. EINVAL: a NULL pointer, `num_qts` below 1, an unknown token among them, a bad timeout. ETIMEDOUT: not all had completed; none is
 * used up, `qrs_out` is unspecified. ENOSYS.
 * Complexity: linear in `num_qts`.
 */
int demi_wait_all(demi_qresult_t qrs_out[], const demi_qtoken_t qts[], int num_qts, const struct timespec *timeout) DEMI_NONNULL(1, 2);

/**
 * Ours. Asks for the end of an operation that has not completed. Wait for the token all the same: the completion is DEMI_OPC_FAILED with
 * ECANCELED or, when the operation was faster, its own. A push that has left for the network cannot be called back.
 *
 * Returns: 0. EINVAL: the token is unknown or used up. ENOSYS. Complexity: constant.
 */
int demi_cancel(demi_qtoken_t qt);

#ifdef __cplusplus
}
#endif

#endif
