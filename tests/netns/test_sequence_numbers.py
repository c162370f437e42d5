"""Extended sequence numbers and windows of thousands of packets, with real packets."""

from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.layers.ipsec import ESP, SecurityAssociation

from pfkey.lab.hosts import Net
from tests.netns.test_conversation import MEGABYTE, Two, transfer
from tests.support.system import A, B, over, require, versions
from tests.support.wire import Tap

pytestmark = [pytest.mark.root, pytest.mark.slow]

KEY, MAC = "hogehogehogehoge", "0123456789abcdef0123456789abcdef"
ESP_KEYS = "".join(
    f'add {src} {dst} esp {spi} -r 4096 -esn -E aes-cbc "{KEY}" -A hmac-sha2-256 "{MAC}";\n'
    for src, dst, spi in ((A, B, 1000), (B, A, 1001))
)
AH_KEYS = "".join(
    f'add {src} {dst} ah {spi} -r 1000 -esn -A hmac-sha2-256 "{MAC}";\n'
    for src, dst, spi in ((A, B, 1000), (B, A, 1001))
)


@versions
@pytest.mark.parametrize("proto", ["esp", "ah"])
def test_extended_numbers_and_large_windows_carry_everything(
    net: Net, tmp_path: Path, version: int, proto: str
) -> None:
    two = Two(net, tmp_path, version)
    keys = {"esp": ESP_KEYS, "ah": AH_KEYS}[proto]
    for daemon, own, other in ((two.da, A, B), (two.db, B, A)):
        rules = require(own, other).replace("ipsec esp", f"ipsec {proto}")
        daemon.setkey(over(version, keys + rules))
    with Tap(two.b, two.b_dev) as tap:
        assert two.ping("-s", "3000")
        assert len(transfer(two.a, two.b, two.other, MEGABYTE)) == MEGABYTE
    assert set(tap.protocols(two.own, two.other)) <= {50, 51, 44}
    for daemon in (two.da, two.db):
        for name in ("replay", "badauth", "pdrops"):
            assert daemon.counter(proto, name) == 0
    shown = two.da.setkey("", "-D")
    assert f"replay window: {4096 if proto == 'esp' else 1000} packets" in shown
    assert "flags=0x00000400" in shown
    if (version, proto) == (4, "esp"):
        sa = SecurityAssociation(
            ESP, spi=1000, crypt_algo="AES-CBC", crypt_key=KEY.encode(), auth_algo="SHA2-256-128",
            auth_key=MAC.encode(), esn_en=True, esn=0,
        )  # fmt: skip
        whole = next(p for p in tap.between(A, B) if p[9] == 50 and not p[6] & 0x3F)
        assert sa.decrypt(IP(whole)).src == A


def test_without_a_window_there_are_no_extended_numbers(net: Net, tmp_path: Path) -> None:
    two = Two(net, tmp_path)
    said = two.da.setkey(ESP_KEYS.replace("-r 4096 ", ""), check=False)
    assert said is not None
    assert "No SAD entries" in two.da.setkey("", "-D")
    assert "need a replay window" in two.da.log
