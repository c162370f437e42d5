"""The examples that `pfkey lab` can run, each as data: see `Example`."""

from pfkey.lab.example import AH, ESP, Derive, Example, Given, HostSpec, LinkSpec

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

_A_AND_B = (("A", _NODE), ("B", _PEER))
_BY_HAND = "Keys, which the FAQ lets IKE make here, by hand:"

_ALL = (
    _host_to_host(
        "encryption", "host-to-host encryption with manual keys, level use", *_ENCRYPTION
    ),
    _host_to_host(
        "encryption-require", "the same, and the node refuses packets in clear",
        *_ENCRYPTION,
        Given(host="node", file="1-require.conf",
              note="The FAQ's extra line: the node shall refuse what comes in clear."),
        requires=True,
    ),
    _host_to_host(
        "rijndael", "host-to-host encryption with rijndael-cbc, which is AES, 128 bits",
        *_both_ends("3-rijndael.sh"),
    ),
    _host_to_host(
        "authentication", "host-to-host authentication: AH with hmac-md5",
        *_both_ends("4-authentication.sh"), layers=(AH,),
    ),
    _host_to_host(
        "both", "host-to-host encryption and authentication: ESP, and AH around it",
        *_both_ends("5-both.sh"), layers=(AH, ESP),
    ),
    Example(
        name="pop3",
        title="AH for everybody who reads mail with POP3, and for nothing else",
        picture=f"a {_NODE}, a mail server ----------------- {_PEER} b, who reads mail",
        hosts=(HostSpec(name="a"), HostSpec(name="b")),
        links=(LinkSpec(a="a", a_address=f"{_NODE}/32", b="b", b_address=f"{_PEER}/32"),),
        given=(
            Given(host="a", file="9-ike-pop3-A.conf", names=_A_AND_B),
            Given(host="b", file="9-ike-pop3-B.conf", names=_A_AND_B),
            Given(host="a", file="9-pop3-keys.conf", note=_BY_HAND),
            Given(host="b", file="9-pop3-keys.conf"),
        ),
        node="a",
        peer="b",
        client=("b", _PEER),
        server=("a", _NODE),
        layers=(AH,),
        requires=True,
        port=110,
    ),
)  # fmt: skip

EXAMPLES = {example.name: example for example in _ALL}
DEMO = ("encryption", "encryption-require")
