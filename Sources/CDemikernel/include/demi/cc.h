/* What differs between compilers, and the static assertions that hold the layouts to the ABI in C99, C11 and C++. */
#ifndef DEMI_CC_H
#define DEMI_CC_H

/*
 * DEMI_NONNULL(n, ...) marks arguments (counted from 1) that must not be NULL. The calls check for NULL all the same and answer EINVAL;
 * the attribute lets the compiler warn the caller. A unit that *implements* the calls, or passes NULL on purpose, defines
 * DEMI_NO_NONNULL before it includes a header: with the attribute in sight an optimiser deletes the checks.
 */
#if defined(__GNUC__) && !defined(DEMI_NO_NONNULL)
#define DEMI_NONNULL(...) __attribute__((nonnull(__VA_ARGS__)))
#else
#define DEMI_NONNULL(...)
#endif

#if defined(__GNUC__)
#define DEMI_PACKED __attribute__((packed))
#else
#error "the ABI's layouts are packed: this compiler needs a spelling of that here"
#endif

/* The names that programs written for the reference implementation may use. */
#ifndef ATTR_NONNULL
#define ATTR_NONNULL(...) DEMI_NONNULL(__VA_ARGS__)
#endif
#ifndef ATTR_NODISCARD
#define ATTR_NODISCARD __attribute__((warn_unused_result))
#endif

/* DEMI_ASSERT(name, condition): `name` tells in C99, which has no assertion of its own, what did not hold. */
#if defined(__cplusplus)
#define DEMI_ASSERT(name, condition) static_assert(condition, #name)
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define DEMI_ASSERT(name, condition) _Static_assert(condition, #name)
#else
#define DEMI_ASSERT(name, condition) typedef char demi_assert_##name[(condition) ? 1 : -1]
#endif

#endif
