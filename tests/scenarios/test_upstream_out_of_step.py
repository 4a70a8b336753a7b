"""Upstream servers that say too much, too early or nothing, and what is tried again after them."""
import socket
import threading
import time

import pytest

from runner.client import Connection, ProtocolError, get, request_bytes
from runner.raw_upstream import RawUpstream, answer
from runner.server import wait_until
from scenarios.test_upstream_faults import CHUNKED, OK, up

TOO_MUCH = [
    ("behind a length", "GET", OK + b"Content-Length: 2\r\n\r\nokEVIL"),
    ("a response behind a length", "GET", answer(b"ok") + answer(b"EVIL")),
    ("behind the last chunk", "GET", CHUNKED + b"2\r\nok\r\n0\r\n\r\nEVIL"),
    ("a body of HEAD", "HEAD", OK + b"Content-Length: 4\r\n\r\nEVIL"),
    ("a body of 304", "GET", b"HTTP/1.1 304 Same\r\nContent-Length: 4\r\n\r\nEVIL"),
]


@pytest.mark.parametrize("method,reply", [case[1:] for case in TOO_MUCH],
                         ids=[case[0] for case in TOO_MUCH])
@pytest.mark.parametrize("split", [False, True], ids=["at once", "later"])
def test_what_is_too_much_is_dropped_and_not_used_again(server, method, reply, split):
    ended = []

    def script(peer):
        peer.head()
        cut = len(reply) - 4 if split else len(reply)
        peer.send(reply[:cut])
        if split:
            time.sleep(0.02)
            peer.send(reply[cut:])
        try:
            peer.fill()
        except ConnectionError:
            pass
        ended.append(peer.buffer)
    with RawUpstream(script) as upstream:
        up(server, upstream)
        for count in range(1, 4):
            with Connection(server.port) as connection:
                connection.send(request_bytes(method, "/p"))
                response = connection.read_response(method)
                assert response.status in (200, 304) and b"EVIL" not in response.body
                assert connection.closed() and not connection.buffer
            assert wait_until(lambda: len(ended) == count)
        assert upstream.connections == 3 and ended == [b""] * 3


def test_an_upgrade_that_was_not_asked_for(server):
    """The client's Upgrade field stays here unless the configuration passes it on."""
    def script(peer):
        assert "upgrade" not in peer.head().lower()
        peer.send(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nSECRET")
    with RawUpstream(script) as upstream:
        up(server, upstream, 'proxy_set_header Upgrade "";')
        response = get(server.port, "/p", [("Upgrade", "x"), ("Connection", "upgrade")])
        assert response.status == 502 and b"SECRET" not in response.body
        assert "upstream sent unexpected 101 response" in server.log()


def test_a_server_that_does_not_read_times_out(server):
    over = threading.Event()
    with RawUpstream(lambda peer: over.wait(30)) as upstream:
        up(server, upstream, "client_max_body_size 0; proxy_send_timeout 200ms;")
        response = get(server.port, "/p", method="POST", body=b"x" * 16_000_000, timeout=30)
        over.set()
        assert response.status == 504
        assert "upstream timed out (110: Connection timed out) while sending request to upstream" \
            in server.log()


def test_a_server_that_does_not_accept_times_out(server):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        server.up(locations="location /p { proxy_pass http://127.0.0.1:%d; "
                            "proxy_connect_timeout 200ms; }" % port)
        assert get(server.port, "/p").status == 504
        assert "timed out (110: Connection timed out) while connecting to upstream" in server.log()
        for each in waiting:
            each.close()


def test_a_reset_while_the_request_is_sent(server):
    def script(peer):
        peer.head()
        peer.reset()
    with RawUpstream(script) as upstream:
        up(server, upstream, "client_max_body_size 0;")
        response = get(server.port, "/p", method="PUT", body=b"x" * 16_000_000, timeout=30)
        assert response.status == 502
        assert get(server.port).status == 200


def group_of_two(server, first, second, location=""):
    server.up(http="upstream both { server 127.0.0.1:%d max_fails=0; server 127.0.0.1:%d backup; }"
                   % (first.port, second.port),
              locations="location /p { proxy_pass http://both; %s }" % location)


FIRST_FAILS = [
    ("closes", b""), ("dies within its head", OK + b"Content-Le"), ("garbage", b"\0\1\r\n\r\n"),
    ("length and chunks", OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok"),
]


@pytest.mark.parametrize("reply", [case[1] for case in FIRST_FAILS],
                         ids=[case[0] for case in FIRST_FAILS])
def test_the_next_server_is_asked_before_the_first_byte(server, reply):
    with RawUpstream(lambda peer: (peer.head(), peer.send(reply))) as first, \
            RawUpstream(lambda peer: (peer.head(), peer.send(answer(b"next")))) as second:
        group_of_two(server, first, second, "proxy_next_upstream error timeout invalid_header;")
        assert get(server.port, "/p").body == b"next"
        # A request that may have been carried out is not repeated.
        assert get(server.port, "/p", method="POST", body=b"x").status == 502
        assert (len(first.heads), len(second.heads)) == (2, 1)


@pytest.mark.parametrize("reply", [CHUNKED + b"5\r\nhello\r\n",
                                   OK + b"Content-Length: 9\r\n\r\nhello"],
                         ids=["chunks", "length"])
def test_no_other_server_once_the_response_has_begun(server, reply):
    with RawUpstream(lambda peer: (peer.head(), peer.send(reply))) as first, \
            RawUpstream(lambda peer: (peer.head(), peer.send(answer(b"next")))) as second:
        group_of_two(server, first, second)
        with pytest.raises(ProtocolError):
            get(server.port, "/p")
        assert second.connections == 0


def test_a_response_before_the_body_was_sent_spoils_the_connection(server):
    """The rest of that body must not be taken for the next request."""
    def script(peer):
        peer.head()
        peer.send(answer(b"early"))
        try:
            while True:
                peer.fill()
        except OSError:
            pass
    with RawUpstream(script) as upstream:
        up(server, upstream, "proxy_request_buffering off; client_max_body_size 0;")
        for count in range(1, 4):
            with Connection(server.port) as connection:
                connection.send(b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf")
                assert connection.read_response().body == b"early"
            assert upstream.connections == count


def test_a_body_until_the_end_that_is_reset(server):
    def script(peer):
        peer.head()
        peer.send(OK + b"\r\nsome of it")
        assert wait_until(got.is_set, 20)
        peer.reset()
    got = threading.Event()
    with RawUpstream(script) as upstream:
        up(server, upstream, "proxy_buffering off;")
        with Connection(server.port) as connection:
            connection.send(request_bytes(target="/p", close=False))
            while b"some of it" not in connection.buffer:
                assert connection.fill()
            got.set()
            with pytest.raises(ProtocolError):
                connection.read_response()
