"""`pfkey run --policy` with programs that know nothing of IPsec, as Debian ships them."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pfkey.lab.hosts import Net
from tests.netns.test_run_policy import POLICY, Under
from tests.support.socket_hosts import ESP, ICMP, ICMPV6, OUT, TCP, ports
from tests.support.system import until

pytestmark = [pytest.mark.root, pytest.mark.slow]

PAGE = "what is served\n" * 40_000
both = pytest.mark.parametrize("two", [4, 6], indirect=True, ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Under]:
    with Net() as net:
        made = Under(net, tmp_path_factory.mktemp("programs"))
        yield made
        made.da.stop()
        made.db.stop()


@pytest.fixture
def two(stand: Under, request: pytest.FixtureRequest) -> Iterator[Under]:
    stand.version = request.param
    with stand.watched():
        stand.begin()
        yield stand


@pytest.fixture
def url(two: Under, tmp_path: Path) -> Iterator[str]:
    """Of a page that Python's own server has in b, under policies as well."""
    (tmp_path / "page").write_text(PAGE)
    port = next(ports)
    serve = (sys.executable, "-u", "-m", "http.server", "-b", "::", "-d", str(tmp_path), str(port))
    made = two.b.start(*two.words(*serve), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert made.stdout is not None
        assert made.stdout.readline().startswith("Serving HTTP")
        yield f"http://{f'[{two.at_b}]' if two.version == 6 else two.at_b}:{port}"
    finally:
        made.kill()
        made.wait()


def program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"no {name}: apt-get install curl iputils-ping"
    return found


@both
def test_curl_gets_a_page_in_esp(two: Under, url: str, tmp_path: Path) -> None:
    """Three at a time, with a connection for each."""
    pages = tmp_path / "got-#1"
    words = (program("curl"), "-sSZ", "--no-progress-meter", "-o", str(pages), f"{url}/page?[1-3]")
    with two.watch_back() as back:
        done = two.run(two.a, *words, policy=("--policy", OUT))
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"got-{n}").read_text() == PAGE for n in (1, 2, 3)] == [True] * 3
    two.wire(ESP)
    assert set(back.protocols(two.at_b, two.at_a)) == {ESP}


@both
def test_curl_without_an_sa_says_that_it_cannot(two: Under, url: str) -> None:
    """And without a policy it is not answered, for the server has one."""
    two.load(two.da, "flush;")
    done = two.run(two.a, program("curl"), "-sS", "-m", "1", f"{url}/page")
    assert (done.stdout, done.returncode) == ("", 28)
    assert not two.seen()
    done = two.run(two.a, program("curl"), "-sS", "-m", "1", f"{url}/page", policy=())
    assert (done.stdout, done.returncode) == ("", 28)
    assert two.seen() == {TCP}


@both
def test_pings_requests_are_protected_and_its_answers_are_the_peers_affair(two: Under) -> None:
    argv = (program("ping"), "-n", "-c2", "-i0.2", "-W5", two.at_b)
    with two.watch_back() as back:
        done = two.run(two.a, *argv, policy=("--policy", OUT))
    assert "2 received" in done.stdout, done.stderr
    two.wire(ESP)
    assert set(back.protocols(two.at_b, two.at_a)) == {ICMP if two.version == 4 else ICMPV6}


@both
def test_a_whole_shell_script_is_under_them(two: Under, url: str) -> None:
    script = f"curl -s {url}/page | wc -l; for n in 1 2; do curl -s {url}/page | tail -1; done"
    done = two.run(two.a, "/bin/sh", "-c", script, policy=POLICY)
    assert done.stdout.splitlines() == ["40000", "what is served", "what is served"]
    two.wire(ESP)
    until(lambda: two.grew("esp", "input") > 3)
