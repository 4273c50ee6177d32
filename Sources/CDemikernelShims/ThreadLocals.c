/* What each thread has one of: its heap and its libOS. The accessors are in the header, so that they inline into Swift. */
#include "CDemikernelShims.h"

__thread void *dk_thread_heap;
__thread void *dk_thread_libos;
