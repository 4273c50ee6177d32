/* Compiles the public headers, each of which includes what it needs and asserts its layouts. */
#include <demi/wait.h>
#include <demi/sga.h>
#include <demi/libos.h>
#include <demi/types.h>
#include <demi/cc.h>
