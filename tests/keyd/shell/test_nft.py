"""libnftables by ctypes: transactions, owned tables, orphans, refusals."""

import ctypes
import fcntl
import select
import subprocess
import sys

import pytest

from keyd.shell import nft
from keyd.shell.nft import Nft, NftError, OwnerlessError
from pfkey.errors import ShellError
from pfkey.lab.hosts import Host, Net
from tests.support.wire import in_host

pytestmark = pytest.mark.root
CHAIN = "add chain inet pfkey c;"


@pytest.fixture
def host(net: Net) -> Host:
    return net.host("n")


def test_the_context_is_one_close_on_exec_socket(host: Host) -> None:
    with in_host(host, Nft) as context:
        assert fcntl.fcntl(context.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        other = in_host(host, Nft)
        assert other.fd != context.fd
        other.close()


def test_an_owned_table_obeys_its_socket_alone(host: Host) -> None:
    with in_host(host, Nft) as context:
        context.own("pfkey")
        context.run(CHAIN + "add rule inet pfkey c counter drop")
        before = host.run("nft", "list", "table", "inet", "pfkey").stdout
        host.run("nft", "flush", "ruleset")
        for command in ("delete table", "flush table"):
            done = host.run("nft", *command.split(), "inet", "pfkey", check=False)
            assert "not permitted" in done.stderr
        assert host.run("nft", "list", "table", "inet", "pfkey").stdout == before
        context.run("delete table inet pfkey")
        assert host.run("nft", "list", "ruleset").stdout == ""


def test_an_orphan_keeps_its_rules_and_a_successor_takes_it_over(host: Host) -> None:
    with in_host(host, Nft) as first:
        first.own("pfkey")
        first.run(CHAIN + 'add rule inet pfkey c drop comment "left"')
    with in_host(host, Nft) as second:
        second.own("pfkey")
        listed = second.run_json("list table inet pfkey")
        assert [o["rule"]["comment"] for o in listed if "rule" in o] == ["left"]
        host.run("nft", "flush", "ruleset")
        second.run('flush chain inet pfkey c; add rule inet pfkey c drop comment "new"')
        assert "new" in host.run("nft", "list", "ruleset").stdout


def test_a_table_with_a_living_owner_is_refused_with_the_remedy(host: Host) -> None:
    with in_host(host, Nft) as first, in_host(host, Nft) as second:
        first.own("pfkey")
        with pytest.raises(NftError, match="stop the other pfkeyd"):
            second.own("pfkey")


def test_a_plain_table_cannot_be_owned(host: Host) -> None:
    host.run("nft", "add", "table", "inet", "pfkey")
    with in_host(host, Nft) as context, pytest.raises(OwnerlessError, match="cannot be owned"):
        context.own("pfkey")


def test_a_refused_transaction_changes_nothing(host: Host) -> None:
    with in_host(host, Nft) as context:
        context.own("pfkey")
        context.run(CHAIN)
        with pytest.raises(NftError, match="syntax error"):
            context.run("add rule inet pfkey c drop; nonsense")
        with pytest.raises(NftError, match="No such file"):
            context.run("add rule inet pfkey c drop\nadd rule inet pfkey absent drop")
        assert [o for o in context.run_json("list table inet pfkey") if "rule" in o] == []


def test_events_and_generation_tell_of_others_changes(host: Host) -> None:
    before = in_host(host, nft.generation)
    with in_host(host, nft.event_socket) as events:
        assert not select.select([events], [], [], 0)[0]
        host.run("nft", "add", "table", "ip", "other")
        assert select.select([events], [], [], 5)[0]
    assert in_host(host, nft.generation) == before + 1


def test_handles_are_told_in_the_order_of_the_rules(host: Host) -> None:
    with in_host(host, Nft) as context:
        context.own("pfkey")
        context.run(CHAIN + "; ".join(f"insert rule inet pfkey c tcp dport {n}" for n in range(99)))
        listed = [o["rule"]["handle"] for o in context.run_json("list table inet pfkey")
                  if "rule" in o]  # fmt: skip
        assert in_host(host, lambda: nft.rule_handles("pfkey", "c")) == listed
        assert len(listed) == 99
    assert in_host(host, lambda: nft.rule_handles("pfkey", "absent")) == []


def test_a_missing_library_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(ShellError, match="apt-get install libnftables1"):
        Nft()


def test_without_the_right_the_refusal_names_it(host: Host) -> None:
    code = (
        "from keyd.shell.nft import Nft, NftError\n"
        "try: Nft().own('pfkey')\n"
        "except NftError as e: print(e)"
    )
    done = subprocess.run(
        [*host.enter, "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin",
         sys.executable, "-c", code], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "CAP_NET_ADMIN" in done.stdout, done
