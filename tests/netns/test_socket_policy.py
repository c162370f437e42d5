"""Policies of single sockets with real packets: what the wire sees, who gets what, who wins."""

import os
import re
import signal
import socket
import struct
from collections.abc import Iterator
from errno import EINVAL, EMSGSIZE, EOPNOTSUPP, EPERM
from functools import partial
from pathlib import Path

import pytest

from pfkey import get_policy, set_policy
from pfkey.const import Dir
from pfkey.lab.hosts import Host, Net
from tests.support.keymanager import KeyManager, negotiate
from tests.support.socket_hosts import (
    AH,
    BYPASS,
    ESP,
    ICMP,
    ICMPV6,
    IN,
    OUT,
    REQUIRE,
    TCP,
    UDP,
    WORD,
    Two,
    is_empty,
    ports,
)
from tests.support.system import A6, AUTHENTIC_KEYS, B6, A, B, require, until
from tests.support.wire import checksum

pytestmark = [pytest.mark.root, pytest.mark.slow]

GUIDE = Path(__file__).parents[2] / "docs" / "run.md"
AH_KEYS = f"""
add {A} {B} ah 0x700 -r 32 -A hmac-sha1 "0123456789abcdef0123";
add {B} {A} ah 0x701 -r 32 -A hmac-sha1 "0123456789abcdef0123";
"""
TUNNEL_KEYS = f"""
add {A} {B} esp 0x800 -m tunnel -r 32 -E aes-cbc "hogehogehogehoge"
    -A hmac-sha1 "0123456789abcdef0123";
add {B} {A} esp 0x801 -m tunnel -r 32 -E aes-cbc "hogehogehogehoge"
    -A hmac-sha1 "0123456789abcdef0123";
"""


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with Net() as net:
        made = Two(net, tmp_path_factory.mktemp("sockets"))
        yield made
        made.da.stop()
        assert "pfkey" not in made.a.run("ip", "-br", "link").stdout
        assert "fwmark" not in made.a.run("ip", "rule").stdout


@pytest.fixture
def two(stand: Two, request: pytest.FixtureRequest) -> Iterator[Two]:
    stand.version = getattr(request, "param", 4)
    with stand.watched():
        stand.begin()
        yield stand


both = pytest.mark.parametrize("two", [4, 6], indirect=True, ids=["ipv4", "ipv6"])


def transfer(two: Two, client: socket.socket, listener: socket.socket, port: int) -> socket.socket:
    """Connect and send both ways; the accepted socket."""
    client.connect((two.at_b, port))
    accepted, _ = listener.accept()
    accepted.settimeout(5)
    client.sendall(b"x" * 200_000)
    client.shutdown(socket.SHUT_WR)
    received = 0
    while piece := accepted.recv(1 << 20):
        received += len(piece)
    assert received == 200_000
    accepted.sendall(b"answer")
    assert client.recv(100) == b"answer"
    return accepted


# ---------------------------------------------------------------- what each kind of socket does


@both
def test_tcp_is_protected_from_its_first_segment_to_its_last(two: Two) -> None:
    listener, port = two.listener(*REQUIRE)
    client = two.open(two.a, *REQUIRE, kind=socket.SOCK_STREAM)
    accepted = transfer(two, client, listener, port)
    assert get_policy(accepted, Dir.OUT, path=two.db.socket) == OUT
    assert get_policy(accepted, Dir.IN, path=two.db.socket) == IN
    accepted.close()
    client.close()
    two.wire(ESP)


def test_a_python_program_does_it_as_the_guide_says(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PFKEY_SOCKET", str(two.da.socket))
    (shown,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S)
    sock = two.open(two.a)
    exec(shown, {"sock": sock})  # noqa: S102 -- our own page
    assert (get_policy(sock, Dir.OUT), get_policy(sock, Dir.IN)) == (OUT, IN)


@both
def test_udp_is_protected_connected_or_not(two: Two) -> None:
    receiver, port = two.pair(REQUIRE, REQUIRE)
    sender = two.open(two.a, *REQUIRE)
    sender.connect((two.at_b, port))
    sender.send(WORD)
    data, peer = receiver.recvfrom(100)
    assert data == WORD
    receiver.sendto(b"back", peer)
    assert sender.recv(100) == b"back"
    two.wire(ESP)


@both
def test_a_raw_socket_protects_what_it_sends(two: Two) -> None:
    asks, answers, proto, at = (8, 0, ICMP, 20) if two.version == 4 else (128, 129, ICMPV6, 0)
    echo = struct.pack(">BBHHH", asks, 0, 0, 7, 1) + b"echo"
    echo = echo[:2] + struct.pack(">H", checksum(echo)) + echo[4:]  # the kernel makes ICMPv6's
    ping = two.open(two.a, OUT, kind=socket.SOCK_RAW, proto=proto)
    ping.sendto(echo, (two.at_b, 0))
    # the answer, which nobody asked to be protected
    until(lambda: ping.recv(100)[at] == answers)
    two.wire(ESP)
    with pytest.raises(OSError, match="inbound policies are for sockets of TCP and UDP") as refused:
        set_policy(ping, IN, path=two.da.socket)
    assert refused.value.errno == EOPNOTSUPP


@both
def test_another_socket_on_the_same_host_is_not_concerned(two: Two) -> None:
    two.pair(REQUIRE, ())
    two.wire(ESP)
    two.pair((), ())
    two.wire(ESP, UDP)


def test_a_socket_of_both_versions_has_one_policy_for_both(two: Two) -> None:
    """An IPv6 listener that IPv4 clients reach."""
    two.begin(AUTHENTIC_KEYS + AUTHENTIC_KEYS.replace(A, A6).replace(B, B6))
    port = next(ports)
    two.version = 6
    listener = two.open(two.b, *REQUIRE, kind=socket.SOCK_STREAM, port=port)
    listener.listen()
    for two.version in (6, 4):
        client = two.open(two.a, *REQUIRE, kind=socket.SOCK_STREAM)
        transfer(two, client, listener, port).close()
        two.wire(ESP)
        two.tap.forget()
        clear = two.open(two.a, kind=socket.SOCK_STREAM)
        clear.settimeout(0.3)
        with pytest.raises(TimeoutError):
            clear.connect((two.at_b, port))
        two.tap.forget()


@both
def test_a_policy_ends_with_its_socket(two: Two) -> None:
    receiver, port = two.pair(REQUIRE, REQUIRE)
    receiver.close()
    again = two.open(two.b, port=port)
    two.open(two.a).sendto(WORD, (two.at_b, port))
    assert again.recv(100) == WORD


@both
def test_a_bundle_has_all_its_layers(two: Two) -> None:
    two.begin(AUTHENTIC_KEYS + AH_KEYS)
    both = "ipsec esp/transport//require ah/transport//require"
    two.pair((f"out {both}",), (f"in {both}",))
    two.wire(AH)
    assert two.grew("esp", "input") == 1


# ---------------------------------------------------------------- inbound


@both
def test_clear_packets_are_dropped_for_that_socket_only(two: Two) -> None:
    strict, port = two.pair(REQUIRE, REQUIRE)
    other = two.open(two.b, port=next(ports))
    sender = two.open(two.a)
    sender.sendto(b"clear", (two.at_b, port))
    sender.sendto(b"clear", (two.at_b, other.getsockname()[1]))
    assert other.recv(100) == b"clear"
    assert is_empty(strict)
    assert two.grew("ipsec", "in_polvio") == 1


@both
def test_a_clear_syn_does_not_reach_a_listener(two: Two) -> None:
    listener, port = two.listener(*REQUIRE)
    client = two.open(two.a, kind=socket.SOCK_STREAM)
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.connect((two.at_b, port))
    assert two.grew("ipsec", "in_polvio") >= 1
    assert is_empty_listener(listener)


def is_empty_listener(listener: socket.socket) -> bool:
    listener.settimeout(0)
    try:
        listener.accept()
    except BlockingIOError:
        return True
    return False


@both
def test_fragments_in_clear_are_put_together_for_nobody(two: Two) -> None:
    strict, port = two.pair(REQUIRE, REQUIRE)
    other = two.open(two.b, port=next(ports))
    sender = two.open(two.a)
    sender.sendto(b"x" * 5000, (two.at_b, port))
    sender.sendto(b"x" * 5000, (two.at_b, other.getsockname()[1]))
    assert len(other.recv(9000)) == 5000
    assert is_empty(strict)


@both
def test_use_takes_both(two: Two) -> None:
    level = "in ipsec esp/transport//use"
    receiver, port = two.pair(REQUIRE, (level,))
    two.open(two.a).sendto(b"clear", (two.at_b, port))
    assert receiver.recv(100) == b"clear"


@both
def test_what_protected_it_must_be_what_the_socket_asks_for(two: Two) -> None:
    """As on NetBSD: the protocols must have been there, whatever the SPD made of them."""
    two.begin(AUTHENTIC_KEYS + AH_KEYS)
    esp, ah = "out ipsec esp/transport//require", "out ipsec ah/transport//require"
    both = "out ipsec esp/transport//require ah/transport//require"
    takes = {
        "in ipsec esp/transport//require": (esp, both),
        "in ipsec ah/transport//require": (ah, both),
        "in ipsec esp/transport//require ah/transport//require": (both,),
        "in ipsec esp/transport//use": (esp, ah, both),
    }
    senders = {policy: two.open(two.a, policy) for policy in (esp, ah, both)}
    refused = 0
    for wanted, taken in takes.items():
        receiver = two.open(two.b, wanted, port=next(ports))
        for policy, sender in senders.items():
            sender.sendto(policy.encode(), (two.at_b, receiver.getsockname()[1]))
        got = {receiver.recv(200) for _ in taken}
        assert got == {policy.encode() for policy in taken}, wanted
        refused += len(senders) - len(taken)
        until(partial(has_grown, two, refused))
        assert is_empty(receiver)


@both
@pytest.mark.parametrize("whose", ["socket", "spd"])
@pytest.mark.parametrize("proto", ["esp", "ah"])
def test_what_fits_is_told_to_a_socket_that_takes_nothing_unprotected(
    two: Two, whose: str, proto: str
) -> None:
    """The worker's own "too big" enters by a TUN device, where AH and ESP are asked for."""
    two.begin(AUTHENTIC_KEYS + AH_KEYS)
    asked = f"ipsec {proto}/transport//require"
    own = (f"out {asked}", f"in {asked}") if whose == "socket" else ()
    if not own:
        two.load(two.da, f"spdadd {A} {B} any -P out {asked}; spdadd {B} {A} any -P in {asked};")
    for version in ("-4", "-6"):  # what the kernel knows from another test
        two.a.ip(version, "route", "flush", "cache")
    sender = two.open(two.a, *own)
    level, discover = (socket.IPPROTO_IP, 10) if two.version == 4 else (socket.IPPROTO_IPV6, 23)
    sender.setsockopt(level, discover, 2)  # "do": no fragments
    sender.connect((two.at_b, 9))
    octets = 1500 - (28 if two.version == 4 else 48)

    def is_sent(octets: int) -> bool:
        try:
            return sender.send(bytes(octets)) == octets
        except OSError as error:
            if error.errno != EMSGSIZE:
                raise
            return False

    until(lambda: not is_sent(octets), what="the kernel knows what fits")
    until(lambda: is_sent(octets - 100))  # each error is told once more by itself
    two.wire(ESP if proto == "esp" else AH)


def has_grown(two: Two, by: int) -> bool:
    return two.grew("ipsec", "in_polvio") == by


@both
def test_discard_takes_nothing_and_sends_nothing(two: Two) -> None:
    receiver = two.open(two.b, "in discard", "out discard", port=next(ports))
    port = receiver.getsockname()[1]
    other = two.open(two.b, port=next(ports))
    for sender in (two.open(two.a), two.open(two.a, OUT)):
        sender.sendto(WORD, (two.at_b, port))
        sender.sendto(WORD, (two.at_b, other.getsockname()[1]))
        assert other.recv(100) == WORD
    assert is_empty(receiver)
    with pytest.raises(PermissionError):
        receiver.sendto(WORD, (two.at_a, 9))
    assert two.grew("ipsec", "out_polvio") == 1


@both
def test_a_tunnel_of_a_sockets_own_lets_in_for_it_alone(two: Two) -> None:
    two.begin(TUNNEL_KEYS)
    tunnel = f"ipsec esp/tunnel/{two.at_a}-{two.at_b}/require"
    out, inward = f"out {tunnel}", f"in {tunnel}"
    receiver, _ = two.pair((out,), (inward,))
    two.wire(ESP)
    other = two.open(two.b, port=next(ports))
    sender = two.open(two.a, out)
    sender.sendto(b"not asked for", (two.at_b, other.getsockname()[1]))
    sender.sendto(b"after it", (two.at_b, receiver.getsockname()[1]))
    assert receiver.recv(100) == b"after it"
    assert is_empty(other)


# ---------------------------------------------------------------- who wins


@both
def test_bypass_wins_over_the_spd_in_both_directions(two: Two) -> None:
    two.load(two.db, require(B, A))
    receiver, port = two.pair((), BYPASS)
    sender = two.open(two.a)
    sender.sendto(WORD, (two.at_b, port))
    _, peer = receiver.recvfrom(100)
    receiver.sendto(b"in clear", peer)
    assert sender.recv(100) == b"in clear"
    two.wire(UDP)
    assert two.grew("ipsec", "in_polvio") == 0


@both
def test_a_listener_that_bypasses_talks_in_clear_under_a_strict_spd(two: Two) -> None:
    """The last segment of the handshake finds no socket yet, and is let in all the same."""
    two.load(two.db, require(B, A))
    listener, port = two.listener(*BYPASS)
    transfer(two, two.open(two.a, kind=socket.SOCK_STREAM), listener, port).close()
    two.wire(TCP)
    other, refused = two.listener()
    client = two.open(two.a, kind=socket.SOCK_STREAM)
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.connect((two.at_b, refused))
    assert is_empty_listener(other)


@both
def test_a_strict_socket_wins_over_none_in_the_spd(two: Two) -> None:
    two.load(two.da, f"spdadd {A} {B} any -P out none;")
    two.load(two.db, f"spdadd {A} {B} any -P in none;")
    strict, port = two.pair(REQUIRE, REQUIRE)
    two.wire(ESP)
    other = two.open(two.b, port=next(ports))
    for to in (port, other.getsockname()[1]):
        two.open(two.a).sendto(b"clear", (two.at_b, to))
    assert other.recv(100) == b"clear"
    assert is_empty(strict)


@both
def test_entrust_asks_the_spd(two: Two) -> None:
    two.load(two.da, require(A, B))
    two.load(two.db, require(B, A))
    two.pair((*BYPASS, "out entrust", "in entrust"), (*BYPASS, "in entrust"))
    two.wire(ESP)


def as_user(two: Two, host: Host, policy: str, port: int = 0) -> socket.socket:
    """A socket with a policy that a user without privileges has set."""
    made = two.open(host, port=port)
    set_policy(made, policy, path=two.of(host).socket, uid=1000)
    return made


@both
def test_a_users_policy_is_heard_where_the_spd_says_nothing(two: Two) -> None:
    receiver = as_user(two, two.b, IN, port=next(ports))
    to = (two.at_b, receiver.getsockname()[1])
    sender = as_user(two, two.a, OUT)
    sender.sendto(WORD, to)
    assert receiver.recv(100) == WORD
    two.wire(ESP)
    two.open(two.a).sendto(b"clear", to)
    sender.sendto(WORD, to)
    assert receiver.recv(100) == WORD  # and not what was in clear
    assert two.grew("ipsec", "in_polvio") == 1
    two.tap.forget()
    two.load(two.da, f"spdadd {A} {B} any -P out none;")
    two.load(two.db, f"spdadd {A} {B} any -P in none;")
    sender.sendto(b"clear", to)
    assert receiver.recv(100) == b"clear"
    two.wire(UDP)


# ---------------------------------------------------------------- no way around


@both
def test_without_an_sa_nothing_leaves(two: Two) -> None:
    two.load(two.da, "flush;")
    two.open(two.a, OUT).sendto(WORD, (two.at_b, 9))
    two.open(two.a).sendto(WORD, (two.at_b, 9))
    two.wire(UDP)
    assert two.tap.protocols(two.at_a, two.at_b) == {UDP: 1}


@both
def test_to_its_own_host_a_strict_socket_sends_nothing(two: Two) -> None:
    """Nothing can be sealed there."""
    receiver = two.open(two.b, port=next(ports))
    to = (two.at_b, receiver.getsockname()[1])
    with pytest.raises(PermissionError):
        two.open(two.b, OUT).sendto(WORD, to)
    two.open(two.b, "out ipsec esp/transport//use").sendto(WORD, to)
    assert receiver.recv(100) == WORD


@both
def test_a_socket_bound_to_a_device_does_not_slip_out(two: Two) -> None:
    sender = two.open(two.a, OUT)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, two.a_dev.encode())
    before = two.da.counter("pfkey", "out_guard")
    with pytest.raises(OSError, match="Operation not permitted"):
        sender.sendto(WORD, (two.at_b, 9))
    assert two.da.counter("pfkey", "out_guard") == before + 1
    assert two.seen() == set()


@both
def test_nobody_else_sends_into_a_pairs_device(two: Two) -> None:
    two.pair(REQUIRE, ())
    two.tap.forget()
    devices = two.a.run("ip", "-br", "link").stdout.split()
    device = next(d for d in devices if d.startswith("pfkey") and d[5:].strip("0").isdigit())
    foreign = two.open(two.a)
    foreign.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    with pytest.raises(OSError, match=r"not permitted|No route|is unreachable"):
        foreign.sendto(WORD, (two.at_b, 9))
    assert two.seen() == set()


def test_a_mark_that_somebody_else_gives_changes_nothing(two: Two) -> None:
    chains = (("o", -150), ("p", 0))
    rules = "".join(
        f"add chain ip m {name} {{ type route hook output priority {at}; }};"
        f" add rule ip m {name} meta mark set 5; "
        for name, at in chains
    )
    two.a.run("nft", f"add table ip m; {rules}")
    try:
        two.pair(REQUIRE, REQUIRE)
        two.wire(ESP)
    finally:
        two.a.run("nft", "delete table ip m")


def test_a_mark_of_the_packet_alone_changes_nothing(two: Two) -> None:
    """SO_MARK as ancillary data: Linux takes it instead of the socket's."""
    receiver = two.open(two.b, port=next(ports))
    sender = two.open(two.a, OUT)
    mark = [(socket.SOL_SOCKET, 36, struct.pack("=I", 7))]
    sender.sendmsg([WORD], mark, 0, (B, receiver.getsockname()[1]))
    assert receiver.recv(100) == WORD
    two.wire(ESP)


def test_a_socket_of_another_namespace_is_refused(two: Two) -> None:
    foreign = two.open(two.b)
    with pytest.raises(OSError, match="another network namespace") as refused:
        set_policy(foreign, OUT, path=two.da.socket)
    assert refused.value.errno == EINVAL
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix,
        pytest.raises(OSError, match="of that family") as refused,
    ):
        set_policy(unix, OUT, path=two.da.socket)
    assert refused.value.errno == EOPNOTSUPP


def test_a_program_that_lost_its_rights_may_not_loosen(two: Two) -> None:
    sock = two.open(two.a, OUT)
    with pytest.raises(OSError, match="another may not change") as refused:
        set_policy(sock, "out entrust", path=two.da.socket, uid=1000)
    assert refused.value.errno == EPERM


# ---------------------------------------------------------------- who makes the SAs


def test_a_socket_can_cause_an_acquire_and_waits_for_its_sa(two: Two) -> None:
    two.begin("")
    here, there = KeyManager(two.da.socket), KeyManager(two.db.socket)
    try:
        receiver = two.open(two.b, port=next(ports))
        sender = two.open(two.a, "out ipsec esp/transport//require")
        sender.sendto(WORD, (B, receiver.getsockname()[1]))
        acquire = here.acquire()
        assert acquire.policy is not None
        assert f"spid={acquire.policy.id} " in two.da.setkey("", "-DP")
        negotiate(here, there, acquire)
        assert receiver.recv(100) == WORD
        two.wire(ESP)
    finally:
        here.close()
        there.close()


# ---------------------------------------------------------------- deaths


def test_a_worker_that_dies_is_told_of_the_pairs(two: Two) -> None:
    receiver, port = two.pair(REQUIRE, REQUIRE)
    old = two.da.workers()["out"]
    os.kill(old, signal.SIGKILL)
    until(lambda: two.da.workers().get("out", old) != old)
    two.tap.forget()
    two.open(two.a, *REQUIRE).sendto(WORD, (B, port))
    assert receiver.recv(100) == WORD
    two.wire(ESP)


@pytest.mark.parametrize("plain", [True, False], ids=["stopped", "killed"])
def test_sockets_keep_their_policies_through_a_restart(
    net: Net, tmp_path: Path, plain: bool
) -> None:
    two = Two(net, tmp_path)
    with two.watched():
        two.begin()
        receiver, port = two.pair(REQUIRE, REQUIRE)
        sender, free = two.open(two.a, *REQUIRE), two.open(two.a, *BYPASS)
        two.wire(ESP)
        if plain:
            two.da.stop()
        else:
            two.da.kill()
            until(lambda: "pfkey" not in two.a.run("ip", "-br", "link").stdout)
            two.tap.forget()
            with pytest.raises(OSError, match="No route to host"):
                sender.sendto(WORD, (B, port))
            free.sendto(WORD, (B, 9))
            two.wire(UDP)
        two.da.start()
        two.tap.forget()
        two.da.setkey(AUTHENTIC_KEYS)
        sender.sendto(WORD, (B, port))
        assert receiver.recv(100) == WORD
        two.wire(ESP)
        assert get_policy(free, Dir.OUT, path=two.da.socket) == "out bypass"
        two.da.stop()
        two.db.stop()


def test_a_number_that_nobody_knows_is_refused_and_not_let_out(two: Two) -> None:
    """A socket whose pair was lost must not be taken for one without policies."""
    two.pair(REQUIRE, ())
    two.tap.forget()
    lost = two.open(two.a)
    lost.setsockopt(socket.SOL_SOCKET, 36, struct.pack("=I", 0xA7000000))
    before = two.da.counter("pfkey", "hold_dropped")
    with pytest.raises(PermissionError):
        lost.sendto(WORD, (B, 9))
    assert two.da.counter("pfkey", "hold_dropped") == before + 1
    assert two.seen() == set()
