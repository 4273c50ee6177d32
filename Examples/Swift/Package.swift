// swift-tools-version: 6.2
import PackageDescription

// A package of its own, so that the library's manifest stays free of programs: run `swift build` in this folder.
// A package of yours names the repository's URL and a branch or version instead of the path.
let demikernel: [Target.Dependency] = [
    .product(name: "Demikernel", package: "swift-demikernel"),
    .product(name: "DemikernelConfiguration", package: "swift-demikernel"),
]
// `FilePath`, which names a file for `LibOS.file` and `LibOS.open`.
let system = Target.Dependency.product(name: "SystemPackage", package: "swift-system")
let settings: [SwiftSetting] = [.strictMemorySafety()]

let package = Package(
    name: "demikernel-examples",
    dependencies: [
        .package(name: "swift-demikernel", path: "../.."),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
    ],
    targets: [
        .executableTarget(name: "echo-server", dependencies: demikernel, swiftSettings: settings),
        .executableTarget(name: "echo-server-poll", dependencies: demikernel, swiftSettings: settings),
        .executableTarget(name: "ping", dependencies: demikernel, swiftSettings: settings),
        .executableTarget(name: "log", dependencies: demikernel + [system], swiftSettings: settings),
    ],
    swiftLanguageModes: [.v6]
)
