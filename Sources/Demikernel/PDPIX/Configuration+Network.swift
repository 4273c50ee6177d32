extension Configuration {
    /// The network stack of the libOSes that have their own (catnip, catloop, catpowder): Ethernet, IP, UDP and TCP.
    public struct Network: Sendable, Equatable {
        /// This host's addresses with their links' prefixes, as `10.0.0.1/24`; none stands for the libOS's default.
        public var addresses: [String] = []
        /// Routers, one of each family at the most, each on one of the links.
        public var gateways: [String] = []
        /// Neighbours that are never asked for, as `10.0.0.2=02:00:00:00:00:02`.
        public var neighbours: [String] = []
        /// The Ethernet address, as `02:00:00:00:00:01`; empty for one of the libOS's choice.
        public var mac = ""
        /// Where packets for this host's own addresses go: into the stack by default.
        public var localDelivery = LocalDelivery.stack
        /// The largest IP packet in bytes: 1,500 by default.
        public var mtu = 1_500
        /// The 802.1Q VLAN that frames are tagged with; 0, the default, is none.
        public var vlan = 0
        /// Whether checksums are left to a device that fills them in: true by default.
        public var checksumOffload = true
        /// Whether checksums are verified also where the device cannot damage frames: true by default.
        public var verifyChecksums = true
        /// What each connection keeps to be sent or acknowledged before pushes wait, in bytes: 1 MiB by default.
        public var sendBuffer = 1 << 20
        /// What each connection keeps for pops, in bytes: 1 MiB by default.
        public var receiveBuffer = 1 << 20
        /// What a UDP socket keeps for pops, in bytes: 4 MiB by default.
        public var datagramBuffer = 4 << 20
        /// The most connections at any one time: 65,536 by default.
        public var connections = 65_536
        public var congestionControl = CongestionControl.cubic
        /// Whether explicit congestion notification is asked for and agreed to (RFC 3168): false by default.
        public var ecn = false
        /// Whether small segments go out at once (RFC 896 turned off): true by default.
        public var noDelay = true
        /// How long a libOS that ends waits for its connections to bring their peers what was pushed: 500 milliseconds by default.
        public var linger = Duration.milliseconds(500)
        public var timers = Timers()
        public var faults = Faults()
        /// A file that every frame is written to, as pcapng; empty for none.
        public var capture = ""
        public init() {}

        /// Where packets for one's own addresses go.
        public enum LocalDelivery: String, Sendable, CaseIterable {
            case stack
            case device
        }

        /// How TCP shares a network.
        public enum CongestionControl: String, Sendable, CaseIterable {
            /// RFC 9438.
            case cubic
            /// RFC 6582.
            case newreno
            /// RFC 8257; negotiates ECN.
            case dctcp
        }

        /// The timers of TCP.
        public struct Timers: Sendable, Equatable {
            /// The shortest retransmission timeout: 200 milliseconds by default.
            public var minimumRTO = Duration.milliseconds(200)
            /// How long an acknowledgement waits for company: 10 milliseconds by default.
            public var delayedAck = Duration.milliseconds(10)
            /// How long an idle connection with keep-alive waits before it is probed: 2 hours by default.
            public var keepalive = Duration.seconds(7_200)
            /// How long a closed connection's ports are kept (2·MSL): 60 seconds by default.
            public var timeWait = Duration.seconds(60)
            public init() {}
        }

        /// What befalls frames on purpose, in tests: of a million frames so many are lost, and so on.
        public struct Faults: Sendable, Equatable {
            /// Frames that are lost.
            public var loss = 0
            /// Frames that come twice.
            public var duplicate = 0
            /// Frames that are overtaken.
            public var reorder = 0
            /// Frames of which bits are changed.
            public var corrupt = 0
            /// The seed of the chance.
            public var seed = 1
            public init() {}

            /// Whether any fault is asked for.
            public var isEmpty: Bool { loss == 0 && duplicate == 0 && reorder == 0 && corrupt == 0 }
        }
    }

    /// The shared-memory device of catnip: memif, the open packet interface of DPDK and VPP.
    public struct Memif: Sendable, Equatable {
        /// Who listens on the socket: client by default.
        public var role = Role.client
        /// The Unix socket at which both ends meet, in the abstract namespace where it begins with `@`; empty is not set.
        public var socket = ""
        /// Both ends name the same interface of the socket: 0 by default.
        public var id = 0
        /// What a client has to know where the server has one; empty for none.
        public var secret = ""
        /// Rings in each direction: 1 by default.
        public var rings = 1
        /// Frames that a ring holds, a power of two: 1,024 by default.
        public var ringSize = 1_024
        /// Bytes of a frame's buffer: 2,048 by default. Longer frames take several.
        public var bufferSize = 2_048
        public init() {}

        /// Which end of a memif this is.
        public enum Role: String, Sendable, CaseIterable {
            /// Listens on the socket.
            case server
            /// Connects to the socket, and brings the shared memory.
            case client
        }
    }

    /// The in-process network of catloop.
    public struct Catloop: Sendable, Equatable {
        /// The two libOSes of one process that name the same pair are connected with each other; empty: the libOS with itself.
        public var pair = ""
        /// Frames that are under way in each direction: 1,024 by default.
        public var ringSize = 1_024
        public init() {}
    }
    /// The kernel's network interface under catpowder.
    public struct Catpowder: Sendable, Equatable {
        /// How frames come from the interface and go to it: by a packet socket by default.
        public var device = Device.packetSocket
        /// The interface, by name; empty is not set.
        public var interface = ""
        /// The network namespace of the interface: a path, or a name of `ip netns`; empty, the default, is the program's own.
        public var namespace = ""
        /// Queues between which the kernel divides what comes: 1 by default.
        public var queues = 1
        /// Frames that a ring of a packet socket or of AF_XDP holds in each direction: 1,024 by default.
        public var ringSize = 1_024
        /// Whether frames go past the interface's queueing discipline: false by default.
        public var bypassQueueing = false
        /// Whether consecutive TCP segments of a connection go into the kernel as one packet, which it cuts again: true by default.
        public var segmentationOffload = true
        /// Where AF_XDP takes frames from the driver: the fastest that works, by default.
        public var xdpMode = XDPMode.auto
        /// Bytes of the heap that are registered with the kernel for AF_XDP, 32 MiB by default. Buffers beyond are copied.
        public var xdpMemory = 32 << 20
        public init() {}

        /// A way to an interface's frames.
        public enum Device: String, Sendable, CaseIterable {
            /// A packet socket on an interface that there is: packet(7).
            case packetSocket = "af_packet"
            /// The other end of a TAP interface, which is made where it is missing.
            case tap
            /// AF_XDP sockets on an interface that there is: frames past the kernel's stack.
            case xdp
        }

        /// Where AF_XDP takes frames from the driver.
        public enum XDPMode: String, Sendable, CaseIterable {
            /// Zero copy, else copies, else generic.
            case auto
            /// The card reads and writes the heap itself.
            case zeroCopy = "zero_copy"
            /// The driver runs the program, and the kernel copies.
            case copy
            /// The kernel runs the program: with every driver.
            case generic
        }
    }
}
