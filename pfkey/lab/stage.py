"""An example's hosts, links and daemons, and the commands that both stories need.

1. namespaces, links, routes, forwarding; a pfkeyd where the example has one
2. the FAQ's files, as written or made from what is written
3. at the end everything is taken down, or kept
"""

import os
from importlib.resources import as_file
from pathlib import Path
from subprocess import DEVNULL

from pfkey.lab import kept
from pfkey.lab.example import Derive, Example, Given, LinkSpec, deletion, example_file, policies_out
from pfkey.lab.hosts import Host, Net
from pfkey.lab.story import Story, the
from pfkey.lab.system import BIN, System
from pfkey.lab.traffic import Pings, ping, ping_command
from pfkey.lab.wire import Capture, Frame


class Stage:
    """The hosts of one example, standing."""

    def __init__(self, example: Example, story: Story, net: Net, logs: Path) -> None:
        self.example, self.story, self.net, self.logs = example, story, net, logs
        count = {2: "Two", 3: "Three", 4: "Four"}[len(example.hosts)]
        story.step(f"{count} hosts as network namespaces, {_daemons_text(example)}")
        self.hosts: dict[str, Host] = {spec.name: net.host(spec.name) for spec in example.hosts}
        self._devices: dict[LinkSpec, str] = {}
        for link in example.links:
            _, device = net.link(
                self.hosts[link.a], link.a_address, self.hosts[link.b], link.b_address
            )
            self._devices[link] = device
        for spec in example.hosts:
            for route in spec.routes:
                self.hosts[spec.name].ip("route", "add", *route.split())
            if spec.forwards:
                story.command(spec.name, "sysctl -w net.ipv4.ip_forward=1")
                self.hosts[spec.name].run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.systems = {
            spec.name: System(self.hosts[spec.name], story, logs / f"{spec.name}.log")
            for spec in example.hosts
            if spec.daemon
        }
        self.node, self.peer = self.systems[example.node], self.systems[example.peer]
        self.client, self.server = self.hosts[example.client[0]], self.hosts[example.server[0]]

    def begin(self, *, keep: bool) -> None:
        """Start the daemons."""
        for system in self.systems.values():
            system.start(keep=keep)

    def give(self, given: Given) -> None:
        """Show a file and run it on its host."""
        story, system = self.story, self.systems[given.host]
        if not given.is_as_written:
            said = [given.derive.value] if given.derive is not Derive.AS_WRITTEN else []
            said += [f"{name} is {address}" for name, address in given.names]
            story.note(f"{given.file}, {'; '.join(said)}:")
        story.command(given.host, f"cat {given.file}")
        story.output(given.text)
        shown = f"sh {given.file}" if given.is_script else f"setkey -f {given.file}"
        words = ("sh",) if given.is_script else ("setkey", "-f")
        if given.is_as_written:
            with as_file(example_file(given.file)) as path:
                done = system.shell(shown, *words, str(path))
        else:
            done = system.shell(shown, *words, "-s" if given.is_script else "-", stdin=given.text)
        story.check(f"{given.file} was accepted", done)

    def show(self) -> None:
        """The SAs and policies as setkey lists them."""
        for system in self.systems.values():
            system.shell("setkey -D", "setkey", "-D")
            system.shell("setkey -DP", "setkey", "-DP")

    def capture(self, link: LinkSpec | None = None) -> Capture:
        """What passes on a link; if none is named, on the one between node and peer."""
        link = link or self.example.protected_link
        return Capture(self.hosts[link.b], self._devices[link])

    def ping(self, host: Host, address: str, count: int, *, is_answered: bool = True) -> Pings:
        """Ping, shown with what it printed."""
        command = ping_command(address, count, is_answered=is_answered)
        self.story.command(host.name, " ".join(command))
        pings = ping(host, address, count, is_answered=is_answered)
        self.story.output(pings.text)
        return pings

    def silence_policies(self) -> str:
        """Delete what protects the packets that the peer sends; the commands that undo it."""
        out = policies_out(self.example.text(self.peer.host.name))
        done = self.peer.setkey("\n".join(map(deletion, out)))
        self.story.check(f"{the(self.peer.host.name)} has no policy out now", done)
        return "\n".join(out)

    def keep(self) -> None:
        """Leave hosts and daemons up, and say how to enter and how to end them."""
        story = self.story
        story.step("The hosts stay up")
        pids = [system.process.pid for system in self.systems.values()]
        for host in self.hosts.values():
            holder = host.start("sleep", "infinity", stdout=DEVNULL, stderr=DEVNULL,
                                new_session=True)  # fmt: skip
            pids.append(holder.pid)
            if kept.is_inside():
                into = f"nsenter -t {holder.pid} -U -m -n --preserve-credentials"
            else:
                into = " ".join(host.enter)
            shell = os.environ.get("SHELL", "sh")
            story.note(f"enter {the(host.name)}:  {into} env PATH={BIN}:$PATH {shell}")
        kept.record(self.example.name, self.net, pids, self.logs)
        self.net.keep()
        story.note("take all down:   pfkey lab --down")

    def end(self) -> None:
        """Stop the daemons as an operator would; the namespaces go with the net."""
        story = self.story
        story.step("Everything is taken down")
        for system in self.systems.values():
            story.command(system.host.name, "kill %1")
            left = system.stop()
            story.check(f"pfkeyd of {the(system.host.name)} ended well", left == 0, left or "")
            story.check("its socket is gone", not system.socket.exists())


def lines(frames: list[Frame], count: int) -> str:
    """The first frames of a capture, ARP left out."""
    return "\n".join([f.line() for f in frames if not f.is_arp][:count])


def _daemons_text(example: Example) -> str:
    names = [spec.name for spec in example.hosts if spec.daemon]
    if len(names) == len(example.hosts):
        return "a pfkeyd in each"
    return f"a pfkeyd in {' and '.join(names)}"
