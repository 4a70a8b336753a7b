"""memcached_pass with a real memcached, and with servers that break the protocol."""
import socket

import pytest

from runner.client import Connection, ProtocolError, get, request_bytes
from runner.raw_upstream import RawUpstream
from scenarios.databases import Memcached, shared

LOCATIONS = """
    error_page 404 = @missing;
    location @missing { return 404 "missing\\n"; }
    location /m/ {
        set $memcached_key $uri;
        memcached_pass 127.0.0.1:%(port)d;
        memcached_gzip_flag 2;
        gunzip on;
    }
    location /group/ { set $memcached_key $uri; memcached_pass group; %(more)s }
    location /variable/ {
        set $memcached_key /m/text;
        memcached_pass $arg_to;
    }
    location /nokey/ { set $memcached_key ""; memcached_pass group; }
"""


def up(server, port, more="", group=""):
    server.up(http="upstream group { server 127.0.0.1:%d max_fails=0; %s keepalive 4; }"
              % (port, group), locations=LOCATIONS % {"port": port, "more": more})
    return server


def store(port, key, value, flags=0):
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(b"set %s %d 0 %d\r\n%s\r\n" % (key, flags, len(value), value))
        assert connection.recv(100) == b"STORED\r\n"


@pytest.fixture(scope="module")
def memcached():
    backend = shared(Memcached)
    store(backend.port, b"/m/text", b"some text\n")
    store(backend.port, b"/m/big.html", b"0123456789" * 50000)
    store(backend.port, b"/m/empty", b"")
    store(backend.port, b"/m/with%20space", b"spaced")
    store(backend.port, b"/group/a", b"a")
    return backend


def test_values(server, memcached):
    up(server, memcached.port)
    found = get(server.port, "/m/text")
    assert (found.status, found.text(), found.get("Content-Length")) == (200, "some text\n", "10")
    big = get(server.port, "/m/big.html")
    assert big.body == b"0123456789" * 50000
    empty = get(server.port, "/m/empty")
    assert (empty.status, empty.body) == (200, b"")
    assert get(server.port, "/m/with%20space").text() == "spaced"
    assert get(server.port, "/m/nosuch").status == 404
    assert get(server.port, "/m/nosuch").text() == "missing\n"
    head = get(server.port, "/m/text", method="HEAD")
    assert (head.status, head.get("Content-Length"), head.body) == (200, "10", b"")
    assert get(server.port, "/m/text", method="POST", body=b"x").status == 405
    part = get(server.port, "/m/text", headers=[("Range", "bytes=5-8")])
    assert (part.status, part.text()) == (206, "text")


def test_kept_connections_and_names(server, memcached):
    up(server, memcached.port)
    with Connection(server.port) as client:
        for path, status in (("/group/a", 200), ("/group/none", 404)) * 5:
            client.send(request_bytes(target=path, close=False))
            assert client.read_response().status == status
    assert get(server.port, "/variable/?to=127.0.0.1:%d" % memcached.port).status == 200
    assert get(server.port, "/variable/?to=group").status == 200
    assert get(server.port, "/variable/?to=nosuch").status == 500
    assert 'no port in upstream "nosuch"' in server.log()
    assert get(server.port, "/nokey/").status == 500
    assert 'the "$memcached_key" variable is not set' in server.log()


BROKEN = [
    ("another key", b"VALUE /other 0 2\r\nab\r\nEND\r\n", 502, "memcached sent invalid key"),
    ("no length", b"VALUE /group/a 0 x\r\nab\r\nEND\r\n", 502, "memcached sent invalid length"),
    ("an error", b"SERVER_ERROR out of memory\r\n", 502, "memcached sent invalid response"),
    ("a bare line end", b"END\n", 502, "memcached sent invalid response"),
    ("silence", b"", 502, "prematurely closed connection"),
    ("a cut value", b"VALUE /group/a 0 10\r\nabc", None, "prematurely closed connection"),
    ("another end", b"VALUE /group/a 0 2\r\nabXXXXX\r\n", 200, "memcached sent invalid trailer"),
]


@pytest.mark.parametrize("reply,status,log", [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_broken_replies(server, reply, status, log):
    def script(peer):
        while b"\r\n" not in peer.buffer:
            peer.fill()
        peer.send(reply)
    with RawUpstream(script) as upstream:
        up(server, upstream.port)
        try:
            got = get(server.port, "/group/a", timeout=5)
        except ProtocolError:
            got = None
        assert (got and got.status) == status
        assert log in server.log()


def test_the_next_server(server, memcached):
    def script(peer):
        while b"\r\n" not in peer.buffer:
            peer.fill()
        peer.send(b"END\r\n")
    with RawUpstream(script) as upstream:
        up(server, memcached.port, "memcached_next_upstream not_found error timeout;",
           "server 127.0.0.1:%d max_fails=0;" % upstream.port)
        for _ in range(4):
            assert get(server.port, "/group/a").text() == "a"
