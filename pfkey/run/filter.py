"""The seccomp filter of `pfkey run`, as data: which system calls the supervisor is asked about.

Sans-IO: a table of system calls and a machine's name in, octets for seccomp(2) out. The program is
classic BPF over `struct seccomp_data`: number, architecture and arguments in the host's order; it
cannot follow pointers. Per architecture it looks at

    socket      the family: PF_KEY is made by the supervisor
    socketpair  the family: PF_KEY has none
    recv…       MSG_PEEK: racoon looks for its reply right after it has sent
    poll        one descriptor and a short wait: iked gives its reply 1 ms
    setsockopt, getsockopt
                the policies of a socket, and its mark, which says them; UDP_ENCAP

All else is allowed, and for most calls the kernel knows that without running the program. A
comparison takes the lower 32 bits, because the kernel takes an `int` there.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

AF_INET, AF_KEY, AF_PACKET, AF_XDP = 2, 15, 17, 44
MSG_PEEK, MSG_FASTOPEN = 2, 0x20000000
EOPNOTSUPP, EAFNOSUPPORT, ENOSYS = 95, 97, 38
SHORT_POLL_MS = 10
SOL_IP, SOL_SOCKET, SOL_UDP, SOL_IPV6 = 0, 1, 17, 41
SO_MARK, UDP_ENCAP = 36, 100
IP_IPSEC_POLICY, IP_XFRM_POLICY, IPV6_IPSEC_POLICY, IPV6_XFRM_POLICY = 16, 17, 34, 35
_OPTIONS = {
    SOL_IP: (IP_IPSEC_POLICY, IP_XFRM_POLICY),
    SOL_IPV6: (IPV6_IPSEC_POLICY, IPV6_XFRM_POLICY),
    SOL_UDP: (UDP_ENCAP,),
}

_LD, _AND, _JMP_EQ, _JMP_GE, _JMP_GT, _JMP_SET, _RET = 0x20, 0x54, 0x15, 0x35, 0x25, 0x45, 0x06
_SOCK_TYPE_MASK, _SOCK_PACKET = 0xF, 10  # of AF_INET, another name for a packet socket
KILL, ERRNO, NOTIFY, ALLOW = 0x80000000, 0x00050000, 0x7FC00000, 0x7FFF0000
_NR, _ARCH, _ARGS = 0, 4, 16
_X32_BIT = 0x40000000


@dataclass(frozen=True, slots=True, kw_only=True)
class Abi:
    """How one kind of program makes system calls; where there is no poll, ppoll takes its place.

    Numbers of `arch/*/entry/syscalls/*.tbl` and `asm-generic/unistd.h`, held to the installed
    headers by the tests. `arch` is AUDIT_ARCH_*.
    """

    name: str
    arch: int
    socket: int
    socketpair: int
    recvfrom: int
    recvmsg: int
    recvmmsg: int
    poll: int | None
    ppoll: int
    connect: int
    listen: int
    setsockopt: int
    getsockopt: int
    seccomp: int
    pidfd_open: int
    pidfd_getfd: int
    sendto: int
    sendmsg: int
    sendmmsg: int
    socketcall: int | None = None
    io_uring_setup: int = 425
    io_uring_enter: int = 426
    io_uring_register: int = 427
    has_x32: bool = False  # a second set of numbers under the same architecture

    @property
    def begins(self) -> tuple[int, ...]:
        """What may begin a connection: sendto and its kin with MSG_FASTOPEN."""
        return self.connect, self.listen, self.sendto, self.sendmsg, self.sendmmsg


X86_64 = Abi(
    name="x86-64", arch=0xC000003E, socket=41, socketpair=53, recvfrom=45, recvmsg=47,
    recvmmsg=299, poll=7, ppoll=271, connect=42, listen=50, setsockopt=54, getsockopt=55,
    sendto=44, sendmsg=46, sendmmsg=307, seccomp=317, pidfd_open=434,
    pidfd_getfd=438, has_x32=True,
)  # fmt: skip
I386 = Abi(
    name="i386", arch=0x40000003, socket=359, socketpair=360, recvfrom=371, recvmsg=372,
    recvmmsg=337, poll=168, ppoll=309, connect=362, listen=363, setsockopt=366, getsockopt=365,
    sendto=369, sendmsg=370, sendmmsg=345, socketcall=102, seccomp=354,
    pidfd_open=434, pidfd_getfd=438,
)  # fmt: skip
ARM64 = Abi(
    name="arm64", arch=0xC00000B7, socket=198, socketpair=199, recvfrom=207, recvmsg=212,
    recvmmsg=243, poll=None, ppoll=73, connect=203, listen=201, setsockopt=208, getsockopt=209,
    sendto=206, sendmsg=211, sendmmsg=269, seccomp=277, pidfd_open=434, pidfd_getfd=438,
)  # fmt: skip

# What a machine runs, by `uname -m`; the first is its own.
MACHINES: dict[str, tuple[Abi, ...]] = {
    "x86_64": (X86_64, I386),
    "aarch64": (ARM64,),
}

_Instruction = tuple[int, int, int, int]  # code, skip if true, skip if false, operand


def native(machine: str) -> Abi:
    """How the machine's own programs call.

    Raises:
        KeyError: this machine has no line in the table.
    """
    return MACHINES[machine][0]


def program(machine: str, *, joins: bool = False) -> bytes:
    """The filter for all that the machine runs, as an array of `struct sock_filter`.

    With `joins` it also asks about all that begins a connection, see `pfkey.run.group`; what would
    begin one behind a pointer is no system call then: io_uring, and socketcall of i386. Sockets
    that send beside nft are of no family then: packet sockets. A program of another architecture is
    ended by SIGSYS: what it calls could not be told.

    Raises:
        KeyError: this machine has no line in the table.
    """
    code: list[_Instruction] = [(_LD, 0, 0, _ARCH)]
    for abi in MACHINES[machine]:
        block = _block(abi, joins=joins)
        code += [(_JMP_EQ, 0, len(block), abi.arch), *block]
    code.append(_ret(KILL))
    return b"".join(struct.pack("=HBBI", *one) for one in code)


def _block(abi: Abi, *, joins: bool) -> list[_Instruction]:
    """What is done with a system call of this kind; it never ends without a verdict."""
    cases = [
        (abi.socket, _if_socket() if joins else _if_equal(0, AF_KEY, NOTIFY)),
        (abi.socketpair, _if_equal(0, AF_KEY, ERRNO | EOPNOTSUPP)),
        (abi.recvfrom, _if_set(3, MSG_PEEK)),
        (abi.recvmsg, _if_set(2, MSG_PEEK)),
        (abi.recvmmsg, _if_set(3, MSG_PEEK)),
        *(_joins(abi) if joins else ()),
        (abi.setsockopt, _if_options({**_OPTIONS, SOL_SOCKET: (SO_MARK,)})),
        (abi.getsockopt, _if_options(_OPTIONS)),
        (abi.poll, _if_short_poll()) if abi.poll is not None else (abi.ppoll, _if_one_waits()),
    ]
    code: list[_Instruction] = [(_LD, 0, 0, _NR)]
    if abi.has_x32:  # as a kernel without x32 does
        code += [(_JMP_GE, 0, 1, _X32_BIT), _ret(ERRNO | ENOSYS)]
    for number, case in cases:
        code += [(_JMP_EQ, 0, len(case), number), *case]
    return [*code, _ret(ALLOW)]


def _joins(abi: Abi) -> Iterator[tuple[int, list[_Instruction]]]:
    yield abi.connect, [_ret(NOTIFY)]
    yield abi.listen, [_ret(NOTIFY)]
    yield abi.sendto, _if_set(3, MSG_FASTOPEN)
    yield abi.sendmsg, _if_set(2, MSG_FASTOPEN)
    yield abi.sendmmsg, _if_set(3, MSG_FASTOPEN)
    hidden = (abi.socketcall, abi.io_uring_setup, abi.io_uring_enter, abi.io_uring_register)
    for hides in hidden:
        if hides is not None:
            yield hides, [_ret(ERRNO | ENOSYS)]


def _ret(verdict: int) -> _Instruction:
    return (_RET, 0, 0, verdict)


def _low(argument: int) -> _Instruction:
    """Load the lower half; both orders of octets that we know have it first."""
    return (_LD, 0, 0, _ARGS + 8 * argument)


def _high(argument: int) -> _Instruction:
    return (_LD, 0, 0, _ARGS + 8 * argument + 4)


def _if_equal(argument: int, value: int, verdict: int) -> list[_Instruction]:
    return [_low(argument), (_JMP_EQ, 0, 1, value), _ret(verdict), _ret(ALLOW)]


def _if_socket() -> list[_Instruction]:
    """PF_KEY, and what sends beside nft."""
    return [
        _low(0),
        (_JMP_EQ, 0, 1, AF_KEY), _ret(NOTIFY),
        (_JMP_EQ, 5, 0, AF_PACKET),
        (_JMP_EQ, 4, 0, AF_XDP),
        (_JMP_EQ, 0, 4, AF_INET),
        _low(1), (_AND, 0, 0, _SOCK_TYPE_MASK),
        (_JMP_EQ, 0, 1, _SOCK_PACKET), _ret(ERRNO | EAFNOSUPPORT),
        _ret(ALLOW),
    ]  # fmt: skip


def _if_set(argument: int, bits: int) -> list[_Instruction]:
    return [_low(argument), (_JMP_SET, 0, 1, bits), _ret(NOTIFY), _ret(ALLOW)]


def _if_options(options: Mapping[int, Sequence[int]]) -> list[_Instruction]:
    """One of these options of these levels."""
    code = [_low(1)]
    for level, names in options.items():
        code += [(_JMP_EQ, 0, 3 + len(names), level), _low(2)]
        code += [(_JMP_EQ, len(names) - at, 0, name) for at, name in enumerate(names)]
        code += [_ret(ALLOW), _ret(NOTIFY)]
    return [*code, _ret(ALLOW)]


def _if_short_poll() -> list[_Instruction]:
    """poll(fds, 1, up to 10 ms); a negative time, which is for ever, is a large number here."""
    return [
        _low(1), (_JMP_EQ, 0, 2, 1),
        _low(2), (_JMP_GT, 0, 1, SHORT_POLL_MS),
        _ret(ALLOW), _ret(NOTIFY),
    ]  # fmt: skip


def _if_one_waits() -> list[_Instruction]:
    """ppoll(fds, 1, any time but for ever): the time is behind a pointer."""
    return [
        _low(1), (_JMP_EQ, 0, 4, 1),
        _low(2), (_JMP_EQ, 0, 3, 0),
        _high(2), (_JMP_EQ, 0, 1, 0),
        _ret(ALLOW), _ret(NOTIFY),
    ]  # fmt: skip
