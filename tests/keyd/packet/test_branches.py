"""The pipelines of sockets' policies beside the SPD's: their own flows, shared SAs and bounds."""

from dataclasses import replace

from keyd.model import PolicySpec, Settings
from keyd.packet import counters as count
from keyd.packet import fragments, ip, waiting
from keyd.packet.branches import Branches
from pfkey.const import PolicyType
from tests.keyd.packet.test_outbound import NOW, Rig, policy, spec
from tests.support.packets import frame, ipv4, udp

ASKING = Settings(is_asking=True, wait_seconds=20)
PACKET = frame(ipv4(17, udp(b"x" * 64)))


def of_socket(number: int) -> PolicySpec:
    return replace(policy(number), id=number)


def rig_of(*policies: PolicySpec) -> tuple[Rig, Branches]:
    rig = Rig(policies)
    rig.pipeline.tune(ASKING)
    return rig, Branches(rig.pipeline)


def balanced(rig: Rig) -> None:
    """Each segment has left, waits, or is counted as dropped."""
    room = rig.pipeline.waiting._room
    waits = room.octets // (len(PACKET) + waiting.PACKET_OCTETS)
    assert rig.counted["tun_reads"] == waits + rig.counted.get("tun_segments", 0)


def test_an_sa_serves_all_and_each_keeps_its_own_flows() -> None:
    rig, branches = rig_of(policy(1, kind=PolicyType.DISCARD))
    branch = branches.branch(20, of_socket(4))
    branch.process(PACKET, NOW)
    assert len(branch.waiting) == 1
    rig.put(PACKET)
    assert rig.counted["out_polvio"] == 1
    rig.install(spec())
    branches.resume(NOW)
    branch.process(PACKET, NOW)
    assert len(rig.opened()) == 2
    rig.pipeline.remove(spec().slot)
    branch.process(PACKET, NOW)
    assert len(branch.waiting) == 1
    assert {one.policy for one in branch.tallies.take(9e9)} == {1, 4}
    balanced(rig)


def test_all_together_are_bounded_and_what_ends_gives_back_its_room() -> None:
    rig, branches = rig_of(policy(1))
    for number in range(20, 20 + 2 * waiting.OCTETS_MAX // waiting.POLICY_OCTETS_MAX):
        branch = branches.branch(number, of_socket(number))
        for port in range(600):
            branch.process(frame(ipv4(17, udp(bytes(1400), sport=1 + port))), NOW)
    room = rig.pipeline.waiting._room
    assert waiting.OCTETS_MAX - 10_000 < room.octets <= waiting.OCTETS_MAX
    assert sum(len(one.waiting) for one in branches.all) == room.flows <= waiting.FLOWS_MAX
    rig.put(frame(ipv4(17, udp(bytes(10_000)))))
    assert len(rig.pipeline.waiting) == 0
    for number in range(20, 30):
        branches.cut_off(number)
    assert (room.octets, room.flows, room.of_policy) == (0, 0, {})
    assert branches.all == (rig.pipeline,)
    assert rig.counted["queue_dropped"] == rig.counted["tun_segments"] == rig.counted["tun_reads"]
    rig.put(PACKET)
    assert len(rig.pipeline.waiting) == 1


def pieces() -> list[bytes]:
    whole = ipv4(17, udp(bytes(3000)), df=False)
    packet = ip.rebuild(whole[:20], 17, 3008, ident=7) + whole[20:]
    return [frame(piece) for piece in ip.fragment(packet, 1500)]


def test_fragments_wait_for_their_own_kind_and_end_with_their_policy() -> None:
    rig, branches = rig_of(policy(1))
    rig.install(spec())
    first, second = branches.branch(20, of_socket(4)), branches.branch(21, of_socket(12))
    head, middle, tail = pieces()
    for piece in (head, middle):
        first.process(piece, NOW)
    second.process(tail, NOW)
    assert rig.counted["frag_held"] == 3
    assert "frag_joined" not in rig.counted
    branches.cut_off(20)
    assert rig.counted["frag_dropped"] == 2
    branches.cut_off(20)
    again = branches.branch(20, of_socket(4))
    again.process(tail, NOW)
    assert "frag_joined" not in rig.counted
    for piece in (head, middle):
        second.process(piece, NOW)
    assert rig.counted["frag_joined"] == 1
    assert rig.counted["frag_dropped"] == 2
    assert len(rig.sealed) > 1
    assert rig.values[count.FRAG_HELD] == 6
    assert first._trunk.fragments._octets <= fragments.OCTETS_MAX


def test_a_setting_reaches_all() -> None:
    rig, branches = rig_of(policy(1))
    branch = branches.branch(20, of_socket(4))
    branch.process(PACKET, NOW)
    rig.pipeline.tune(Settings())
    assert rig.counted["queue_dropped"] == 1
    later = branches.branch(21, of_socket(12))
    later.process(PACKET, NOW)
    assert rig.counted["out_nosa"] == 1
