"""What `pfkey doctor` finds, on machines that lack something."""

import errno
import json
import os
from pathlib import Path

import pytest

from pfkey import crypto, doctor
from pfkey.errors import ShellError
from tests.support.schema import check_schema, schema


def test_every_missing_thing_has_the_line_that_mends_it() -> None:
    text = doctor.render([
        doctor.Finding("kernel", True, "Linux 1.2.3"),
        doctor.Finding("tun", False, "/dev/net/tun is missing", "mknod /dev/net/tun c 10 200"),
    ])  # fmt: skip
    assert text.splitlines() == [
        "ok      kernel    Linux 1.2.3",
        "MISSING tun       /dev/net/tun is missing",
        "                  mend it: mknod /dev/net/tun c 10 200",
    ]


def test_whatever_is_missing_here_comes_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PFKEY_SOCKET", "/nonexistent/sock")
    findings = doctor.examine(os.environ)
    assert [f.name for f in findings] == [
        "kernel", "tun", "nftables", "ipv6", "rights", "crypto", "lab", "run", "pfkeyd",
    ]  # fmt: skip
    assert all(f.ok or f.remedy for f in findings)
    assert findings[-1].remedy == "pfkeyd &"
    document = json.loads(doctor.document(findings))
    check_schema(document, schema("doctor"))
    assert document["ok"] is False


@pytest.mark.root
def test_this_machine_can_run_pfkeyd() -> None:
    assert [f for f in doctor.examine({}) if not f.ok and f.name != "pfkeyd"] == []


def test_missing_tun_is_made_by_mknod(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "TUN", tmp_path / "net" / "tun")
    monkeypatch.setattr(doctor, "in_container", lambda: False)
    found = doctor.check_tun()
    assert (found.ok, found.remedy) == (
        False,
        f"mkdir -p {tmp_path}/net && mknod -m 666 {tmp_path}/net/tun c 10 200",
    )


def test_in_a_container_the_remedy_is_how_to_start_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "TUN", tmp_path / "tun")
    monkeypatch.setattr(doctor, "in_container", lambda: True)
    assert "--cap-add NET_ADMIN --cap-add NET_RAW --device /dev/net/tun" in (
        doctor.check_tun().remedy
    )


def test_a_file_in_place_of_tun_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tun").touch()
    monkeypatch.setattr(doctor, "TUN", tmp_path / "tun")
    assert "is not the device 10:200" in doctor.check_tun().seen


@pytest.mark.parametrize(
    ("off", "is_ok", "says", "remedy"),
    [
        ({"default": 0, "eth0": 0, "lo": 0}, True, "on eth0", ""),
        ({"default": 1, "eth0": 1, "lo": 0}, True, "off on every device", ""),
        ({"default": 1, "eth0": 0, "pfkey0": 0}, True, "on eth0", ""),
        ({"default": 1, "eth0": 0, "pfkey0": 1}, False, "off on pfkey0",
         "sysctl -w net.ipv6.conf.pfkey0.disable_ipv6=0"),
        ({"default": 0, **{f"eth{n}": 0 for n in range(9)}}, True, "eth5 …", ""),
    ],
)  # fmt: skip
def test_ipv6_that_the_tun_cannot_carry_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    off: dict[str, int], is_ok: bool, says: str, remedy: str,
) -> None:  # fmt: skip
    for name, value in off.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "disable_ipv6").write_text(f"{value}\n")
    monkeypatch.setattr(doctor, "IPV6_CONF", tmp_path)
    found = doctor.check_ipv6()
    assert (found.ok, found.remedy) == (is_ok, remedy)
    assert says in found.seen


def test_an_error_that_says_nothing_of_ipv6_is_not_taken_for_its_absence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("socket.socket", refuse)
    with pytest.raises(OSError, match="Too many"):
        doctor.has_ipv6()


def test_missing_library_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", absent)
    assert doctor.check_nftables().remedy == "apt-get install libnftables1"


def test_kernel_without_nftables_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ask_nftables", lambda: errno.EOPNOTSUPP)
    assert not doctor.check_nftables().ok


@pytest.mark.parametrize(("release", "says"), [("6.8.0-1", "watches"), ("6.12.3", "cannot flush")])
def test_owned_tables_depend_on_the_kernel(
    monkeypatch: pytest.MonkeyPatch, release: str, says: str
) -> None:
    monkeypatch.setattr(doctor, "_ask_nftables", lambda: 0)
    monkeypatch.setattr("platform.release", lambda: release)
    assert says in doctor.check_nftables().seen


def test_broken_crypto_names_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crypto, "probe", lambda: frozenset({("encrypt", 12)}))
    found = doctor.check_crypto()
    assert not found.ok
    assert found.seen == "3des-cbc, hmac-sha1, hmac-sha256 fail"


def test_missing_programs_name_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert doctor.check_tools().remedy == (
        "apt-get install iproute2 iputils-ping util-linux procps"
    )


def test_a_running_pfkeyd_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    status = {"pid": 5, "sas": 2, "policies": 1, "dataplane": True, "owned_table": True}
    monkeypatch.setattr(doctor, "control_call", lambda path, method: status)
    found = doctor.check_pfkeyd({"PFKEY_SOCKET": "/x"})
    assert (found.ok, found.seen) == (True, "/x: pid 5, 2 SAs, 1 policy, owned table")


def test_a_pfkeyd_that_refuses_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, method: str) -> None:
        raise ShellError("no")

    monkeypatch.setattr(doctor, "control_call", refuse)
    assert not doctor.check_pfkeyd({}).ok


def test_doctor_says_why_it_may_not_ask_pfkeyd(tmp_path: Path) -> None:
    found = doctor.check_pfkeyd({"PFKEY_SOCKET": str(tmp_path / "none.sock")})
    assert (found.ok, found.remedy) == (
        False, f"pfkeyd --socket {tmp_path}/none.sock &"
    )  # fmt: skip
    assert found.seen == f"no pfkeyd answers at {tmp_path}/none.sock"
    assert not doctor.check_pfkeyd({"PFKEY_SOCKET": "/"}).ok


def test_holds_that_no_dump_shows_are_in_the_doctors_line(monkeypatch: pytest.MonkeyPatch) -> None:
    status = {"pid": 5, "sas": 0, "policies": 0, "holds": 2}
    monkeypatch.setattr(doctor, "control_call", lambda path, method: status)
    found = doctor.check_pfkeyd({"PFKEY_SOCKET": "/x"})
    assert "0 policies, 2 holds of a pfkeyd that died" in found.seen
