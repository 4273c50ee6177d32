// swift-tools-version: 6.2
import PackageDescription

/// Every Swift target marks its unsafe lines (SE-0458); protocol and application code carries none.
let strict: [SwiftSetting] = [
    .strictMemorySafety(), .enableExperimentalFeature("Lifetimes"),  // `@_lifetime`: functions that return spans
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"), .enableUpcomingFeature("InternalImportsByDefault"),
]

let package = Package(
    name: "swift-demikernel",
    products: [
        .library(name: "Demikernel", targets: ["Demikernel"]),
        .library(name: "DemikernelConfiguration", targets: ["DemikernelConfiguration"]),
        // Networks in virtual time, for testing programs.
        .library(name: "DemikernelSimulator", targets: ["DemikernelSimulator"]),
        .library(name: "demikernel", type: .dynamic, targets: ["DemikernelC"]),
        // The real packetdrill's stack under test: `packetdrill --so_filename=libdemikernel-packetdrill.so`.
        .library(name: "demikernel-packetdrill", type: .dynamic, targets: ["DemikernelPacketdrill"]),
        .executable(name: "demi", targets: ["demi"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    ],
    targets: [
        // The datapath OS: one module, so that the optimiser sees all of it.
        .target(
            name: "Demikernel",
            dependencies: ["CDemikernelShims", .product(name: "SystemPackage", package: "swift-system")],
            swiftSettings: strict),
        // What Swift has no spelling for: time-stamp counter, thread-locals, the concurrency runtime's hook.
        .target(name: "CDemikernelShims"),
        // The settings file. Uses libyaml (CYaml, inside Yams) alone: Yams' Swift face would bring in Foundation.
        .target(
            name: "DemikernelConfiguration",
            dependencies: ["Demikernel", .product(name: "Yams", package: "Yams")],
            swiftSettings: strict),
        // The C ABI: CDemikernel holds the public headers, DemikernelC the calls.
        .target(name: "CDemikernel"),
        .target(
            name: "DemikernelC",
            dependencies: [
                "Demikernel", "DemikernelConfiguration", "CDemikernel", "CDemikernelShims",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: strict),
        // The C ABI as a C program calls it, for `demi bench`.
        .target(name: "CDemikernelBench", dependencies: ["CDemikernel"]),
        .target(name: "DemikernelSimulator", dependencies: ["Demikernel"], swiftSettings: strict),
        .target(
            name: "DemikernelPacketdrill", dependencies: ["Demikernel", .product(name: "SystemPackage", package: "swift-system")],
            swiftSettings: strict),
        .executableTarget(
            name: "demi",
            dependencies: [
                "Demikernel", "DemikernelConfiguration", "DemikernelC", "DemikernelSimulator", "CDemikernelBench",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                "CDemikernelShims", .product(name: "Histogram", package: "hdrhistogram-swift"),
            ],
            swiftSettings: strict),
        .target(name: "TestSupport", dependencies: ["Demikernel", "CDemikernelShims"], path: "Tests/TestSupport", swiftSettings: strict),
        .testTarget(
            name: "DemikernelTests", dependencies: ["Demikernel", "TestSupport"], exclude: ["Behaviour"], swiftSettings: strict),
        // The PDPIX behaviour suite, which every libOS passes unchanged.
        .testTarget(
            name: "BehaviourTests", dependencies: ["Demikernel", "TestSupport", "CDemikernelShims"], path: "Tests/DemikernelTests/Behaviour",
            swiftSettings: strict),
        .testTarget(name: "SimulatorTests", dependencies: ["DemikernelSimulator", "Demikernel", "TestSupport"], exclude: ["README.md"], swiftSettings: strict),
        // Packet-level conversations, judged frame by frame.
        .testTarget(
            name: "ScriptTests", dependencies: ["Demikernel", "DemikernelSimulator", .product(name: "SystemPackage", package: "swift-system")], exclude: ["Scripts", "README.md"], swiftSettings: strict),
        // What the tool decides by itself; Tests/Tool runs it.
        .testTarget(name: "DemiTests", dependencies: ["demi"], swiftSettings: strict),
        .testTarget(name: "PacketdrillTests", dependencies: ["DemikernelPacketdrill", "Demikernel", "DemikernelSimulator"], swiftSettings: strict),
        .testTarget(
            name: "DemikernelConfigurationTests",
            dependencies: ["Demikernel", "DemikernelConfiguration"],
            swiftSettings: strict),
    ],
    swiftLanguageModes: [.v6]
)
