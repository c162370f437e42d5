"""Debian's iked, unmodified, under `pfkey run`."""

import sys
from pathlib import Path

import pytest

from pfkey.const import MsgType, SaType
from pfkey.control import Control
from pfkey.lab.hosts import Net
from tests.support.system import Daemon, until

BIN = Path(sys.executable).parent
pytestmark = [pytest.mark.root, pytest.mark.slow]

CONF = """
ikev2 "one" passive esp from 10.1.1.1 to 20.1.1.1 peer any \\
    childsa enc aes-256 auth hmac-sha1 psk "not a secret"
"""


def heard(control: Control) -> tuple[str, int, int]:
    """Direction, type and SA type of the next message."""
    notification = control.notification(timeout=10)
    assert notification is not None
    record = bytes.fromhex(notification["params"]["hex"])
    return notification["params"]["direction"], record[1], record[3]


def test_iked_starts_and_registers(net: Net, tmp_path: Path) -> None:
    """Its parent opens the socket; a child without rights, in a chroot, uses it."""
    host = net.host("a")
    daemon = Daemon(host, tmp_path, "--no-dataplane")
    conf = tmp_path / "iked.conf"
    conf.write_text(CONF)
    conf.chmod(0o600)
    with Control(daemon.socket) as control, (tmp_path / "iked.log").open("w+") as log:
        control.call("subscribe", show_keys=False)
        iked = host.start(
            str(BIN / "pfkey"), "run", "--", "iked", "-dv", "-f", str(conf), stdout=log, stderr=log
        )
        messages = [heard(control) for _ in range(6)]
        assert messages == [
            ("in", MsgType.FLUSH, SaType.UNSPEC), ("out", MsgType.FLUSH, SaType.UNSPEC),
            ("in", MsgType.REGISTER, SaType.ESP), ("out", MsgType.REGISTER, SaType.ESP),
            ("in", MsgType.REGISTER, SaType.AH), ("out", MsgType.REGISTER, SaType.AH),
        ]  # fmt: skip
        until(lambda: daemon.control("status")["registered"] == 1)
        assert host.stop(iked) == 0
        log.seek(0)
        assert "no reply" not in log.read()
    until(lambda: daemon.control("status")["clients"] == 0)
    daemon.stop()
