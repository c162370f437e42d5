"""The filter as data: numbers of the kernel's headers, and verdicts on any system call."""

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey.run import filter
from pfkey.run.filter import ALLOW, ARM64, ERRNO, I386, KILL, MACHINES, NOTIFY, X86_64, Abi

HEADERS = {"x86-64": "unistd_64.h", "i386": "unistd_32.h", "arm64": "asm-generic/unistd.h"}
INCLUDE = Path("/usr/include")
CALLS = [name for name in Abi.__slots__ if name not in ("name", "arch", "has_x32")]
ABIS = [X86_64, I386, ARM64]
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)


def header(name: str) -> str:
    """A kernel header, wherever the distribution puts it."""
    found = [INCLUDE / name, *INCLUDE.glob(f"*/asm/{name}"), INCLUDE / "asm" / name]
    return next(path for path in found if path.exists()).read_text()


def verdict(machine: str, arch: int, number: int, *arguments: int, joins: bool = False) -> int:
    """What the kernel would do: the program run over a `struct seccomp_data`."""
    data = struct.pack("=iIQ6Q", _signed(number), arch, 0, *(*arguments, *[0] * 6)[:6])
    code = list(struct.iter_unpack("=HBBI", filter.program(machine, joins=joins)))
    a = at = 0
    while True:
        kind, yes, no, k = code[at]
        at += 1
        match kind:
            case 0x20:
                (a,) = struct.unpack_from("=I", data, k)
            case 0x54:
                a &= k
            case 0x06:
                return int(k)
            case _:
                holds = {0x15: a == k, 0x35: a >= k, 0x25: a > k, 0x45: bool(a & k)}[kind]
                at += yes if holds else no


def _signed(number: int) -> int:
    return number - 2**32 if number >= 2**31 else number


@pytest.mark.parametrize("abi", ABIS, ids=lambda abi: abi.name)
def test_numbers_are_those_of_the_kernels_headers(abi: Abi) -> None:
    text = header(HEADERS[abi.name])
    for name in CALLS:
        written = re.search(rf"#define __NR3?_?(?:NR_)?{name}\s+(\d+)", text)
        expected = int(written[1]) if written else None
        assert getattr(abi, name) == expected, name


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("joins", [False, True])
def test_every_path_of_the_program_ends_in_a_verdict(machine: str, joins: bool) -> None:
    code = list(struct.iter_unpack("=HBBI", filter.program(machine, joins=joins)))
    assert len(code) < 4096
    for at, (kind, yes, no, _) in enumerate(code):
        if kind & 7 == 5:
            assert at + 1 + max(yes, no) < len(code)
    assert code[-1][0] == 6


MACHINE_OF = {abi.name: machine for machine, abis in MACHINES.items() for abi in abis}
abis = st.sampled_from(ABIS)


@given(abis, u32, st.lists(u64, min_size=6, max_size=6))
def test_only_what_is_asked_about_is_notified(abi: Abi, number: int, given: list[int]) -> None:
    found = verdict(MACHINE_OF[abi.name], abi.arch, number, *given)
    listed = {getattr(abi, name) for name in CALLS if name != "seccomp"}
    if number not in listed:
        is_x32 = abi.has_x32 and number >= 0x40000000
        assert found == (ERRNO | 38 if is_x32 else ALLOW)


@given(abis, u64, u64)
def test_socket_is_notified_for_pf_key_whatever_stands_above_the_int(
    abi: Abi, domain: int, above: int
) -> None:
    machine = MACHINE_OF[abi.name]
    key = above >> 32 << 32 | 15
    assert verdict(machine, abi.arch, abi.socket, key, 3, 2) == NOTIFY
    assert verdict(machine, abi.arch, abi.socketpair, key, 3, 2) == ERRNO | 95
    if domain & 0xFFFFFFFF != 15:
        assert verdict(machine, abi.arch, abi.socket, domain, 3, 2) == ALLOW
        assert verdict(machine, abi.arch, abi.socketpair, domain, 3, 2) == ALLOW


@given(abis, u64, u64)
def test_sockets_beside_nft_are_of_no_family_where_all_have_a_policy(
    abi: Abi, domain: int, kind: int
) -> None:
    def said(domain: int, kind: int) -> int:
        return verdict(MACHINE_OF[abi.name], abi.arch, abi.socket, domain, kind, 0, joins=True)

    above = domain >> 32 << 32
    for family in (17, 44):
        assert said(above | family, kind) == ERRNO | 97
    assert said(above | 2, kind & ~0xF | 10) == ERRNO | 97
    assert said(above | 2, kind & ~0xF | 2) == ALLOW
    assert said(above | 15, kind) == NOTIFY
    if domain & 0xFFFFFFFF not in (2, 15, 17, 44):
        assert said(domain, kind) == ALLOW


@given(abis, u64)
def test_receiving_is_notified_when_it_peeks(abi: Abi, flags: int) -> None:
    machine = MACHINE_OF[abi.name]
    expected = NOTIFY if flags & 2 else ALLOW
    assert verdict(machine, abi.arch, abi.recvfrom, 5, 0, 0, flags) == expected
    assert verdict(machine, abi.arch, abi.recvmsg, 5, 0, flags) == expected
    assert verdict(machine, abi.arch, abi.recvmmsg, 5, 0, 0, flags) == expected


@given(st.sampled_from([X86_64, I386]), st.integers(0, 3), st.integers(-(2**31), 2**31 - 1))
def test_poll_is_notified_for_one_descriptor_and_a_moment(abi: Abi, count: int, ms: int) -> None:
    expected = NOTIFY if count == 1 and 0 <= ms <= 10 else ALLOW
    assert abi.poll is not None
    assert verdict("x86_64", abi.arch, abi.poll, 0, count, ms % 2**32) == expected
    assert verdict("x86_64", abi.arch, abi.ppoll, 0, 1, 2**40) == ALLOW


@given(st.integers(0, 3), u64)
def test_ppoll_is_notified_where_there_is_no_poll(count: int, time: int) -> None:
    expected = NOTIFY if count == 1 and time else ALLOW
    assert verdict("aarch64", ARM64.arch, ARM64.ppoll, 0, count, time) == expected


@pytest.mark.parametrize("machine", MACHINES)
@given(arch=u32)
def test_a_program_of_another_architecture_is_ended(machine: str, arch: int) -> None:
    if arch not in {abi.arch for abi in MACHINES[machine]}:
        assert verdict(machine, arch, 1) == KILL


OPTIONS = {(0, 16), (0, 17), (41, 34), (41, 35), (17, 100)}


@given(abis, st.sampled_from([0, 1, 6, 17, 41]), st.integers(0, 120), u64)
def test_options_of_policies_are_notified_and_a_mark_that_is_set(
    abi: Abi, level: int, name: int, above: int
) -> None:
    machine = MACHINE_OF[abi.name]
    high = above >> 32 << 32  # not looked at: the kernel takes an int
    is_policy = (level, name) in OPTIONS
    args = (3, high | level, high | name, 0, 4)
    got = verdict(machine, abi.arch, abi.getsockopt, *args)
    assert got == (NOTIFY if is_policy else ALLOW)
    got = verdict(machine, abi.arch, abi.setsockopt, *args)
    assert got == (NOTIFY if is_policy or (level, name) == (1, 36) else ALLOW)


@given(abis, u64)
def test_what_begins_a_connection_is_notified_where_all_have_a_policy(abi: Abi, flags: int) -> None:
    machine = MACHINE_OF[abi.name]
    fast = bool(flags & 0x20000000)
    flagged = {abi.sendto: 3, abi.sendmsg: 2, abi.sendmmsg: 3}
    for number in (abi.connect, abi.listen, *flagged):
        args = [0, 0, 0, 0]
        args[flagged.get(number, 0)] = flags
        is_told = number not in flagged or fast
        assert verdict(machine, abi.arch, number, *args) == ALLOW
        assert verdict(machine, abi.arch, number, *args, joins=True) == (
            NOTIFY if is_told else ALLOW
        )


@pytest.mark.parametrize("abi", ABIS, ids=lambda abi: abi.name)
def test_what_hides_a_connection_is_no_call_there(abi: Abi) -> None:
    hiding = [425, 426, 427, *([102] if abi is I386 else [])]
    for number in hiding:
        assert verdict(MACHINE_OF[abi.name], abi.arch, number) == ALLOW
        assert verdict(MACHINE_OF[abi.name], abi.arch, number, joins=True) == ERRNO | 38
