"""What most examples do: ping and a transfer, all of it protected between node and peer.

1. ping and a TCP transfer, and what each link shows of them; pings that are protected as well
2. the counters on both sides
3. a wrong key on one side, and the drops it causes
4. the whole capture: what each link must and must not have shown
5. a clear packet from the peer: accepted, or refused by `require`
"""

import contextlib
import time
from pathlib import Path

from pfkey.lab import wirecheck
from pfkey.lab.example import ESP, NAMES, Aside, ManualSa
from pfkey.lab.stage import Stage, lines
from pfkey.lab.story import the
from pfkey.lab.system import System
from pfkey.lab.traffic import letter, transfer
from pfkey.lab.wire import ICMP, Capture, write_pcap

LETTER_OCTETS = 4 << 20
_CAPTURE_SECONDS = 5


class Talk:
    """The conversation of one example; `play` is all of it but the files."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.example, self.story = stage, stage.example, stage.story
        self.node, self.peer = stage.node, stage.peer

    def configure(self) -> None:
        """Give each host its files, and show what they made."""
        story = self.story
        story.step("The FAQ's files, as written")
        level = "require: or not sent" if self.example.requires else "use: if there is an SA"
        story.note(
            "add makes an SA: a key, and a number (SPI) that names it on the wire.\n"
            f"spdadd makes a policy: what shall be protected. {level}."
        )
        for given in self.example.given:
            if given.note:
                story.note(given.note)
            self.stage.give(given)
        self.stage.show()

    def play(self, capture_path: Path) -> None:
        """Speak, count, break a key, judge what every link showed, speak in clear."""
        stage, example = self.stage, self.example
        with contextlib.ExitStack() as stack:
            captures = [stack.enter_context(stage.capture(link)) for link in example.links]
            self.converse()
            for aside in self.example.also:
                self.turn_aside(aside)
            self.count(captures[example.links.index(example.protected_link)])
            self.break_key()
        self.judge(captures, capture_path)
        self.speak_clear()

    def converse(self) -> None:
        """A ping and a transfer."""
        story, stage, example = self.story, self.stage, self.example
        story.step("A ping and a TCP transfer, and what the wire shows of them")
        address = example.server[1]
        with contextlib.ExitStack() as stack:
            links = [(link, stack.enter_context(stage.capture(link))) for link in example.links]
            pings = stage.ping(stage.client, address, 3)
            for _, glance in links:
                glance.close()
            story.check("every ping was answered", pings.received == 3, f"{pings.received} of 3")
            for link, glance in links:
                where = f", between {link.a} and {link.b}" if len(links) > 1 else ""
                story.note(f"the same moment on the wire{where}:")
                story.output(lines(glance.frames, 6))
        content = letter(LETTER_OCTETS)
        story.note(f"now {LETTER_OCTETS >> 20} MiB over TCP, which begin in clear with")
        story.output(repr(content[:52].decode()))
        began = time.monotonic()
        try:
            arrived = transfer(stage.client, stage.server, address, content)
        except OSError as error:
            story.check("the transfer arrived whole", False, error)
            return
        rate = LETTER_OCTETS / (time.monotonic() - began) / 1e6
        story.check("the transfer arrived whole", arrived == content, f"{rate:.0f} MB/s")

    def turn_aside(self, aside: Aside) -> None:
        """Somebody else's ping that the policies protect."""
        story, stage = self.story, self.stage
        story.note(aside.why)
        with stage.capture() as glance:
            pings = stage.ping(stage.hosts[aside.host], aside.to, 2)
        story.check("every ping was answered", pings.received == 2, f"{pings.received} of 2")
        story.output(lines(glance.frames, 2))
        sealed = [f.src for f in glance.frames if f.seals]
        bare = [f.line() for f in glance.frames if not f.is_arp and not f.seals]
        story.check("they were protected, there and back",
                    not bare and len(sealed) > 3 and len(set(sealed)) == 2, bare or "")  # fmt: skip

    def count(self, capture: Capture) -> None:
        """Compare what both sides count with what the wire showed."""
        story, example, node, peer = self.story, self.example, self.node, self.peer
        story.step("The counters on both sides (pfkey stat -s: those that are not zero)")
        sa, back = (example.sa(example.layers[0], towards_peer=there) for there in (True, False))
        on_wire, on_way_back = self._seen(capture, sa, node), self._seen(capture, back, peer)
        found = []
        for proto in example.layers:
            group = NAMES[proto]
            which = f" with {group.upper()}" if len(example.layers) > 1 else ""
            for system, does, name, wire in (
                (node, "sealed", "output", on_wire), (peer, "opened", "input", on_wire),
                (peer, "sealed", "output", on_way_back), (node, "opened", "input", on_way_back),
            ):  # fmt: skip
                who = f"{the(system.host.name)} {does}{which}"
                found.append((who, does, system.settled(group, name, wire), wire))
        for system in (node, peer):
            system.shell("pfkey stat -s", "pfkey", "stat", "-s")
        for who, does, counted, wire in found:
            # a busy machine's sockets may drop a few before they are opened, never after sealing
            least = wire * 99 // 100 if does == "opened" else wire
            story.check(f"{who} as many packets as the wire saw", 0 < least <= counted <= wire,
                        f"{counted} and {wire}")  # fmt: skip
        for system in (node, peer):
            drops = system.drops()
            story.check(f"{the(system.host.name)} dropped none of them", not drops, drops or "")

    def _seen(self, capture: Capture, sa: ManualSa, sender: System) -> int:
        """How many packets of an SA the wire saw: all that were sent, once the capture is there."""
        deadline = time.monotonic() + _CAPTURE_SECONDS
        while True:
            sent = sender.counter(NAMES[sa.proto], "output")
            seen = wirecheck.towards(capture.frames, sa.src, sa.dst)
            if seen >= sent or time.monotonic() > deadline:
                return seen
            time.sleep(0.02)

    def break_key(self) -> None:
        """Give the peer a wrong key, and the right one again."""
        story, stage, example = self.story, self.stage, self.example
        story.step("A wrong key on one side: no error message, only silence and a counter")
        outer = example.layers[0]
        sa = example.sa(outer, towards_peer=True)
        if outer == ESP:
            story.note("These SAs have no authenticator: only senseless padding gives it away.")
        peer = the(self.peer.host.name)
        story.check(f"{peer} has another key now", self.peer.setkey(sa.with_wrong_key()))
        before = sum(self.peer.drops().values())
        pings = stage.ping(stage.client, example.server[1], 10, is_answered=False)
        dropped = sum(self.peer.drops().values()) - before
        story.check("no ping was answered", pings.received == 0, f"{pings.received} of 10")
        # Without an authenticator one wrong packet in some 250 looks well-formed; it is garbage.
        least = pings.sent - 3 if outer == ESP else pings.sent
        story.check(f"{peer} dropped and counted them", dropped >= least,
                    f"{dropped} drops: {self.peer.drops()}")  # fmt: skip
        story.check(f"{peer} has the right key again", self.peer.setkey(sa.again()))
        pings = stage.ping(stage.client, example.server[1], 2)
        story.check("pings are answered again", pings.received == 2, f"{pings.received} of 2")

    def judge(self, captures: list[Capture], path: Path) -> None:
        """Write the capture file and check every link."""
        story, example = self.story, self.example
        story.step("The whole capture, from the first ping to here")
        for link, capture in zip(example.links, captures, strict=True):
            if len(captures) > 1:
                story.note(f"between {link.a} and {link.b}:")
            file = path if link.protected else path.with_stem(f"{path.stem}-{link.a}-{link.b}")
            write_pcap(file, capture.frames)
            story.command("", f"tcpdump -n -r {file} | head -3")
            story.output(lines(capture.frames, 3))
            judge = wirecheck.protected if link.protected else wirecheck.clear
            for claim in judge(example, capture):
                story.check(*claim)

    def speak_clear(self) -> None:
        """Let the peer send in clear."""
        story, stage, example = self.story, self.stage, self.example
        node, peer = the(self.node.host.name), the(self.peer.host.name)
        fate = "refused" if example.requires else "accepted"
        story.step(f"A clear packet from {peer} is {fate}")
        story.note(
            f"Without a policy {peer} sends in clear. It still has the keys to read what comes."
        )
        undo = stage.silence_policies()
        before = self.node.counter("ipsec", "in_polvio")
        with stage.capture() as capture:
            pings = stage.ping(stage.server, example.client[1], 3, is_answered=not example.requires)
        src, dst = example.server[1], example.client[1]
        clear = [f for f in capture.frames if f.protocol == ICMP and f.src == src]
        back = example.sa(example.layers[0], towards_peer=True).src
        answers = [f for f in capture.frames if f.src in (dst, back) and not f.is_arp]
        story.check("the pings are in clear on the wire", len(clear) == 3, len(clear))
        if example.requires:
            story.check("none was answered", pings.received == 0 and not answers)
            violations = self.node.settled("ipsec", "in_polvio", before + 3) - before
            story.check(f"{node} counts each as a policy violation", violations == 3,
                        violations)  # fmt: skip
        else:
            violations = self.node.counter("ipsec", "in_polvio") - before
            story.check(f"{node} answered all: no policy says otherwise", pings.received == 3)
            story.check(f"the answers are protected: {node} has a policy out",
                        {f.protocol for f in answers} == {example.layers[0]})  # fmt: skip
            story.check("nothing was counted as a policy violation", violations == 0, violations)
        story.check(f"{peer} has its policy again", self.peer.setkey(undo))
