/// A TCP sequence number: arithmetic and order are modulo 2³². RFC 9293, section 3.4; RFC 1982.
///
/// `<` is no total order (numbers 2³¹ apart precede one another), so the type is not `Comparable`.
package struct SequenceNumber: BitwiseCopyable, Hashable, Sendable, CustomStringConvertible {
    package var rawValue: UInt32

    @inline(__always) package init(_ rawValue: UInt32) { self.rawValue = rawValue }

    package var description: String { "\(rawValue)" }

    @inline(__always) package static func + (number: SequenceNumber, distance: UInt32) -> SequenceNumber {
        SequenceNumber(number.rawValue &+ distance)
    }
    @inline(__always) package static func + (number: SequenceNumber, distance: Int) -> SequenceNumber {
        SequenceNumber(number.rawValue &+ UInt32(truncatingIfNeeded: distance))
    }
    @inline(__always) package static func - (number: SequenceNumber, distance: UInt32) -> SequenceNumber {
        SequenceNumber(number.rawValue &- distance)
    }
    @inline(__always) package static func - (number: SequenceNumber, distance: Int) -> SequenceNumber {
        SequenceNumber(number.rawValue &- UInt32(truncatingIfNeeded: distance))
    }
    @inline(__always) package static func += (number: inout SequenceNumber, distance: UInt32) { number = number + distance }
    @inline(__always) package static func += (number: inout SequenceNumber, distance: Int) { number = number + distance }
    @inline(__always) package static func -= (number: inout SequenceNumber, distance: UInt32) { number = number - distance }
    @inline(__always) package static func -= (number: inout SequenceNumber, distance: Int) { number = number - distance }

    /// How far `left` is ahead of `right`; negative where it is behind.
    @inline(__always) package static func - (left: SequenceNumber, right: SequenceNumber) -> Int32 {
        Int32(bitPattern: left.rawValue &- right.rawValue)
    }

    @inline(__always) package static func < (left: SequenceNumber, right: SequenceNumber) -> Bool { left - right < 0 }
    @inline(__always) package static func <= (left: SequenceNumber, right: SequenceNumber) -> Bool { left - right <= 0 }
    @inline(__always) package static func > (left: SequenceNumber, right: SequenceNumber) -> Bool { left - right > 0 }
    @inline(__always) package static func >= (left: SequenceNumber, right: SequenceNumber) -> Bool { left - right >= 0 }

    /// The way forward from `start`, 0 to 2³² - 1.
    @inline(__always) package func distance(from start: SequenceNumber) -> UInt32 { rawValue &- start.rawValue }

    /// Whether this number is one of the `length` that begin with `start`: one comparison, right for any length.
    @inline(__always) package func isWithin(_ start: SequenceNumber, length: UInt32) -> Bool { rawValue &- start.rawValue < length }

    @inline(__always) package static func earlier(_ left: SequenceNumber, _ right: SequenceNumber) -> SequenceNumber {
        left < right ? left : right
    }
    @inline(__always) package static func later(_ left: SequenceNumber, _ right: SequenceNumber) -> SequenceNumber {
        left < right ? right : left
    }
}
