import Glibc
import SystemPackage

/// What a device over an interface of the kernel knows of it: whether it can send now, how long its frames may be, and when it is looked at again.
///
/// A device looks from its `maintain(now:)`; an error of the kernel's may tell it earlier that the interface is down.
struct InterfaceWatch: BitwiseCopyable {
    /// The interface's number; it may be another one's name by now.
    private(set) var index: Int32
    private(set) var isUp: Bool
    /// The longest frame that the interface takes now, and that the device sends.
    private(set) var frameMaximum: Int
    private let mtuMaximum: Int
    private var nextLook: UInt64 = 0
    /// The last look found nothing out.
    private var isUnsure = false

    /// How often, in nanoseconds, the interface is looked at while the program polls, or while it is down.
    private static var interval: UInt64 { 100_000_000 }

    /// `mtuMaximum`: of what the device sends, however much the interface takes.
    init(_ interface: NetworkInterface, mtuMaximum: Int) {
        index = interface.index
        isUp = interface.isUp
        self.mtuMaximum = mtuMaximum
        frameMaximum = Self.frameMaximum(interface, mtuMaximum)
    }

    private static func frameMaximum(_ interface: NetworkInterface, _ mtuMaximum: Int) -> Int { min(interface.mtu, mtuMaximum) + 18 }

    /// Whether the interface is to be looked at now; then not again for a while.
    mutating func isDue(_ now: UInt64) -> Bool {
        guard now >= nextLook else { return false }
        nextLook = now &+ Self.interval
        return true
    }

    /// When the device wants to be called again: see `NetworkDevice.maintain(now:)`.
    var nextTime: UInt64 { isUp && !isUnsure ? .max : nextLook }

    /// It is due at the next call: something has happened.
    mutating func hurry() { nextLook = 0 }

    /// Looks at the interface again, through any socket of its namespace. False where it is gone.
    mutating func look(_ socket: Int32, _ traffic: inout NetworkDeviceStatistics) -> Bool {
        do throws(DemikernelError) {
            follow(try NetworkInterface(index: index, socket: socket), &traffic)
        } catch {
            isUnsure = error.errno != Errno(rawValue: ENODEV)
            if !isUnsure { goDown(&traffic) }
            return isUnsure
        }
        return true
    }

    /// How the interface, this one or the one that has taken its place, was found.
    mutating func follow(_ interface: NetworkInterface, _ traffic: inout NetworkDeviceStatistics) {
        index = interface.index
        isUnsure = false
        frameMaximum = Self.frameMaximum(interface, mtuMaximum)
        if interface.isUp { isUp = true } else { goDown(&traffic) }
    }

    mutating func goDown(_ traffic: inout NetworkDeviceStatistics) {
        if isUp { traffic.disconnections &+= 1 }
        isUp = false
    }

    /// Takes in what a system call that sends has answered: 0 or an errno.
    @inline(__always)
    mutating func note(_ error: Int32, _ traffic: inout NetworkDeviceStatistics) {
        if error == ENETDOWN || error == ENXIO || error == ENODEV { goDown(&traffic) }
    }
}

/// Whose turn it is to be first of the queues of a device.
struct QueueTurn: BitwiseCopyable {
    private var number = 0

    /// Each comes first in its turn, and the others behind it: see ``after(_:of:)``.
    @inline(__always)
    mutating func next(of count: Int) -> Int {
        number = Self.after(number, of: count)
        return number
    }

    @inline(__always)
    static func after(_ number: Int, of count: Int) -> Int { number &+ 1 < count ? number &+ 1 : 0 }
}
