"""`pfkey stat`: the counters of pfkeyd, in the grouping and words of `netstat -s`.

The words are those of `specs/tables/counters.toml`, which a test holds this table to.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pfkey.control import Control
from pfkey.errors import ShellError

SCHEMA_VERSION = 1
Counters = Mapping[str, Mapping[str, int]]

TITLES = {
    "ipsec": "(Fast) IPsec",
    "ah": "IPsec ah",
    "esp": "IPsec esp",
    "ipcomp": "IPsec ipcomp",
    "pfkey": "pfkey",
}
TEXTS: dict[str, dict[str, str]] = {
    "ipsec": {
        "in_polvio": "policy violations (input)",
        "out_polvio": "policy violations (output)",
        "out_nosa": "no SA found (output)",
        "out_nomem": "no memory available (output)",
        "out_noroute": "no route available (output)",
        "out_inval": "generic errors (output)",
        "out_bundlesa": "bundled SA processed (output)",
        "spdcachelookup": "SPD cache lookups",
        "spdcachemiss": "SPD cache misses",
    },
    "ah": {
        "input": "input packets processed",
        "output": "output packets processed",
        "hdrops": "headers too short",
        "nopf": "headers for unsupported address family",
        "notdb": "packets with no SA",
        "badkcr": "packets dropped by crypto returning NULL mbuf",
        "badauth": "packets with bad authentication",
        "noxform": "packets with no xform",
        "qfull": "packets dropped due to queue full",
        "wrap": "packets dropped for replay counter wrap",
        "replay": "packets dropped for possible replay",
        "badauthl": "packets with bad authentication length",
        "ibytes": "bytes received",
        "obytes": "bytes transmitted",
        "invalid": "packets with an invalid SA",
        "toobig": "packets too big",
        "pdrops": "packets blocked due to policy",
        "crypto": "failed crypto requests",
        "tunnel": "tunnel sanity check failures",
    },
    "esp": {
        "input": "input packets processed",
        "output": "output packets processed",
        "hdrops": "headers too short",
        "nopf": "headers for unsupported address family",
        "notdb": "packets with no SA",
        "badkcr": "packets dropped by crypto returning NULL mbuf",
        "qfull": "packets dropped due to queue full",
        "noxform": "packets with no xform",
        "badilen": "packets with bad ilen",
        "badenc": "packets with bad encryption",
        "badauth": "packets with bad authentication",
        "wrap": "packets dropped for replay counter wrap",
        "replay": "packets dropped for possible replay",
        "invalid": "packets with an invalid SA",
        "toobig": "packets too big",
        "pdrops": "packets blocked due to policy",
        "crypto": "failed crypto requests",
        "tunnel": "tunnel sanity check failures",
        "ibytes": "bytes received",
        "obytes": "bytes transmitted",
    },
    "ipcomp": {
        "hdrops": "headers too short",
        "nopf": "headers for unsupported address family",
        "notdb": "packets with no SA",
        "badkcr": "packets dropped by crypto returning NULL mbuf",
        "qfull": "packets dropped due to queue full",
        "noxform": "packets with no xform",
        "wrap": "packets dropped for replay counter wrap",
        "input": "input packets processed",
        "output": "output packets processed",
        "invalid": "packets with an invalid SA",
        "ibytes": "bytes received",
        "obytes": "bytes transmitted",
        "toobig": "packets too big",
        "pdrops": "packets blocked due to policy",
        "crypto": "failed crypto requests",
        "minlen": "packets too short for compression",
        "useless": "packets not compressed because it was useless",
    },
    "pfkey": {
        "tun_reads": "reads from the TUN device",
        "tun_segments": "segments read from the TUN device",
        "superpacket_in": "super-packets read from the TUN device",
        "segments_out": "segments sent to the wire",
        "coalesced_writes": "super-packets written to the TUN device",
        "coalesced_segments": "segments joined into super-packets",
        "tun_writes": "writes to the TUN device",
        "tun_short": "short or malformed reads from the TUN device",
        "foreign": "packets others sent into the TUN device",
        "spoofed": "packets with an impossible source",
        "nd_refused": "neighbour discovery or redirects out of an SA",
        "dummies": "dummy packets received",
        "frag_dropped": "fragments dropped",
        "frag_held": "fragments waiting for others",
        "frag_joined": "datagrams put together from fragments",
        "clear_out": "packets sent in clear by level use",
        "bypassed": "packets sent in clear by an exact match",
        "icmp_toobig_sent": "path MTU answers sent",
        "icmp_accepted": "ICMP errors accepted",
        "icmp_ignored": "ICMP errors ignored",
        "icmp_relayed": "ICMP errors passed on to senders",
        "black_holes": "path MTU black holes suspected",
        "out_guard": "protected packets stopped on another device",
        "hold_dropped": "packets dropped by a hold",
        "natt_keepalives_in": "NAT keepalives received",
        "natt_keepalives_out": "NAT keepalives sent",
        "natt_alien": "datagrams that are no ESP in UDP",
        "natt_moved": "NAT mappings that changed",
        "expired": "packets for an SA past its hard limit",
        "queue_dropped": "waiting packets dropped",
        "internal": "internal errors",
    },
}


def counters_of(answer: object) -> dict[str, dict[str, int]]:
    """The counters in the control socket's answer to `counters`.

    Raises:
        ShellError: pfkeyd speaks another version of the document.
    """
    match answer:
        case {"schema_version": 1, "counters": dict(groups)}:
            return groups
        case _:
            raise _of_another_version(answer)


def policies_of(path: Path) -> Iterator[dict[str, Any]]:
    """What was done under each policy, by id; `path` is the PF_KEY socket's.

    Raises:
        ShellError: pfkeyd cannot be reached, or speaks another version of the document.
    """
    after: int | None = 0
    with Control(path) as control:
        while after is not None:
            match control.call("policies", after=after):
                case {"schema_version": 1, "policies": list(found), "next": int() | None as after}:
                    yield from found
                case answer:
                    raise _of_another_version(answer)


def _of_another_version(answer: object) -> ShellError:
    match answer:
        case {"schema_version": version}:
            return ShellError(
                f"pfkeyd's counters have version {version}, this pfkey knows {SCHEMA_VERSION}",
                "install the same version of both, then restart pfkeyd",
            )
        case _:
            return ShellError("pfkeyd's answer has no counters", "restart pfkeyd")


def render(counters: Counters, *, nonzero: bool = False) -> str:
    """Lines as `netstat -s` prints them; `nonzero` leaves out zeros and empty groups.

    Counters that this table does not know come last in their group, by name.
    """
    lines = []
    for group in [*TITLES, *sorted(set(counters) - set(TITLES))]:
        values = counters.get(group, {})
        texts = TEXTS.get(group, {})
        names = [n for n in texts if n in values] + sorted(n for n in values if n not in texts)
        shown = [n for n in names if values[n] or not nonzero]
        if shown:
            lines.append(f"{TITLES.get(group, group)}:")
            lines += [f"\t{values[n]} {texts.get(n, n)}" for n in shown]
    return "\n".join(lines)


def document(counters: Counters) -> str:
    """The JSON document of `schemas/counters.json`."""
    return json.dumps({"schema_version": SCHEMA_VERSION, "counters": counters}, indent=2)


def render_policies(policies: Sequence[Mapping[str, Any]]) -> str:
    """Each policy as its spdadd line begins, and below it what was done under it."""
    lines = []
    for policy in policies:
        lines += [
            f"{policy['policy']} {policy['type']} (id {policy['id']}):",
            f"\t{policy['packets']} packets passed",
            f"\t{policy['octets']} bytes passed",
        ]
        for group, values in policy["drops"].items():
            texts = TEXTS.get(group, {})
            lines += [f"\t{n} {group}: {texts.get(name, name)}" for name, n in values.items()]
    return "\n".join(lines)


def policies_document(policies: Sequence[Mapping[str, Any]]) -> str:
    """The JSON document of `schemas/policies.json`."""
    return json.dumps({"schema_version": SCHEMA_VERSION, "policies": policies}, indent=2)
