"""What an example is: hosts, links, files, who talks to whom, and what the wire must show.

The FAQ prints the file of one node. The other end's is made from it as the FAQ says: addresses
swapped on the spdadd lines (host to host), or `in` and `out` swapped (gateways, router).
"""

import re
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files
from importlib.resources.abc import Traversable

ESP, AH = 50, 51
NAMES = {ESP: "esp", AH: "ah"}


class Derive(Enum):
    """How a host's commands come from the FAQ's file; the value tells a reader."""

    AS_WRITTEN = ""
    SWAP_ADDRESSES = "with the addresses swapped on the spdadd line, not on the add lines"
    SWAP_DIRECTIONS = "with in and out swapped on the spdadd commands"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSpec:
    """A namespace: has it a pfkeyd, does it forward, and its routes as `ip route add` has them."""

    name: str
    daemon: bool = True
    forwards: bool = False
    routes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpec:
    """Two hosts, their addresses with prefix lengths, and whether all on it must be protected."""

    a: str
    a_address: str
    b: str
    b_address: str
    protected: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One of the files, and the host that runs it."""

    host: str
    file: str
    derive: Derive = Derive.AS_WRITTEN
    note: str = ""  # what a reader is told before
    names: tuple[tuple[str, str], ...] = ()  # the FAQ's placeholders and their addresses

    @property
    def is_script(self) -> bool:
        """Whether it is a shell script, not setkey's commands alone."""
        return self.file.endswith(".sh")

    @property
    def is_as_written(self) -> bool:
        """Whether the host is given the very words of the file."""
        return self.derive is Derive.AS_WRITTEN and not self.names

    @property
    def text(self) -> str:
        """What the host is given."""
        text = example_file(self.file).read_text()
        for name, address in self.names:
            text = re.sub(rf"\b{name}\b", address, text)
        match self.derive:
            case Derive.SWAP_ADDRESSES:
                return re.sub(r"^spdadd (\S+) (\S+)", r"spdadd \2 \1", text, flags=re.M)
            case Derive.SWAP_DIRECTIONS:
                other = {"in": "out", "out": "in"}
                return re.sub(r"-P (in|out)\b", lambda found: f"-P {other[found[1]]}", text)
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """A ping besides those of client and server that must be protected too, and why."""

    host: str
    to: str
    source: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualSa:
    """An `add` line of the files: an SA whose key everybody may read."""

    src: str
    dst: str
    proto: int
    spi: int
    option: str  # -E or -A
    algorithm: str
    key_text: str  # quoted, or 0x…

    @property
    def key(self) -> bytes:
        """The key's octets."""
        if self.key_text.startswith("0x"):
            return bytes.fromhex(self.key_text[2:])
        return self.key_text.strip('"').encode()

    def again(self, key_text: str | None = None) -> str:
        """setkey commands that replace this SA; without a key, by itself."""
        name = f"{self.src} {self.dst} {NAMES[self.proto]} {self.spi}"
        key = key_text or self.key_text
        return f"delete {name};\nadd {name} {self.option} {self.algorithm} {key};\n"

    def with_wrong_key(self) -> str:
        """The same with another key of the same length: its characters backwards."""
        if self.key_text.startswith("0x"):
            return self.again("0x" + self.key_text[:1:-1])
        return self.again(self.key_text[::-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One example of the FAQ. `node` is the host whose file it prints, `peer` the other end."""

    name: str
    title: str
    picture: str
    hosts: tuple[HostSpec, ...]
    links: tuple[LinkSpec, ...]
    given: tuple[Given, ...]
    node: str
    peer: str
    client: tuple[str, str]  # a host and its address: it begins every conversation
    server: tuple[str, str]
    also: tuple[Aside, ...] = ()
    layers: tuple[int, ...] = (ESP,)  # protocols on the protected link, from the outside in
    is_tunnel: bool = False
    requires: bool = False  # whether the node refuses what comes in clear
    port: int = 0  # the TCP port at the node that alone is protected; 0 is everything

    @property
    def hides(self) -> bool:
        """Whether what passes on the protected link cannot be read."""
        return ESP in self.layers

    @property
    def protected_link(self) -> LinkSpec:
        """The link between node and peer."""
        return next(link for link in self.links if link.protected)

    def text(self, host: str) -> str:
        """All that a host is given."""
        return "".join(given.text for given in self.given if given.host == host)

    def address(self, host: str) -> str:
        """The address that node or peer has on the link between them."""
        link = self.protected_link
        return (link.a_address if host == link.a else link.b_address).split("/")[0]

    @property
    def sas(self) -> tuple[ManualSa, ...]:
        """The SAs that node and peer share."""
        return manual_sas(self.text(self.node))

    def sa(self, proto: int, *, towards_peer: bool) -> ManualSa:
        """The SA of one protocol and one direction."""
        src, dst = self.address(self.node), self.address(self.peer)
        if not towards_peer:
            src, dst = dst, src
        return next(sa for sa in self.sas if (sa.src, sa.dst, sa.proto) == (src, dst, proto))


_ADD = re.compile(r'^add (\S+) (\S+) (esp|ah) (\d+) (-[EA]) (\S+) ("[^"]*"|0x[0-9a-f]+) ?;', re.M)
_OUT = re.compile(r"^spdadd (\S+ \S+ \S+ -P out) .*;", re.M)


def manual_sas(text: str) -> tuple[ManualSa, ...]:
    """The `add` lines of a file."""
    protos = {name: proto for proto, name in NAMES.items()}
    return tuple(
        ManualSa(src=src, dst=dst, proto=protos[proto], spi=int(spi), option=option,
                 algorithm=algorithm, key_text=key)
        for src, dst, proto, spi, option, algorithm, key in _ADD.findall(text)
    )  # fmt: skip


def policies_out(text: str) -> tuple[str, ...]:
    """The commands of a file that make a policy for what is sent."""
    return tuple(found[0] for found in _OUT.finditer(text))


def deletion(spdadd: str) -> str:
    """The command that deletes what one of `policies_out` made."""
    return _OUT.sub(r"spddelete \1;", spdadd)


def example_file(name: str) -> Traversable:
    """One of the FAQ's files."""
    return files("pfkey.lab.examples") / name
