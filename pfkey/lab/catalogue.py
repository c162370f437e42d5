"""The examples that `pfkey lab` can run, each as data: see `Example`."""

from pfkey.lab.example import ESP, Derive, Example, Given, HostSpec, LinkSpec

_NODE, _PEER = "10.1.1.1", "20.1.1.1"


def _host_to_host(
    name: str, title: str, *given: Given, layers: tuple[int, ...] = (ESP,), requires: bool = False
) -> Example:
    return Example(
        name=name,
        title=title,
        picture=f"node {_NODE} ----------------- {_PEER} peer",
        hosts=(HostSpec(name="node"), HostSpec(name="peer")),
        links=(LinkSpec(a="node", a_address=f"{_NODE}/32", b="peer", b_address=f"{_PEER}/32"),),
        given=given,
        node="node",
        peer="peer",
        client=("node", _NODE),
        server=("peer", _PEER),
        layers=layers,
        requires=requires,
    )


def _both_ends(file: str) -> tuple[Given, Given]:
    """The node's file, and the peer's as the FAQ makes it from the node's."""
    return (
        Given(host="node", file=file),
        Given(host="peer", file=file, derive=Derive.SWAP_ADDRESSES),
    )


_ENCRYPTION = (Given(host="node", file="1-encryption.sh"), Given(host="peer", file="1-peer.sh"))

_ALL = (
    _host_to_host(
        "encryption", "host-to-host encryption with manual keys, level use", *_ENCRYPTION
    ),
    _host_to_host(
        "encryption-require", "the same, and the node refuses packets in clear",
        *_ENCRYPTION, Given(host="node", file="1-require.conf"), requires=True,
    ),
    _host_to_host(
        "rijndael", "host-to-host encryption with rijndael-cbc, which is AES, 128 bits",
        *_both_ends("3-rijndael.sh"),
    ),
)  # fmt: skip

EXAMPLES = {example.name: example for example in _ALL}
DEMO = ("encryption", "encryption-require")
