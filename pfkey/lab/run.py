"""One example from beginning to end, told as it happens, every claim checked.

1. two hosts joined by a link, a pfkeyd in each
2. the FAQ's files, as written; `setkey -D` and `-DP`
3. ping and a TCP transfer, and what the wire shows of them
4. the counters on both sides
5. a wrong key on one side, and the drops it causes
6. a clear packet from the peer: accepted, or refused by `require`
7. everything is taken down, or kept
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import as_file
from pathlib import Path
from subprocess import DEVNULL

from pfkey.errors import ShellError
from pfkey.lab import kept
from pfkey.lab.catalogue import Example, example_file
from pfkey.lab.hosts import Net
from pfkey.lab.story import Story
from pfkey.lab.system import BIN, System
from pfkey.lab.traffic import SECRETS, Pings, letter, ping, ping_command, transfer
from pfkey.lab.wire import ESP, ICMP, Capture, Frame, write_pcap

LETTER_OCTETS = 4 << 20
_SPD_IN_CLEAR = "spddelete {} {} any -P out;"
_SPD_BACK = "spdadd {} {} any -P out ipsec esp/transport//use;"


def run(example: Example, story: Story, capture_path: Path, *, keep: bool = False) -> None:
    """Run one example. Failed checks are in `story.failed`.

    Raises:
        ShellError: something is missing; the remedy is in it.
    """
    if keep and kept.is_up(example.name):
        raise ShellError(f"{example.name} is up already", "pfkey lab --down")
    os.environ.pop("PFKEY_SOCKET", None)  # the namespace says which pfkeyd answers
    began = time.monotonic()
    write_pcap(capture_path, [])  # before anything is built: a place that is not ours
    story.title(f"{example.name}: {example.title}")
    story.say()
    story.note(f"node {example.node} ----------------- {example.peer} peer")
    logs = Path(tempfile.mkdtemp(prefix="pfkey-lab-"))
    try:
        _perform(example, story, capture_path, logs, keep=keep)
    except (KeyboardInterrupt, SystemExit, ShellError):
        shutil.rmtree(logs)
        raise
    if keep or story.failed:
        story.note(f"pfkeyd's logs are in {logs}")
    else:
        shutil.rmtree(logs)
    story.say()
    story.note(f"capture file: {capture_path}")
    story.note(f"took {time.monotonic() - began:.1f} s")


def _perform(example: Example, story: Story, capture_path: Path, logs: Path, *, keep: bool) -> None:
    prefix = f"lab{os.getpid()}-{example.name}-" if keep else None
    with Net(story.tracer(), prefix=prefix) as net:
        talk = _Talk(example, story, net, logs)
        talk.begin(keep)
        talk.configure()
        with talk.capturing() as capture:
            talk.converse()
            talk.count(capture)
            talk.break_key()
        talk.judge_wire(capture, capture_path)
        talk.speak_clear()
        if keep:
            talk.keep(logs)
        else:
            talk.end()


class _Talk:
    def __init__(self, example: Example, story: Story, net: Net, logs: Path) -> None:
        self.example, self.story, self.net = example, story, net
        story.step("Two hosts as network namespaces, a pfkeyd in each")
        node, peer = net.host("node"), net.host("peer")
        _, self._device = net.link(node, f"{example.node}/32", peer, f"{example.peer}/32")
        self.node = System(node, story, logs / "node.log")
        self.peer = System(peer, story, logs / "peer.log")

    def begin(self, keep: bool) -> None:
        self.node.start(keep=keep)
        self.peer.start(keep=keep)

    def configure(self) -> None:
        example, story = self.example, self.story
        story.step("The FAQ's files, as written")
        story.note(
            "add makes an SA: a key, and a number (SPI) that names it on the wire.\n"
            "spdadd makes a policy: what shall be protected. use: if there is an SA."
        )
        for system, name in ((self.node, example.node_file), (self.peer, example.peer_file)):
            text = example_file(name).read_text()
            story.command(system.host.name, f"cat {name}")
            story.output(text)
            with as_file(example_file(name)) as path:
                done = system.shell(f"sh {name}", "sh", str(path))
            story.check(f"{name} was accepted", done)
        if example.extra_file:
            story.note("The FAQ's extra line: the node shall refuse what comes in clear.")
            text = example_file(example.extra_file).read_text()
            story.command(self.node.host.name, f"cat {example.extra_file}")
            story.output(text)
            with as_file(example_file(example.extra_file)) as path:
                done = self.node.shell(f"setkey -f {example.extra_file}", "setkey", "-f", str(path))
            story.check(f"{example.extra_file} was accepted", done)
        for system in (self.node, self.peer):
            system.shell("setkey -D", "setkey", "-D")
            system.shell("setkey -DP", "setkey", "-DP")

    @contextlib.contextmanager
    def capturing(self) -> Iterator[Capture]:
        with Capture(self.peer.host, self._device) as capture:
            yield capture

    def ping(self, system: System, address: str, count: int) -> Pings:
        self.story.command(system.host.name, " ".join(ping_command(address, count)))
        pings = ping(system.host, address, count)
        self.story.output(pings.text)
        return pings

    def converse(self) -> None:
        story, example = self.story, self.example
        story.step("A ping and a TCP transfer, and what the wire shows of them")
        with self.capturing() as glance:
            pings = self.ping(self.node, example.peer, 3)
            glance.close()
            story.check("every ping was answered", pings.received == 3, f"{pings.received} of 3")
            story.note("the same moment on the wire:")
            story.output(_lines(glance.frames, 6))
        content = letter(LETTER_OCTETS)
        story.note(f"now {LETTER_OCTETS >> 20} MiB over TCP, which begin in clear with")
        story.output(repr(content[:52].decode()))
        began = time.monotonic()
        try:
            arrived = transfer(self.node.host, self.peer.host, example.peer, content)
        except OSError as error:
            story.check("the transfer arrived whole", False, error)
            return
        rate = LETTER_OCTETS / (time.monotonic() - began) / 1e6
        story.check("the transfer arrived whole", arrived == content, f"{rate:.0f} MB/s")

    def count(self, capture: Capture) -> None:
        story, example = self.story, self.example
        story.step("The counters on both sides (pfkey stat -s: those that are not zero)")
        time.sleep(0.1)  # the capture reads on; what is sent was sent
        on_wire = _towards(capture.frames, example.node, example.peer)
        back = _towards(capture.frames, example.peer, example.node)
        numbers = (
            ("the node sealed", self.node, "output", on_wire),
            ("the peer opened", self.peer, "input", on_wire),
            ("the peer sealed", self.peer, "output", back),
            ("the node opened", self.node, "input", back),
        )
        found = [
            (who, system.settled("esp", name, wire), wire) for who, system, name, wire in numbers
        ]
        for system in (self.node, self.peer):
            system.shell("pfkey stat -s", "pfkey", "stat", "-s")
        for who, counted, wire in found:
            # a busy machine's sockets may drop a few before they are opened, never after sealing
            least = wire * 99 // 100 if "opened" in who else wire
            story.check(f"{who} as many packets as the wire saw", 0 < least <= counted <= wire,
                        f"{counted} and {wire}")  # fmt: skip
        for system in (self.node, self.peer):
            drops = system.esp_drops()
            story.check(f"the {system.host.name} dropped no ESP packet", not drops, drops or "")

    def break_key(self) -> None:
        story, example = self.story, self.example
        story.step("A wrong key on one side: no error message, only silence and a counter")
        wrong, right = example.wrong_key
        story.note("These SAs have no authenticator: only senseless padding gives it away.")
        story.check("the peer has another key now", self.peer.setkey(wrong))
        before = sum(self.peer.esp_drops().values())
        pings = self.ping(self.node, example.peer, 10)
        dropped = sum(self.peer.esp_drops().values()) - before
        story.check("no ping was answered", pings.received == 0, f"{pings.received} of 10")
        # Without an authenticator one wrong packet in some 250 looks well-formed; it is garbage.
        story.check("the peer dropped and counted them", dropped >= pings.sent - 3,
                    f"{dropped} drops: {self.peer.esp_drops()}")  # fmt: skip
        story.check("the peer has the right key again", self.peer.setkey(right))
        pings = self.ping(self.node, example.peer, 2)
        story.check("pings are answered again", pings.received == 2, f"{pings.received} of 2")

    def judge_wire(self, capture: Capture, path: Path) -> None:
        story, example = self.story, self.example
        story.step("The whole capture, from the first ping to here")
        frames = capture.frames
        write_pcap(path, frames)
        story.command("", f"tcpdump -n -r {path} | head -3")
        story.output(_lines(frames, 3))
        packets = [f for f in frames if not f.is_arp]
        others = sorted({f.line() for f in packets if f.protocol != ESP})
        story.check("the capture lost nothing", capture.lost == 0, f"{len(frames)} frames")
        story.check("only protocol 50 passed between the hosts (ARP aside)",
                    not others and bool(packets), others[:3] or len(packets))  # fmt: skip
        seen = [s.decode() for s in SECRETS if any(s in f.octets for f in frames)]
        story.check("none of the payload is in clear on the wire", not seen, seen or "")
        for src, dst, spi in (
            (example.node, example.peer, example.spi_out),
            (example.peer, example.node, example.spi_in),
        ):
            heads = [f.packet[20:28] for f in packets if (f.src, f.dst) == (src, dst)]
            spis = {int.from_bytes(head[:4], "big") for head in heads}
            story.check(f"{src} sent with SPI {spi} only", spis == {spi}, spis - {spi} or "")
            numbers = [int.from_bytes(head[4:], "big") for head in heads]
            story.check(f"{src} used no sequence number twice",
                        len(numbers) == len(set(numbers)), f"{len(numbers)} numbers")  # fmt: skip

    def speak_clear(self) -> None:
        story, example = self.story, self.example
        fate = "refused" if example.requires else "accepted"
        story.step(f"A clear packet from the peer is {fate}")
        selector = (example.peer, example.node)
        story.note(
            "Without a policy the peer sends in clear. It still has the keys to read answers."
        )
        story.check("the peer has no policy now", self.peer.setkey(_SPD_IN_CLEAR.format(*selector)))
        before = self.node.counter("ipsec", "in_polvio")
        with self.capturing() as capture:
            pings = self.ping(self.peer, example.node, 3)
        clear = [f for f in capture.frames if f.protocol == ICMP and f.src == example.peer]
        answers = [f for f in capture.frames if f.src == example.node]
        story.check("the peer's pings are in clear on the wire", len(clear) == 3, len(clear))
        if example.requires:
            story.check("the node answered none of them", pings.received == 0 and not answers)
            violations = self.node.settled("ipsec", "in_polvio", before + 3) - before
            story.check("the node counts each as a policy violation", violations == 3, violations)
        else:
            violations = self.node.counter("ipsec", "in_polvio") - before
            story.check("the node answered all: no policy says otherwise", pings.received == 3)
            story.check("the answers are protected: the node has a policy out",
                        {f.protocol for f in answers} == {ESP})  # fmt: skip
            story.check("nothing was counted as a policy violation", violations == 0, violations)
        story.check("the peer has its policy again", self.peer.setkey(_SPD_BACK.format(*selector)))

    def keep(self, logs: Path) -> None:
        story = self.story
        story.step("The hosts stay up")
        pids = []
        for system in (self.node, self.peer):
            host = system.host
            holder = host.start("sleep", "infinity", stdout=DEVNULL, stderr=DEVNULL,
                                new_session=True)  # fmt: skip
            pids += [system.process.pid, holder.pid]
            if kept.is_inside():
                into = f"nsenter -t {holder.pid} -U -m -n --preserve-credentials"
            else:
                into = " ".join(host.enter)
            story.note(f"enter the {host.name}:  {into} env PATH={BIN}:$PATH {_shell()}")
        kept.record(self.example.name, self.net, pids, logs)
        self.net.keep()
        story.note("take all down:   pfkey lab --down")

    def end(self) -> None:
        story = self.story
        story.step("Everything is taken down")
        for system in (self.node, self.peer):
            story.command(system.host.name, "kill %1")
            left = system.stop()
            story.check(f"pfkeyd of the {system.host.name} ended well", left == 0, left or "")
            story.check("its socket is gone", not system.socket.exists())


def _towards(frames: list[Frame], src: str, dst: str) -> int:
    return sum(f.protocol == ESP and f.src == src and f.dst == dst for f in frames)


def _lines(frames: list[Frame], count: int) -> str:
    return "\n".join([f.line() for f in frames if not f.is_arp][:count])


def _shell() -> str:
    return os.environ.get("SHELL", "sh")
