"""Steering: the SPD in nft, the marks' way into the TUN, and the guard behind it.

Routing steers, the guard guarantees. One object, called by one thread that stays in one network
namespace; every call blocks, for a fraction of a millisecond to some tens of them.

    steer = Steer(bypass_uid=uid)
    engine.adopt(steer.open())          # holds of a crashed predecessor, already in force
    steer.commit(added, removed)
    steer.close(hold=False)             # all as it was before we came

Whenever one of `event_fds()` is readable: `drain_events(fd)`, then `ensure(fd)`.
"""

import errno
import logging
import secrets
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from keyd.model import PolicySpec
from keyd.shell import blocks, nat, nft, nft_chains, nft_natt, nft_rules, nft_sockets, routes
from keyd.shell.holds import holds
from keyd.shell.marks import Marks
from keyd.shell.nft import Nft, OwnerlessError
from keyd.shell.nft_chains import Chains
from keyd.shell.nft_natt import Element
from keyd.shell.nft_rules import POLICY_CHAINS, Frame
from keyd.shell.routes import Routes
from keyd.shell.sink import open_sink
from keyd.shell.socket_devices import SocketDevices
from keyd.shell.tun import Tun
from keyd.socket_group import SocketGroup
from keyd.socket_pair import SocketPair
from pfkey.errors import ShellError

LOG = logging.getLogger("keyd.shell")

_LEFTOVER_WAIT_SECONDS = 3.0  # for the workers of a dead predecessor to end


class Steer:
    """All that this process adds to a network namespace, besides its sockets.

    `owned`: whether the nft table must be ours alone; None takes what the kernel offers.
    `bypass_uid` is the user under whose fsuid the workers make their sockets, see `Frame`.
    """

    def __init__(
        self,
        *,
        table: str = nft_rules.TABLE,
        device: str = "pfkey0",
        mark_mask: int = 0xFF000000,
        bypass_uid: int,
        owned: bool | None = None,
    ) -> None:
        self.marks = Marks(mark_mask)
        self.owned = bool(owned)
        self._may_own = owned is not False
        self._must_own = owned is True
        self._frame = Frame(
            table=table, device=device, marks=self.marks, bypass_uid=bypass_uid,
            fragment_key=secrets.randbits(32),
        )  # fmt: skip
        self._table = f"inet {table}"
        self._tun = Tun(device)
        self._routes = Routes(device, self.marks)
        self._socket_devices = SocketDevices(device, self.marks)
        self._nft: Nft | None = None
        self._events: list[socket.socket] = []
        self._chains = Chains()
        self._socket_rules = self._frame.socket_rules((), ())
        self._natt: frozenset[Element] = frozenset()
        self._sink: socket.socket | None = None
        self._generation = 0
        self._fixed: object = None
        self._has_nat_chain = False
        self._legacy_nat = False

    @property
    def tun_fd(self) -> int:
        """The TUN device's descriptor; it stays the same even if the device is made anew."""
        return self._tun.fd

    @property
    def socket_fds(self) -> dict[int, int]:
        """The descriptors of the devices that policies of sockets need, by door."""
        return self._socket_devices.fds

    @property
    def natt_port(self) -> int:
        """To which port ESP in UDP is sent."""
        return self._frame.natt_port

    def open(
        self, pairs: Sequence[SocketPair] = (), groups: Sequence[SocketGroup] = ()
    ) -> list[PolicySpec]:
        """Take the namespace: table, chains, device, rule, routes.

        `pairs` and `groups` are policies of sockets, in force from the first moment.

        Returns the holds: what a leftover table protected or discarded. They are in force as
        drops when this returns, and there was no moment without a drop.

        Raises:
            ShellError: something is missing or taken, with the remedy. A first start leaves
                nothing behind then; a leftover table stays.
        """
        self._nft = Nft()
        is_leftover = True
        try:
            self._sink = open_sink()
            self._frame = replace(self._frame, natt_port=self._sink.getsockname()[1])
            listed = self._claim_table()
            is_leftover = any("chain" in o for o in listed)
            found = holds(
                rule.get("comment", "") for rule in blocks.in_order(listed, POLICY_CHAINS)
            )
            self._tun.open(_LEFTOVER_WAIT_SECONDS if is_leftover else 0.0)
            self._events = [routes.event_socket(), nft.event_socket()]
            self._chains = Chains().after(found, (), self._frame.policy_rules)
            self._socket_rules = self._frame.socket_rules(pairs, groups)
            self._socket_devices.add(pairs, _LEFTOVER_WAIT_SECONDS if is_leftover else 0.0)
            self._write_table(listed)
            self._tun.start()
            self._routes.ensure(self._tun.index)
        except BaseException:
            with suppress(ShellError):
                self.close(hold=is_leftover)
            raise
        return found

    def commit(self, added: Sequence[PolicySpec] = (), removed: Sequence[PolicySpec] = ()) -> None:
        """Put policies into nft, each in its place in the order of the match, and take others out.

        They are in force when this returns. It is one transaction, of a rule or two for each
        policy, whatever else there is.

        Raises:
            ShellError: nft refused, and nothing has changed.
        """
        after = self._chains.after(added, removed, self._frame.policy_rules)
        # positions say nothing in a table that others may write to
        commands = after.commands(self._chains, self._table, self._handles if self.owned else None)
        if commands:
            self._transact(commands)
        self._chains = after

    def commit_sockets(
        self, pairs: Sequence[SocketPair], groups: Sequence[SocketGroup] = ()
    ) -> None:
        """Make devices and nft follow these policies of sockets; then they are in force.

        Raises:
            ShellError: something was refused. A device may be there that nothing leads to; the
                next call makes it right.
        """
        self._socket_devices.add(pairs)
        rules = self._frame.socket_rules(pairs, groups)
        commands = [
            command
            for chain in nft_sockets.CHAINS
            if rules[chain] != self._socket_rules[chain]
            for command in (f"flush chain {self._table} {chain}", *self._added(chain, rules[chain]))
        ]
        if commands:
            self._transact(commands)
            self._note_fixed()
        self._socket_rules = rules
        self._socket_devices.keep(pairs)

    def natt(self, elements: frozenset[Element]) -> None:
        """Make these what is ESP in UDP; in force when this returns.

        Raises:
            ShellError: nft refused, and nothing has changed.
        """
        commands = nft_natt.changes(self._table, self._natt, elements)
        if commands:
            self._transact(commands)
        self._natt = elements

    def counters(self) -> dict[str, int]:
        """Packets dropped, by the names of `nft_rules.COUNTERS`."""
        listed = self._context.run_json(f"list counters table {self._table}")
        return {
            o["counter"]["name"]: int(o["counter"]["packets"]) for o in listed if "counter" in o
        }

    def own_addresses(self) -> list[bytes]:
        """This host's addresses, packed."""
        return self._routes.own_addresses()

    def ensure(self, fd: int = -1) -> list[str]:
        """Put back what others removed or changed; says what, and nothing when all stands.

        Of one of `event_fds`, only what its events may be about: our own commits are among nft's.
        """
        restored = self._ensure_table()
        if self._events and fd == self._events[-1].fileno():
            return restored
        restored += self._tun.ensure()
        restored += self._routes.ensure(self._tun.index)
        restored += self._socket_devices.ensure()
        return restored

    def event_fds(self) -> list[int]:
        """Descriptors that become readable when others may have changed something of ours."""
        return [link.fileno() for link in self._events]

    def drain_events(self, fd: int) -> None:
        """Read all that waits on one of `event_fds`; call `ensure` afterwards."""
        for link in self._events:
            while link.fileno() == fd:
                try:
                    link.recv(65536)
                except BlockingIOError:
                    return
                except OSError as error:
                    if error.errno != errno.ENOBUFS:  # overrun: something changed, that is enough
                        raise

    def close(self, hold: bool) -> None:
        """Let go. With `hold`, table, rule and unreachable route stay, and what a policy protects
        is dropped; without, everything is as it was before `open`.
        """
        for link in self._events:
            link.close()
        self._events = []
        if self._sink is not None:
            self._sink.close()
        context, self._nft = self._nft, None
        try:
            if context and not hold:
                with suppress(ShellError):
                    context.run(f"delete table {self._table}")
                if self._tun.fd >= 0:
                    self._routes.remove()
        finally:
            self._socket_devices.close(hold=hold)
            self._tun.close()
            if context:
                context.close()

    @property
    def _context(self) -> Nft:
        if self._nft is None:
            raise ShellError("steering is not open")
        return self._nft

    def _claim_table(self) -> list[dict[str, Any]]:
        """Own the table if that can be; what is in it already."""
        if self._may_own:
            try:
                self._context.own(self._frame.table)
                self.owned = True
            except OwnerlessError:
                if self._must_own:
                    raise
        return self._list_table()

    def _list_table(self) -> list[dict[str, Any]]:
        """Everything in our table; empty when there is no table."""
        tables = self._context.run_json("list tables inet")
        if not any(o["table"]["name"] == self._frame.table for o in tables if "table" in o):
            return []
        return self._context.run_json(f"list table {self._table}")

    def _write_table(self, listed: list[dict[str, Any]]) -> None:
        """Replace all chains and rules by ours in one transaction."""
        commands = [] if listed else [f"add table {self._table}"]
        commands.append(f"flush table {self._table}")
        commands += [
            f"delete chain {self._table} {o['chain']['name']}" for o in listed if "chain" in o
        ]
        commands += self._frame.skeleton()
        laid = self._chains.laid
        commands += [
            f"add chain {self._table} {name}" for name in laid if name not in POLICY_CHAINS
        ]
        for chain, held in laid.items():
            commands += self._added(chain, held.rules)
        for chain, rules in self._socket_rules.items():
            commands += self._added(chain, rules)
        commands += nft_natt.changes(self._table, frozenset(), self._natt)
        self._generation = nft.generation()
        self._transact(commands)
        for held in laid.values():
            held.handles[:] = [nft_chains.UNKNOWN] * len(held.rules)
        self._has_nat_chain = False
        self._follow_nat()
        self._note_fixed()

    def _added(self, chain: str, rules: Sequence[str]) -> list[str]:
        return [f"add rule {self._table} {chain} {rule}" for rule in rules]

    def _note_fixed(self) -> None:
        """Remember how a table that others can change looks when it is as it should be."""
        if not self.owned:
            self._fixed = _picture(self._list_table(), self._chains.laid)[0]
            if nft.generation() != self._generation:
                self._fixed = None  # somebody wrote meanwhile: `ensure` writes it again

    def _transact(self, commands: list[str]) -> None:
        """Run one transaction. Where others wrote before it, `ensure` finds another generation."""
        before = nft.generation()
        self._context.run("\n".join(commands))
        if before == self._generation:
            self._generation += 1

    def _follow_nat(self) -> None:
        """Have the chain that keeps NAT away exactly while somebody has NAT."""
        self._legacy_nat = nat.is_in_legacy()
        chains = (o["chain"] for o in self._context.run_json("list chains") if "chain" in o)
        wanted = self._legacy_nat or nat.is_in_nft(chains, self._frame.table)
        if wanted == self._has_nat_chain:
            return
        try:
            self._transact(nat.commands(self._frame, wanted=wanted))
        except ShellError as error:  # of iptables-legacy, where nft has no NAT
            LOG.warning("nat-not-kept-away reason=%s", error)
            return
        self._has_nat_chain = wanted
        self._note_fixed()

    def _handles(self, chain: str) -> list[int]:
        return nft.rule_handles(self._frame.table, chain)

    def _ensure_table(self) -> list[str]:
        generation = nft.generation()
        if generation == self._generation and nat.is_in_legacy() == self._legacy_nat:
            return []
        self._generation = generation
        if not self.owned and _picture(self._list_table(), self._chains.laid) != (
            self._fixed, self._expected_comments(), self._expected_elements(),
        ):  # fmt: skip
            self._write_table(self._list_table())
            return [f"nft table {self._table}"]
        self._follow_nat()
        return []

    def _expected_comments(self) -> dict[str, list[str]]:
        return {
            chain: [rule.partition(' comment "')[2].rstrip('"') for rule in held.rules]
            for chain, held in self._chains.laid.items()
        }

    def _expected_elements(self) -> dict[str, int]:
        names = [name for name, _ in self._natt]
        return {name: names.count(name) for name in nft_natt.SETS}


def _picture(
    listed: list[dict[str, Any]], chains: Iterable[str]
) -> tuple[object, dict[str, list[str]], dict[str, int]]:
    """What others may have changed in a plain table: its fixed part, and the rules of `chains`.

    The latter by their number and comments, and elements of sets by their number: enough to see
    a flush, a deletion, an insertion.
    """
    fixed: list[dict[str, Any]] = []
    sizes: dict[str, int] = {}
    comments: dict[str, list[str]] = {chain: [] for chain in chains}
    for entry in listed:
        for kind, o in entry.items():
            if kind == "rule" and o["chain"] in comments:
                comments[o["chain"]].append(o.get("comment", ""))
            elif kind != "chain" or o["name"] not in comments or o["name"] in POLICY_CHAINS:
                hidden = {"handle", "packets", "bytes", "elem"}
                if kind == "set" and o["name"] in nft_natt.SETS:
                    sizes[o["name"]] = len(o.get("elem", ()))
                fixed.append({kind: {k: v for k, v in o.items() if k not in hidden}})
    return fixed, comments, sizes
