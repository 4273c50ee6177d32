/* The Swift runtime's cancellation handlers, for an operation that a task awaits: two calls that Swift has no spelling for. */
#include "CDemikernelShims.h"

typedef __attribute__((swiftcall)) void (*cancellation_handler)(__attribute__((swift_context)) void *context);

/* Entry points of the Swift runtime that inlined standard library code calls too. */
extern __attribute__((swiftcall)) void *swift_task_addCancellationHandler(cancellation_handler handler, void *context);
extern __attribute__((swiftcall)) void swift_task_removeCancellationHandler(void *record);

static __attribute__((swiftcall)) void cancelled(__attribute__((swift_context)) void *context) { dk_operation_cancelled(context); }

void *dk_cancellation_handler_add(void *context) { return swift_task_addCancellationHandler(cancelled, context); }

void dk_cancellation_handler_remove(void *record) { swift_task_removeCancellationHandler(record); }
