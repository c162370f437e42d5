"""The TUN device that carries what policies select: virtio-net headers, super-packets.

Each record read or written is a 10-octet `virtio_net_hdr` (little-endian on the machines we know:
the host's order) and an IP packet of up to 65535 octets. The MTU is 65535 so that datagrams
arrive whole: transport mode protects datagrams, not fragments (RFC 4303 section 3.3.4).

The device bears the IPv4 dummy address 192.0.0.8 (RFC 7600) with host scope, so that it is never
chosen as a source: with rp_filter on, Linux drops what comes in by a device without any address.
IPv6 is on, without any address, not even a link-local one, and so without solicitations. It is on
even where `all` says off: containers run so and switch it on for single devices, and while no
other device has IPv6 there is nothing that could pass.
"""

import errno
import fcntl
import os
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path

from pfkey.errors import ShellError

VNET_HEADER_OCTETS = 10
MTU = 65535
QUEUE_PACKETS = 4096

_CLONE = "/dev/net/tun"
_TUNSETIFF, _TUNGETIFF = 0x400454CA, 0x800454D2
_TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454D0, 0x400454D8
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_TUN_EXCL = 0x1, 0x1000, 0x4000, 0x8000
_CSUM, _TSO4, _TSO6, _USO4, _USO6 = 0x1, 0x2, 0x4, 0x20, 0x40
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCGIFMTU = 0x8913, 0x8914, 0x8921
_SIOCGIFINDEX, _SIOCGIFADDR, _SIOCSIFNAME = 0x8933, 0x8915, 0x8923
_IFF_UP = 0x1

_DUMMY_ADDRESS = bytes((192, 0, 0, 8))
_SCOPE_HOST = 254
_RTM_NEWLINK, _IFLA_MTU, _IFLA_TXQLEN, _IFLA_AF_SPEC, _IFLA_INET_CONF = 16, 4, 13, 26, 1
_RTM_NEWADDR, _IFA_ADDRESS, _IFA_LOCAL = 20, 1, 2
_REQUEST, _ACK, _REPLACE, _CREATE = 0x1, 0x4, 0x100, 0x400
_NESTED = 0x8000
# IPV4_DEVCONF_*: accept_redirects, secure_redirects, send_redirects off; rp_filter loose, because
# 0 would not prevail over `all` = 1; no source routes
_IPV4_CONF = {4: 0, 5: 0, 6: 0, 8: 2, 9: 0}
_IPV6_CONF = {"addr_gen_mode": 1, "autoconf": 0, "accept_ra": 0, "accept_redirects": 0,
              "router_solicitations": 0, "accept_source_route": -1}  # fmt: skip
_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE = 8, 1

_NO_DEVICE_NODE = (
    "mkdir -p /dev/net && mknod /dev/net/tun c 10 200 && chmod 0666 /dev/net/tun"
    " (in a container: --device /dev/net/tun)"
)
_NO_RIGHT = "run as root, or with CAP_NET_ADMIN in this network namespace (--cap-add NET_ADMIN)"


class Tun:
    """A TUN device of this process, in the network namespace of the thread that calls `open`.

    `fd` is close-on-exec and non-blocking. Should somebody delete the device, `ensure` attaches a
    new one to the same open file, so that workers keep the descriptors they were given; until
    then reads and writes fail with EBADFD.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.fd = -1
        self._beyond_us: list[str] = []  # settings of IPv6 that we could not make

    @property
    def index(self) -> int:
        """The interface index."""
        return int(struct.unpack_from("=i", self._interface(_SIOCGIFINDEX), 16)[0])

    def open(self, wait_seconds: float = 0.0) -> None:
        """Make the device, down.

        `wait_seconds` is for workers of a dead predecessor, whose device ends when they do.

        Raises:
            ShellError: no device node, no right, or the name is taken; with the remedy.
        """
        try:
            self.fd = os.open(_CLONE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ShellError(f"{_CLONE} is missing", _NO_DEVICE_NODE) from None
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ENXIO):
                raise ShellError("this kernel has no TUN devices", "modprobe tun") from None
            raise ShellError(
                f"{_CLONE}: {error.strerror}", "run as root (in a container: --device /dev/net/tun)"
            ) from None
        deadline = time.monotonic() + wait_seconds
        try:
            while True:
                try:
                    self._attach()
                except OSError as error:
                    if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                        raise self._refusal(error) from None
                    time.sleep(0.02)
                else:
                    return
        except BaseException:
            self.close()
            raise

    def _refusal(self, error: OSError) -> ShellError:
        if error.errno in (errno.EBUSY, errno.EEXIST):
            return ShellError(
                f"the device name {self.name} is taken",
                f"stop the program that uses it, or ip link delete {self.name}",
            )
        if error.errno == errno.EPERM:
            return ShellError(f"the device {self.name} may not be made", _NO_RIGHT)
        return ShellError(f"the device {self.name} cannot be made: {error.strerror}")

    def _attach(self) -> None:
        flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_TUN_EXCL
        fcntl.ioctl(self.fd, _TUNSETIFF, struct.pack("=16sH22x", self.name.encode(), flags))
        fcntl.ioctl(self.fd, _TUNSETVNETHDRSZ, struct.pack("=i", VNET_HEADER_OCTETS))
        offloads = _CSUM | _TSO4 | _TSO6
        try:
            fcntl.ioctl(self.fd, _TUNSETOFFLOAD, offloads | _USO4 | _USO6)
        except OSError:  # before Linux 6.2
            fcntl.ioctl(self.fd, _TUNSETOFFLOAD, offloads)

    @property
    def is_attached(self) -> bool:
        """Whether the device still exists under our name."""
        return self._name_now() == self.name.encode()

    def _name_now(self) -> bytes:
        """What it is called, which others may have changed; empty if it is gone."""
        try:
            answer = fcntl.ioctl(self.fd, _TUNGETIFF, bytes(40))
        except OSError:
            return b""
        return answer[:16].rstrip(b"\0")

    def start(self) -> None:
        """Set what the device needs and bring it up."""
        self._set_link()
        self._set_address()
        self._set_ipv6()
        try:
            self._interface(_SIOCSIFFLAGS, struct.pack("=H", self._flags | _IFF_UP))
        except OSError as error:
            raise self._refusal(error) from None

    def ensure(self) -> list[str]:
        """Put back what others took: the device, its state, its MTU. Says what it put back."""
        if not self.is_attached:
            name = self._name_now()
            try:
                if name:
                    self._rename(name)
                else:
                    self._attach()
            except OSError as error:
                raise self._refusal(error) from None
            self.start()
            return [f"device {self.name}"]
        restored = []
        if not self._flags & _IFF_UP:
            restored.append(f"{self.name} up")
        if struct.unpack_from("=i", self._interface(_SIOCGIFMTU), 16)[0] != MTU:
            restored.append(f"{self.name} mtu {MTU}")
        try:
            self._interface(_SIOCGIFADDR)
        except OSError:
            restored.append(f"{self.name} address")
        wrong = [key for key in self._ipv6_wrong() if key not in self._beyond_us]
        if restored or wrong:
            self.start()
        if wrong and not self._ipv6_wrong():
            restored.append(f"{self.name} IPv6")
        return restored

    def close(self) -> None:
        """Close our descriptor; the device ends with the last copy of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def _flags(self) -> int:
        return int(struct.unpack_from("=H", self._interface(_SIOCGIFFLAGS), 16)[0])

    def _interface(self, request: int, value: bytes = b"", name: bytes = b"") -> bytes:
        """One classic interface ioctl; the whole `ifreq` as answered."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            ifreq = struct.pack("=16s24s", name or self.name.encode(), value)
            return fcntl.ioctl(any_socket, request, ifreq)

    def _rename(self, name: bytes) -> None:
        """Give it its name back. It goes down for that, as kernels before 6.2 want."""
        self._interface(_SIOCSIFFLAGS, struct.pack("=H", 0), name)
        self._interface(_SIOCSIFNAME, self.name.encode(), name)

    def _set_link(self) -> None:
        """MTU, queue, and what sysctl would set: containers often have a read-only /proc/sys,
        and in a user namespace the ioctl for the queue's length is refused.
        """
        plain = struct.pack("=HHIHHI", 8, _IFLA_MTU, MTU, 8, _IFLA_TXQLEN, QUEUE_PACKETS)
        conf = b"".join(struct.pack("=HHI", 8, key, value) for key, value in _IPV4_CONF.items())
        for kind in (_IFLA_INET_CONF, socket.AF_INET, _IFLA_AF_SPEC):
            conf = struct.pack("=HH", 4 + len(conf), kind | _NESTED) + conf
        link = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, self.index, 0, 0)
        self._netlink(_RTM_NEWLINK, 0, link + plain + conf)

    def _set_address(self) -> None:
        body = struct.pack("=BBBBi", socket.AF_INET, 32, 0, _SCOPE_HOST, self.index)
        for kind in (_IFA_LOCAL, _IFA_ADDRESS):
            body += struct.pack("=HH", 8, kind) + _DUMMY_ADDRESS
        self._netlink(_RTM_NEWADDR, _CREATE | _REPLACE, body)

    def _set_ipv6(self) -> None:
        """IPv6 on, without addresses: those that a foreign hand brought about go as well.

        Without /proc/sys (read-only in many containers) only the addresses can be kept away.
        """
        if self._ipv6_wrong():
            self._mend_ipv6()
            self._beyond_us = self._ipv6_wrong()

    def _mend_ipv6(self) -> None:
        with suppress(OSError):
            self._ipv6_conf("disable_ipv6").write_text("1")
        mode = struct.pack("=HHB3x", 5, _IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE)
        for kind in (socket.AF_INET6, _IFLA_AF_SPEC):
            mode = struct.pack("=HH", 4 + len(mode), kind | _NESTED) + mode
        with suppress(ShellError):  # no IPv6 in this kernel
            link = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, self.index, 0, 0)
            self._netlink(_RTM_NEWLINK, 0, link + mode)
        for key, value in (*_IPV6_CONF.items(), ("disable_ipv6", 0)):
            with suppress(OSError):
                self._ipv6_conf(key).write_text(str(value))

    def _ipv6_wrong(self) -> list[str]:
        """The IPv6 settings of the device that are not as they should be; none without IPv6."""
        wrong = []
        for key, value in (*_IPV6_CONF.items(), ("disable_ipv6", 0)):
            with suppress(OSError):
                if int(self._ipv6_conf(key).read_text()) != value:
                    wrong.append(key)
        return wrong

    def _ipv6_conf(self, key: str) -> Path:
        return Path(f"/proc/sys/net/ipv6/conf/{self.name}/{key}")

    def _netlink(self, kind: int, flags: int, body: bytes) -> None:
        header = struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, 1, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
            link.settimeout(10)
            link.sendto(header + body, (0, 0))
            failure = -struct.unpack_from("=i", link.recv(65536), 16)[0]
        if failure:
            raise ShellError(f"{self.name} cannot be set up: {os.strerror(failure)}", _NO_RIGHT)
