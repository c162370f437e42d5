"""What `make fuzz` has found stays mended, and every target still takes what it did not choose."""

import random
from pathlib import Path

import pytest

from tests.fuzz.__main__ import CORPUS, Hunt, main, smaller
from tests.fuzz.mutate import BLIND, MESSAGE, mutated
from tests.fuzz.targets import TARGETS, Target

MACHINES = ("databases", "keys")  # have tests of their own, with more examples
MUTATIONS = 60


def test_what_was_found_is_mended() -> None:
    found = sorted(CORPUS.glob("*/*.bin"))
    assert found
    for path in found:
        TARGETS[path.parent.name].run(path.read_bytes())


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in MACHINES])
def test_a_target_takes_octets_near_those_it_knows(name: str) -> None:
    target, dice = TARGETS[name], random.Random(name)
    for octets in target.seeds:
        target.run(octets)
    for words in (target.seeds, target.words or target.seeds):
        for _ in range(MUTATIONS):
            target.run(mutated(dice, dice.choice(target.seeds), words, target.ways))


@pytest.mark.parametrize("name", MACHINES)
def test_a_number_decides_what_a_model_is_asked(name: str) -> None:
    TARGETS[name].run(bytes(8))


def test_a_fault_is_found_made_small_and_kept_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(octets: bytes) -> int:
        assert b"\xff" not in octets, "an octet that is not taken"
        return len(octets)

    monkeypatch.setattr("tests.fuzz.__main__.CORPUS", tmp_path / "corpus")
    monkeypatch.setitem(TARGETS, "any", Target("any", (b"seed of it",), run))
    assert main(["any", "--seconds", "0.5", "--seed", "1", "--kept", str(tmp_path)]) == 1
    (path,) = (tmp_path / "corpus" / "any").iterdir()
    assert path.read_bytes() == b"\xff"
    assert "an octet that is not taken" in capsys.readouterr().out
    assert len(list((tmp_path / "any").iterdir())) > 1, "what something new came of"
    again = Hunt(TARGETS["any"], tmp_path, random.Random(2))
    assert again.found == [path]


def test_a_name_that_is_no_target_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["nothing"])
    assert "no target nothing; there are message-linux" in capsys.readouterr().err


def test_less_is_kept_as_long_as_it_does_the_same() -> None:
    assert smaller(bytes(50) + b"ab" + bytes(50), lambda octets: b"ab" in octets) == b"ab"


@pytest.mark.parametrize("ways", [BLIND, MESSAGE], ids=["blind", "message"])
def test_mutations_take_any_octets_and_change_most(ways: object) -> None:
    dice = random.Random(3)
    kinds = MESSAGE if ways is MESSAGE else BLIND
    seeds = [b"", b"a", bytes(16), bytes(range(256)), b"\2\3\0\3\4\0" + bytes(26)]
    made = [mutated(dice, seed, seeds, kinds) for seed in seeds for _ in range(300)]
    assert len(set(made)) > len(made) / 2
