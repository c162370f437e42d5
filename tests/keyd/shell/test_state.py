"""The state file: no sequence number twice with one key."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from keyd.model import SaSpec, Usage
from keyd.packet import counters
from keyd.packet.counters import EDGE, FIRST_USE, LAST_USE, OCTETS, PACKETS
from keyd.shell import state
from keyd.shell.state import StateFile
from pfkey.const import Mode
from pfkey.errors import ShellError


def spec(spi: int = 9876, key: bytes = b"k" * 16, slot: int = 0) -> SaSpec:
    return SaSpec(
        slot=slot, proto=50, spi=spi, src=bytes((10, 1, 1, 1)), dst=bytes((20, 1, 1, 1)),
        mode=Mode.TRANSPORT, encrypt=12, encrypt_key=key,
    )  # fmt: skip


def test_sequence_goes_on_when_the_same_key_is_loaded_again(tmp_path: Path) -> None:
    file = StateFile.open(tmp_path / "s")
    record = file.bind(0, spec())
    part = file.part(record, "out")
    assert part[EDGE] == 1
    part[EDGE] = 777
    part.release()
    file.release(0)
    assert file.bind(5, spec()) == record
    part = file.part(record, "out")
    assert part[EDGE] == 777
    part.release()
    file.close()

    successor = StateFile.open(tmp_path / "s")
    record = successor.bind(0, spec())
    assert successor.part(record, "out")[EDGE] == 777
    assert successor.part(successor.bind(1, spec(key=b"x" * 16)), "out")[EDGE] == 1


def test_both_workers_see_what_the_control_process_bound(tmp_path: Path) -> None:
    file = StateFile.open(tmp_path / "s")
    record = file.bind(3, spec())
    worker = StateFile.attach(os.dup(file.fd))
    assert worker.is_record_of(record, spec())
    assert not worker.is_record_of(record, spec(key=b"other key, same n"[:16]))
    assert not worker.is_record_of(state.RECORDS, spec())
    worker.part(record, "in")[EDGE] = 9
    assert file.part(record, "in")[EDGE] == 9


def test_use_counts_from_when_the_sa_was_bound(tmp_path: Path) -> None:
    file = StateFile.open(tmp_path / "s")
    record = file.bind(0, spec())
    since = file.since(record)[2]
    out, into = file.part(record, "out"), file.part(record, "in")
    out[PACKETS], out[OCTETS], out[FIRST_USE], out[LAST_USE] = 3, 300, since + 10, since + 20
    into[PACKETS], into[OCTETS], into[FIRST_USE], into[LAST_USE] = 1, 50, since + 5, since + 6
    assert file.usage(0) == Usage(4, 350, (since + 5) / 1e6, (since + 20) / 1e6)
    assert file.bind(0, dataclasses.replace(spec(), is_dying=True)) == record
    assert file.usage(0).packets == 4, "an update goes on counting"
    file.release(0)
    assert file.usage(0) == Usage()
    while file.bind(0, spec()) and file.since(record)[2] <= since + 20:
        file.release(0)
    assert file.usage(0) == Usage(), "an SA that is added again begins at nought"


def test_counters_are_the_sum_of_both_roles_and_survive(tmp_path: Path) -> None:
    file = StateFile.open(tmp_path / "s")
    file.counters_of("out")[counters.ESP_OUTPUT] += 2
    file.counters_of("in")[counters.BADAUTH] += 5
    assert file.counters()["esp"]["output"] == 2
    assert file.counters()["esp"]["badauth"] == 5
    file.close()
    assert StateFile.open(tmp_path / "s").counters()["esp"]["badauth"] == 5


def test_a_removed_sa_is_forgotten_only_for_want_of_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "REMOVED_MAX", 3)
    file = StateFile.open(tmp_path / "s")
    records = [file.bind(n, spec(spi=n + 256)) for n in range(5)]
    for n in range(4):
        file.part(records[n], "out")[EDGE] = 100 + n
        file.release(n)
    assert file.bind(9, spec(spi=999)) == records[0], "the oldest gave way"
    assert file.part(file.bind(1, spec(spi=257)), "out")[EDGE] == 101
    assert file.part(file.bind(0, spec(spi=256)), "out")[EDGE] == 1
    assert file.part(records[4], "out")[EDGE] == 1


def test_more_live_sas_than_records_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "RECORDS", 2)
    file = StateFile.open(tmp_path / "s")
    file.bind(0, spec(spi=256))
    file.bind(1, spec(spi=257))
    with pytest.raises(ShellError, match="live SAs"):
        file.bind(2, spec(spi=258))


def test_the_file_is_private_and_holds_no_key(tmp_path: Path) -> None:
    file = StateFile.open(tmp_path / "s")
    file.bind(0, spec(key=b"hogehogehogehoge"))
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
    assert b"hoge" not in (tmp_path / "s").read_bytes()


@pytest.mark.parametrize("junk", [b"", b"junk", bytes(1 << 20)])
def test_a_file_that_is_none_is_begun_anew(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "s").write_bytes(junk)
    file = StateFile.open(tmp_path / "s")
    assert file.bind(0, spec()) == 0


def test_a_successor_waits_for_the_last_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "LOCK_SECONDS", 0.1)
    file = StateFile.open(tmp_path / "s")
    worker = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(file.fd,)
    )
    file.close()
    with pytest.raises(ShellError, match="in use"):
        StateFile.open(tmp_path / "s")
    worker.communicate(b"\n")
    StateFile.open(tmp_path / "s")


@pytest.mark.root
def test_a_full_file_system_refuses_new_sas_and_kills_nobody(tmp_path: Path) -> None:
    """Mapped memory without room behind it would end the writer by SIGBUS."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20k", "none", tmp_path], check=True)
    try:
        file = StateFile.open(tmp_path / "s")
        file.bind(0, spec())

        def fill() -> None:
            for slot in range(1, 200):
                file.bind(slot, spec(spi=256 + slot))

        with pytest.raises(ShellError, match="no room"):
            fill()
        file.part(file.bind(0, spec()), "out")[EDGE] = 7
        file.close()
        (tmp_path / "s").unlink()
        (tmp_path / "rest").write_bytes(bytes(4096 * 4))
        with pytest.raises(ShellError, match="no room"):
            StateFile.open(tmp_path / "s")
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_symbolic_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "s").symlink_to(tmp_path / "victim")
    with pytest.raises(ShellError, match="cannot open the state file"):
        StateFile.open(tmp_path / "s")
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_an_sa_that_moves_keeps_its_numbers_and_gives_none_out_twice(tmp_path: Path) -> None:
    file = StateFile.open(tmp_path / "s")
    record = file.bind(0, spec())
    part = file.part(record, "out")
    part[EDGE], part[PACKETS] = 777, 5
    moved = dataclasses.replace(spec(), dst=bytes((30, 1, 1, 1)))
    file.move(0, moved)
    assert file.is_record_of(record, moved)
    assert not file.is_record_of(record, spec())
    assert file.bind(0, moved) == record
    assert file.usage(0).packets == 5
    file.release(0)
    assert file.bind(1, moved) == record
    assert file.part(record, "out")[EDGE] == 777
    elsewhere = file.bind(2, spec())  # the same key at the old address is another SA
    assert elsewhere != record
    with pytest.raises(ShellError, match="in use between"):
        file.move(2, moved)
    assert file.is_record_of(elsewhere, spec())
    file.move(1, dataclasses.replace(moved, src=bytes(4)))  # the source is no part of the name
    file.move(9, moved)  # nothing is bound there
    part.release()
    file.close()

    successor = StateFile.open(tmp_path / "s")
    assert successor.bind(0, moved) == record
