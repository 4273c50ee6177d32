/* What a network interface's driver says of itself (ethtool), for `demi doctor`: ioctl(2) is variadic. */
#ifndef DEMIKERNEL_LINK_INFORMATION_H
#define DEMIKERNEL_LINK_INFORMATION_H

#include <errno.h>
#include <linux/bpf.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "Interfaces.h"

/* Asks the driver of an interface of this thread's network namespace; 0, or -1 with errno. */
static inline int dk_interface_ask(const char *_Nonnull name, void *_Nonnull question) {
    int socket_ = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (socket_ < 0) return -1;
    long result = dk_interface_ask_driver(socket_, name, question);
    close(socket_);
    errno = (int)-result;
    return result < 0 ? -1 : 0;
}

/* The value of one of ethtool's ETHTOOL_G… commands that have a plain number; -1 where the driver does not know it. */
static inline int64_t dk_interface_value(const char *_Nonnull name, uint32_t command) {
    struct ethtool_value value = {.cmd = command};
    return dk_interface_ask(name, &value) == 0 ? (int64_t)value.data : -1;
}

/* The driver's name into `driver`, of 32 bytes; 0 or -1. */
static inline int dk_interface_driver(const char *_Nonnull name, char *_Nonnull driver) {
    struct ethtool_drvinfo info;
    memset(&info, 0, sizeof info);
    info.cmd = ETHTOOL_GDRVINFO;
    if (dk_interface_ask(name, &info) != 0) return -1;
    memcpy(driver, info.driver, 32);
    driver[31] = 0;
    return 0;
}

/* What ethtool calls the features that change frames on their way. */
#define DK_FEATURE_RX_CHECKSUM ETHTOOL_GRXCSUM
#define DK_FEATURE_TX_CHECKSUM ETHTOOL_GTXCSUM
#define DK_FEATURE_TSO ETHTOOL_GTSO
#define DK_FEATURE_GSO ETHTOOL_GGSO
#define DK_FEATURE_GRO ETHTOOL_GGRO
#define DK_FEATURE_FLAGS ETHTOOL_GFLAGS

/* A BPF map of one number, to be closed at once: whether bpf(2) is there, and allowed. A descriptor, or -1 with errno. */
static inline int dk_probe_bpf(void) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_type = BPF_MAP_TYPE_ARRAY;
    attributes.key_size = 4;
    attributes.value_size = 4;
    attributes.max_entries = 1;
    return (int)syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof attributes);
}

#endif
