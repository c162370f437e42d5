"""iked under `pfkey run`, and pfkeyd's ESP, against strongSwan's charon and its own ESP."""

from pathlib import Path

import pytest

from pfkey.lab.hosts import Net
from tests.support.charon import Charon
from tests.support.iked import Iked
from tests.support.system import A, B, Daemon, until
from tests.support.wire import Tap

pytestmark = [pytest.mark.root, pytest.mark.slow]

UDP = 17
PATIENCE = 40
IN_A, IN_B = "10.1.0.1", "10.2.0.1"
CHARON = f"""
connections {{ c {{
    version = 2
    local_addrs = {B}
    remote_addrs = {A}
    proposals = aes256-sha256-modp2048
    dpd_delay = 1s
    local {{ auth = psk
        id = b.example }}
    remote {{ auth = psk
        id = a.example }}
    children {{ net {{
        local_ts = {IN_B}/32
        remote_ts = {IN_A}/32
        esp_proposals = aes256-sha1
    }} }}
}} }}
secrets {{ ike-1 {{ secret = "not a secret" }} }}
"""
IKED = f"""ikev2 {{mode}} esp from {IN_A} to {IN_B} local {A} peer {B} \\
    ikesa enc aes-256 prf hmac-sha2-256 auth hmac-sha2-256 group modp2048 \\
    childsa enc aes-256 auth hmac-sha1 srcid a.example dstid b.example psk "not a secret"
"""


@pytest.mark.parametrize("mode", ["active", "passive"])
def test_charon_opens_what_pfkeyd_seals_and_the_other_way(
    net: Net, tmp_path: Path, mode: str
) -> None:
    a, b = net.host("a"), net.host("b")
    net.link(a, f"{A}/32", b, f"{B}/32")
    a.ip("addr", "add", f"{IN_A}/32", "dev", "lo")
    b.ip("addr", "add", f"{IN_B}/32", "dev", "lo")
    a.ip("route", "add", IN_B, "dev", "tob", "src", IN_A)
    daemon = Daemon(a, tmp_path)
    charon = Charon(b, tmp_path / "charon", CHARON)
    (tmp_path / "iked").mkdir()
    iked = Iked(a, tmp_path / "iked", "a.example", IKED.format(mode=mode))
    until(lambda: daemon.control("status")["registered"], PATIENCE)
    if mode == "passive":
        charon.control("--initiate", "--child", "net", "--timeout", "20")
    until(lambda: iked.loaded == ["enc aes-256 auth hmac-sha1"], PATIENCE)
    until(lambda: "INSTALLED, TUNNEL-in-UDP" in charon.control("--list-sas"), PATIENCE)

    with Tap(b, "toa") as tap:
        for host, own, other in ((a, IN_A, IN_B), (b, IN_B, IN_A)):
            said = host.run("ping", "-c3", "-i0.1", "-W5", "-I", own, other).stdout
            assert " 0% packet loss" in said, said
    assert set(tap.protocols(A, B)) == {UDP}
    assert daemon.counter("esp", "input") >= 6
    assert daemon.counter("esp", "output") >= 6
    until(lambda: "send INFORMATIONAL res" in iked.log, PATIENCE, "iked says that it lives")

    charon.control("--terminate", "--ike", "c", "--timeout", "20")
    until(lambda: "state=mature" not in daemon.setkey("", "-D"), PATIENCE)
    iked.stop()
    charon.stop()
    daemon.stop()
