"""Level `unique`: a policy's own SAs, and the same protocol twice on one packet (FAQ)."""

import re
import socket
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP
from scapy.layers.ipsec import ESP, SecurityAssociation

from pfkey.lab.hosts import Net
from tests.netns.test_conversation import Two
from tests.support.system import A, B
from tests.support.wire import Tap

pytestmark = [pytest.mark.root, pytest.mark.slow]

INNER, OUTER = b"inner-inner-inne", b"outer-outer-oute"
DOUBLE = "esp/transport//unique:1 esp/transport//unique:2"


def keys(*sas: tuple[str, str, int, int, bytes]) -> str:
    return "".join(
        f'add {src} {dst} esp {spi} -u {reqid} -E aes-cbc "{key.decode()}"'
        f' -A hmac-sha1 "{key.decode()}1234";\n'
        for src, dst, spi, reqid, key in sas
    )


KEYS = keys(
    (A, B, 2001, 1, INNER), (A, B, 2002, 2, OUTER), (B, A, 3001, 1, INNER), (B, A, 3002, 2, OUTER)
)  # fmt: skip


def policies(own: str, other: str, out: str, into: str) -> str:
    return (
        f"spdadd {own} {other} any -P out ipsec {out};\n"
        f"spdadd {other} {own} any -P in ipsec {into};\n"
    )


def peel(packet: IP, spi: int, key: bytes) -> IP:
    """Without one layer of ESP, as scapy opens it."""
    sa = SecurityAssociation(
        ESP, spi=spi, crypt_algo="AES-CBC", crypt_key=key, auth_algo="HMAC-SHA1-96",
        auth_key=key + b"1234",
    )  # fmt: skip
    return IP(bytes(sa.decrypt(packet)))


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with Net() as net:
        yield Two(net, tmp_path_factory.mktemp("unique"))


@pytest.fixture
def two(stand: Two) -> Two:
    stand.load("flush; spdflush;", "flush; spdflush;")
    return stand


def test_esp_twice_on_one_packet_takes_each_requests_own_sa(two: Two) -> None:
    two.load(KEYS + policies(A, B, DOUBLE, DOUBLE), KEYS + policies(B, A, DOUBLE, DOUBLE))
    with Tap(two.b, two.b_dev) as tap:
        for size in ("56", "3000"):
            assert two.ping("-s", size), size
    assert set(tap.protocols(A, B)) == {50}
    first = next(p for p in tap.packets if p[12:16] == socket.inet_aton(A))
    assert first[20:24] == (2002).to_bytes(4, "big")
    middle = peel(IP(first), 2002, OUTER)
    assert middle.proto == 50
    assert peel(middle, 2001, INNER).proto == 1
    assert two.da.counter("ipsec", "out_bundlesa") >= 2


def test_layers_with_each_others_numbers_are_refused(two: Two) -> None:
    swapped = "esp/transport//unique:2 esp/transport//unique:1"
    two.load(KEYS + policies(A, B, DOUBLE, DOUBLE), KEYS + policies(B, A, DOUBLE, swapped))
    before = two.db.counter("esp", "pdrops")
    assert not two.ping()
    assert two.db.counter("esp", "pdrops") >= before + 2


def test_a_number_that_pfkeyd_chose_is_shown_and_asked_for(two: Two) -> None:
    own = "esp/transport//unique"
    two.load(policies(A, B, own, own), KEYS + policies(B, A, *["esp/transport//require"] * 2))
    shown = two.da.setkey("spddump;")
    numbers = re.findall(r"unique#(\d+)", shown)
    assert len(set(numbers)) == 2
    assert min(map(int, numbers)) > 0x3FFF
    two.da.setkey(KEYS)
    before = two.da.counter("ipsec", "out_nosa")
    assert not two.ping(), "SAs with other numbers"
    assert two.da.counter("ipsec", "out_nosa") >= before + 2
    out, into = (re.findall(rf"\t{way} .*\n.*unique#(\d+)", shown)[0] for way in ("out", "in"))
    two.da.setkey("flush;\n" + keys((A, B, 2001, int(out), INNER), (B, A, 3001, int(into), INNER)))
    two.db.setkey("flush;\n" + keys((A, B, 2001, 0, INNER), (B, A, 3001, 0, INNER)))
    assert two.ping()
