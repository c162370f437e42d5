"""What a link must and must not have shown: claims about a capture, as values."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pfkey.lab.example import AH, NAMES, Example
from pfkey.lab.traffic import SECRETS
from pfkey.lab.wire import Capture, Frame


class Claim(NamedTuple):
    """One claim, whether it holds, and what was seen."""

    text: str
    holds: bool
    seen: object = ""


def towards(frames: Sequence[Frame], src: str, dst: str) -> int:
    """How many packets with ESP or AH went from `src` to `dst`."""
    return sum(bool(f.seals) and (f.src, f.dst) == (src, dst) for f in frames)


def protected(example: Example, capture: Capture) -> Iterator[Claim]:
    """Claims about the link between node and peer."""
    packets = [f for f in capture.frames if not f.is_arp]
    outer = example.layers[0]
    others = sorted({f.line() for f in packets if f.protocol != outer})
    yield Claim("the capture lost nothing", capture.lost == 0, f"{len(capture.frames)} frames")
    yield Claim(f"only protocol {outer} passed between {example.node} and {example.peer}"
                " (ARP aside)",
                not others and bool(packets), others[:3] or len(packets))  # fmt: skip
    seen = [s.decode() for s in SECRETS if any(s in f.octets for f in packets)]
    if example.hides:
        yield Claim("none of the payload is in clear on the wire", not seen, seen or "")
    else:
        yield Claim("the payload can be read: AH vouches for it and hides nothing",
                    len(seen) == len(SECRETS))  # fmt: skip
    yield from numbers(example, [f for f in packets if f.protocol == outer])


def one_port(example: Example, capture: Capture) -> Iterator[Claim]:
    """Claims about the link between node and peer where one TCP port alone is protected."""
    packets = [f for f in capture.frames if not f.is_arp]
    outer = example.layers[0]
    mail = [f for f in packets if example.port in f.ports]
    others = sorted({f.line() for f in mail if f.protocol != outer})
    yield Claim("the capture lost nothing", capture.lost == 0, f"{len(capture.frames)} frames")
    yield Claim(f"to and from port {example.port} only protocol {outer} passed",
                not others and bool(mail), others[:3] or len(mail))  # fmt: skip
    sealed = sorted({f.line() for f in packets if f.seals and example.port not in f.ports})
    yield Claim("nothing else had it", not sealed, sealed[:3] or f"{len(packets) - len(mail)} more")
    yield from numbers(example, mail)


def numbers(example: Example, packets: Sequence[Frame]) -> Iterator[Claim]:
    """Claims about SPIs and sequence numbers of what is protected."""
    for towards_peer in (True, False):
        for depth, proto in enumerate(example.layers):
            sa = example.sa(proto, towards_peer=towards_peer)
            found = [
                f.seals[depth] if len(f.seals) > depth else None
                for f in packets
                if (f.src, f.dst) == (sa.src, sa.dst)
            ]
            wrong = [s for s in found if s is None or (s.proto, s.spi) != (proto, sa.spi)]
            what = NAMES[proto].upper() if len(example.layers) > 1 else ""
            yield Claim(f"{sa.src} sent with {what + ' ' if what else ''}SPI {sa.spi} only",
                        bool(found) and not wrong, wrong[:3] or "")  # fmt: skip
            used = [s.sequence for s in found if s is not None]
            yield Claim(f"{sa.src} used no sequence number twice{what and f' in {what}'}",
                        len(used) == len(set(used)), f"{len(used)} numbers")  # fmt: skip


def clear(example: Example, capture: Capture) -> Iterator[Claim]:
    """Claims about a link behind a gateway."""
    packets = [f for f in capture.frames if not f.is_arp]
    sealed = sorted({f.line() for f in packets if f.seals or f.protocol == AH})
    yield Claim("no ESP and no AH there", not sealed, sealed[:3] or f"{len(packets)} packets")
    talks = [
        {example.client[1], example.server[1]},
        *({one.source, one.to} for one in example.also),
    ]
    strangers = sorted({f.line() for f in packets if {f.src, f.dst} not in talks})
    yield Claim("every packet is from one who talks to the other", not strangers,
                strangers[:3] or "")  # fmt: skip
    seen = [s for s in SECRETS if any(s in f.octets for f in packets)]
    yield Claim("the payload is in clear there", len(seen) == len(SECRETS))
