import Testing

@testable import Demikernel

@Suite struct CurrentLibOSTests {
    @Test func `a thread's libOS is found from its child tasks, and nowhere else`() throws {
        let libOS = try smallLibOS()
        #expect(LibOS.current === libOS)
        let answers = try libOS.run { _ in
            await withTaskGroup(of: Int.self) { group in
                for _ in 0..<3 { group.addTask { (try? LibOS.current?.allocate(100).count) ?? 0 } }
                return await group.reduce(0, +)
            }
        }
        #expect(answers == 300)
        _ = onThreads(1) { _ in #expect(LibOS.current == nil) }
    }
}
