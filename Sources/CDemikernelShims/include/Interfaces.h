/* What devices over the kernel's network interfaces need and Swift has no spelling for: ioctls (variadic), structures with unions, macros for
   layouts, setns, and the loads and stores of rings that the kernel writes as well. Functions answer a negative errno where they fail. */
#ifndef DEMIKERNEL_INTERFACES_H
#define DEMIKERNEL_INTERFACES_H

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <linux/ethtool.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>

/* --- interfaces ------------------------------------------------------------------------------------------------------- */

static inline long dk_interface_ioctl(int socket, unsigned long request, struct ifreq *_Nonnull about) {
    return ioctl(socket, request, about) < 0 ? -errno : 0;
}

/* The number of the interface of that name, in the socket's network namespace. */
static inline long dk_interface_index(int socket, const char *_Nonnull name) {
    struct ifreq about = {0};
    if (strlen(name) >= IFNAMSIZ) return -ENODEV;
    strcpy(about.ifr_name, name);
    long result = dk_interface_ioctl(socket, SIOCGIFINDEX, &about);
    return result < 0 ? result : about.ifr_ifindex;
}

struct dk_interface {
    char name[IFNAMSIZ];
    uint32_t flags; /* IFF_UP and so on: netdevice(7) */
    uint32_t mtu;
    uint32_t type; /* ARPHRD_ETHER and so on */
    uint64_t address; /* 48 bits in host order */
};

/* What the interface of that name is now, all but the name. */
static inline long dk_interface_describe_named(int socket, struct ifreq *_Nonnull about, struct dk_interface *_Nonnull interface) {
    long result;
    if ((result = dk_interface_ioctl(socket, SIOCGIFFLAGS, about)) < 0) return result;
    interface->flags = (uint16_t)about->ifr_flags;
    if ((result = dk_interface_ioctl(socket, SIOCGIFMTU, about)) < 0) return result;
    interface->mtu = (uint32_t)about->ifr_mtu;
    if ((result = dk_interface_ioctl(socket, SIOCGIFHWADDR, about)) < 0) return result;
    interface->type = about->ifr_hwaddr.sa_family;
    interface->address = 0;
    for (int i = 0; i < 6; i++) interface->address = interface->address << 8 | (uint8_t)about->ifr_hwaddr.sa_data[i];
    return 0;
}

/* What the interface of that number is now. -ENODEV where it is gone, -EAGAIN while it is being renamed: for a number the kernel answers with a name
   alone, and for a name with the rest, but for some milliseconds neither its old name nor its new one finds it. */
static inline long dk_interface_describe(int socket, int index, struct dk_interface *_Nonnull interface) {
    struct ifreq about = {0}, after = {0};
    memset(interface, 0, sizeof *interface);
    about.ifr_ifindex = after.ifr_ifindex = index;
    long result = dk_interface_ioctl(socket, SIOCGIFNAME, &about);
    if (result < 0) return result;
    memcpy(interface->name, about.ifr_name, IFNAMSIZ);
    interface->name[IFNAMSIZ - 1] = 0;
    if ((result = dk_interface_describe_named(socket, &about, interface)) < 0 && result != -ENODEV) return result;
    if (dk_interface_ioctl(socket, SIOCGIFNAME, &after) < 0) return -ENODEV;
    return result < 0 || strncmp(interface->name, after.ifr_name, IFNAMSIZ) != 0 ? -EAGAIN : 0;
}

/* Asks the driver something whose answer is written over the question: ethtool's ioctl(2). */
static inline long dk_interface_ask_driver(int socket, const char *_Nonnull name, void *_Nonnull question) {
    struct ifreq about = {0};
    strncpy(about.ifr_name, name, IFNAMSIZ - 1);
    about.ifr_data = (char *)question;
    return dk_interface_ioctl(socket, SIOCETHTOOL, &about);
}

/* Whether frames of this machine may come over the interface that have never been on a wire, with their checksums left undone. */
static inline int dk_interface_has_local_peer(int socket, const char *_Nonnull name) {
    struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
    if (dk_interface_ask_driver(socket, name, &info) < 0) return 0;
    return strncmp(info.driver, "veth", sizeof info.driver) == 0 || strncmp(info.driver, "tun", sizeof info.driver) == 0;
}

/* Whether packets whose length IP's field cannot say may be sent for the kernel to cut into segments: it does so rightly since Linux 6.5 ("tcp: gso: really
   support BIG TCP"), the interface does not cut by itself, and its other end is on this machine, so that no slow wire is behind it that others wait for. */
static inline int dk_interface_cuts_long(int socket, int index) {
    struct utsname system;
    unsigned major, minor;
    struct ifreq about = {0};
    struct ethtool_value segmentation = {.cmd = ETHTOOL_GTSO};
    about.ifr_ifindex = index;
    if (uname(&system) < 0 || sscanf(system.release, "%u.%u", &major, &minor) != 2 || major < 6 || (major == 6 && minor < 5)) return 0;
    if (dk_interface_ioctl(socket, SIOCGIFNAME, &about) < 0 || !dk_interface_has_local_peer(socket, about.ifr_name)) return 0;
    return dk_interface_ask_driver(socket, about.ifr_name, &segmentation) == 0 && segmentation.data == 0;
}

/* Takes an interface up. */
static inline long dk_interface_set_up(int socket, const char *_Nonnull name) {
    struct ifreq about = {0};
    if (strlen(name) >= IFNAMSIZ) return -ENODEV;
    strcpy(about.ifr_name, name);
    long result = dk_interface_ioctl(socket, SIOCGIFFLAGS, &about);
    if (result < 0) return result;
    about.ifr_flags |= IFF_UP;
    return dk_interface_ioctl(socket, SIOCSIFFLAGS, &about);
}

/* setns(2) of the calling thread into the network namespace of a file. */
static inline long dk_network_namespace_enter(int file) {
    return syscall(SYS_setns, file, 0x40000000 /* CLONE_NEWNET */) < 0 ? -errno : 0;
}

/* --- AF_PACKET: packet(7) and the kernel's Documentation/networking/packet_mmap.rst ------------------------------------- */

/* A raw packet socket that receives nothing until it is bound; non-blocking and close-on-exec. */
static inline long dk_packet_socket(void) {
    int descriptor = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return descriptor < 0 ? -errno : descriptor;
}

/* Sets an option that is one int. */
static inline long dk_socket_option(int socket, int level, int option, int value) {
    return setsockopt(socket, level, option, &value, sizeof value) < 0 ? -errno : 0;
}

/* Sends on one interface, and receives the frames of an Ethernet type there: ETH_P_ALL for every one's, 0 for none. */
static inline long dk_packet_bind(int socket, int index, uint16_t type) {
    struct sockaddr_ll address = {0};
    address.sll_family = AF_PACKET;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    type = __builtin_bswap16(type);
#endif
    address.sll_protocol = type;
    address.sll_ifindex = index;
    return bind(socket, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
}

/* Lets through only frames to a station's address (48 bits in host order) and to groups: the filter's program is BPF's first dialect. */
static inline long dk_packet_filter_station(int socket, uint64_t address) {
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 1, 4, 0),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(address >> 16), 0, 3),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(address & 0xffff), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog filter = {sizeof program / sizeof *program, program};
    return setsockopt(socket, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) < 0 ? -errno : 0;
}

/* Has the interface receive frames to stations other than itself, until the socket is closed. */
static inline long dk_packet_be_promiscuous(int socket, int index) {
    struct packet_mreq membership = {0};
    membership.mr_ifindex = index;
    membership.mr_type = PACKET_MR_PROMISC;
    return setsockopt(socket, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership, sizeof membership) < 0 ? -errno : 0;
}

/* A ring of `blocks` times `block_size` bytes with frames of `frame_size`; `option` is PACKET_RX_RING or PACKET_TX_RING. */
static inline long dk_packet_ring(int socket, int option, uint32_t block_size, uint32_t blocks, uint32_t frame_size) {
    struct tpacket_req request = {block_size, blocks, frame_size, block_size / frame_size * blocks};
    return setsockopt(socket, SOL_PACKET, option, &request, sizeof request) < 0 ? -errno : 0;
}

/* Frames that the ring had no room for since the last call. */
static inline uint32_t dk_packet_take_drops(int socket) {
    struct tpacket_stats counts = {0};
    socklen_t size = sizeof counts;
    return getsockopt(socket, SOL_PACKET, PACKET_STATISTICS, &counts, &size) < 0 ? 0 : counts.tp_drops;
}

/* The error that waits at a socket, positive, or 0; takes it. */
static inline int dk_socket_take_error(int socket) {
    int error = 0;
    socklen_t size = sizeof error;
    return getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ? errno : error;
}

/* struct virtio_net_hdr, without its unions. */
struct dk_virtio_header {
    uint8_t flags; /* 1: the checksum is to be filled in; 2: it was verified */
    uint8_t segmentation; /* 0: none; 1, 4: TCP over IPv4, IPv6; 5: UDP; +128: with ECN */
    uint16_t header_length;
    uint16_t segment_size;
    uint16_t checksum_start;
    uint16_t checksum_offset;
};

/* PACKET_FANOUT_FLAG_IGNORE_OUTGOING, which older headers lack. */
static const int dk_packet_fanout_ignore_outgoing = 0x4000;

/* The status word of a ring's frame, its first: whose the frame is. */
static inline uint32_t dk_packet_status_load(const void *_Nonnull frame) { return __atomic_load_n((const uint32_t *)frame, __ATOMIC_ACQUIRE); }
static inline void dk_packet_status_store(void *_Nonnull frame, uint32_t status) { __atomic_store_n((uint32_t *)frame, status, __ATOMIC_RELEASE); }

/* Sends what the transmit ring holds: bytes sent, or a negative errno. Does not wait. */
static inline long dk_packet_kick(int socket) {
    long result = syscall(SYS_sendto, socket, NULL, 0, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
    return result < 0 ? -errno : result;
}

/* --- TUN/TAP: the kernel's Documentation/networking/tuntap.rst ------------------------------------------------------------ */

/* Makes a file of /dev/net/tun the other end of the TAP interface of that name, which is made where it is missing; `name` has room for IFNAMSIZ
   bytes and gets what the kernel chose. Frames have a dk_virtio_header before them. */
static inline long dk_tap_attach(int file, char *_Nonnull name, int queues) {
    struct ifreq about = {0};
    int size = sizeof(struct dk_virtio_header);
    memcpy(about.ifr_name, name, IFNAMSIZ);
    about.ifr_name[IFNAMSIZ - 1] = 0;
    about.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (queues > 1 ? IFF_MULTI_QUEUE : 0));
    if (ioctl(file, TUNSETIFF, &about) < 0) return -errno;
    memcpy(name, about.ifr_name, IFNAMSIZ);
    if (ioctl(file, TUNSETVNETHDRSZ, &size) < 0) return -errno;
    /* The kernel's side may leave checksums and the cutting of streams into segments to us, who need neither. */
    if (ioctl(file, TUNSETOFFLOAD, (unsigned long)(TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)) < 0) return -errno;
    return 0;
}

/* Whether the file still has an interface: it loses it when the interface is removed. */
static inline int dk_tap_is_attached(int file) {
    struct ifreq about = {0};
    return ioctl(file, TUNGETIFF, &about) >= 0;
}

#endif
