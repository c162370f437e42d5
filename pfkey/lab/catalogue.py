"""The examples that `pfkey lab` can run: names, hosts, and the FAQ's files for each."""

from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Two hosts that talk, and what each of them is given."""

    name: str
    title: str
    node: str  # the FAQ's word for the host whose file is printed there
    peer: str
    node_file: str
    peer_file: str
    extra_file: str | None = None  # more policies for the node, setkey commands without a shell
    spi_out: int  # node to peer
    spi_in: int
    wrong_key: tuple[str, str]  # setkey commands for the peer: another key, and the right one again

    @property
    def requires(self) -> bool:
        """Whether the node refuses clear packets from the peer."""
        return self.extra_file is not None


_SWAP = "delete 10.1.1.1 20.1.1.1 esp 9876;\nadd 10.1.1.1 20.1.1.1 esp 9876 -E 3des-cbc {};\n"
_ENCRYPTION = Example(
    name="encryption",
    title="host-to-host encryption with manual keys, level use",
    node="10.1.1.1", peer="20.1.1.1",
    node_file="1-encryption.sh", peer_file="1-peer.sh",
    spi_out=9876, spi_in=10000,
    wrong_key=(_SWAP.format('"mogamogamogamogamogamoga"'),
               _SWAP.format('"hogehogehogehogehogehoge"')),
)  # fmt: skip
_ENCRYPTION_REQUIRE = Example(
    name="encryption-require",
    title="the same, and the node refuses packets in clear",
    node=_ENCRYPTION.node, peer=_ENCRYPTION.peer,
    node_file=_ENCRYPTION.node_file, peer_file=_ENCRYPTION.peer_file,
    extra_file="1-require.conf",
    spi_out=_ENCRYPTION.spi_out, spi_in=_ENCRYPTION.spi_in,
    wrong_key=_ENCRYPTION.wrong_key,
)  # fmt: skip

EXAMPLES = {example.name: example for example in (_ENCRYPTION, _ENCRYPTION_REQUIRE)}
DEMO = ("encryption", "encryption-require")


def example_file(name: str) -> Traversable:
    """One of the FAQ's files."""
    return files("pfkey.lab.examples") / name
