import Demikernel
import Testing
@testable import DemikernelPacketdrill

struct PacketdrillSettingsTests {
    @Test func `without words the addresses are packetdrill's own`() {
        let settings = PacketdrillSettings()
        #expect(settings.local.map { "\($0.address)" } == ["192.168.0.1", "fd3d:fa7b:d17d::1"])
        #expect(settings.gateways.map { "\($0)" } == ["192.168.0.2", "fd3d:fa7b:d17d::2"])
        #expect(settings.mtu == 1_500 && settings.seed == 1 && settings.options.isEmpty && settings.ignored.isEmpty)
    }

    @Test func `words are taken, and those that are none are named`() {
        let settings = PacketdrillSettings("local=10.0.0.1/24,mtu=9000,mtu=12,seed=7,seed=x,options=mss+nop+ws,options=mss+what,gateway=nowhere,strange,other=1")
        #expect(settings.local.map { "\($0.address)" } == ["10.0.0.1"])
        #expect(settings.mtu == 9_000 && settings.seed == 7 && settings.options == [.mss, .nop, .ws])
        #expect(settings.ignored == ["mtu=12", "seed=x", "options=mss+what", "gateway=nowhere", "strange", "other=1"])
    }
}
