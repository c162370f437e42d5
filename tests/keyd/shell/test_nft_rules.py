"""Policies as nft rules: selectors, fragments, verdicts, comments."""

import base64
import socket
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd.model import PolicySpec, Request
from keyd.shell.holds import COMMENT_LIMIT, decode_comment, encode_comment, holds
from keyd.shell.marks import Marks
from keyd.shell.nft_rules import Frame
from pfkey.const import Dir, Level, Mode, PolicyType
from pfkey.selector import Range, Selector

FRAME = Frame(bypass_uid=77, fragment_key=0x12345678)
REQUIRE = Request(proto=50, mode=Mode.TRANSPORT, level=Level.REQUIRE)
USE = Request(proto=50, mode=Mode.TRANSPORT, level=Level.USE)


def selector(
    src: str = "10.1.1.1/32", dst: str = "20.1.1.1/32", proto: int = 255, sport: int = 0,
    dport: int = 0,
) -> Selector:  # fmt: skip
    def end(text: str, port: int) -> Range:
        address, bits = text.split("/")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return Range(socket.inet_pton(family, address), int(bits), port)

    return Selector(end(src, sport), end(dst, dport), proto)


def policy(
    dir: Dir = Dir.OUT, type: PolicyType = PolicyType.IPSEC, *requests: Request,
    sel: Selector | None = None, hold: bool = False,
) -> PolicySpec:  # fmt: skip
    if type == PolicyType.IPSEC and not requests:
        requests = (REQUIRE,)
    return PolicySpec(
        id=1, dir=dir, type=type, selector=sel or selector(), requests=requests, is_hold=hold
    )


def rules(spec: PolicySpec, chain: str) -> list[str]:
    return [r.partition(" comment ")[0] for r in FRAME.policy_rules(spec).get(chain, [])]


PAIR = "ip saddr 10.1.1.1/32 ip daddr 20.1.1.1/32"
PROTECT = "meta mark set meta mark & 0x00ffffff | 0x4b000000 accept"
LATER = "ip frag-off & 0x1fff != 0"
ANY_FRAGMENT = "ip frag-off & 0x3fff != 0"


@pytest.mark.parametrize(
    ("sel", "whole"),
    [
        (selector(), PAIR),
        (selector("0.0.0.0/0", "0.0.0.0/0"), "meta nfproto ipv4"),
        (selector("::/0", "::/0"), "meta nfproto ipv6"),
        (selector("10.1.1.77/24", "0.0.0.0/0", 6), "ip saddr 10.1.1.0/24 meta l4proto 6"),
        (selector("2001:db8::1/64", "::/0"), "ip6 saddr 2001:db8::/64"),
    ],
)
def test_selectors_without_ports_are_one_rule(sel: Selector, whole: str) -> None:
    assert rules(policy(sel=sel), "policy_out") == [f"{whole} {PROTECT}"]


@pytest.mark.parametrize(
    ("sel", "base", "ports"),
    [
        (selector(proto=6, dport=80), f"{PAIR} meta l4proto 6", "th dport 80"),
        (selector(proto=17, sport=5, dport=6), f"{PAIR} meta l4proto 17", "th sport 5 th dport 6"),
        (selector(dport=80), f"{PAIR} meta l4proto {{ 6, 17, 33, 132, 136 }}", "th dport 80"),
        (selector(proto=1, sport=8), f"{PAIR} meta l4proto 1", "icmp type 8"),
        (selector(proto=1, sport=3, dport=4), f"{PAIR} meta l4proto 1", "icmp type 3 icmp code 4"),
    ],
)
def test_ports_bring_a_rule_for_fragments(sel: Selector, base: str, ports: str) -> None:
    expected = [f"{base} {ports} {PROTECT}", f"{base} {ANY_FRAGMENT} {PROTECT}"]
    assert rules(policy(sel=sel), "policy_out") == expected
    drop = "goto refused_in"
    expected = [f"{base} {ports} {drop}", f"{base} {LATER} {drop}"]
    assert rules(policy(Dir.IN, sel=sel), "policy_in") == expected


PAIR6 = "ip6 saddr 2001:db8::/64 ip6 daddr 2001:db8:1::/64"


@pytest.mark.parametrize(
    ("proto", "port", "whole"),
    [(6, 80, "meta l4proto 6 th dport 80"), (6, 0, "meta l4proto 6"),
     (58, 3, "meta l4proto 58 icmpv6 code 3")],
)  # fmt: skip
def test_ipv6_fragments_are_selected_by_address_alone(proto: int, port: int, whole: str) -> None:
    sel = selector("2001:db8::/64", "2001:db8:1::/64", proto, dport=port)
    out, own = (rules(policy(sel=sel), chain) for chain in ("policy_out", "policy_own"))
    assert out == [f"{PAIR6} {whole} {PROTECT}", f"{PAIR6} exthdr frag exists {PROTECT}"]
    assert [rule.partition(" counter")[0] for rule in own] == [
        f"{PAIR6} {whole}", f"{PAIR6} exthdr frag exists",
    ]  # fmt: skip
    drop = "goto refused_in"
    expected = [f"{PAIR6} {whole} {drop}", f"{PAIR6} frag frag-off != 0 {drop}"]
    assert rules(policy(Dir.IN, sel=sel), "policy_in") == expected
    plain = selector("2001:db8::/64", "2001:db8:1::/64")
    assert rules(policy(Dir.IN, sel=plain), "policy_in") == [f"{PAIR6} {drop}"]


@pytest.mark.parametrize(
    ("sel", "dir", "doubt"),
    [
        (selector(), Dir.OUT, ""),
        (selector(proto=17), Dir.OUT, ""),
        (selector(proto=17, dport=53), Dir.OUT, " ip frag-off & 0x3fff == 0"),
        (selector(proto=17, dport=53), Dir.IN, ""),  # its tails meet the next rule
        (selector("::/0", "::/0"), Dir.IN, ""),
        (selector("::/0", "::/0", 17), Dir.OUT, ""),
        (selector("::/0", "::/0", 17), Dir.IN, " exthdr frag missing"),
        (selector("::/0", "::/0", 17, dport=53), Dir.OUT, " exthdr frag missing"),
        (selector("::/0", "::/0", 17, dport=53), Dir.FWD, " exthdr frag missing"),
    ],
)
def test_what_lets_pass_leaves_doubtful_fragments_to_the_next_rule(
    sel: Selector, dir: Dir, doubt: str
) -> None:
    chain = {Dir.OUT: "policy_out", Dir.IN: "policy_in", Dir.FWD: "policy_fwd"}[dir]
    (rule,) = rules(policy(dir, PolicyType.NONE, sel=sel), chain)
    assert rule.endswith(f"{doubt} accept")
    assert ("frag" in rule) == bool(doubt)


@pytest.mark.parametrize("sel", [selector(proto=47, dport=80), selector(proto=1, sport=256)])
def test_ports_of_a_protocol_without_ports_select_nothing(sel: Selector) -> None:
    assert FRAME.policy_rules(policy(sel=sel)) == {}


@pytest.mark.parametrize(
    ("spec", "chain", "verdict"),
    [
        (policy(Dir.OUT, PolicyType.NONE), "policy_out", "accept"),
        (policy(Dir.OUT, PolicyType.NONE), "policy_own", "accept"),
        (policy(Dir.OUT, PolicyType.DISCARD), "policy_out", "counter name out_discard drop"),
        (policy(Dir.OUT, PolicyType.IPSEC, USE), "policy_out", PROTECT),
        (policy(Dir.OUT, PolicyType.IPSEC, USE), "policy_own", "accept"),
        (policy(Dir.OUT), "policy_own", "counter name out_own drop"),
        (policy(Dir.IN), "policy_in", "goto refused_in"),
        (policy(Dir.IN, PolicyType.IPSEC, USE), "policy_in", "accept"),
        (policy(Dir.IN, PolicyType.NONE), "policy_in", "accept"),
        (policy(Dir.IN, PolicyType.DISCARD), "policy_in", "counter name in_discard drop"),
        (policy(Dir.FWD), "policy_fwd", "counter name fwd_polvio drop"),
        (policy(Dir.OUT, hold=True), "policy_out", "counter name hold_dropped drop"),
        (policy(Dir.OUT, PolicyType.IPSEC, USE, hold=True), "policy_out",
         "counter name hold_dropped drop"),
        (policy(Dir.IN, hold=True), "policy_in", "counter name hold_dropped drop"),
        (policy(Dir.IN, PolicyType.DISCARD, hold=True), "policy_in",
         "counter name hold_dropped drop"),
    ],
)  # fmt: skip
def test_verdicts(spec: PolicySpec, chain: str, verdict: str) -> None:
    assert rules(spec, chain) == [f"{PAIR} {verdict}"]


def test_marks_live_under_their_mask() -> None:
    assert (Marks().protect, Marks().bypass) == (0x4B000000, 0x4C000000)
    assert (Marks(0xFF00).protect, Marks(0xFF00).others) == (0x4B00, 0xFFFF00FF)
    for mask in (0, 0xF0000000, 0xF0F00000, 0x1FF000000):
        with pytest.raises(ValueError, match="adjacent bits"):
            Marks(mask)


def ranges(width: int) -> st.SearchStrategy[Range]:
    return st.builds(
        Range, st.binary(min_size=width, max_size=width), st.integers(0, 8 * width),
        st.integers(0, 65535),
    )  # fmt: skip


requests = st.builds(
    Request, proto=st.sampled_from((50, 51, 108)), mode=st.sampled_from(Mode),
    level=st.sampled_from(Level), reqid=st.integers(0, 2**32 - 1),
)  # fmt: skip
policies = st.sampled_from((4, 16)).flatmap(
    lambda width: st.builds(
        PolicySpec, id=st.just(0), dir=st.sampled_from(Dir), type=st.sampled_from(PolicyType),
        selector=st.builds(Selector, ranges(width), ranges(width), st.integers(0, 255)),
        requests=st.lists(requests, max_size=9).map(tuple), is_hold=st.just(True),
        priority=st.integers(0, 2**32 - 1),
    )
)  # fmt: skip


@given(policies)
def test_a_comment_fits_nft_and_gives_the_policy_back(spec: PolicySpec) -> None:
    text = encode_comment(spec)
    assert len(text.encode()) <= COMMENT_LIMIT
    back = decode_comment(text)
    assert back is not None
    if len(spec.requests) <= 6:
        assert back == spec
    else:
        assert back == replace(spec, requests=back.requests)
        assert back.is_required == spec.is_required


@given(st.text(max_size=60).map(lambda t: "p1:" + t) | st.text(max_size=20))
def test_any_other_comment_is_none(text: str) -> None:
    decode_comment(text)


@given(st.binary(max_size=60))
def test_damaged_comments_do_not_raise(octets: bytes) -> None:
    for prefix in ("p1:", "d1:"):
        decode_comment(prefix + base64.b64encode(octets).decode())


def test_holds_are_what_protected_or_discarded_in_order_and_once() -> None:
    web = selector(proto=6, dport=80)
    left = [
        policy(Dir.OUT, PolicyType.NONE),
        policy(Dir.OUT, PolicyType.IPSEC, USE, sel=web),
        policy(Dir.OUT),
        policy(Dir.OUT),
        policy(Dir.IN, PolicyType.IPSEC, USE),
        policy(Dir.IN, PolicyType.DISCARD, sel=web),
    ]
    found = holds([encode_comment(s) for s in left] + ["a stranger's"])
    assert [(h.dir, h.type, h.selector) for h in found] == [
        (s.dir, s.type, s.selector) for s in (left[1], left[2], left[5])
    ]
    assert all(h.is_hold for h in found)
    assert [h.id for h in found] == [-1, -2, -3]


@pytest.mark.parametrize("octets", [4, 16])
def test_what_a_knob_puts_behind_all_policies_is_found_as_that(octets: int) -> None:
    anywhere = Range(bytes(octets), 0)
    default = PolicySpec(
        id=1, dir=Dir.OUT, type=PolicyType.DISCARD, selector=Selector(anywhere, anywhere),
        priority=2**32 - 1, order=2**62, is_default=True,
    )  # fmt: skip
    (rule,) = FRAME.policy_rules(default)["policy_own"]
    assert rule == f"meta nfproto ipv{4 if octets == 4 else 6} counter name out_discard drop"
    equal = replace(default, is_default=False)
    texts = [encode_comment(equal), encode_comment(default), encode_comment(default)]
    held, found = holds(texts)
    assert (held.is_hold, held.is_default) == (True, False)
    assert (found.is_hold, found.is_default) == (False, True)
    assert found.id != held.id
    assert found.selector == default.selector


def test_errors_are_asked_for_the_addresses_that_they_quote() -> None:
    wide = selector("10.1.1.77/24", "0.0.0.0/0", 6, 5)
    six = selector("2001:db8::/32", "::1/128")
    steer, held = "goto steer_error", "counter name hold_dropped drop"
    near = "@th,192,32 & 0xffffff00 == 0x0a010100"
    for spec, rule in (
        (policy(), f"meta l4proto 1 @th,192,32 0x0a010101 @th,160,32 0x14010101 {steer}"),
        (policy(sel=wide), f"meta l4proto 1 {near} {steer}"),
        (policy(sel=wide, hold=True), f"meta l4proto 1 {near} {held}"),
        (policy(Dir.OUT, PolicyType.NONE, sel=selector("::/0", "::/0")), "meta l4proto 58 return"),
        (
            policy(sel=six),
            "meta l4proto 58 @th,256,128 & 0xffffffff000000000000000000000000"
            " == 0x20010db8000000000000000000000000"
            f" @th,128,128 0x00000000000000000000000000000001 {steer}",
        ),
    ):
        assert FRAME.policy_rules(spec)["policy_error"] == [rule]
    assert FRAME.policy_rules(policy(Dir.OUT, PolicyType.NONE, sel=wide))["policy_error"] == []
    assert "policy_error" not in FRAME.policy_rules(policy(Dir.IN))
