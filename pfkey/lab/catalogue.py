"""The examples that `pfkey lab` can run, each as data: see `Example`."""

from pfkey.lab.example import AH, ESP, Aside, Derive, Example, Given, HostSpec, LinkSpec

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

_LEAF, _ROUTER, _WORLD = "10.0.1.5", "10.0.1.1", "30.1.1.9"
_HOST1, _HOST2 = "10.0.1.2", "10.0.2.2"  # behind the gateways, one on each side

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
        name="vpn",
        title="a tunnel between two gateways, with hosts behind both that know nothing of it",
        picture=f"""\
host1 {_HOST1} ---- 10.0.1.1 gateway1 20.0.0.1 ---- 20.0.0.2 gateway2 10.0.2.1 ---- {_HOST2} host2
                 in clear                      the tunnel                       in clear""",
        hosts=(
            HostSpec(name="host1", daemon=False, routes=("default via 10.0.1.1",)),
            HostSpec(name="gateway1", forwards=True,
                     routes=("10.0.2.0/24 via 20.0.0.2 src 10.0.1.1",)),
            HostSpec(name="gateway2", forwards=True,
                     routes=("10.0.1.0/24 via 20.0.0.1 src 10.0.2.1",)),
            HostSpec(name="host2", daemon=False, routes=("default via 10.0.2.1",)),
        ),
        links=(
            LinkSpec(a="host1", a_address=f"{_HOST1}/24", b="gateway1", b_address="10.0.1.1/24",
                     protected=False),
            LinkSpec(a="gateway1", a_address="20.0.0.1/32", b="gateway2", b_address="20.0.0.2/32"),
            LinkSpec(a="gateway2", a_address="10.0.2.1/24", b="host2", b_address=f"{_HOST2}/24",
                     protected=False),
        ),
        given=(
            Given(host="gateway1", file="6-vpn-gateway1.sh"),
            Given(host="gateway2", file="6-vpn-gateway1.sh", derive=Derive.SWAP_DIRECTIONS),
        ),
        node="gateway1",
        peer="gateway2",
        client=("host1", _HOST1),
        server=("host2", _HOST2),
        also=(Aside(host="gateway1", to=_HOST2, source="10.0.1.1",
                    why="The gateway's own address is in the net that the policy names:"),),
        is_tunnel=True,
        requires=True,
    ),
    Example(
        name="leaf",
        title="a leaf node that sends everything through a tunnel to its router",
        picture=f"""\
leaf {_LEAF} ---- {_ROUTER} router 30.1.1.1 ---- {_WORLD} world
           the tunnel                   in clear""",
        hosts=(
            HostSpec(name="leaf", routes=(f"default via {_ROUTER} src {_LEAF}",)),
            HostSpec(name="router", forwards=True),
            HostSpec(name="world", daemon=False, routes=("default via 30.1.1.1",)),
        ),
        links=(
            LinkSpec(a="leaf", a_address=f"{_LEAF}/32", b="router", b_address=f"{_ROUTER}/32"),
            LinkSpec(a="router", a_address="30.1.1.1/24", b="world", b_address=f"{_WORLD}/24",
                     protected=False),
        ),
        given=(
            Given(host="leaf", file="7-leaf.sh"),
            Given(host="router", file="7-leaf.sh", derive=Derive.SWAP_DIRECTIONS),
        ),
        node="leaf",
        peer="router",
        client=("leaf", _LEAF),
        server=("world", _WORLD),
        also=(Aside(host="leaf", to=_ROUTER, source=_LEAF,
                    why="0.0.0.0/0 is everybody, the router too:"),),
        is_tunnel=True,
        requires=True,
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
