"""`pfkey doctor`: what this machine can do, what is missing, and the line that mends it.

Each check is a function that looks at one thing and changes nothing. `ok` means that pfkeyd can
work; a note says what else a reader should know.
"""

import contextlib
import ctypes
import errno
import fcntl
import gzip
import json
import os
import platform
import shutil
import socket
import stat
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pfkey import algorithms, crypto
from pfkey.algorithms import Kind
from pfkey.control import control_call
from pfkey.errors import PfkeyError, ShellError
from pfkey.run.probe import probe
from pfkey.transport import MOUNT_PROC, socket_path

SCHEMA_VERSION = 1
TUN = Path("/dev/net/tun")
IPV6_CONF = Path("/proc/sys/net/ipv6/conf")
STATUS = Path("/proc/self/status")
_DEVICE = "pfkey0"
_NAMES_MAX = 6
_MAJOR_MINOR = (10, 200)
_TUNGETFEATURES = 0x800454CF
_IFF_VNET_HDR = 0x4000
_AF_KEY = 15
_NETLINK_NETFILTER = 12
_NFT_GETGEN, _NLM_REQUEST, _NLMSG_ERROR = (10 << 8) | 16, 1, 2
_OWNED_TABLES_SINCE = (6, 9)
_RIGHTS = {"CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
_CONTAINER = "--cap-add NET_ADMIN --cap-add NET_RAW --device /dev/net/tun"
_NEW_ENOUGH = "use Linux 5.14 or later"
_FAQ_ALGORITHMS = ((Kind.ENCRYPT, "3des-cbc"), (Kind.ENCRYPT, "aes-cbc"),
                   (Kind.AUTH, "hmac-sha1"), (Kind.AUTH, "hmac-sha256"))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, whether it will do, what was seen, what mends it."""

    name: str
    ok: bool
    seen: str
    remedy: str = ""


def in_container() -> bool:
    """Whether this looks like a container, where remedies are options of its start."""
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def check_kernel() -> Finding:
    """Whether the kernel has PF_KEY and ESP of its own; pfkeyd needs neither."""
    has = {"AF_KEY": _has_af_key()}
    if config := _kernel_config():
        has["ESP"] = "\nCONFIG_INET_ESP=" in config
    yes = [name for name, there in has.items() if there]
    no = [f"no {name}" for name, there in has.items() if not there]
    own = f"{' and '.join(yes)} of its own, which pfkeyd does not use" if yes else ""
    without = f"{' and '.join(no)}: pfkeyd takes its place" if no else ""
    seen = "; ".join(part for part in (own, without) if part)
    return Finding("kernel", True, f"Linux {platform.release()} has {seen}")


def _has_af_key() -> bool:
    try:
        socket.socket(_AF_KEY, socket.SOCK_RAW, 2).close()
    except OSError as error:
        return error.errno in (errno.EPERM, errno.EACCES)  # refused, so it is there
    return True


def _kernel_config() -> str:
    """How the running kernel was configured; empty if it does not say."""
    with contextlib.suppress(OSError):
        return gzip.decompress(Path("/proc/config.gz").read_bytes()).decode()
    with contextlib.suppress(OSError):
        return Path(f"/boot/config-{platform.release()}").read_text()
    return ""


def has_ipv6() -> bool:
    """Whether this kernel knows IPv6: `ipv6.disable=1` takes it away for good."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return False
    return True


def check_tun() -> Finding:
    """Whether TUN devices can be made, and carry super-packets."""
    try:
        found = TUN.stat()
    except FileNotFoundError:
        remedy = f"mkdir -p {TUN.parent} && mknod -m 666 {TUN} c 10 200"
        return Finding("tun", False, f"{TUN} is missing", _or_container(remedy))
    number = (os.major(found.st_rdev), os.minor(found.st_rdev))
    if not stat.S_ISCHR(found.st_mode) or number != _MAJOR_MINOR:
        remedy = f"rm {TUN} && mknod -m 666 {TUN} c 10 200"
        return Finding("tun", False, f"{TUN} is not the device 10:200", remedy)
    try:
        fd = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError as error:
        if os.geteuid() == 0:  # a container's list of devices
            return Finding(
                "tun", False, f"{TUN}: {error.strerror}", _or_container(f"chmod 666 {TUN}")
            )
        return Finding("tun", False, f"{TUN}: {error.strerror}", f"chmod 666 {TUN}, as root")
    except OSError as error:
        return Finding("tun", False, f"{TUN}: {error.strerror}", "modprobe tun")
    try:
        features = struct.unpack("I", fcntl.ioctl(fd, _TUNGETFEATURES, bytes(4)))[0]
    finally:
        os.close(fd)
    if not features & _IFF_VNET_HDR:
        return Finding(
            "tun", False, f"{TUN} knows no IFF_VNET_HDR", "use a kernel with it (2.6.27)"
        )
    return Finding("tun", True, f"{TUN} opens, super-packets too")


def check_nftables() -> Finding:
    """Whether libnftables is there and the kernel has nftables."""
    try:
        ctypes.CDLL("libnftables.so.1")
    except OSError:
        return Finding("nftables", False, "libnftables.so.1 is missing",
                       "apt-get install libnftables1")  # fmt: skip
    try:
        refused = _ask_nftables()
    except OSError as error:
        refused = error.errno or errno.EIO
    if refused == errno.EPERM:
        return Finding("nftables", True, "libnftables loads; the kernel answers only with rights")
    if refused:
        return Finding("nftables", False, f"the kernel has none: {os.strerror(refused)}",
                       "modprobe nf_tables nf_tables_inet")  # fmt: skip
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    owned = (
        "tables can be owned: others cannot flush them"
        if release >= _OWNED_TABLES_SINCE
        else "tables cannot be owned before Linux 6.9: pfkeyd watches its own and puts it back"
    )
    return Finding("nftables", True, f"libnftables loads, the kernel answers; {owned}")


def _ask_nftables() -> int:
    """Ask for nftables' generation; 0 or the error number in the answer."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as asking:
        asking.settimeout(2)
        asking.send(struct.pack("=IHHIIBBH", 20, _NFT_GETGEN, _NLM_REQUEST, 1, 0, 0, 0, 0))
        answer = asking.recv(4096)
    kind = struct.unpack_from("=H", answer, 4)[0]
    return -int(struct.unpack_from("=i", answer, 16)[0]) if kind == _NLMSG_ERROR else 0


def check_ipv6() -> Finding:
    """Whether the TUN device can carry IPv6, where others do."""
    if not has_ipv6():
        return Finding("ipv6", True, "this kernel has none: there is only IPv4 to protect")
    switched_on = {
        conf.name: _is_ipv6_on(conf)
        for conf in sorted(IPV6_CONF.glob("*"))
        if conf.name not in ("all", "lo")
    }
    tun, fresh = switched_on.pop(_DEVICE, None), switched_on.pop("default", True)
    others = [name for name, is_on in switched_on.items() if is_on]
    if not others:
        return Finding("ipv6", True, "off on every device: there is only IPv4 to protect")
    seen = f"on {', '.join(others[:_NAMES_MAX])}{' …' if len(others) > _NAMES_MAX else ''}"
    if tun is False:
        return Finding("ipv6", False, f"{seen}, but off on {_DEVICE}: what is protected is dropped",
                       f"sysctl -w net.ipv6.conf.{_DEVICE}.disable_ipv6=0")  # fmt: skip
    knob = IPV6_CONF / "default" / "disable_ipv6"
    if tun is None and not fresh and os.geteuid() == 0 and not os.access(knob, os.W_OK):
        option = "--sysctl net.ipv6.conf.default.disable_ipv6=0"
        remedy = f"start the container with {option}"
        if not in_container():
            remedy = "mount -o remount,rw /proc/sys"
        return Finding("ipv6", False, f"{seen}, but {_DEVICE} cannot have it: {knob} is read-only",
                       remedy)  # fmt: skip
    return Finding("ipv6", True, seen)


def _is_ipv6_on(conf: Path) -> bool:
    with contextlib.suppress(OSError):
        return (conf / "disable_ipv6").read_text().strip() == "0"
    return False


def check_rights() -> Finding:
    """Whether this user may do what pfkeyd does."""
    mask = 0
    try:
        status = STATUS.read_text()
    except OSError as error:
        return Finding("rights", False, f"{STATUS}: {error.strerror}", MOUNT_PROC)
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            mask = int(line.split()[1], 16)
    missing = [name for name, bit in _RIGHTS.items() if not mask >> bit & 1]
    if not missing:
        return Finding("rights", True, ", ".join(_RIGHTS))
    remedy = _or_container("") if os.geteuid() == 0 else "sudo pfkeyd, or as root"
    return Finding("rights", False, f"{', '.join(missing)} missing", remedy)


def check_crypto() -> Finding:
    """Which algorithms work, found by doing each once."""
    works = crypto.probe()
    lacking = []
    for kind, name in _FAQ_ALGORITHMS:
        row = algorithms.by_name(kind, name)
        if row is None or (kind.value, row.number) not in works:
            lacking.append(name)
    if lacking:
        return Finding("crypto", False, f"{', '.join(lacking)} fail",
                       "leave FIPS mode: OPENSSL_FORCE_FIPS_MODE=0 pfkeyd")  # fmt: skip
    seen = [
        " ".join(
            row.name for row in rows if row.is_offered and (row.kind.value, row.number) in works
        )
        for rows in (algorithms.ENCRYPT, algorithms.AUTH)
    ]
    return Finding("crypto", True, "; ".join(seen))


def check_tools() -> Finding:
    """Whether the programs are there that `pfkey lab` runs."""
    packages = {"ip": "iproute2", "ping": "iputils-ping", "nsenter": "util-linux",
                "setpriv": "util-linux", "unshare": "util-linux", "sysctl": "procps"}  # fmt: skip
    missing = [name for name in packages if shutil.which(name) is None]
    if missing:
        wanted = " ".join(dict.fromkeys(packages[name] for name in missing))
        return Finding("lab", False, f"{', '.join(missing)} missing", f"apt-get install {wanted}")
    return Finding("lab", True, "pfkey lab has its programs")


def check_run() -> Finding:
    """Whether programs can be run under `pfkey run`."""
    found = probe()
    if found.gives:
        more = (
            "and their sockets policies"
            if found.takes
            else "but no policies of sockets: pidfd_getfd(2) is forbidden here"
            " (Docker: --cap-add SYS_PTRACE)"
        )
        return Finding("run", True, f"pfkey run can give programs PF_KEY sockets, {more}")
    why = found.why or "a program that is supervised cannot be given a descriptor"
    return Finding("run", False, f"pfkey run cannot: {why}", found.remedy or _NEW_ENOUGH)


def check_pfkeyd(environ: Mapping[str, str]) -> Finding:
    """Whether a pfkeyd answers in this network namespace."""
    try:
        path = socket_path(environ)
        status = control_call(path, "status")
    except ShellError as error:
        return Finding("pfkeyd", False, error.what, error.remedy.removeprefix("start it with: "))
    except (PfkeyError, OSError) as error:
        return Finding("pfkeyd", False, str(error), "restart pfkeyd")
    parts = [f"pid {status['pid']}", _count(status["sas"], "SA", "SAs")]
    parts.append(_count(status["policies"], "policy", "policies"))
    if holds := status.get("holds", 0):
        parts.append(f"{_count(holds, 'hold', 'holds')} of a pfkeyd that died: what it protected"
                     " stays closed until its policies are back, or setkey -FP")  # fmt: skip
    if not status.get("dataplane", True):
        parts.append("no data path (--no-dataplane)")
    elif "owned_table" in status:
        parts.append("owned table" if status["owned_table"] else "plain table, watched")
    return Finding("pfkeyd", True, f"{path}: {', '.join(parts)}")


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def _or_container(remedy: str) -> str:
    if in_container():
        return f"start the container with {_CONTAINER}"
    return remedy or f"run with all rights of root (a container: {_CONTAINER})"


def examine(environ: Mapping[str, str]) -> list[Finding]:
    """All findings, in the order of importance."""
    checks: tuple[Callable[[], Finding], ...] = (
        check_kernel, check_tun, check_nftables, check_ipv6, check_rights, check_crypto,
        check_tools, check_run,
    )  # fmt: skip
    return [check() for check in checks] + [check_pfkeyd(environ)]


def render(findings: Iterable[Finding]) -> str:
    """A line for each finding, and the remedy below what is missing."""
    lines = []
    for f in findings:
        lines.append(f"{'ok' if f.ok else 'MISSING':8}{f.name:10}{f.seen}")
        if not f.ok:
            lines.append(f"{'':18}mend it: {f.remedy}")
    return "\n".join(lines)


def document(findings: Iterable[Finding]) -> str:
    """The JSON document of `schemas/doctor.json`."""
    rows = [{"name": f.name, "ok": f.ok, "seen": f.seen, "remedy": f.remedy} for f in findings]
    return json.dumps(
        {"schema_version": SCHEMA_VERSION, "ok": all(r["ok"] for r in rows), "findings": rows},
        indent=2,
    )
