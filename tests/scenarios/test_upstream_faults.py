"""Upstream servers that misbehave: what the client and the next request see of it."""
import socket
import threading
import time

import pytest

from runner.client import Connection, ProtocolError, get, request_bytes
from runner.raw_upstream import RawUpstream, answer
from runner.server import wait_until


def up(server, upstream, location="", group="keepalive 8;"):
    server.up(http="upstream raw { server 127.0.0.1:%d max_fails=0; %s }" % (upstream.port, group),
              locations="location /p { proxy_pass http://raw; %s }" % location)
    return server


def scripted(reply, then="close"):
    """Answers each request with the same bytes, in the given way."""
    def script(peer):
        while True:
            peer.head()
            peer.send(reply)
            if then == "reset":
                time.sleep(0.05)
                return peer.reset()
            if then == "close":
                return None
    return script


OK = b"HTTP/1.1 200 OK\r\n"

REFUSED = [
    ("closes before its head", b"", "close", "prematurely closed connection while reading"),
    ("dies within its head", OK + b"Content-Le", "close",
     "upstream prematurely closed connection while reading response header"),
    ("resets before its head", b"", "reset", "recv() failed (104: Connection reset by peer)"),
    ("garbage", b"\x00\x01\x02 nonsense\r\n\r\n", "close", "no valid HTTP/1.0 header"),
    ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n", "stay", "no valid HTTP/1.0 header"),
    ("length and chunks", OK + b"Content-Length: 2\r\n"
     b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "close", "at the same time"),
    ("two lengths", OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!", "close",
     "duplicate header line"),
    ("a length with a sign", OK + b"Content-Length: +2\r\n\r\nok", "close",
     "invalid \"Content-Length\""),
    ("a negative length", OK + b"Content-Length: -1\r\n\r\nok", "close",
     "invalid \"Content-Length\""),
    ("a length of 2^63", OK + b"Content-Length: 9223372036854775808\r\n\r\nok", "close",
     "invalid \"Content-Length\""),
    ("an unknown coding", OK + b"Transfer-Encoding: gzip\r\n\r\nok", "close",
     "unknown \"Transfer-Encoding\""),
    ("a NUL in a field", OK + b"X: a\0b\r\nContent-Length: 2\r\n\r\nok", "close",
     "invalid header"),
    ("a bare CR in a field", OK + b"X: a\rb: c\r\nContent-Length: 2\r\n\r\nok", "close",
     "invalid header"),
    ("a folded line", OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nok", "close",
     "invalid header"),
    ("101 nobody asked for", b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\nSECRET", "stay",
     "unexpected 101"),
    ("a head without end", OK + b"" + b"X: " + b"y" * 9000, "stay", "too big header"),
    ("a large head", OK + b"" + b"X: " + b"y" * 9000 + b"\r\n\r\n", "stay",
     "too big header"),
    ("100 without end", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, "stay", "too many interim"),
]


@pytest.mark.parametrize("reply,then,log", [case[1:] for case in REFUSED],
                         ids=[case[0] for case in REFUSED])
def test_refused(server, reply, then, log):
    with RawUpstream(scripted(reply, then)) as upstream:
        up(server, upstream)
        for _ in range(2):
            response = get(server.port, "/p")
            assert response.status == 502
            assert b"SECRET" not in response.body
        assert log in server.log(), server.log()
        assert upstream.connections >= 2, "a connection that failed was used again"
        assert get(server.port).status == 200


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CUT = [
    ("short body", OK + b"Content-Length: 100\r\n\r\nonly this", "close"),
    ("short body, reset", OK + b"Content-Length: 100\r\n\r\nonly this", "reset"),
    ("no last chunk", CHUNKED + b"5\r\nhello\r\n", "close"),
    ("broken chunk size", CHUNKED + b"5\r\nhello\r\nxyz", "stay"),
    ("chunk without line end", CHUNKED + b"1\r\nAB\r\n", "stay"),
    ("huge chunk", CHUNKED + b"ffffffffffffffff\r\nA", "stay"),
]


@pytest.mark.parametrize("reply,then", [case[1:] for case in CUT], ids=[case[0] for case in CUT])
@pytest.mark.parametrize("buffering", ["on", "off"])
def test_truncated_body_is_seen_as_such(server, reply, then, buffering):
    with RawUpstream(scripted(reply, then)) as upstream:
        up(server, upstream, "proxy_buffering %s;" % buffering)
        with Connection(server.port) as connection:
            connection.send(request_bytes(target="/p", close=False))
            with pytest.raises(ProtocolError):
                connection.read_response()
        assert get(server.port).status == 200


def test_body_of_a_bodyless_response_is_dropped(server):
    def script(peer):
        peer.head()
        peer.send(b"HTTP/1.1 204 Empty\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        peer.socket.recv(1)
    with RawUpstream(script) as upstream:
        up(server, upstream)
        with Connection(server.port) as connection:
            for _ in range(3):
                connection.send(request_bytes(target="/p", close=False))
                assert connection.read_response().status == 204
            assert not connection.buffer
        assert upstream.connections == 3


def test_bytes_on_an_idle_connection_end_it(server):
    sent = threading.Event()

    def script(peer):
        peer.head()
        peer.send(answer(b"first"))
        time.sleep(0.1)
        try:
            peer.send(answer(b"unasked"))
        finally:
            sent.set()
        peer.socket.recv(1)
    with RawUpstream(script) as upstream:
        up(server, upstream)
        assert get(server.port, "/p").body == b"first"
        assert sent.wait(5)
        time.sleep(0.1)
        assert get(server.port, "/p").body == b"first"
        assert upstream.connections == 2


def test_a_kept_connection_that_ended_is_not_used(server):
    with RawUpstream(scripted(answer())) as upstream:
        up(server, upstream)
        for _ in range(20):
            assert get(server.port, "/p").body == b"ok"
        assert "prematurely" not in server.log()


def test_a_stale_connection_is_replaced_without_the_client_knowing(server):
    """The server ends a kept connection just as the next request is written to it."""
    def script(peer):
        peer.head()
        peer.send(answer(b"1"))
        peer.head()
        peer.reset()
    with RawUpstream(script) as upstream:
        up(server, upstream)
        assert get(server.port, "/p").status == 200
        assert get(server.port, "/p").status == 200
        # A request that changes something is not repeated.
        assert get(server.port, "/p", method="POST", body=b"x").status == 502
        assert len(upstream.heads) == 4


def test_slow_head_and_slow_body_time_out(server):
    def script(peer):
        head = peer.head()
        if "/body" in head:
            peer.send(OK + b"Content-Length: 10\r\n\r\nabc")
        time.sleep(2)
    with RawUpstream(script) as upstream:
        up(server, upstream, "proxy_read_timeout 200ms;")
        started = time.monotonic()
        assert get(server.port, "/p/head").status == 504
        with Connection(server.port) as connection:
            connection.send(request_bytes(target="/p/body"))
            with pytest.raises(ProtocolError):
                connection.read_response()
        assert time.monotonic() - started < 2
        assert "upstream timed out (110: Connection timed out) while reading response header" \
            in server.log()


def test_a_trickled_response_is_whole(server):
    reply = answer(b"hello", fields=["X-A: b"]) + b""
    chunked = (OK + b"Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
               b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-T: end\r\n\r\n")

    def script(peer):
        while True:
            data = chunked if "/chunked" in peer.head() else reply
            for at in range(len(data)):
                peer.send(data[at:at + 1])
                time.sleep(0.0005)
    with RawUpstream(script) as upstream:
        upstream.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        up(server, upstream, "proxy_pass_trailers on;")
        for _ in range(2):
            assert get(server.port, "/p").body == b"hello"
            response = get(server.port, "/p/chunked")
            assert response.body == b"hello world"
            assert response.trailers == [("X-T", "end")]
        assert upstream.connections == 1


def test_client_that_leaves_frees_the_upstream(server):
    closed = threading.Event()

    def script(peer):
        peer.head()
        try:
            peer.socket.settimeout(5)
            if not peer.socket.recv(1):
                closed.set()
        except ConnectionError:
            closed.set()
    with RawUpstream(script) as upstream:
        up(server, upstream)
        with Connection(server.port) as connection:
            connection.send(request_bytes(target="/p"))
            assert wait_until(lambda: upstream.heads)
        assert closed.wait(3)
        assert "499" not in server.log()


def test_back_pressure_without_buffering(server):
    """A client that reads nothing stops the upstream; memory does not grow with the response."""
    total = 64 * 1024 * 1024
    sent = [0]

    def script(peer):
        peer.head()
        peer.send(OK + b"Content-Length: %d\r\n\r\n" % total)
        block = b"x" * 65536
        while sent[0] < total:
            peer.send(block)
            sent[0] += len(block)
    with RawUpstream(script) as upstream:
        up(server, upstream, "proxy_buffering off;")
        with Connection(server.port) as connection:
            connection.send(request_bytes(target="/p"))
            time.sleep(0.5)
            held = sent[0]
            time.sleep(0.3)
            assert sent[0] == held and held < total / 2
            got = 0
            while got < total:
                data = connection.socket.recv(1 << 20)
                assert data, "the response ended early"
                got += len(data.split(b"\r\n\r\n", 1)[1] if got == 0 else data)
        assert got == total


@pytest.mark.parametrize("most,frees", [("64m", True), ("1m", False), ("0", False)])
def test_buffering_to_a_file(server, most, frees):
    """A slow client: with room in the file the upstream is free early, else it waits."""
    total = 16 * 1024 * 1024
    done = threading.Event()

    def script(peer):
        peer.head()
        peer.send(OK + b"Content-Length: %d\r\n\r\n" % total)
        for at in range(0, total, 65536):
            peer.send(bytes([at // 65536 % 251]) * 65536)
        done.set()
    with RawUpstream(script) as upstream:
        up(server, upstream, "proxy_max_temp_file_size %s;" % most)
        with Connection(server.port) as connection:
            connection.send(request_bytes(target="/p"))
            assert done.wait(3 if frees else 0.5) == frees
            body = connection.read_response().body
        wanted = b"".join(bytes([at // 65536 % 251]) * 65536 for at in range(0, total, 65536))
        assert body == wanted
        assert wait_until(done.is_set)


def test_a_response_before_the_request_is_whole(server):
    """The upstream answers an upload and closes: the client gets that answer."""
    def script(peer):
        peer.head()
        peer.send(answer(b"enough", "413 Too Large", ["Connection: close"]))
        time.sleep(0.1)
    with RawUpstream(script) as upstream:
        up(server, upstream, "client_max_body_size 0;")
        response = get(server.port, "/p", method="POST", body=b"x" * 5_000_000)
        assert response.status == 413 and response.body == b"enough"


@pytest.mark.parametrize("chunked", [False, True])
def test_request_body_passes_as_it_comes(server, chunked):
    first = threading.Event()
    got = []

    def script(peer):
        peer.head()
        if chunked:
            got.append(peer.read(len(b"5\r\nhello\r\n")))
            first.set()
            got.append(peer.read(len(b"6\r\n world\r\n0\r\n\r\n")))
        else:
            got.append(peer.read(5))
            first.set()
            got.append(peer.read(6))
        peer.send(answer(b"taken"))
    with RawUpstream(script) as upstream:
        up(server, upstream, "proxy_request_buffering off;")
        with Connection(server.port) as connection:
            framing = "Transfer-Encoding: chunked" if chunked else "Content-Length: 11"
            connection.send(("POST /p HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n" % framing).encode())
            connection.send(b"5\r\nhello\r\n" if chunked else b"hello")
            assert first.wait(3), server.log()
            connection.send(b"6\r\n world\r\n0\r\n\r\n" if chunked else b" world")
            assert connection.read_response().body == b"taken"
        assert b"".join(got) == (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n" if chunked
                                 else b"hello world")


def test_websocket_tunnel(server):
    def script(peer):
        head = peer.head()
        assert "Upgrade: echo" in head
        peer.send(b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"
                  b"early")
        while True:
            if not peer.buffer:
                peer.fill()
            data, peer.buffer = peer.buffer, b""
            peer.send(data.upper())
            if data.endswith(b"bye"):
                return
    with RawUpstream(script) as upstream:
        up(server, upstream, "proxy_set_header Upgrade $http_upgrade; "
                             "proxy_set_header Connection upgrade;")
        with Connection(server.port) as connection:
            connection.send(b"GET /p HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\n"
                            b"Connection: upgrade\r\n\r\n")
            response = connection.read_response()
            assert response.status == 101 and response.get("Upgrade") == "echo"
            assert connection.read_bytes(5) == b"early"
            connection.send(b"ping")
            assert connection.read_bytes(4) == b"PING"
            block = b"z" * 3_000_000
            sender = threading.Thread(target=connection.send, args=(block,))
            sender.start()
            assert connection.read_bytes(len(block)) == block.upper()
            sender.join()
            connection.send(b"bye")
            assert connection.read_bytes(3) == b"BYE"
            assert connection.closed()
        assert get(server.port).status == 200


def test_early_hints(server):
    def script(peer):
        peer.head()
        peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX-Accel-Expires: 1"
                  b"\r\n\r\n")
        peer.send(answer(fields=["Link: </b.css>"]))
    with RawUpstream(script) as upstream:
        up(server, upstream, "early_hints 1;")
        response = get(server.port, "/p")
        assert [one.status for one in response.interim] == [103]
        assert response.interim[0].headers == [("Link", "</a.css>; rel=preload")]
        assert response.get_all("Link") == ["</b.css>"] and response.body == b"ok"


def test_store(server):
    with RawUpstream(scripted(answer(b"kept" * 1000))) as upstream:
        up(server, upstream, "proxy_store $document_root/store/file; proxy_store_access all:r;")
        assert get(server.port, "/p").body == b"kept" * 1000
        assert wait_until(lambda: server.read("html/store/file") == "kept" * 1000)


def test_queue(server):
    """With a server full, a request waits for its turn."""
    def script(peer):
        while True:
            peer.head()
            time.sleep(0.2)
            peer.send(answer())
    with RawUpstream(script) as upstream:
        server.up(http="upstream raw { server 127.0.0.1:%d max_conns=1; queue 2 timeout=3s; }"
                       % upstream.port, locations="location /p { proxy_pass http://raw; }")
        statuses = []
        threads = [threading.Thread(target=lambda: statuses.append(get(server.port, "/p").status))
                   for _ in range(4)]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200, 200, 200, 502]
