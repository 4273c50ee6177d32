"""Two or three network namespaces and virtual cables between them, for what tries the stack against the kernel's.

The namespaces have no names: they and the cables go with this process and what it has started, however it ends."""

import ctypes
import os
import signal
import subprocess

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1


def die_with_parent():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def enter(namespace):
    """Takes the calling thread there, for good."""
    if libc.setns(namespace.file, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "the network namespace cannot be entered")


class Namespace:
    def __init__(self):
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "no network namespace can be made")
        self.file = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        assert libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)
        self.path = f"/proc/{os.getpid()}/fd/{self.file}"
        self.run("ip", "link", "set", "lo", "up")

    def close(self):
        os.close(self.file)

    def command(self, *arguments):
        return ["nsenter", f"--net={self.path}", *arguments]

    def run(self, *arguments, check=True, timeout=120, **options):
        result = subprocess.run(self.command(*arguments), capture_output=True, timeout=timeout, preexec_fn=die_with_parent, **options)
        if check and result.returncode != 0:
            raise AssertionError(f"{' '.join(arguments)}: status {result.returncode}\n{result.stdout[-2000:]!r}\n{result.stderr[-2000:]!r}")
        return result

    def start(self, *arguments, **options):
        return subprocess.Popen(self.command(*arguments), preexec_fn=die_with_parent, **options)

    def shell(self, commands):
        self.run("sh", "-ec", commands)


def cable(first, first_name, second, second_name, mtu=1500):
    """A virtual Ethernet cable, both ends up."""
    first.run("ip", "link", "add", first_name, "mtu", str(mtu), "type", "veth", "peer", "name", second_name, "mtu", str(mtu), "netns", second.path)
    first.run("ip", "link", "set", first_name, "up")
    second.run("ip", "link", "set", second_name, "up")


def without_offloads(namespace, interface, *which):
    """Frames are as they would be on a wire: no longer than the MTU, with their checksums. `which`: tx, tso, gso, gro; all of them without it."""
    for name in which or ("tx", "tso", "gso", "gro"):
        namespace.run("ethtool", "-K", interface, name, "off")
