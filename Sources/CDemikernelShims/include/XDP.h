/* AF_XDP sockets and the program in front of them: the kernel's Documentation/networking/af_xdp.rst, and bpf(2). Structures with unions, numbers
   that older headers lack, and the loads and stores of rings that the kernel writes as well. Functions answer a negative errno where they fail. */
#ifndef DEMIKERNEL_XDP_H
#define DEMIKERNEL_XDP_H

#include <errno.h>
#include <linux/bpf.h>
#include <linux/ethtool.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "Interfaces.h"
#include "SystemCalls.h"

/* --- sockets ---------------------------------------------------------------------------------------------------------- */

/* Level of the options. */
static const int dk_xdp_level = 283;

/* Of the flags of a bind: frames may take several descriptors (Linux 6.6). */
static const uint16_t dk_xdp_use_segments = 1 << 4;

static inline long dk_xdp_socket(void) {
    int descriptor = socket(44 /* AF_XDP */, SOCK_RAW | SOCK_CLOEXEC, 0);
    return descriptor < 0 ? -errno : descriptor;
}

/* Registers memory whose chunks may begin anywhere. */
static inline long dk_xdp_register(int socket, void *_Nonnull base, size_t size, uint32_t chunk) {
    struct xdp_umem_reg memory = {0};
    memory.addr = (uint64_t)(uintptr_t)base;
    memory.len = size;
    memory.chunk_size = chunk;
    memory.flags = XDP_UMEM_UNALIGNED_CHUNK_FLAG;
    return setsockopt(socket, dk_xdp_level, XDP_UMEM_REG, &memory, sizeof memory) < 0 ? -errno : 0;
}

static inline long dk_xdp_offsets(int socket, struct xdp_mmap_offsets *_Nonnull offsets) {
    socklen_t size = sizeof *offsets;
    if (getsockopt(socket, dk_xdp_level, XDP_MMAP_OFFSETS, offsets, &size) < 0) return -errno;
    /* Before Linux 5.4 the offsets had no flags, and there is no need-wakeup. */
    return size == sizeof *offsets ? 0 : -ENOPROTOOPT;
}

static const uint64_t dk_xdp_receive_ring = XDP_PGOFF_RX_RING;
static const uint64_t dk_xdp_transmit_ring = XDP_PGOFF_TX_RING;
static const uint64_t dk_xdp_fill_ring = XDP_UMEM_PGOFF_FILL_RING;
static const uint64_t dk_xdp_completion_ring = XDP_UMEM_PGOFF_COMPLETION_RING;

/* Maps one of the four rings; NULL where that fails. */
static inline void *_Nullable dk_xdp_map(int socket, size_t size, uint64_t ring) {
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, socket, (off_t)ring);
    return base == MAP_FAILED ? NULL : base;
}

/* Binds to a queue of an interface; with XDP_SHARED_UMEM among the flags, the memory is that of another socket. */
static inline long dk_xdp_bind(int socket, int index, uint32_t queue, uint16_t flags, int shared) {
    struct sockaddr_xdp address = {0};
    address.sxdp_family = 44 /* AF_XDP */;
    address.sxdp_flags = flags;
    address.sxdp_ifindex = (uint32_t)index;
    address.sxdp_queue_id = queue;
    address.sxdp_shared_umem_fd = (uint32_t)shared;
    return bind(socket, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
}

static inline int dk_xdp_is_zero_copy(int socket) {
    struct xdp_options options = {0};
    socklen_t size = sizeof options;
    return getsockopt(socket, dk_xdp_level, XDP_OPTIONS, &options, &size) == 0 && options.flags & XDP_OPTIONS_ZEROCOPY;
}

static inline long dk_xdp_statistics(int socket, struct xdp_statistics *_Nonnull statistics) {
    socklen_t size = sizeof *statistics;
    memset(statistics, 0, sizeof *statistics);
    return getsockopt(socket, dk_xdp_level, XDP_STATISTICS, statistics, &size) < 0 ? -errno : 0;
}

/* Has the driver look at the fill ring again; does not wait. */
static inline void dk_xdp_receive_kick(int socket) { (void)dk_system_call(SYS_recvfrom, socket, 0, 0, MSG_DONTWAIT, 0, 0); }

/* --- rings ------------------------------------------------------------------------------------------------------------- */

static inline uint32_t dk_xdp_load(const uint32_t *_Nonnull word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline void dk_xdp_store(uint32_t *_Nonnull word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

/* Stores a producer's position, then looks whether the kernel wants to be told of it, in that order: it may be about to stop looking. */
static inline int dk_xdp_publish(uint32_t *_Nonnull position, uint32_t value, const uint32_t *_Nonnull flags) {
    __atomic_exchange_n(position, value, __ATOMIC_SEQ_CST);
    return (__atomic_load_n(flags, __ATOMIC_RELAXED) & XDP_RING_NEED_WAKEUP) != 0;
}

/* --- the program --------------------------------------------------------------------------------------------------------- */

static inline long dk_bpf(int command, union bpf_attr *_Nonnull attributes) {
    long result = syscall(SYS_bpf, command, attributes, sizeof *attributes);
    return result < 0 ? -errno : result;
}

/* A map from a receive queue's number to an AF_XDP socket. */
static inline long dk_xdp_map_create(uint32_t entries) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_type = BPF_MAP_TYPE_XSKMAP;
    attributes.key_size = 4;
    attributes.value_size = 4;
    attributes.max_entries = entries;
    return dk_bpf(BPF_MAP_CREATE, &attributes);
}

static inline long dk_xdp_map_set(int map, uint32_t queue, int socket) {
    union bpf_attr attributes;
    uint32_t value = (uint32_t)socket;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_fd = (uint32_t)map;
    attributes.key = (uint64_t)(uintptr_t)&queue;
    attributes.value = (uint64_t)(uintptr_t)&value;
    return dk_bpf(BPF_MAP_UPDATE_ELEM, &attributes);
}

/* Loads an XDP program of so many instructions, 8 bytes each. What the verifier says goes to `log`, of `size` bytes, and ends with a zero. */
static inline long dk_xdp_program_load(
    const uint64_t *_Nonnull instructions, uint32_t count, int takes_segments, char *_Nullable log, uint32_t size) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_type = BPF_PROG_TYPE_XDP;
    attributes.insns = (uint64_t)(uintptr_t)instructions;
    attributes.insn_cnt = count;
    attributes.license = (uint64_t)(uintptr_t)"Dual MIT/GPL";
    attributes.expected_attach_type = BPF_XDP;
    attributes.prog_flags = takes_segments ? 1u << 5 /* BPF_F_XDP_HAS_FRAGS */ : 0;
    memcpy(attributes.prog_name, "demikernel", sizeof "demikernel");
    if (log) {
        attributes.log_buf = (uint64_t)(uintptr_t)log;
        attributes.log_size = size;
        attributes.log_level = 1;
    }
    return dk_bpf(BPF_PROG_LOAD, &attributes);
}

/* Attaches the program to an interface of the calling thread's namespace, for as long as the answer, a descriptor, is open: a process that is killed
   leaves nothing attached (Linux 5.9). */
static inline long dk_xdp_attach(int program, int index, int generic) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.link_create.prog_fd = (uint32_t)program;
    attributes.link_create.target_ifindex = (uint32_t)index;
    attributes.link_create.attach_type = BPF_XDP;
    attributes.link_create.flags = generic ? 1u << 1 /* XDP_FLAGS_SKB_MODE */ : 1u << 2 /* XDP_FLAGS_DRV_MODE */;
    return dk_bpf(BPF_LINK_CREATE, &attributes);
}

/* --- the interface --------------------------------------------------------------------------------------------------------- */

/* Queues on which the interface receives; negative where the driver does not say. */
static inline long dk_xdp_queue_count(int socket, const char *_Nonnull name) {
    struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
    long result = dk_interface_ask_driver(socket, name, &channels);
    return result < 0 ? result : (long)channels.rx_count + (long)channels.combined_count;
}

/* Makes a packet socket receive nothing and hear of what befalls the interface: an error waits at it when that goes down or is removed. */
static inline long dk_packet_watch(int socket, int index) {
    struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog filter = {1, &nothing};
    struct sockaddr_ll address = {0};
    if (setsockopt(socket, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) < 0) return -errno;
    address.sll_family = AF_PACKET;
    /* A type that nobody uses (IEEE 802, local experiments), so that the filter is hardly ever asked; with none, the kernel would not tell. */
    address.sll_protocol = 0xb688;
    address.sll_ifindex = index;
    return bind(socket, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
}

#endif
