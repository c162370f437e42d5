"""The FAQ's POP3 policies: one port of the node is protected, and its own connections are not.

1. mail is read from the port that is protected; another port stays clear
2. the counters on both sides
3. the node's own connection to that port: `none` lets it stay clear
4. the same policies in another order: the own connection fails, as the FAQ says
5. a wrong key; the whole capture; a reader without policies
"""

import contextlib
from pathlib import Path

from pfkey.lab import wirecheck
from pfkey.lab.stage import lines
from pfkey.lab.talk import Talk
from pfkey.lab.traffic import fetch, letter
from pfkey.lab.wire import TCP, Capture, write_pcap

LETTER_OCTETS = 1 << 20
CLEAR_PORT = 25
_SHORT_OCTETS = 1000
_TRANSFER_SECONDS = 20
_REFUSAL_SECONDS = 1.5


class Mail(Talk):
    """A conversation with a mail server."""

    def play(self, capture_path: Path) -> None:
        """Read mail, count, read it locally, reorder, break a key, judge, speak in clear."""
        with self.stage.capture() as capture:
            self.converse()
            self.count(capture)
            self.read_locally()
            self.reorder()
            self.break_key()
        self.judge([capture], capture_path)
        self.speak_clear()

    def read(self, port: int, *, locally: bool = False, octets: int = _SHORT_OCTETS) -> bool:
        """Whether a letter could be read whole from a port of the node."""
        stage, address = self.stage, self.example.server[1]
        reader = stage.server if locally else stage.client
        self.story.note(f"{reader.name} reads from {address}, port {port}:")
        content = letter(octets)
        patience = _REFUSAL_SECONDS if octets == _SHORT_OCTETS else _TRANSFER_SECONDS
        with contextlib.suppress(OSError):
            return content == fetch(reader, stage.server, address, port, content, patience=patience)
        return False

    def converse(self) -> None:
        """Mail over the protected port, and something else over another."""
        story, stage, port = self.story, self.stage, self.example.port
        story.step(f"A letter from port {port}, and one from port {CLEAR_PORT}")
        with stage.capture() as glance:
            read = self.read(port, octets=LETTER_OCTETS)
        story.check(f"the letter from port {port} arrived whole", read, f"{LETTER_OCTETS} octets")
        story.note("the same moment on the wire:")
        story.output(lines(glance.frames, 6))
        with stage.capture() as glance:
            read = self.read(CLEAR_PORT)
        story.check(f"one from port {CLEAR_PORT} too: no policy names it", read)
        story.output(lines(glance.frames, 2))
        clear = [f for f in glance.frames if not f.is_arp]
        story.check("it is in clear on the wire", {f.protocol for f in clear} == {TCP})

    def read_locally(self) -> None:
        """The node reads its own mail."""
        story, node = self.story, self.node
        story.step("The node's own connection is in clear: the lines with none come first")
        before = node.counter("ah", "output")
        story.check("the node reads its own mail", self.read(self.example.port, locally=True))
        story.check("no AH was made for it", node.counter("ah", "output") == before)

    def reorder(self) -> None:
        """The lines with `none` last instead of first."""
        story, node, example = self.story, self.node, self.example
        story.step('"If you reorder them, the configuration will not work"')
        right = "".join(g.text for g in example.given if g.host == example.node and g.names)
        two, more = right.splitlines()[:2], right.splitlines()[2:]
        story.check("the lines with none are the last now",
                    node.setkey("\n".join(["spdflush;", *more, *two])))  # fmt: skip
        before = node.counter("ipsec", "in_polvio")
        story.check("the node cannot read its own mail",
                    not self.read(example.port, locally=True))  # fmt: skip
        violations = node.counter("ipsec", "in_polvio") - before
        story.check("each try counts as a policy violation", violations > 0, violations)
        why = node.logged("own-dropped")
        story.check("pfkeyd's log says why", bool(why))
        story.output(why)
        story.check("the peer still can", self.read(example.port))
        story.check("the order is the FAQ's again", node.setkey(f"spdflush;\n{right}"))
        story.check("the node reads its own mail again", self.read(example.port, locally=True))

    def break_key(self) -> None:
        """Give the peer a wrong key, and the right one again."""
        story, example, peer = self.story, self.example, self.peer
        story.step("A wrong key on one side: no error message, only silence and a counter")
        sa = example.sa(example.layers[0], towards_peer=True)
        story.check("the peer has another key now", peer.setkey(sa.with_wrong_key()))
        before = peer.counter("ah", "badauth")
        story.check("it can read nothing", not self.read(example.port))
        dropped = peer.settled("ah", "badauth", before + 1) - before
        story.check("it dropped and counted the answers", dropped > 0, f"{dropped} ah badauth")
        story.check("the peer has the right key again", peer.setkey(sa.again()))
        story.check("it reads mail again", self.read(example.port))

    def judge(self, captures: list[Capture], path: Path) -> None:
        """Write the capture file and check the link."""
        story, example = self.story, self.example
        (capture,) = captures
        story.step("The whole capture, from the first letter to here")
        write_pcap(path, capture.frames)
        story.command("", f"tcpdump -n -r {path} | head -3")
        story.output(lines(capture.frames, 3))
        for claim in wirecheck.one_port(example, capture):
            story.check(*claim)

    def speak_clear(self) -> None:
        """A reader without policies."""
        story, example, node = self.story, self.example, self.node
        story.step("Who asks in clear is refused")
        undo = self.stage.silence_policies()
        before = node.counter("ipsec", "in_polvio")
        with self.stage.capture() as capture:
            story.check("the peer can read nothing", not self.read(example.port))
        asked = [f for f in capture.frames if example.port in f.ports and f.protocol == TCP]
        answers = [f for f in capture.frames if f.src == example.server[1]]
        story.check("its packets were in clear on the wire", bool(asked), len(asked))
        story.check("there was no answer", not answers, len(answers) or "")
        violations = node.settled("ipsec", "in_polvio", before + len(asked)) - before
        story.check("the node counts each as a policy violation", violations == len(asked) > 0,
                    violations)  # fmt: skip
        story.check("the peer has its policies again", self.peer.setkey(undo))
