"""The data path's counters: every packet ends in one of them, every batch in some more.

The rows are those of `specs/tables/counters.toml`, in its order, which is the order of the
counters' area in the state file. `IN_POLVIO` and so on are indexes.
"""

from keyd.packet.drop import Drop
from pfkey.const import IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP

ROWS: tuple[tuple[str, str], ...] = (
    ("ipsec", "in_polvio"),
    ("ipsec", "out_polvio"),
    ("ipsec", "out_nosa"),
    ("ipsec", "out_nomem"),
    ("ipsec", "out_noroute"),
    ("ipsec", "out_inval"),
    ("ipsec", "out_bundlesa"),
    ("ipsec", "spdcachelookup"),
    ("ipsec", "spdcachemiss"),
    ("ah", "input"),
    ("ah", "output"),
    ("ah", "hdrops"),
    ("ah", "nopf"),
    ("ah", "notdb"),
    ("ah", "badkcr"),
    ("ah", "badauth"),
    ("ah", "noxform"),
    ("ah", "qfull"),
    ("ah", "wrap"),
    ("ah", "replay"),
    ("ah", "badauthl"),
    ("ah", "ibytes"),
    ("ah", "obytes"),
    ("ah", "invalid"),
    ("ah", "toobig"),
    ("ah", "pdrops"),
    ("ah", "crypto"),
    ("ah", "tunnel"),
    ("esp", "input"),
    ("esp", "output"),
    ("esp", "hdrops"),
    ("esp", "nopf"),
    ("esp", "notdb"),
    ("esp", "badkcr"),
    ("esp", "qfull"),
    ("esp", "noxform"),
    ("esp", "badilen"),
    ("esp", "badenc"),
    ("esp", "badauth"),
    ("esp", "wrap"),
    ("esp", "replay"),
    ("esp", "invalid"),
    ("esp", "toobig"),
    ("esp", "pdrops"),
    ("esp", "crypto"),
    ("esp", "tunnel"),
    ("esp", "ibytes"),
    ("esp", "obytes"),
    ("ipcomp", "hdrops"),
    ("ipcomp", "nopf"),
    ("ipcomp", "notdb"),
    ("ipcomp", "badkcr"),
    ("ipcomp", "qfull"),
    ("ipcomp", "noxform"),
    ("ipcomp", "wrap"),
    ("ipcomp", "input"),
    ("ipcomp", "output"),
    ("ipcomp", "invalid"),
    ("ipcomp", "ibytes"),
    ("ipcomp", "obytes"),
    ("ipcomp", "toobig"),
    ("ipcomp", "pdrops"),
    ("ipcomp", "crypto"),
    ("ipcomp", "minlen"),
    ("ipcomp", "useless"),
    ("pfkey", "tun_reads"),
    ("pfkey", "tun_segments"),
    ("pfkey", "superpacket_in"),
    ("pfkey", "segments_out"),
    ("pfkey", "coalesced_writes"),
    ("pfkey", "coalesced_segments"),
    ("pfkey", "tun_writes"),
    ("pfkey", "tun_short"),
    ("pfkey", "foreign"),
    ("pfkey", "spoofed"),
    ("pfkey", "nd_refused"),
    ("pfkey", "dummies"),
    ("pfkey", "frag_dropped"),
    ("pfkey", "frag_held"),
    ("pfkey", "frag_joined"),
    ("pfkey", "clear_out"),
    ("pfkey", "bypassed"),
    ("pfkey", "icmp_toobig_sent"),
    ("pfkey", "icmp_accepted"),
    ("pfkey", "icmp_ignored"),
    ("pfkey", "icmp_relayed"),
    ("pfkey", "black_holes"),
    ("pfkey", "out_guard"),
    ("pfkey", "hold_dropped"),
    ("pfkey", "natt_keepalives_in"),
    ("pfkey", "natt_keepalives_out"),
    ("pfkey", "natt_alien"),
    ("pfkey", "natt_moved"),
    ("pfkey", "expired"),
    ("pfkey", "queue_dropped"),
    ("pfkey", "internal"),
)

(
    IN_POLVIO, OUT_POLVIO, OUT_NOSA, OUT_NOMEM, OUT_NOROUTE, OUT_INVAL, OUT_BUNDLESA,
    SPDCACHELOOKUP, SPDCACHEMISS,
    AH_INPUT, AH_OUTPUT, AH_HDROPS, AH_NOPF, AH_NOTDB, AH_BADKCR, AH_BADAUTH, AH_NOXFORM, AH_QFULL,
    AH_WRAP, AH_REPLAY, AH_BADAUTHL, AH_IBYTES, AH_OBYTES, AH_INVALID, AH_TOOBIG, AH_PDROPS,
    AH_CRYPTO, AH_TUNNEL,
    ESP_INPUT, ESP_OUTPUT, HDROPS, NOPF, NOTDB, BADKCR, QFULL, NOXFORM, BADILEN, BADENC, BADAUTH,
    WRAP, REPLAY, INVALID, TOOBIG, PDROPS, CRYPTO, TUNNEL, IBYTES, OBYTES,
    IPCOMP_HDROPS, IPCOMP_NOPF, IPCOMP_NOTDB, IPCOMP_BADKCR, IPCOMP_QFULL, IPCOMP_NOXFORM,
    IPCOMP_WRAP, IPCOMP_INPUT, IPCOMP_OUTPUT, IPCOMP_INVALID, IPCOMP_IBYTES, IPCOMP_OBYTES,
    IPCOMP_TOOBIG, IPCOMP_PDROPS, IPCOMP_CRYPTO, IPCOMP_MINLEN, IPCOMP_USELESS,
    TUN_READS, TUN_SEGMENTS, SUPERPACKET_IN, SEGMENTS_OUT, COALESCED_WRITES, COALESCED_SEGMENTS,
    TUN_WRITES, TUN_SHORT, FOREIGN, SPOOFED, ND_REFUSED, DUMMIES, FRAG_DROPPED,
    FRAG_HELD, FRAG_JOINED, CLEAR_OUT, BYPASSED,
    ICMP_TOOBIG_SENT, ICMP_ACCEPTED, ICMP_IGNORED, ICMP_RELAYED, BLACK_HOLES, OUT_GUARD,
    HOLD_DROPPED, NATT_KEEPALIVES_IN, NATT_KEEPALIVES_OUT, NATT_ALIEN, NATT_MOVED, EXPIRED,
    QUEUE_DROPPED, INTERNAL,
) = range(len(ROWS))  # fmt: skip

# What each worker counts for each SA, as u64s. EDGE: outbound the next unused sequence number,
# inbound the highest authentic one. OCTETS are of inner packets, IP header included. Times are
# microseconds of the wall clock. IV is for counter modes: the next unused counter, 0 before the
# first.
EDGE, PACKETS, OCTETS, FIRST_USE, LAST_USE, IV = range(6)
SA_WORDS = 6

# NetBSD has two names for AH where ESP has others: an ICV of a wrong length is `badauthl`.
_AH_NAMES = {Drop.BADILEN: "badauthl", Drop.BADENC: "badkcr"}
OF_DROP: dict[Drop, int] = {drop: ROWS.index(("esp", drop.value)) for drop in Drop}
OF_AH_DROP: dict[Drop, int] = {
    drop: ROWS.index(("ah", _AH_NAMES.get(drop, drop.value))) for drop in Drop
}
# IPComp has no names for what only keys and tunnels of others can do.
_COMP_NAMES = {
    Drop.BADILEN: "hdrops", Drop.BADENC: "crypto", Drop.BADAUTH: "crypto", Drop.REPLAY: "invalid",
    Drop.TUNNEL: "invalid",
}  # fmt: skip
OF_COMP_DROP: dict[Drop, int] = {
    drop: ROWS.index(("ipcomp", _COMP_NAMES.get(drop, drop.value))) for drop in Drop
}
DROPS_OF = {IPPROTO_ESP: OF_DROP, IPPROTO_AH: OF_AH_DROP, IPPROTO_COMP: OF_COMP_DROP}
# per protocol: packets that came in, octets that came out of them
INPUTS = {IPPROTO_ESP: ESP_INPUT, IPPROTO_AH: AH_INPUT, IPPROTO_COMP: IPCOMP_INPUT}
OPENED = {IPPROTO_ESP: IBYTES, IPPROTO_AH: AH_IBYTES, IPPROTO_COMP: IPCOMP_IBYTES}
OF_DISABLED = {IPPROTO_ESP: PDROPS, IPPROTO_AH: AH_PDROPS, IPPROTO_COMP: IPCOMP_PDROPS}
# What grows without a packet being dropped.
_KEPT = frozenset((
    "input", "output", "ibytes", "obytes", "spdcachelookup", "spdcachemiss", "out_bundlesa",
    "useless", "minlen", "tun_reads", "tun_segments", "superpacket_in", "segments_out",
    "coalesced_writes", "coalesced_segments", "tun_writes", "clear_out", "bypassed",
    "icmp_toobig_sent", "icmp_accepted", "icmp_ignored", "icmp_relayed", "black_holes",
    "frag_held", "frag_joined", "dummies", "natt_keepalives_in", "natt_keepalives_out",
    "natt_moved",
))  # fmt: skip
DROPS = tuple(row for row, (_, name) in enumerate(ROWS) if name not in _KEPT)


def grouped(values: list[int]) -> dict[str, dict[str, int]]:
    """The values by group and name, in the order of `ROWS`."""
    groups: dict[str, dict[str, int]] = {}
    for (group, name), value in zip(ROWS, values, strict=True):
        groups.setdefault(group, {})[name] = value
    return groups
