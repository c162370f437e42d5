"""Signs that packets do not arrive: RFC 4301 section 8.2, RFC 2923, RFC 4821."""

import pytest
from scapy.layers.inet import ICMP, IP

from keyd.packet import counters as count
from keyd.packet.association import OutSa
from keyd.packet.segment import GSO_TCPV4, GSO_TCPV6
from keyd.packet.troubles import ERROR_PAUSE, ERROR_SECONDS, REPEATS, Troubles, next_rung
from tests.support.packets import A6, B6, A, B, frame, ipv4, tcp, udp
from tests.support.pipelines import ESP, G6, H6, NOW, TRANSPORT, TUNNEL, G, H, Pair, part, sa, whole

SECOND = 1_000_000
CASES = {
    "transport": ([(ESP, TRANSPORT, A, B)], A, B),
    "tunnel": ([(ESP, TUNNEL, G, H)], A, B),
    "tunnel6": ([(ESP, TUNNEL, G6, H6)], A6, B6),
    "4-in-6": ([(ESP, TUNNEL, G6, H6)], A, B),
}
LOST = {4: (3, 1), 6: (1, 3)}


def send(pair: Pair, packet: bytes, seconds: float = 0.0) -> tuple[int, list[bytes]]:
    """(packets on the wire, what its sender hears)"""
    pair.out.process(frame(packet), int(NOW + seconds * SECOND))
    batch = pair.out.batch
    sent, heard = len(batch.sealed) + len(batch.sealed6), [octets[10:] for octets in batch.back]
    for written in (batch.sealed, batch.sealed6, batch.back):
        written.clear()
    return sent, heard


@pytest.mark.parametrize("name", CASES)
def test_the_next_packets_sender_is_told_and_its_packet_sent_as_well(name: str) -> None:
    steps, src, dst = CASES[name]
    pair = Pair(steps, src, dst)
    packet = whole(src, dst, 17, udp(b"hello", src=src, dst=dst))
    (wire,) = pair.send(frame(packet))
    pair.out.icmp_error(*LOST[wire[0] >> 4], 0, wire[:64], NOW)
    assert pair.out_values[count.ICMP_ACCEPTED] == 1
    sent, heard = send(pair, packet)
    assert sent == 1
    (answer,) = heard
    kind, at = ((3, 1), 28) if len(src) == 4 else ((1, 3), 48)
    assert (answer[at - 8], answer[at - 7]) == kind
    assert answer[at:] == packet
    if len(src) == 4:
        assert (IP(answer).dst, IP(answer)[ICMP].code) == ("10.1.1.1", 1)
    assert send(pair, packet) == (1, []), "told once"
    assert pair.out_values[count.ICMP_RELAYED] == 1


def test_each_flow_is_told_and_each_new_error_tells_again() -> None:
    pair = Pair(*CASES["tunnel"])
    one, two = (whole(A, B, 17, udp(b"x", sport=port)) for port in (1, 2))
    (wire,) = pair.send(frame(one))
    pair.out.icmp_error(3, 1, 0, wire[:28], NOW)
    assert [len(send(pair, packet)[1]) for packet in (one, two, one, two)] == [1, 1, 0, 0]
    pair.out.icmp_error(3, 1, 0, wire[:28], NOW + SECOND // 2)
    assert send(pair, one, 0.6)[1] == [], "the same trouble"
    pair.out.icmp_error(11, 0, 0, wire[:28], NOW + 2 * SECOND)
    assert len(send(pair, one, 2.1)[1]) == 1
    assert send(pair, two, 2 + ERROR_SECONDS)[1] == [], "that is long ago"


def test_errors_and_what_many_get_are_not_answered() -> None:
    pair = Pair(*CASES["transport"])
    (wire,) = pair.send(frame(whole(A, B, 17, udp(b"x"))))
    pair.out.icmp_error(3, 13, 0, wire[:28], NOW)
    error = ipv4(1, bytes((3, 1)) + bytes(34))
    assert send(pair, error) == (1, [])


def test_connections_that_begin_are_not_ended() -> None:
    """Linux aborts on errors about a SYN, and anybody on the way can claim such.

    It also hands a soft error to a program that asks how its connect() has ended (SO_ERROR).
    """
    pair = Pair(*CASES["transport"])
    (wire,) = pair.send(frame(whole(A, B, 17, udp(b"x"))))
    pair.out.icmp_error(3, 1, 0, wire[:28], NOW)
    assert send(pair, ipv4(6, tcp(b"", flags=0x02))) == (1, [])
    assert send(pair, ipv4(6, tcp(b"", flags=0x10))) == (1, [])
    assert len(send(pair, ipv4(6, tcp(b"data", flags=0x10)))[1]) == 1


@pytest.mark.parametrize(("kind", "code"), [(3, 0), (3, 2), (3, 3), (3, 13), (11, 0), (12, 0)])
def test_a_claim_without_a_packet_of_ours_is_no_trouble(kind: int, code: int) -> None:
    pair = Pair(*CASES["transport"])
    packet = whole(A, B, 17, udp(b"x"))
    (wire,) = pair.send(frame(packet))
    for at, change in ((20, b"\x63"), (24, b"\0\0\0\2"), (12, b"\x63"), (9, b"\x06")):
        forged = wire[:at] + change + wire[at + len(change) :]
        pair.out.icmp_error(kind, code, 0, forged[:28], NOW)
    assert pair.out_values[count.ICMP_IGNORED] == 4
    assert send(pair, packet) == (1, [])


def test_an_sa_that_is_gone_leaves_no_trouble() -> None:
    pair = Pair(*CASES["transport"])
    packet = whole(A, B, 17, udp(b"x"))
    (wire,) = pair.send(frame(packet))
    pair.out.icmp_error(3, 1, 0, wire[:28], NOW)
    pair.out.remove(0)
    pair.out.install(OutSa(sa(0, (ESP, TRANSPORT, A, B)), part(9), (0, 0, 0)))
    assert send(pair, packet) == (1, [])


def test_troubles_have_an_age() -> None:
    troubles = Troubles()
    assert not troubles
    troubles.learn(1, 100.0)
    troubles.learn(1, 100.0 + ERROR_PAUSE / 2)
    assert troubles.since(1, 101.0) == 100.0
    troubles.learn(1, 100.0 + ERROR_PAUSE)
    assert troubles.since(1, 102.0) == 101.0
    assert troubles.since(2, 102.0) == 0.0
    assert troubles.since(1, 99.0) == 0.0, "a clock that was set back"
    assert not troubles


# Black holes


def stream(pair: Pair, seqs: list[int], octets: int = 4200, src: bytes = A, dst: bytes = B) -> int:
    """Send TCP with these sequence numbers; the largest packet of the last on the wire."""
    largest = 0
    for seq in seqs:
        packet = whole(src, dst, 6, tcp(bytes(octets), seq=seq, src=src, dst=dst))
        gso, start = (GSO_TCPV4, 20) if len(src) == 4 else (GSO_TCPV6, 40)
        wire = pair.send(frame(packet, gso=gso, gso_size=1400, csum=(start, 16)))
        largest = max(map(len, wire))
    return largest


@pytest.mark.parametrize("name", CASES)
def test_tcp_that_repeats_itself_is_cut_smaller(name: str) -> None:
    steps, src, dst = CASES[name]
    pair = Pair(steps, src, dst)
    assert stream(pair, [1000, 5200, 9400], src=src, dst=dst) > 1400
    again = [1000] * (REPEATS - 1)
    assert stream(pair, again, src=src, dst=dst) > 1400
    assert stream(pair, [1000], src=src, dst=dst) <= 1280
    assert pair.out_values[count.BLACK_HOLES] == 1
    outer4 = len(steps[0][2]) == 4
    assert stream(pair, [1000], src=src, dst=dst) <= (576 if outer4 else 1280)
    before = pair.out_values[count.BLACK_HOLES]
    stream(pair, [1000] * 5, src=src, dst=dst)
    assert pair.out_values[count.BLACK_HOLES] == before, "there is nothing smaller to try"


def test_what_gets_on_is_left_alone() -> None:
    pair = Pair(*CASES["transport"])
    seqs = [1000 + 4200 * n for n in range(20)]
    for n in range(4, 20, 4):
        seqs.insert(n, 1000)  # now and then something is lost
    stream(pair, seqs)
    assert pair.out_values[count.BLACK_HOLES] == 0
    stream(pair, [2**32 - 4200, 0, 4200], octets=4200)
    assert pair.out_values[count.BLACK_HOLES] == 0


def test_small_segments_are_no_sign_of_a_black_hole() -> None:
    pair = Pair(*CASES["transport"])
    for octets in (1, 500, 900):
        stream(pair, [1000] * 9, octets=octets)
    assert pair.out_values[count.BLACK_HOLES] == 0
    for _ in range(9):
        pair.send(frame(whole(A, B, 17, udp(bytes(1300)))))
    assert pair.out_values[count.BLACK_HOLES] == 0


def test_the_path_is_tried_again_when_the_suspicion_is_old() -> None:
    pair = Pair(*CASES["transport"])
    stream(pair, [1000] * (REPEATS + 1))
    packet = frame(
        whole(A, B, 6, tcp(bytes(4200), seq=9999)), gso=GSO_TCPV4, gso_size=1400, csum=(20, 16)
    )
    pair.out.process(packet, NOW + 601 * SECOND)
    assert max(map(len, pair.out.batch.sealed)) > 1400


def test_rungs_end() -> None:
    assert [next_rung(4, mtu) for mtu in (9000, 1500, 1281, 1280, 577, 576, 68)] == [
        1280, 1280, 1280, 576, 576, 0, 0,
    ]  # fmt: skip
    assert [next_rung(6, mtu) for mtu in (1500, 1280)] == [1280, 0]
