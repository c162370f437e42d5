"""Two unmodified ikeds with a NAT between them: IKE is theirs, ESP in UDP at the same port ours."""

from pathlib import Path

import pytest

from pfkey.lab.hosts import Net
from tests.netns.test_conversation import transfer
from tests.netns.test_natt import N, Natted
from tests.support.iked import Iked
from tests.support.system import A, B, Daemon, until
from tests.support.wire import Tap, udp_listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

UDP, UNREACHABLE = 17, 3
ESP = b"\0\0\x30\x39\0\0\0\1some ESP"
PATIENCE = 40
RULE = """ikev2 {mode} esp from {own} to {other} local {own} peer {peer} \\
    childsa enc aes-256 auth hmac-sha1 srcid {me} dstid {you} psk "not a secret"
"""


def started(natted: Natted, tmp: Path, host: str) -> Iked:
    """On a, who begins, or on b, who knows of no address."""
    is_a = host == "a"
    me, you = ("a.example", "b.example") if is_a else ("b.example", "a.example")
    folder = tmp / host
    folder.mkdir()
    rule = RULE.format(
        mode="active" if is_a else "passive", own=A if is_a else B, other=B if is_a else A,
        peer=B if is_a else "any", me=me, you=you,
    )  # fmt: skip
    daemon = natted.da if is_a else natted.db
    made = Iked(daemon.host, folder, me, rule)
    until(lambda: daemon.control("status")["registered"], PATIENCE)
    return made


def is_ready(daemon: Daemon) -> bool:
    """Whether both SAs are there, in UDP, and the policies after them."""
    listed = daemon.setkey("", "-D")
    return listed.count("esp-udp mode=tunnel") == listed.count("state=mature") == 2 and (
        daemon.setkey("", "-DP").count("\tesp/tunnel/") == 3
    )


def test_a_nat_that_forgets_is_followed_under_two_ikeds(net: Net, tmp_path: Path) -> None:
    natted = Natted(net, tmp_path)
    b = started(natted, tmp_path, "b")
    # iked has set UDP_ENCAP: what is no IKE is not its own, though there are no SAs yet
    udp_listener(natted.n, N, 0).sendto(ESP, (B, 4500))
    until(lambda: natted.count(natted.db, "esp", "notdb") == 1, 5, "pfkeyd has taken the ESP")
    a = started(natted, tmp_path, "a")
    until(lambda: is_ready(natted.da) and is_ready(natted.db), PATIENCE)
    with Tap(natted.b, natted.b_dev) as tap:
        until(natted.ping, PATIENCE)
        assert len(transfer(natted.a, natted.b, B, 200_000)) == 200_000
        assert natted.b.run("ping", "-c1", "-W5", A).returncode == 0
        natted.map_to(6000)
        until(natted.ping, PATIENCE, "answers find the new mapping")
        assert natted.b.run("ping", "-c1", "-W5", A).returncode == 0
    # beside it only what the NAT itself says of datagrams that it does not know
    assert all(packet[9] == UDP or packet[20] == UNREACHABLE for packet in tap.packets)
    assert natted.count(natted.db, "pfkey", "natt_moved") >= 1
    assert natted.count(natted.db, "ipsec", "in_polvio") == 0
    for iked in (a, b):
        iked.stop()
    natted.da.stop()
    natted.db.stop()
