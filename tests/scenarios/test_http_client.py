"""resty.http against peers that answer well, badly, or not at all."""
import hashlib
import os
import threading
import time

import pytest

from runner.client import Connection, get, request_bytes
from runner.server import wait_until
from scenarios.conftest import ScenarioServer
from scenarios.tcp_peer import Peer, replies, replies_and_closes

HTTP = """
lua_socket_log_errors off;
lua_socket_connect_timeout 1s; lua_socket_send_timeout 1s; lua_socket_read_timeout 300ms;
"""

LOCATIONS = r"""
location = /ask {
    content_by_lua_block {
        local res, err = require("resty.http").new():request_uri(
            "http://127.0.0.1:" .. ngx.var.arg_port .. "/x",
            { max_body_bytes = tonumber(ngx.var.arg_max), method = ngx.var.arg_method,
              body = ngx.var.arg_body,
              headers = { Expect = ngx.var.arg_body and "100-continue" } })
        if not res then
            return ngx.say("error: ", err)
        end
        ngx.say(res.status, " ", #res.body, " ", ngx.md5(res.body))
    }
}
location = /stream {
    content_by_lua_block {
        local client = require("resty.http").new()
        assert(client:connect{ scheme = "http", host = "127.0.0.1",
                               port = tonumber(ngx.var.arg_port) })
        local res = assert(client:request{ path = "/" })
        local largest = 0
        repeat
            local piece, err = res.body_reader(8192)
            if err then
                ngx.log(ngx.ERR, "stream: ", err)
            end
            if piece then
                largest = math.max(largest, #piece)
                assert(ngx.print(piece))
                assert(ngx.flush(true))
            end
        until not piece
        assert(largest <= 8192)
        client:set_keepalive()
    }
}
location = /upload {
    content_by_lua_block {
        local http = require("resty.http")
        local sent = 0
        local res, err = http.new():request_uri("http://127.0.0.1:@PORT@/digest", {
            method = "POST",
            headers = { ["Transfer-Encoding"] = "chunked" },
            body = http.chunked_body(function()
                sent = sent + 1
                return sent <= 500 and string.rep(string.char(64 + sent % 26), sent * 7) or nil
            end),
        })
        ngx.say(res and res.body or err)
    }
}
location = /forward {
    client_max_body_size 0;
    content_by_lua_block {
        local client = require("resty.http").new()
        assert(client:connect{ scheme = "http", host = "127.0.0.1", port = @PORT@ })
        local params = {
            method = "POST", path = "/digest", body = assert(client:get_client_body_reader(4096)),
            headers = { ["Content-Length"] = ngx.var.http_content_length },
        }
        if not ngx.var.http_content_length then
            params.headers["Transfer-Encoding"] = "chunked"
            params.body = require("resty.http").chunked_body(params.body)
        end
        ngx.say(assert(client:request(params)):read_body())
    }
}
location = /proxied {
    client_max_body_size 0;
    rewrite ^ /digest break;
    content_by_lua_block {
        local client = require("resty.http").new()
        assert(client:connect{ scheme = "http", host = "127.0.0.1", port = @PORT@ })
        client:proxy_response(assert(client:proxy_request(4096)))
        client:set_keepalive()
    }
}
location = /digest {
    client_max_body_size 0;
    content_by_lua_block {
        ngx.req.read_body()
        local data = ngx.req.get_body_data()
        if not data then
            local file = assert(io.open(ngx.req.get_body_file(), "rb"))
            data = file:read("*a")
            file:close()
        end
        ngx.print(#data, " ", ngx.md5(data))
    }
}
location = /reused {
    content_by_lua_block {
        local client = require("resty.http").new()
        for _ = 1, 3 do
            assert(client:connect{ scheme = "http", host = "127.0.0.1",
                                   port = tonumber(ngx.var.arg_port) })
            ngx.print(client:get_reused_times(), " ")
            local res = assert(client:request{ path = "/" })
            if ngx.var.arg_read then
                res:read_body()
            end
            ngx.print(client:set_keepalive(), " ")
        end
    }
}
"""


@pytest.fixture(scope="module")
def asker():
    with ScenarioServer() as server:
        server.up(http=HTTP, locations=LOCATIONS.replace("@PORT@", str(server.port)))
        yield server


def ask(server, peer, more=""):
    return get(server.port, "/ask?port=%d%s" % (peer.port, more)).text().strip()


def ok(text):
    return "200 %d %s" % (len(text), hashlib.md5(text.encode()).hexdigest())


HEAD = "HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + "Transfer-Encoding: chunked\r\n\r\n"

GOOD = {
    "length": (HEAD + "Content-Length: 5\r\n\r\nhello", "hello"),
    "chunks": (CHUNKED + "3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\n\r\n", "hello"),
    "trailers": (CHUNKED + "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", "hello"),
    "bare line feeds": (HEAD.replace("\r", "") + "Content-Length: 5\n\nhello", "hello"),
    "interim responses": ("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
                          + HEAD + "Content-Length: 0\r\n\r\n", ""),
    "folded header": (HEAD + "X-Long: a\r\n  b\r\nContent-Length: 1\r\n\r\nx", "x"),
    "same length twice": (HEAD + "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", "x"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_replies(asker, name):
    text, body = GOOD[name]
    with Peer(replies(text)) as peer:
        assert ask(asker, peer) == ok(body)


def test_a_body_until_the_connection_closes(asker):
    with Peer(replies_and_closes(HEAD + "\r\nhello")) as peer:
        assert ask(asker, peer) == ok("hello")


BAD = {
    "garbage": ("\x00\xff\x16garbage\r\n\r\n", "error: couldn't parse HTTP version from response"),
    "no status": ("HTTP/1.1 abc\r\n\r\n", "error: couldn't parse status code from response"),
    "length is a word": (HEAD + "Content-Length: ten\r\n\r\n", "error: invalid Content-Length"),
    "length is negative": (HEAD + "Content-Length: -1\r\n\r\n", "error: invalid Content-Length"),
    "two lengths": (HEAD + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
                    "error: conflicting Content-Length"),
    "no chunk size": (CHUNKED + "xyz\r\n", "error: unable to read chunksize"),
    "huge chunk size": (CHUNKED + "fffffffffffffffff\r\n", "error: unable to read chunksize"),
    "no chunk end": (CHUNKED + "2\r\nabXX\r\n", "error: unable to read the end of a chunk"),
    "endless line": (HEAD + "X: " + "y" * 200000, "error: line too long"),
    "endless status": ("y" * 200000, "error: line too long"),
    "endless header": (HEAD + "X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 20000,
                       "error: response header too large"),
    "endless interim": ("HTTP/1.1 102 Wait\r\n\r\n" * 1000, "error: too many interim responses"),
    "silence": ("", "error: timeout"),
    "silence in the header": (HEAD + "X: y", "error: timeout"),
    "silence in the body": (HEAD + "Content-Length: 5\r\n\r\nhel", "error: timeout"),
    "silence in a chunk": (CHUNKED + "5\r\nhel", "error: timeout"),
    "silence until close": (HEAD + "\r\nhel", "error: timeout"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_replies(asker, name):
    text, error = BAD[name]
    with Peer(replies(text)) as peer:
        assert ask(asker, peer).startswith(error)


CUT = {
    "at once": "",
    "in the status": "HTTP/1.1 20",
    "in the header": HEAD + "X: y",
    "in the body": HEAD + "Content-Length: 5\r\n\r\nhel",
    "in a chunk": CHUNKED + "5\r\nhel",
    "between chunks": CHUNKED + "3\r\nhel\r\n",
    "in the trailers": CHUNKED + "0\r\nX: y\r\n",
}


@pytest.mark.parametrize("name", CUT)
def test_the_peer_ends_early(asker, name):
    with Peer(replies_and_closes(CUT[name])) as peer:
        assert ask(asker, peer) == "error: closed"

    def resets(link):
        link.read_until()
        link.send(CUT[name])
        time.sleep(0.02)
        link.reset()
    with Peer(resets) as peer:
        assert ask(asker, peer) in ("error: connection reset by peer", "error: closed")


def test_a_half_open_peer(asker):
    def script(link):
        link.read_until()
        link.send(HEAD + "Content-Length: 5\r\n\r\nhel")
        link.end_writing()
        assert link.wait_closed()
    with Peer(script) as peer:
        assert ask(asker, peer) == "error: closed"


def test_a_reply_in_drips(asker):
    def script(link):
        link.read_until()
        link.drip(CHUNKED + "5\r\nhello\r\n0\r\n\r\n", pause=0.005)
    with Peer(script) as peer:
        assert ask(asker, peer) == ok("hello")


def test_a_refused_connection(asker):
    with Peer(replies("")) as peer:
        peer.stop_listening()
        assert ask(asker, peer) == "error: connection refused"


def test_an_oversized_body(asker):
    def script(link):
        link.read_until()
        link.send(HEAD + "Content-Length: 1000000000000\r\n\r\n")
        while True:
            link.send(b"x" * 65536)
    with Peer(script) as peer:
        assert ask(asker, peer, "&max=1000000") == "error: response body too large"
        assert wait_until(lambda: not peer.open)


def test_a_body_that_waits_for_leave(asker):
    bodies = []

    def grants(link):
        link.read_until()
        link.send("HTTP/1.1 100 Continue\r\n\r\n")
        bodies.append(link.read(4))
        link.send(HEAD + "Content-Length: 2\r\n\r\nok")
    with Peer(grants) as peer:
        assert ask(asker, peer, "&method=POST&body=data") == ok("ok")
    assert bodies == [b"data"]

    def refuses(link):
        link.read_until()
        link.send("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
        assert link.wait_closed()
        bodies.append(link.buffer)
    with Peer(refuses) as peer:
        assert ask(asker, peer, "&method=POST&body=data").startswith("417 0 ")
        assert wait_until(lambda: len(bodies) == 2)
    assert bodies[1] == b""


def test_streaming_with_back_pressure(asker):
    size = 24 * 1024 * 1024
    piece = os.urandom(65536)
    sent = []

    def script(link):
        link.read_until()
        link.send(HEAD + "Content-Length: %d\r\n\r\n" % size)
        for at in range(0, size, len(piece)):
            link.send(piece)
            sent.append(at)
    with Peer(script) as peer, Connection(asker.port) as slow:
        slow.send(request_bytes(target="/stream?port=%d" % peer.port))
        wait_until(lambda: sent)
        # Nobody reads: what is under way fits into the kernel's buffers.
        wait_until(lambda: len(sent) == size // len(piece), 0.5)
        assert len(sent) < size // len(piece)
        response = slow.read_response()
        assert response.status == 200
        assert hashlib.md5(response.body).digest() \
            == hashlib.md5(piece * (size // len(piece))).digest()


def test_a_client_that_goes_away_ends_the_exchange(asker):
    gone = threading.Event()

    def script(link):
        link.read_until()
        link.send(CHUNKED)
        try:
            while True:
                link.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        except OSError:
            gone.set()
    with Peer(script) as peer:
        with Connection(asker.port) as client:
            client.send(request_bytes(target="/stream?port=%d" % peer.port))
            client.fill()
            client.abort()
        assert gone.wait(5)


def test_a_chunked_upload(asker):
    body = b"".join(bytes([64 + n % 26]) * (n * 7) for n in range(1, 501))
    expected = "%d %s" % (len(body), hashlib.md5(body).hexdigest())
    assert get(asker.port, "/upload").text().strip() == expected


@pytest.mark.parametrize("target", ["/forward", "/proxied"])
def test_an_upload_passed_on(asker, target):
    body = os.urandom(300000)
    expected = "%d %s" % (len(body), hashlib.md5(body).hexdigest())
    assert get(asker.port, target, method="POST", body=body).text().strip() == expected
    pieces = [body[at:at + 7777] for at in range(0, len(body), 7777)]
    with Connection(asker.port) as client:
        client.send(b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                    % target.encode())
        for piece in pieces:
            client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        client.send(b"0\r\n\r\n")
        assert client.read_response().text().strip() == expected


def keeps(link):
    while link.read_until():
        link.send(HEAD + "Content-Length: 5\r\n\r\nhello")


def test_kept_connections(asker):
    with Peer(keeps) as peer:
        assert get(asker.port, "/reused?read=1&port=%d" % peer.port).text() == "0 1 1 1 2 1 "
        assert peer.accepted == 1


def test_unread_bodies_are_not_kept(asker):
    with Peer(keeps) as peer:
        text = get(asker.port, "/reused?port=%d" % peer.port).text()
        assert text.replace("connection must be closed", "") == "0 2 0 2 0 2 "
        assert peer.accepted == 3


def test_a_kept_connection_that_died_is_replaced(asker):
    def once_a_connection(link):
        link.read_until()
        link.send(HEAD + "Content-Length: 5\r\n\r\nhello")
        link.read_until()
    with Peer(once_a_connection) as peer:
        for _ in range(5):
            assert ask(asker, peer) == ok("hello")
        assert ask(asker, peer, "&method=POST&body=x") == "error: closed"


def open_files(server):
    return sum(len(os.listdir("/proc/%d/fd" % pid)) for pid in server.workers())


def test_faults_leave_nothing_behind(asker):
    scripts = [replies_and_closes(text) for text in CUT.values()]
    scripts += [replies_and_closes(text) for text, _ in BAD.values() if len(text) < 1000]
    turn = [0]

    def script(link):
        turn[0] += 1
        scripts[turn[0] % len(scripts)](link)
    with Peer(script) as peer:
        for _ in range(40):
            ask(asker, peer)
        before = open_files(asker)
        for _ in range(300):
            ask(asker, peer)
        assert wait_until(lambda: open_files(asker) <= before)
