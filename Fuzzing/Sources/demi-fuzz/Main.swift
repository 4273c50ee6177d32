import Glibc

/// libFuzzer's own main, as a function: the executable has SwiftPM's.
@_silgen_name("LLVMFuzzerRunDriver")
private func runLibFuzzer(
    _ argumentCount: UnsafeMutablePointer<CInt>, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
    _ body: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

/// The target that the command line names.
private let chosen = CommandLine.arguments.dropFirst().first.flatMap(FuzzTarget.named)

/// `demi-fuzz list` | `demi-fuzz seeds TARGET FOLDER` | `demi-fuzz TARGET [libFuzzer's arguments]`; `Scripts/fuzz` is its face.
@main
enum Fuzz {
    static func main() throws {
        let arguments = Array(CommandLine.arguments.dropFirst())
        switch arguments.first {
        case "list":
            for target in FuzzTarget.all { print("\(target.name)\t\(target.runs)\t\(target.lengthMaximum)\t\(target.summary)") }
        case "seeds" where arguments.count == 3:
            guard let target = FuzzTarget.named(arguments[1]) else { return refuse() }
            for (index, seed) in try target.seeds().enumerated() { write(seed, to: "\(arguments[2])/seed-\(index)") }
        default:
            guard chosen != nil else { return refuse() }
            // libFuzzer reads the arguments from the second on: the target's name takes the place of the program's.
            var count = CommandLine.argc - 1
            var rest = unsafe CommandLine.unsafeArgv + 1
            exit(unsafe runLibFuzzer(&count, &rest) { bytes, count in
                let input = unsafe Array(UnsafeBufferPointer(start: bytes, count: count))
                do {
                    try chosen?.run(input)
                } catch {
                    // As `require`: what a target throws it did not expect.
                    fatalError("broken: the target threw \(error)")
                }
                return 0
            })
        }
    }

    private static func refuse() {
        print("demi-fuzz: list, seeds TARGET FOLDER, or a target with libFuzzer's arguments")
        exit(2)
    }

    private static func write(_ bytes: [UInt8], to path: String) {
        guard let file = unsafe fopen(path, "w") else {
            perror(path)
            exit(1)
        }
        unsafe _ = bytes.withUnsafeBytes { unsafe fwrite($0.baseAddress, 1, $0.count, file) }
        unsafe _ = fclose(file)
    }
}
