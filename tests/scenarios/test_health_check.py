"""health_check: servers that do not answer well get no requests until they do again."""
import pytest

from runner.client import get
from runner.raw_upstream import RawUpstream, answer
from runner.server import wait_until

PROXY = """location /p { proxy_pass http://group; %s }"""
GROUP = "upstream group { %s server 127.0.0.1:%d max_fails=0; server 127.0.0.1:%d max_fails=0; }"


class Backend(RawUpstream):
    """Answers /health with what is set, anything else with its name."""

    def __init__(self, name):
        self.name = name
        self.health = answer(b"fine")
        super().__init__(self.talk)

    def talk(self, peer):
        while True:
            head = peer.head()
            peer.send(self.health if " /health " in head else answer(self.name))
            if " /health " in head:
                return


@pytest.fixture
def backends():
    with Backend(b"one") as one, Backend(b"two") as two:
        yield one, two


def seen(server, count=8):
    return {get(server.port, "/p").body for _ in range(count)}


@pytest.mark.parametrize("workers,zone", [(1, ""), (2, "zone z 128k;")])
def test_out_and_in_again(server, backends, workers, zone):
    one, two = backends
    server.up(workers=workers, http=GROUP % (zone, one.port, two.port),
              locations=PROXY % "health_check interval=50ms uri=/health fails=2 passes=2;")
    assert seen(server) == {b"one", b"two"}
    two.health = answer(b"", "500 Broken")
    assert wait_until(lambda: seen(server) == {b"one"}), server.log()
    assert "is unhealthy: unexpected answer" in server.log()
    two.health = answer(b"fine")
    assert wait_until(lambda: seen(server) == {b"one", b"two"}), server.log()
    assert "is healthy" in server.log()


def test_match(server, backends):
    one, two = backends
    two.health = answer(b"status: ok", "404 Odd", ["X-State: good one"])
    one.health = answer(b"status: not ok", "404 Odd", ["X-State: good one"])
    server.up(http=GROUP % ("", one.port, two.port) + """
        match odd { status 404 410-420; header X-State ~ ^good; header ! X-Bad;
                    body ~ "status: ok"; }""",
              locations=PROXY % "health_check interval=50ms uri=/health match=odd;")
    assert wait_until(lambda: seen(server) == {b"two"}), server.log()


def test_mandatory_and_tcp(server, backends):
    one, _ = backends
    server.up(http="upstream group { server 127.0.0.1:%d; server 127.0.0.1:1; }" % one.port,
              locations=PROXY % "health_check interval=50ms type=tcp mandatory;")
    assert wait_until(lambda: get(server.port, "/p").status == 200)
    assert seen(server, 20) == {b"one"}
    assert "connect() failed" not in server.log()


def test_reload_and_stop_end_probes(server, backends):
    one, two = backends
    server.up(http=GROUP % ("", one.port, two.port),
              locations=PROXY % "health_check interval=10ms uri=/health;")
    for _ in range(3):
        assert server.reload()
    server.signal("QUIT")
    assert server.process.wait(5) == 0
