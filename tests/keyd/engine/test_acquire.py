"""ACQUIRE, engine to client and back (RFC 2367 section 3.1.6), with a clock set by hand."""

from dataclasses import replace
from errno import EOPNOTSUPP
from ipaddress import ip_address
from logging import INFO, WARNING

import pytest

from keyd.engine import Limits
from keyd.engine import acquires as limits
from keyd.engine.effects import (
    ClientId,
    Effect,
    EndWait,
    InstallSa,
    Log,
    Send,
    SettingsChanged,
)
from keyd.model import Need, Settings
from pfkey.algorithms import ROWS, by_number
from pfkey.const import Dir, ExtType, Level, Mode, MsgType, PolicyType, SaType
from pfkey.ext_prop import Comb
from pfkey.ext_x_policy import IpsecRequest, Policy
from pfkey.ext_x_sa2 import Sa2
from pfkey.message import Message
from tests.keyd.engine.desk import (
    ESP,
    HERE,
    THERE,
    TRANSPORT_REQUIRE,
    TRANSPORT_USE,
    A,
    B,
    C,
    Desk,
    add,
    auth_key,
    cipher_key,
    dst,
    message,
    named,
    policy,
    src,
)  # fmt: skip

D = ClientId(4)
REGISTER = message(MsgType.REGISTER, satype=SaType.AH)  # a registration for one is for all
AH_REQUIRE = IpsecRequest(proto=51, mode=Mode.TRANSPORT, level=Level.REQUIRE)
OTHER = bytes((30, 1, 1, 1))


def listening(*names: ClientId, limits: Limits | None = None) -> Desk:
    """A desk with one policy, id 9, for whatever leaves, and these clients registered."""
    desk = Desk(A, B, C, D, limits=limits)
    for name in names:
        desk.ask(REGISTER, name)
    desk.ask(policy(requests=(TRANSPORT_REQUIRE,), source=src(bytes(4), 0), to=dst(bytes(4), 0)))
    return desk


def wanted(
    to: bytes = THERE, proto: int = 50, policy: int = 9, mode: Mode = Mode.TRANSPORT, reqid: int = 0
) -> Need:
    return Need(policy=policy, proto=proto, mode=mode, reqid=reqid, src=HERE, dst=to)


def asked(effects: list[Effect]) -> dict[ClientId, Message]:
    """The ACQUIRE that each client got."""
    got = {e.client: Message.decode(e.record) for e in effects if isinstance(e, Send)}
    assert all(m.type == MsgType.ACQUIRE for m in got.values())
    return got


def no(seq: int, errno: int = 2) -> Message:
    """What racoon sends when it cannot."""
    return replace(message(MsgType.ACQUIRE, satype=ESP, seq=seq), errno=errno)


def test_every_registered_client_is_asked_with_what_linux_says() -> None:
    desk = listening(B, C)
    got = asked(desk.need(wanted()))
    assert set(got) == {B, C}
    assert got[B] == got[C]
    one = got[B]
    assert (one.satype, one.seq, one.pid, one.errno) == (SaType.ESP, 1, 0, 0)
    assert [e.exttype for e in one.extensions] == [
        ExtType.ADDRESS_SRC, ExtType.ADDRESS_DST, ExtType.X_POLICY, ExtType.PROPOSAL,
    ]  # fmt: skip
    assert one.src == src(proto=0), "the packet's own, though the policy is a wildcard"
    assert one.dst == dst(proto=0)
    assert one.policy == Policy(type=PolicyType.IPSEC, dir=Dir.OUT, id=9, priority=0x80000000)
    assert one.proposal is not None
    assert one.proposal.replay == 32
    log = desk.need(wanted(OTHER))[0]
    assert isinstance(log, Log)
    assert (log.level, "dst=30.1.1.1" in log.text, "policy=9" in log.text) == (INFO, True, True)


def test_a_tunnel_is_asked_for_by_its_end_points() -> None:
    desk = Desk(A)
    desk.ask(REGISTER)
    step = IpsecRequest(proto=50, mode=Mode.TUNNEL, level=Level.UNIQUE, src=OTHER, dst=THERE)
    desk.ask(policy(requests=(step,), source=src(HERE, 24), to=dst(bytes(4), 0)))
    (spec,) = desk.engine.policies()
    want = Need(policy=9, proto=50, mode=Mode.TUNNEL, reqid=spec.requests[0].reqid, src=OTHER,
                dst=THERE)  # fmt: skip
    (one,) = asked(desk.need(want)).values()
    assert (one.src, one.dst) == (src(OTHER, proto=0), dst(proto=0))
    for wrong in (
        replace(want, src=HERE), replace(want, reqid=1), replace(want, mode=Mode.TRANSPORT),
        replace(want, proto=51), replace(want, policy=17),
    ):  # fmt: skip
        assert desk.need(wrong) == [], "the policy was changed meanwhile"


def test_a_bundle_asks_for_each_missing_sa() -> None:
    desk = Desk(A)
    desk.ask(REGISTER)
    desk.ask(policy(requests=(TRANSPORT_USE, AH_REQUIRE)))
    (esp,) = asked(desk.need(wanted())).values()
    (ah,) = asked(desk.need(wanted(proto=51))).values()
    assert (esp.satype, ah.satype) == (SaType.ESP, SaType.AH)
    assert (esp.seq, ah.seq) == (1, 2)


def test_blocked_and_repeated_as_the_knobs_say() -> None:
    desk = listening(B)
    assert asked(desk.need(wanted()))
    assert desk.need(wanted(), 10) == []
    (again,) = asked(desk.need(wanted())).values()
    assert again.seq == 1, "the same, not another one"
    assert desk.need(wanted(), 10) == []
    desk.mono += 20
    (later,) = asked(desk.need(wanted())).values()
    assert later.seq == 2
    desk.engine._state.sysctl.set("net.key.blockacq_count", 0)
    assert asked(desk.need(wanted()))
    desk.engine._state.sysctl.set("net.key.blockacq_lifetime", 100)
    assert asked(desk.need(wanted(OTHER)))
    desk.mono += 99
    assert asked(desk.need(wanted(OTHER)))[B].seq == 3


@pytest.mark.parametrize("mode", [Mode.ANY, Mode.TRANSPORT])
@pytest.mark.parametrize("reqid", [0, 7])
def test_an_sa_ends_the_asking_and_late_reports_are_not_believed(mode: Mode, reqid: int) -> None:
    desk = listening(B)
    desk.need(wanted())
    desk.ask(add(sa2=Sa2(mode=mode, reqid=reqid)))
    assert desk.need(wanted(), 100) == []
    desk.ask(named(MsgType.DELETE))
    desk.mono += 1
    assert asked(desk.need(wanted()))[B].seq == 2


@pytest.mark.parametrize(
    "other",
    [add(sa2=Sa2(mode=Mode.TUNNEL)), add(to=OTHER), add(spi=5, to=HERE)],
    ids=["mode", "address", "direction"],
)
def test_another_sa_does_not(other: Message) -> None:
    desk = listening(B)
    desk.need(wanted())
    desk.ask(replace(other, seq=0))
    assert asked(desk.need(wanted(), 100))[B].seq == 1


def test_add_under_the_sequence_number_of_an_acquire_ends_it() -> None:
    """racoon does so; the SA need not be as the policy has it."""
    desk = listening(B)
    desk.need(wanted())
    desk.ask(replace(add(sa2=Sa2(mode=Mode.TUNNEL)), seq=1))
    assert desk.need(wanted(), 100) == []


def test_update_of_a_larval_sa_ends_it_too() -> None:
    desk = listening(B)
    desk.need(wanted())
    desk.ask(message(MsgType.GETSPI, src(), dst(), satype=ESP, seq=99))
    assert asked(desk.need(wanted(), 100)), "reserved is not there"
    desk.ask(add(type=MsgType.UPDATE, spi=0x100))
    assert desk.need(wanted(), 100) == []


def test_getspi_for_an_acquire_gets_one_spi_however_often() -> None:
    desk = listening(B)
    desk.need(wanted())
    for seq in (1, 1, 0):
        reply = desk.reply(message(MsgType.GETSPI, src(), dst(), satype=ESP, seq=seq))
        assert reply.sa is not None
        assert reply.sa.spi == (0x100 if seq else 0x101), "0: by addresses, only one without SPI"
    reply = desk.reply(message(MsgType.GETSPI, src(THERE), dst(HERE), satype=ESP, seq=1))
    assert reply.sa is not None
    assert reply.sa.spi == 0x100, "another destination"
    assert desk.engine.stats()["larvals"] == 3
    effects = desk.effects(replace(add(spi=0x2694), seq=1))
    assert [e.sa.spi for e in effects if isinstance(e, InstallSa)] == [0x2694]
    assert desk.engine.stats()["larvals"] == 2, "what was reserved for it is not needed"
    assert desk.errno(named(MsgType.DELETE, 0x101)) == 0


def test_getspi_by_addresses_finds_the_acquire() -> None:
    desk = listening(B)
    desk.need(wanted())
    desk.ask(message(MsgType.GETSPI, src(), dst(), satype=ESP, seq=77))
    reply = desk.reply(message(MsgType.GETSPI, src(), dst(), satype=ESP, seq=1))
    assert reply.sa is not None
    assert reply.sa.spi == 0x100
    assert desk.engine.stats()["larvals"] == 1


def test_a_refusal_ends_the_wait_and_keeps_it_ended_for_a_while() -> None:
    desk = listening(B)
    desk.need(wanted())
    desk.mono += 5
    effects = desk.effects(no(1), B)
    assert [e for e in effects if isinstance(e, Send)] == [], "nobody gets a reply"
    assert EndWait(wanted()) in effects
    assert desk.need(wanted(), 100) == [EndWait(wanted())]
    desk.mono += 19
    assert desk.need(wanted(), 100) == [EndWait(wanted())]
    desk.mono += 1
    assert asked(desk.need(wanted()))[B].seq == 2


@pytest.mark.parametrize(("seq", "errno"), [(0, 2), (1, 0), (9, 2)])
def test_a_refusal_of_nothing_is_nothing(seq: int, errno: int) -> None:
    desk = listening(B)
    desk.need(wanted())
    assert desk.effects(no(seq, errno), B) == []
    assert asked(desk.need(wanted(), 11))


def test_an_acquire_with_more_than_a_header_is_refused() -> None:
    assert listening(B).errno(message(MsgType.ACQUIRE, src(), dst(), satype=ESP)) == EOPNOTSUPP


def test_one_of_two_daemons_gives_up() -> None:
    desk = listening(B, C)
    desk.need(wanted())
    assert desk.effects(no(1), B) == [], "the other one may be doing it"
    assert desk.effects(no(1), B) == [], "however often it says so"
    assert EndWait(wanted()) in desk.effects(no(1), C)
    desk = listening(B, C)
    desk.need(wanted())
    assert EndWait(wanted()) in desk.effects(no(1), A), "from who was not asked, as on Linux"


def test_a_daemon_that_dies_in_the_middle_leaves_it_to_the_next() -> None:
    desk = listening(B)
    desk.need(wanted())
    assert desk.engine.disconnect(B) == [SettingsChanged(Settings(is_asking=False))]
    assert desk.need(wanted()) == [EndWait(wanted())]
    desk.ask(REGISTER, C)
    assert set(asked(desk.need(wanted()))) == {C}


def test_of_two_daemons_one_dies_and_the_other_goes_on() -> None:
    desk = listening(B, C)
    desk.need(wanted())
    assert desk.engine.disconnect(B) == []
    assert desk.need(wanted(), 5) == [], "the other one was asked"
    assert EndWait(wanted()) in desk.effects(no(1), C)


def test_a_daemon_that_comes_later_is_asked_too() -> None:
    desk = listening(B)
    desk.need(wanted())
    desk.need(wanted(OTHER))
    desk.effects(no(2), B)
    desk.ask(REGISTER, C)
    desk.ask(message(MsgType.REGISTER, satype=SaType.ESP), C)
    assert {m.seq for m in asked(desk.need(wanted())).values()} == {1}
    assert set(asked(desk.need(wanted(OTHER)))) == {B, C}, "it did not refuse"


def test_nobody_waits_when_nobody_listens() -> None:
    desk = listening()
    assert desk.need(wanted()) == [EndWait(wanted())]
    assert not desk.engine.settings().is_asking
    told, *sends = desk.effects(REGISTER, B)
    assert told == SettingsChanged(Settings(is_asking=True))
    assert all(isinstance(e, Send) for e in sends)
    assert [e for e in desk.effects(REGISTER, C) if isinstance(e, SettingsChanged)] == []
    assert desk.engine.settings().is_asking
    lists = message(MsgType.REGISTER)
    other = Desk(A)
    assert not [e for e in other.effects(lists) if isinstance(e, SettingsChanged)], "lists only"


@pytest.mark.parametrize(
    "gone",
    [
        message(MsgType.FLUSH), message(MsgType.FLUSH, satype=ESP), message(MsgType.X_SPDFLUSH),
        message(MsgType.X_SPDDELETE2, Policy(type=0, dir=0, id=9)),
    ],
    ids=["flush", "flush-esp", "spdflush", "spddelete"],
)  # fmt: skip
def test_what_is_flushed_is_asked_for_anew(gone: Message) -> None:
    desk = listening(B)
    desk.need(wanted())
    desk.ask(message(MsgType.FLUSH, satype=SaType.AH))
    assert desk.need(wanted()) == []
    desk.ask(gone)
    if not desk.engine.policies():
        assert desk.need(wanted()) == []
        desk.ask(policy(requests=(TRANSPORT_REQUIRE,)))
    (spec,) = desk.engine.policies()
    assert asked(desk.need(replace(wanted(), policy=spec.id)))[B].seq == 2


# ---------------------------------------------------------------- storms


def peers(count: int) -> list[bytes]:
    return [ip_address(0x1E000000 + n).packed for n in range(count)]


def test_a_storm_under_one_policy_is_a_few_acquires_and_leaves_room_for_another() -> None:
    desk = listening(B)
    desk.ask(policy(requests=(TRANSPORT_REQUIRE,), priority=1))
    sent = 0
    for number, peer in enumerate(peers(10_000)):
        desk.mono += 0.001
        sent += len(asked(desk.need(wanted(peer))))
        if number == 5_000:
            assert asked(desk.need(wanted(policy=17))), "another policy's own share"
    seconds = 10
    assert sent <= limits.POLICY_BURST + seconds * limits.POLICY_PER_SECOND + 1
    assert sent >= seconds * limits.POLICY_PER_SECOND
    assert desk.engine.stats()["acquires_limited"] >= 9_000


def test_storms_under_many_policies_are_limited_together() -> None:
    desk = listening(B)
    for port in range(1, 101):
        desk.ask(policy(requests=(TRANSPORT_REQUIRE,), source=src(port=port)))
    ids = [spec.id for spec in desk.engine.policies()]
    sent = 0
    for number, peer in enumerate(peers(5_000)):
        desk.mono += 0.001
        sent += len(asked(desk.need(wanted(peer, policy=ids[number % len(ids)]))))
    assert sent <= limits.BURST + 5 * limits.PER_SECOND + 1


def test_one_line_in_ten_seconds_tells_of_a_storm() -> None:
    desk = listening(B)
    logs = [
        e for peer in peers(1000) for e in desk.need(wanted(peer))
        if isinstance(e, Log) and e.level == WARNING
    ]  # fmt: skip
    assert len(logs) == 1
    assert "acquires-limited policy=9" in logs[0].text


def test_what_is_remembered_is_bounded() -> None:
    desk = listening(B, limits=Limits(acquires=10))
    for peer in peers(30):
        desk.mono += 1
        desk.need(wanted(peer))
    table = desk.engine._state.acquires
    assert len(table._by_need) == len(table._by_seq) <= 10
    assert desk.engine.stats()["acquires_limited"] > 0
    desk.mono += 20
    assert asked(desk.need(wanted(OTHER))), "what is over makes room"


# ---------------------------------------------------------------- proposals


def offered(proto: int, names: tuple[str, ...] = (), **knobs: int) -> tuple[Comb, ...]:
    """What is offered by a machine that does these algorithms, or all of the table."""
    usable = frozenset((r.kind.value, r.number) for r in ROWS if r.name in names or not names)
    desk = Desk(A, usable=usable)
    desk.ask(REGISTER)
    for name, value in knobs.items():
        desk.engine._state.sysctl.set(f"net.key.{name}", value)
    step = IpsecRequest(proto=proto, mode=Mode.TRANSPORT, level=Level.REQUIRE)
    desk.ask(policy(requests=(step,)))
    effects = desk.need(wanted(proto=proto))
    (send,) = (e for e in effects if isinstance(e, Send))
    assert len(send.record) <= 4096, "what charon reads"
    one = Message.decode(send.record)
    assert one.proposal is not None
    assert 0 < len(one.proposal.combs) <= 54
    return one.proposal.combs


def name(kind: str, number: int) -> str:
    row = by_number(kind, number)
    return row.name if row else ""


def test_all_algorithms_of_the_table_still_fit_and_the_best_come_first() -> None:
    combs = offered(50, esp_keymin=0)
    names = [(name("encrypt", c.encrypt), name("auth", c.auth)) for c in combs]
    assert names[0] == ("aes-gcm-16", "")
    first_pair = next(pair for pair in names if pair[1])
    assert first_pair == ("aes-cbc", "hmac-sha1")
    legacy = {"des-cbc", "blowfish-cbc", "hmac-md5", "null"}
    assert not legacy & {n for pair in names for n in pair}
    for comb in combs:
        assert (comb.hard_addtime, comb.soft_addtime) == (86400, 72000)
        assert (comb.hard_usetime, comb.soft_usetime) == (28800, 25200)


def test_the_shortest_key_of_a_cipher_is_a_knob() -> None:
    for keymin, ciphers in ((256, False), (192, True), (128, True)):
        combs = offered(50, ("3des-cbc", "aes-cbc", "aes-gcm-16", "hmac-sha1"), esp_keymin=keymin)
        names = {name("encrypt", c.encrypt): c for c in combs}
        assert ("3des-cbc" in names) == ciphers
        aes = names["aes-cbc"]
        assert (aes.encrypt_minbits, aes.encrypt_maxbits) == (keymin, 256)
        gcm = names["aes-gcm-16"]
        assert gcm.encrypt_minbits == keymin + 32, "and the salt"


def test_ciphers_alone_come_last_or_not_at_all() -> None:
    aeads = {row.number for row in ROWS if row.is_aead}
    alone = [not c.auth and c.encrypt not in aeads for c in offered(50)]
    assert alone == sorted(alone)
    assert any(alone)
    assert not any(not c.auth and c.encrypt not in aeads for c in offered(50, esp_auth=1))


def test_nothing_is_offered_that_an_add_could_not_say() -> None:
    gmacs = {name("auth", c.auth) for c in offered(51) if "gmac" in name("auth", c.auth)}
    assert gmacs == {"aes-128-gmac", "aes-192-gmac", "aes-256-gmac"}
    for comb in offered(50):
        keys = [cipher_key(bytes(range(comb.encrypt_minbits // 8)))]
        if comb.auth:
            keys.append(auth_key(bytes(range(comb.auth_minbits // 8))))
        desk = Desk(usable=frozenset((row.kind.value, row.number) for row in ROWS))
        made = add(encrypt=comb.encrypt, auth=comb.auth, keys=keys)
        assert desk.errno(made) == 0, (comb.encrypt, comb.auth)


def test_ah_offers_each_authenticator_whose_key_is_long_enough() -> None:
    names = [name("auth", c.auth) for c in offered(51)]
    assert names[:2] == ["hmac-sha1", "hmac-sha256"]
    assert "aes-xcbc-mac" in names
    assert all(c.encrypt == 0 for c in offered(51))
    assert "aes-xcbc-mac" not in [name("auth", c.auth) for c in offered(51, ah_keymin=129)]
    assert [name("auth", c.auth) for c in offered(51, ah_keymin=400)] == ["hmac-sha512"]
