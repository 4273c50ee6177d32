import Demikernel
import CDemikernelShims
import Glibc

func now() -> Double { var t = timespec(); unsafe clock_gettime(CLOCK_MONOTONIC, &t); return Double(t.tv_sec) * 1e9 + Double(t.tv_nsec) }
func bench(_ name: String, _ per: Int, _ body: () throws -> Void) rethrows {
    var times: [Double] = []
    for _ in 0..<31 { let t = now(); try body(); times.append((now() - t) / Double(per)) }
    times.sort()
    print(name, "min", times[0], "median", times[15], "ns; min TSC", times[0] * 2.596)
}
let libOS = try LibOS(Configuration())
if CommandLine.arguments.count == 1 {
try libOS.startYieldingTasks(64)
bench("task.switch", 102400) { libOS.switchTasks(102400) }
libOS.endYieldingTasks()
let qs = try libOS.queue()
var pops: [QToken] = []
for _ in 0..<10000 { pops.append(try libOS.pop(qs)) }
bench("task.wake-poll-10k", 100000) { libOS.wakeAndPoll(pops.span, count: 100000) }
try libOS.close(qs)
for t in pops { _ = try libOS.wait(t) }
var tokens: [QToken] = []
for _ in 0..<10000 { tokens.append(try libOS.submitIdle()) }
try bench("wait-any.10k", 100000) { try libOS.completeWaitRearm(&tokens, count: 100000, stride: 1) }
try bench("wait-any.10k random", 100000) { try libOS.completeWaitRearm(&tokens, count: 100000, stride: 7919) }
bench("heap.64", 100000) { libOS.allocateAndFree(64, count: 100000) }
bench("heap.2048", 100000) { libOS.allocateAndFree(2048, count: 100000) }
try bench("buffer.2048", 100000) { for _ in 0..<100000 { _ = try libOS.allocate(2048) } }
for size in [64, 2048] { bench("malloc.\(size)", 100000) { for _ in 0..<100000 { let p = unsafe malloc(size); dk_black_box(UInt64(UInt(bitPattern: p))); unsafe free(p) } } }
bench("timer", 100000) { libOS.insertAndCancelTimer(count: 100000) }
}
func pushPop(_ libOS: LibOS) throws {
    let q = try libOS.queue()
    var held: Buffer? = try libOS.allocate(64)
    try bench("queue.push-pop", 100000) { () throws -> Void in
        for _ in 0..<100000 {
            try libOS.wait(try libOS.push(q, held.take()!)).get()
            var s = try libOS.wait(try libOS.pop(q)).popped()
            held = s.removeFirst()
        }
    }
}
try pushPop(libOS)
