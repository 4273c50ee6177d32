package import Demikernel

/// The heap of one host among several on a thread: whoever acts takes it. What a host releases while another has the thread comes back by the return
/// queue.
package final class SimulatedHeap {
    private let heap: Heap

    /// Throws what `Heap` does.
    package init(limit: Int) throws(DemikernelError) {
        heap = try Heap(HeapConfiguration(limit: limit, hugePages: .never, lockPages: false))
    }

    package var reference: HeapReference { heap.reference }
    package var statistics: HeapStatistics { heap.statistics }
    package var faults: [HeapFault] { heap.faults }

    /// Makes it this thread's, and takes back what was released meanwhile.
    package func take() {
        heap.makeCurrent()
        heap.drainReturns()
    }

    package func resign() { heap.resign() }
}
