#include "CDemikernelShims.h"

__thread void *dk_thread_heap;
__thread void *dk_thread_libos;
