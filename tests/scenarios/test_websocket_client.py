"""resty.websocket.client against Python's websockets, and against peers that break the protocol."""
import asyncio
from hashlib import md5
import os
import struct
import threading
import time

import pytest
import websockets

from runner.client import get
from runner.server import wait_until
from scenarios.conftest import ScenarioServer
from scenarios.tcp_peer import Peer

HTTP = "lua_socket_log_errors off; lua_socket_read_timeout 300ms;"

LOCATIONS = r"""
location = /client {
    content_by_lua_block {
        local args = ngx.req.get_uri_args()
        local ws = require("resty.websocket.client"):new{ max_payload_len = 4000000 }
        local ok, err, head = ws:connect("ws://127.0.0.1:" .. args.port .. "/a?b=1",
                                         { protocols = { "one", "two" },
                                           verify_handshake = args.strict ~= nil })
        if not ok then
            return ngx.say("connect: ", err)
        end
        for _ = 1, tonumber(args.rounds or 1) do
            if args.send then
                assert(ws["send_" .. args.kind](ws, string.rep(args.send,
                                                               tonumber(args.times or 1))))
            end
            local data, kind, more = ws:recv_frame()
            if data then
                ngx.say(kind, " ", #data > 100 and ngx.md5(data) or data, " ", tostring(more))
            else
                ngx.say("receive: ", more)
            end
        end
        ok, err = ws:close()
        ngx.say("closed: ", tostring(ok), " ", tostring(err))
    }
}
"""


@pytest.fixture(scope="module")
def both():
    with ScenarioServer() as server:
        server.up(http=HTTP, locations=LOCATIONS)
        yield server


class EchoServer:
    """Python's websockets, as an echo server in a thread."""

    def __init__(self, handler=None):
        self.handler = handler or self.echo
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()

    async def echo(self, link, *_):
        async for message in link:
            await link.send(message)

    async def run(self):
        self.stopped = asyncio.Event()
        async with websockets.serve(self.handler, "127.0.0.1", 0, subprotocols=["two"],
                                    max_size=None) as server:
            self.port = server.sockets[0].getsockname()[1]
            self.ready.set()
            await self.stopped.wait()

    def __enter__(self):
        self.thread = threading.Thread(target=lambda: self.loop.run_until_complete(self.run()),
                                       daemon=True)
        self.thread.start()
        assert self.ready.wait(5)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stopped.set)
        self.thread.join(5)


def client(server, peer, more=""):
    return get(server.port, "/client?port=%d%s" % (peer.port, more)).text()


def test_client_echo(both):
    with EchoServer() as peer:
        assert client(both, peer, "&strict=1&kind=text&send=hello&rounds=3") \
            == "text hello nil\n" * 3 + "closed: 1 nil\n"
        assert client(both, peer, "&kind=binary&send=%01%02") == "binary \1\2 nil\nclosed: 1 nil\n"
        assert client(both, peer, "&kind=text&send=") == "text  nil\nclosed: 1 nil\n"


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 3000000])
def test_client_sizes(both, size):
    with EchoServer() as peer:
        assert client(both, peer, "&kind=text&send=x&times=%d" % size).startswith(
            "text " + md5(b"x" * size).hexdigest())


def test_client_meets_fragments_pings_and_a_close(both):
    async def handler(link, *_):
        await link.send(["one", "two", "three"])
        await link.ping("p")
        await link.close(4001, "enough")
    with EchoServer(handler) as peer:
        assert client(both, peer, "&rounds=6") == (
            "text one again\ncontinuation two again\ncontinuation three again\n"
            "continuation  nil\n"
            "ping p nil\nclose enough 4001\nclosed: 1 nil\n")


SWITCH = ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
          "Sec-WebSocket-Accept: x\r\n\r\n").encode()


def frames(*parts, wait=True):
    """A script: the handshake, then bytes; a number is a pause, "reset" ends it so."""
    def script(link):
        link.read_until()
        link.send(SWITCH)
        for part in parts:
            if part == "reset":
                return link.reset()
            if isinstance(part, bytes):
                link.send(part)
            else:
                time.sleep(part)
        if wait:
            link.wait_closed()
    return script


HUGE = b"\x82\x7f" + struct.pack(">Q", 1 << 62)

FAULTS = {
    "reserved bits": (frames(b"\xf1\x00"), "bad RSV1, RSV2, or RSV3 bits"),
    "reserved opcode": (frames(b"\x83\x00"), "reserved non-control frames"),
    "reserved control opcode": (frames(b"\x8b\x00"), "reserved control frames"),
    "fragmented ping": (frames(b"\x09\x00"), "fragmented control frame"),
    "long ping": (frames(b"\x89\x7e\x00\x7e"), "too long payload for control frame"),
    "one byte of close": (frames(b"\x88\x01x"),
                          "close frame with a body must carry a 2-byte status code"),
    "huge": (frames(HUGE), "payload len too large"),
    "beyond the limit": (frames(b"\x82\x7f" + struct.pack(">Q", 5000000)),
                         "exceeding max payload len"),
    "silence": (frames(), "failed to receive the first 2 bytes: timeout"),
    "end": (frames(wait=False), "failed to receive the first 2 bytes: closed"),
    "end in the length": (frames(b"\x82\x7e\x01", wait=False),
                          "failed to receive the 2 byte payload length: closed"),
    "end in the long length": (frames(b"\x82\x7f\0\0", wait=False),
                               "failed to receive the 8 byte payload length: closed"),
    "end in the payload": (frames(b"\x82\x05hel", wait=False),
                           "failed to read masking-len and payload: closed"),
    "reset": (frames(b"\x82\x05hel", 0.02, "reset"),
              "failed to read masking-len and payload: connection reset by peer"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_client_faults(both, name):
    script, error = FAULTS[name]
    with Peer(script) as peer:
        assert client(both, peer).startswith("receive: " + error + "\n")


def test_client_goes_on_after_a_timeout_within_a_frame(both):
    whole = b"\x81\x7e\x00\x82" + b"z" * 130
    for cut in (1, 3, 50):
        with Peer(frames(whole[:cut], 0.45, whole[cut:])) as peer:
            lines = client(both, peer, "&rounds=2").splitlines()
            assert lines[0].startswith("receive: failed to re") and lines[0].endswith(": timeout")
            assert lines[1].startswith("text ") and lines[1].endswith(" nil")


def test_client_takes_drips(both):
    def script(link):
        link.read_until()
        link.drip(SWITCH + b"\x81\x05hello", pause=0.001)
        link.wait_closed()
    with Peer(script) as peer:
        assert client(both, peer) == "text hello nil\nclosed: 1 nil\n"


HANDSHAKES = {
    "garbage": (b"\x00\x01\x02\r\n\r\n", "bad HTTP response status line"),
    "endless": (b"HTTP/1.1 101 Switching\r\nX: " + b"y" * 200000,
                "failed to receive response header: too large"),
    "end": (b"HTTP/1.1 101", "failed to receive response header: closed"),
    "refused, looked at": (b"HTTP/1.1 403 Forbidden\r\n\r\n", "unexpected response status: 403"),
    "no upgrade": (SWITCH.replace(b"Upgrade: w", b"X: w"), 'bad "upgrade" response header: nil'),
    "wrong accept": (SWITCH, 'bad "sec-websocket-accept" response header: x'),
}


@pytest.mark.parametrize("name", HANDSHAKES)
def test_client_handshakes(both, name):
    text, error = HANDSHAKES[name]

    def script(link):
        link.read_until()
        link.send(text)
    with Peer(script) as peer:
        assert client(both, peer, "&strict=1").startswith("connect: " + error)


def open_files(server):
    return sum(len(os.listdir("/proc/%d/fd" % pid)) for pid in server.workers())


def test_faults_leave_nothing_behind(both):
    scripts = [script for name, (script, _) in FAULTS.items() if name != "silence"]
    turn = [0]

    def script(link):
        turn[0] += 1
        scripts[turn[0] % len(scripts)](link)
    with Peer(script) as peer:
        for _ in range(30):
            client(both, peer)
        before = open_files(both)
        for _ in range(200):
            client(both, peer)
        assert wait_until(lambda: open_files(both) <= before)
