/* The README's server, in C: echoes what TCP clients send to port 7000. Try it with `nc 127.0.0.1 7000`. */
#include <arpa/inet.h>
#include <demi/libos.h>
#include <demi/sga.h>
#include <demi/wait.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(int error) {
    if (error != 0) exit((fprintf(stderr, "%s\n", strerror(error)), 1));
}

int main(void) {
    struct demi_args args = {0, NULL, NULL};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(7000)};
    demi_qtoken_t token;
    demi_qresult_t result;
    int listener, many;
    check(demi_init(&args));
    check(demi_socket(&listener, AF_INET, SOCK_STREAM, 0));
    check(demi_bind(listener, (struct sockaddr *)&address, sizeof address));
    check(demi_listen(listener, 16));
    for (check(demi_accept(&token, listener));;) {
        check(demi_wait_next_n(&result, 1, &many, NULL)); /* whatever completes next, on any connection */
        int queue = result.qr_qd, error = 0;
        if (queue == listener) check(demi_accept(&token, listener));
        if (result.qr_opcode == DEMI_OPC_ACCEPT) error = demi_pop(&token, queue = result.qr_value.ares.qd);
        if (result.qr_opcode == DEMI_OPC_PUSH) error = demi_pop(&token, queue);
        if (result.qr_opcode == DEMI_OPC_POP) {
            demi_sgarray_t sga = result.qr_value.sga;
            error = sga.sga_segs[0].sgaseg_len == 0 ? -1 : demi_push(&token, queue, &sga); /* length 0: the end of the stream */
            check(demi_sgafree(&sga));
        }
        if (error != 0 || (result.qr_opcode == DEMI_OPC_FAILED && queue != listener)) check(demi_close(queue));
    }
}
