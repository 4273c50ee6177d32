// swift-tools-version: 6.2
import PackageDescription

// A package of its own: the program is linked with libFuzzer, by flags on the command line that Scripts/fuzz knows, and by nothing else.
let package = Package(
    name: "demikernel-fuzzing",
    dependencies: [.package(name: "swift-demikernel", path: "..")],
    targets: [
        .executableTarget(
            name: "demi-fuzz",
            dependencies: [
                .product(name: "Demikernel", package: "swift-demikernel"),
                .product(name: "DemikernelConfiguration", package: "swift-demikernel"),
                .product(name: "DemikernelSimulator", package: "swift-demikernel"),
            ],
            swiftSettings: [.strictMemorySafety()])
    ],
    swiftLanguageModes: [.v6]
)
