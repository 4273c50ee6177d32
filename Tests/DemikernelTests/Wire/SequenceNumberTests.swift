import Testing
import TestSupport
@testable import Demikernel

@Suite struct SequenceNumberTests {
    @Test func `order is by the shorter way around`() {
        let number = SequenceNumber(0xffff_fff0)
        #expect(number < number + 1 && number < number + 0x7fff_ffff)
        #expect(number + 0x20 > number && (number + 0x20).rawValue == 0x10)
        #expect(number <= number && number >= number && !(number < number) && !(number > number))
        #expect((number + 0x20) - number == 0x20)
        #expect(number - (number + 0x20) == -0x20)
        #expect((number + 0x20).distance(from: number) == 0x20)
        #expect(SequenceNumber.later(number, number + 0x20) == number + 0x20)
        #expect(SequenceNumber.earlier(number, number + 0x20) == number)
    }

    @Test func `arithmetic wraps and undoes itself`() {
        var generator = SplitMix64(seed: 31)
        for _ in 0..<5000 {
            let number = generator.sequence()
            let distance = Int.random(in: -0x7fff_ffff...0x7fff_ffff, using: &generator)
            var moved = number
            moved += distance
            #expect(moved == number + distance)
            #expect(Int(moved - number) == distance)
            #expect((moved < number) == (distance < 0))
            #expect((moved >= number) == (distance >= 0))
            moved -= distance
            #expect(moved == number)
            let word = UInt32(truncatingIfNeeded: distance)
            #expect(number + word == number + distance)
            #expect(number - word == number - distance)
        }
    }

    @Test func `a window holds its length of numbers, across zero too`() {
        let start = SequenceNumber(0xffff_ffff)
        #expect(!start.isWithin(start, length: 0))
        #expect(start.isWithin(start, length: 1))
        #expect((start + 5).isWithin(start, length: 6) && !(start + 6).isWithin(start, length: 6))
        #expect(!(start - 1).isWithin(start, length: 0x8000_0000))
    }
}
