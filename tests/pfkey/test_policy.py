"""Policy strings of ipsec_set_policy(3): what is taken, what is refused, and the way back."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfkey import policy
from pfkey.const import Dir, Level, Mode, PolicyType
from pfkey.dialect import FREEBSD, LINUX, NETBSD, OPENBSD, Dialect
from pfkey.errors import PolicyError
from pfkey.ext_x_policy import IpsecRequest, Policy

ACCEPTED = {
    "out ipsec esp/transport//use": "out prio def ipsec esp/transport//use",
    "in ipsec esp/transport//require": "in prio def ipsec esp/transport//require",
    "out ipsec esp/transport//use ah/transport//use":
        "out prio def ipsec esp/transport//use ah/transport//use",
    "in ipsec\n\tesp/tunnel/20.0.0.2-20.0.0.1/require ":
        "in prio def ipsec esp/tunnel/20.0.0.2-20.0.0.1/require",
    "out ipsec esp/tunnel/2001:db8::1-2001:db8::2/unique:12":
        "out prio def ipsec esp/tunnel/2001:db8::1-2001:db8::2/unique:12",
    "out ipsec esp/tunnel/10.0.0.1[4500]-10.0.0.2[500]/default":
        "out prio def ipsec esp/tunnel/10.0.0.1[4500]-10.0.0.2[500]/default",
    "out ipsec esp/tunnel/10.0.0.1-10.0.0.2":
        "out prio def ipsec esp/tunnel/10.0.0.1-10.0.0.2/default",
    "out ipsec esp/tunnel/10.0.0.1-10.0.0.2/":
        "out prio def ipsec esp/tunnel/10.0.0.1-10.0.0.2/default",
    "out ipsec esp/transport": "out prio def ipsec esp/transport//default",
    "out ipsec esp/transport/": "out prio def ipsec esp/transport//default",
    "out ipsec esp/transport/ ah/transport":
        "out prio def ipsec esp/transport//default ah/transport//default",
    "out ipsec esp/transport// ah/transport":
        "out prio def ipsec esp/transport//default ah/transport//default",
    "out ipsec esp/transport/me-any/use": "out prio def ipsec esp/transport//use",
    "in ipsec esp/transport/any-me/use": "in prio def ipsec esp/transport//use",
    "out ipsec ipcomp/transport//use esp/transport//require":
        "out prio def ipsec ipcomp/transport//use esp/transport//require",
    "out ipsec esp/transport//unique": "out prio def ipsec esp/transport//unique",
    "out ipsec esp / transport / / use": "out prio def ipsec esp/transport//use",
    "in discard": "in prio def discard",
    "fwd none": "fwd prio def none",
    "out bypass": "out prio def bypass",
    "in entrust": "in prio def entrust",
    "out prio 5 none": "out prio def + 5 none",
    "out priority -5 none": "out prio def - 5 none",
    "out prio high none": "out prio high none",
    "out prio low - 7 none": "out prio low - 7 none",
    "out prio high+10 none": "out prio high + 10 none",
    "in": "in discard",
}  # fmt: skip

REFUSED = {
    "": "Too few arguments",
    "out ipsec esp": "Too few arguments",
    "out ipsec esp/": "Too few arguments",
    "out ipsec": "Too few arguments",
    "out prio": "Too few arguments",
    "out prio high +": "Too few arguments",
    "out prio 5": "Too few arguments",
    "sideways none": "Invalid direction",
    "OUT none": "Invalid direction",
    "out maybe": "syntax error",
    "out ipsec tcp/transport//use": "Invalid ipsec protocol",
    "out ipsec esp/beet//use": "Invalid ipsec mode",
    "out ipsec esp//use": "Invalid ipsec mode",
    "out ipsec esp/transport//always": "Invalid ipsec level",
    "out ipsec esp/transport//require:5": "Invalid ipsec level",
    "out ipsec esp/transport//unique:": "Invalid ipsec level",
    "out ipsec esp/transport//unique:4294967296": "Invalid ipsec level",
    "out ipsec esp/tunnel//require": "Invalid address specification",
    "out ipsec esp/tunnel": "Invalid address specification",
    "out ipsec esp/tunnel/host.example-10.0.0.1/require": "Invalid address specification",
    "out ipsec esp/tunnel/10.0.0.1/require": "Invalid address specification",
    "out ipsec esp/tunnel/10.0.0.1[65536]-10.0.0.2/require": "Invalid address specification",
    "out ipsec esp/tunnel/10.0.0.1[5-10.0.0.2/require": "Invalid address specification",
    "out ipsec esp/tunnel/10.0.0.1-2001:db8::1/require": "Family mismatch",
    "in ipsec esp/transport/me-any/use": "Invalid direction",
    "out ipsec esp/transport/any-me/use": "Invalid direction",
    "out none esp/transport//use": "Invalid security policy",
    "out ipsec" + " esp/transport//use" * 7: "Invalid security policy",
    "out prio 2147483648 none": "priority offset out of range",
    "out prio high + 1073741824 none": "base offset out of range",
    "out prio high + many none": "syntax error",
}


@pytest.mark.parametrize("text", ACCEPTED)
def test_a_policy_reads_back_as_libipsec_writes_it(text: str) -> None:
    assert policy.render(policy.parse(text)) == ACCEPTED[text]


@pytest.mark.parametrize("text", REFUSED)
def test_a_wrong_policy_is_refused_in_the_classic_words(text: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy.parse(text)
    assert caught.value.why.startswith(REFUSED[text])
    assert 0 <= caught.value.column <= len(text)


def test_priorities_are_inverted_on_the_wire() -> None:
    assert policy.parse("out none").priority == 0x80000000
    assert policy.parse("out prio 5 none").priority == 0x80000000 - 5
    assert policy.parse("out prio -5 none").priority == 0x80000000 + 5
    assert policy.parse("out prio high + 10 none").priority == 0x3FFFFFF6
    assert policy.parse("out").priority == 0


def test_a_priority_is_shown_from_the_nearest_base() -> None:
    assert policy.render_priority(0) == ""
    assert policy.render_priority(0x80000000) == "prio def"
    assert policy.render_priority(0x80000000 - 5) == "prio def + 5"
    assert policy.render_priority(0x40000000 + 7) == "prio high - 7"
    assert policy.render_priority(0xC0000000) == "prio low"
    assert policy.render_priority(0x60000000) == "prio def + 536870912"
    assert policy.render_priority(0xA0000000) == "prio low + 536870912"


def test_numbers_the_engine_chose_carry_another_mark() -> None:
    request = IpsecRequest(proto=50, mode=1, level=3, reqid=16385)
    assert policy.render_request(request) == "esp/transport//unique#16385"


@pytest.mark.parametrize("dialect", [NETBSD, FREEBSD], ids=repr)
def test_without_fwd_it_means_in(dialect: Dialect) -> None:
    assert policy.parse("fwd none", dialect).dir == Dir.IN


# A policy of each kind as the systems' own libipsec would write it, by hand.
LINUX_REQUEST = "3000320002030000" + "0c000000" + "00000000"
BSD_REQUEST = "2800320002030c00"
LINUX_PAIR = "02000000140000010000000000000000" + "02000000140000020000000000000000"
BSD_PAIR = "10020000140000010000000000000000" + "10020000140000020000000000000000"


@pytest.mark.parametrize(
    ("dialect", "text", "octets"),
    [
        (LINUX, "", "080012000200020000000000" + "00000080" + LINUX_REQUEST + LINUX_PAIR),
        (LINUX, "prio high", "080012000200020000000000" + "00000040" + LINUX_REQUEST + LINUX_PAIR),
        (NETBSD, "", "070012000200020000000000" + "00000000" + BSD_REQUEST + BSD_PAIR),
        (FREEBSD, "", "070012000200020000000000" + "00000000" + BSD_REQUEST + BSD_PAIR),
        (FREEBSD, "prio high", "070012000200020000000000" + "00000040" + BSD_REQUEST + BSD_PAIR),
    ],
)
def test_the_octets_are_the_dialects(dialect: Dialect, text: str, octets: str) -> None:
    found = policy.parse(f"out {text} ipsec esp/tunnel/20.0.0.1-20.0.0.2/unique:12", dialect)
    assert found.encode(dialect).hex() == octets
    assert Policy.decode(bytes.fromhex(octets), 0, dialect) == found


@pytest.mark.parametrize(
    ("dialect", "text", "why"),
    [
        (NETBSD, "out prio 5 none", "Policy priority not compiled in"),
        (NETBSD, "out ipsec esp/transport//unique:65536", "65536 does not fit 16 bits"),
        (FREEBSD, "out ipsec esp/transport//unique:65536", "65536 does not fit 16 bits"),
        (LINUX, "out ipsec esp/transport//unique:4294967296", "does not fit 32 bits"),
        (OPENBSD, "out none", "this system has flows, no policies"),
    ],
)
def test_what_a_dialect_cannot_say_is_refused(dialect: Dialect, text: str, why: str) -> None:
    with pytest.raises(PolicyError, match=why):
        policy.parse(text, dialect)


@pytest.mark.parametrize("dialect", [NETBSD, FREEBSD], ids=repr)
def test_numbers_of_the_system_without_a_name_are_shown_as_it_counts(dialect: Dialect) -> None:
    octets = bytes.fromhex("03001200" + "02000900" + "00000000" * 2 + "0800320009020000")
    found = Policy.decode(octets, 0, dialect)
    assert policy.render(found) == "9 ipsec esp/9//require"
    assert found.encode(dialect) == octets


def test_the_forwarded_copy_claims_no_sa_of_its_own() -> None:
    copy = policy.forwarded(policy.parse("in ipsec esp/transport//unique:7 ah/transport//unique:8"))
    assert policy.render(copy) == "fwd prio def ipsec esp/transport//require ah/transport//unique:8"


def test_per_socket_directions_have_names() -> None:
    assert policy.render(Policy(type=1, dir=4)) == "in(socket) none"
    assert policy.render(Policy(type=9, dir=9)) == "9 9"


def _requests() -> st.SearchStrategy[IpsecRequest]:
    v4, v6 = st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)
    ports = st.integers(0, 65535)
    protos = st.sampled_from([50, 51, 108])
    levels = st.one_of(
        st.tuples(st.sampled_from([Level.DEFAULT, Level.USE, Level.REQUIRE]), st.just(0)),
        st.tuples(st.just(Level.UNIQUE), st.integers(0, 0x3FFF)),
    )
    pairs = st.one_of(st.tuples(v4, v4), st.tuples(v6, v6))
    plain = st.builds(
        lambda proto, level: IpsecRequest(
            proto=proto, mode=Mode.TRANSPORT, level=level[0], reqid=level[1]
        ),
        protos, levels,
    )  # fmt: skip
    tunnel = st.builds(
        lambda proto, level, pair, sport, dport: IpsecRequest(
            proto=proto, mode=Mode.TUNNEL, level=level[0], reqid=level[1],
            src=pair[0], dst=pair[1], src_port=sport, dst_port=dport,
        ),
        protos, levels, pairs, ports, ports,
    )  # fmt: skip
    return plain | tunnel


policies = st.builds(
    lambda dir, priority, body: Policy(type=body[0], dir=dir, priority=priority, requests=body[1]),
    st.sampled_from([Dir.IN, Dir.OUT, Dir.FWD]),
    st.integers(1, 0xFFFFFFFF),
    st.one_of(
        st.tuples(
            st.just(PolicyType.IPSEC),
            st.lists(_requests(), min_size=1, max_size=6).map(tuple),
        ),
        st.tuples(st.sampled_from([t for t in PolicyType if t != PolicyType.IPSEC]), st.just(())),
    ),
)


@given(policies, st.sampled_from([" ", "\n\t"]))
def test_any_policy_survives_being_written(found: Policy, delimiter: str) -> None:
    assert policy.parse(policy.render(found, delimiter)) == found


words = st.sampled_from(
    ["out", "in", "ipsec", "none", "prio", "high", "+", "-", "5", "esp", "ah", "/", "transport",
     "tunnel", "10.0.0.1", "2001:db8::1", "me", "any", "use", "unique:7", "[", "]", " ", "\n", "é"]
)  # fmt: skip


@given(st.lists(words, max_size=24).map("".join) | st.text(max_size=60))
def test_any_text_parses_or_is_a_policy_error(text: str) -> None:
    try:
        found = policy.parse(text)
    except PolicyError:
        return
    assert found.encode()
    for request in found.requests:
        assert request.src is None or ipaddress.ip_address(request.src)
