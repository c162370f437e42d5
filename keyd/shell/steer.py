"""Steering: the SPD in nft, the marks' way into the TUN, and the guard behind it.

Routing steers, the guard guarantees. One object, called by one thread that stays in one network
namespace; every call blocks, for a fraction of a millisecond to some tens of them.

    steer = Steer(bypass_uid=uid)
    engine.adopt(steer.open())          # holds of a crashed predecessor, already in force
    steer.commit(policies, added, removed)
    steer.close(hold=False)             # all as it was before we came

Whenever one of `event_fds()` is readable: `drain_events(fd)`, then `ensure(fd)`.
"""

import errno
import logging
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from keyd.model import PolicySpec
from keyd.shell import nat, nft, nft_rules, routes
from keyd.shell.holds import holds
from keyd.shell.nft import Nft, OwnerlessError
from keyd.shell.nft_rules import POLICY_CHAINS, Frame, Marks
from keyd.shell.routes import Routes
from keyd.shell.tun import Tun
from pfkey.errors import ShellError

LOG = logging.getLogger("keyd.shell")

_LEFTOVER_WAIT_SECONDS = 3.0  # for the workers of a dead predecessor to end

_Rules = dict[str, list[str]]


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
        self._nft: Nft | None = None
        self._events: list[socket.socket] = []
        self._policies: dict[int, tuple[PolicySpec, _Rules]] = {}
        self._rules: _Rules = {chain: [] for chain in POLICY_CHAINS}
        self._generation = 0
        self._fixed: object = None
        self._has_nat_chain = False
        self._legacy_nat = False

    @property
    def tun_fd(self) -> int:
        """The TUN device's descriptor; it stays the same even if the device is made anew."""
        return self._tun.fd

    def open(self) -> list[PolicySpec]:
        """Take the namespace: table, chains, device, rule, routes.

        Returns the holds: what a leftover table protected or discarded. They are in force as
        drops when this returns, and there was no moment without a drop.

        Raises:
            ShellError: something is missing or taken, with the remedy. A first start leaves
                nothing behind then; a leftover table stays.
        """
        self._nft = Nft()
        is_leftover = True
        try:
            listed = self._claim_table()
            is_leftover = any("chain" in o for o in listed)
            found = holds(
                o["rule"].get("comment", "")
                for o in listed
                if "rule" in o and o["rule"]["chain"] in POLICY_CHAINS
            )
            self._tun.open(_LEFTOVER_WAIT_SECONDS if is_leftover else 0.0)
            self._events = [routes.event_socket(), nft.event_socket()]
            self._policies, self._rules = self._render(found)
            self._write_table(listed)
            self._tun.start()
            self._routes.ensure(self._tun.index)
        except BaseException:
            with suppress(ShellError):
                self.close(hold=is_leftover)
            raise
        return found

    def commit(
        self,
        policies: Sequence[PolicySpec],
        added: Sequence[PolicySpec] = (),
        removed: Sequence[PolicySpec] = (),
    ) -> None:
        """Make nft equal to `policies`: all of them, in match order, holds first.

        They are in force when this returns. Appending and deleting cost a rule or two; anything
        else rewrites the chains concerned. It is one transaction either way.

        Raises:
            ShellError: nft refused, and nothing has changed.
        """
        known, rules = self._render(policies)
        commands: list[str] = []
        for chain in POLICY_CHAINS:
            commands += self._changes(chain, self._rules[chain], rules[chain])
        if commands:
            self._transact(commands)
        self._policies, self._rules = known, rules

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
        context, self._nft = self._nft, None
        try:
            if context and not hold:
                with suppress(ShellError):
                    context.run(f"delete table {self._table}")
                if self._tun.fd >= 0:
                    self._routes.remove()
        finally:
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
        commands += [
            f"add rule {self._table} {chain} {rule}"
            for chain, rules in self._rules.items()
            for rule in rules
        ]
        self._generation = nft.generation()
        self._transact(commands)
        self._has_nat_chain = False
        self._follow_nat()
        self._note_fixed()

    def _note_fixed(self) -> None:
        """Remember the fixed part of a table that others can change."""
        if not self.owned:
            self._fixed = _picture(self._list_table())[0]
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

    def _changes(self, chain: str, old: list[str], new: list[str]) -> list[str]:
        """Commands that make a chain of rules `old` one of rules `new`."""
        kept = 0
        doomed = []
        for position, rule in enumerate(old):
            if kept < len(new) and new[kept] == rule:
                kept += 1
            else:
                doomed.append(position)
        where = f"{self._table} {chain}"
        commands: list[str] = []
        if doomed:
            # positions say nothing in a table that others may write to
            few = self.owned and 2 * len(doomed) <= len(old)
            handles = nft.rule_handles(self._frame.table, chain) if few else []
            if len(handles) == len(old):
                commands = [f"delete rule {where} handle {handles[n]}" for n in doomed]
            else:
                commands, kept = [f"flush chain {where}"], 0
        return commands + [f"add rule {where} {rule}" for rule in new[kept:]]

    def _ensure_table(self) -> list[str]:
        generation = nft.generation()
        if generation == self._generation and nat.is_in_legacy() == self._legacy_nat:
            return []
        self._generation = generation
        if not self.owned and _picture(self._list_table()) != (
            self._fixed, self._expected_comments(),
        ):  # fmt: skip
            self._write_table(self._list_table())
            return [f"nft table {self._table}"]
        self._follow_nat()
        return []

    def _expected_comments(self) -> dict[str, list[str]]:
        return {
            chain: [rule.partition(' comment "')[2].rstrip('"') for rule in rules]
            for chain, rules in self._rules.items()
        }

    def _render(
        self, policies: Sequence[PolicySpec]
    ) -> tuple[dict[int, tuple[PolicySpec, _Rules]], _Rules]:
        """All rules by chain, holds first; unchanged policies are not written anew."""
        known: dict[int, tuple[PolicySpec, _Rules]] = {}
        chains: _Rules = {chain: [] for chain in POLICY_CHAINS}
        for spec in sorted(policies, key=lambda p: not p.is_hold):
            entry = self._policies.get(spec.id)
            if entry is None or (entry[0] is not spec and entry[0] != spec):
                entry = (spec, self._frame.policy_rules(spec))
            known[spec.id] = entry
            for chain, rules in entry[1].items():
                chains[chain] += rules
        return known, chains


def _picture(listed: list[dict[str, Any]]) -> tuple[object, dict[str, list[str]]]:
    """What others may have changed in a plain table: its fixed part, and the policies' rules.

    The latter by their number and comments: enough to see a flush, a deletion, an insertion.
    """
    fixed: list[dict[str, Any]] = []
    comments: dict[str, list[str]] = {chain: [] for chain in POLICY_CHAINS}
    for entry in listed:
        for kind, o in entry.items():
            if kind == "rule" and o["chain"] in comments:
                comments[o["chain"]].append(o.get("comment", ""))
            else:
                hidden = {"handle", "packets", "bytes"}
                fixed.append({kind: {k: v for k, v in o.items() if k not in hidden}})
    return fixed, comments
