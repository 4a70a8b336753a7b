"""resty.websocket.server and Python's websockets, and clients that break the protocol."""
import asyncio
import os
import struct
import time

import pytest
import websockets

from runner.client import Connection
from runner.server import wait_until
from scenarios.conftest import ScenarioServer

HTTP = "lua_socket_log_errors off; lua_socket_read_timeout 300ms;"

LOCATIONS = r"""
location = /echo {
    content_by_lua_block {
        local ws, err = require("resty.websocket.server"):new{ max_payload_len = 1000000 }
        if not ws then
            ngx.log(ngx.NOTICE, "handshake: ", err)
            return ngx.exit(400)
        end
        while true do
            local data, kind, more = ws:recv_frame()
            if kind == "close" then
                return ws:send_close(more or 1000, data)
            elseif kind == "ping" then
                ws:send_pong(data)
            elseif data then
                local opcode = ({ text = 1, binary = 2, continuation = 0 })[kind]
                assert(ws:send_frame(more ~= "again", opcode, data))
            elseif not more:find("timeout", 1, true) then
                ngx.log(ngx.NOTICE, "echo: ", more)
                return ws:send_close(1002)
            end
        end
    }
}
location = /push {
    content_by_lua_block {
        local ws = assert(require("resty.websocket.server"):new{ timeout = 5000 })
        local listener = ngx.thread.spawn(function()
            repeat
                local data, kind, err = ws:recv_frame()
                if kind == "text" then
                    ws:send_text("heard " .. data)
                end
            until not data or kind == "close"
        end)
        local ticker = ngx.thread.spawn(function()
            for tick = 1, 20 do
                ngx.sleep(0.01)
                assert(ws:send_text("tick " .. tick))
            end
            ws:send_close(1000, "over")
            ngx.sleep(5)
        end)
        ngx.thread.wait(listener, ticker)
        ngx.thread.kill(ticker)
    }
}
"""


@pytest.fixture(scope="module")
def echo_server():
    with ScenarioServer() as server:
        server.up(http=HTTP, locations=LOCATIONS)
        yield server


def talk(server, conversation):
    async def run():
        uri = "ws://127.0.0.1:%d/echo" % server.port
        async with websockets.connect(uri, max_size=None, subprotocols=["chat", "x"]) as link:
            await conversation(link)
    asyncio.run(asyncio.wait_for(run(), 20))


def test_server_echo(echo_server):
    async def conversation(link):
        assert link.subprotocol == "chat"
        for message in ("hello", b"\0\1\2", "", "x" * 125, "x" * 126, b"y" * 65536, "z" * 999999):
            await link.send(message)
            assert await link.recv() == message
        await link.send(["one", "two", "three"])
        assert await link.recv() == "onetwothree"
        await asyncio.wait_for(await link.ping("data"), 5)
        await asyncio.sleep(0.4)                 # longer than the read timeout
        await link.send("still there")
        assert await link.recv() == "still there"
    talk(echo_server, conversation)


def test_server_echoes_the_close(echo_server):
    async def conversation(link):
        await link.close(4005, "bye")
        assert (link.close_code, link.close_reason) == (4005, "bye")
    talk(echo_server, conversation)


def test_server_serves_many_at_once(echo_server):
    async def one(number):
        uri = "ws://127.0.0.1:%d/echo" % echo_server.port
        async with websockets.connect(uri) as link:
            for turn in range(10):
                await link.send("%d %d" % (number, turn))
                assert await link.recv() == "%d %d" % (number, turn)

    async def run():
        await asyncio.gather(*(one(number) for number in range(50)))
    asyncio.run(asyncio.wait_for(run(), 20))


def test_server_sends_and_receives_at_once(echo_server):
    async def run():
        uri = "ws://127.0.0.1:%d/push" % echo_server.port
        async with websockets.connect(uri) as link:
            heard = []
            for number in range(10):
                await link.send(str(number))
                await asyncio.sleep(0.012)
            async for message in link:
                heard.append(message)
            assert [text for text in heard if text.startswith("tick")] \
                == ["tick %d" % number for number in range(1, 21)]
            assert [text for text in heard if text.startswith("heard")] \
                == ["heard %d" % number for number in range(10)]
            assert (link.close_code, link.close_reason) == (1000, "over")
    asyncio.run(asyncio.wait_for(run(), 20))


KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
REQUEST = (b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           + KEY + b"Sec-WebSocket-Version: 13\r\n\r\n")
ACCEPT = b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="

BAD_REQUESTS = {
    b"Upgrade: websocket": (b"Upgrade: h2c", 'bad "upgrade" request header: h2c'),
    b"Connection: Upgrade": (b"Connection: x", 'bad "connection" request header'),
    KEY: (b"", 'bad "sec-websocket-key" request header'),
    b"Version: 13": (b"Version: 8", 'bad "sec-websocket-version" request header'),
}


@pytest.mark.parametrize("part", BAD_REQUESTS, ids=lambda part: part[:10].decode())
def test_server_refuses(echo_server, part):
    instead, error = BAD_REQUESTS[part]
    at = echo_server.size("logs/error.log")
    with Connection(echo_server.port) as link:
        link.send(REQUEST.replace(part, instead))
        assert link.read_response().status == 400
    assert wait_until(lambda: "handshake: " + error in echo_server.log(at))


def upgraded(server):
    link = Connection(server.port)
    link.send(REQUEST)
    head = b""
    while b"\r\n\r\n" not in head:
        head += link.socket.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ") and ACCEPT in head.lower()
    return link


def masked(first, payload):
    mask = os.urandom(4)
    body = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes([first, 0x80 | len(payload)]) + mask + body


def test_server_meets_bad_frames(echo_server):
    for bad, error in ((b"\x81\x01x", "frame unmasked"), (b"\xff\x80....", "bad RSV1"),
                       (b"\x82\xff" + b"\xff" * 8, "payload len too large"),
                       (b"\x82\xff" + struct.pack(">Q", 1000001), "exceeding max payload len")):
        at = echo_server.size("logs/error.log")
        with upgraded(echo_server) as link:
            link.send(bad)
            assert wait_until(lambda: "echo: " + error in echo_server.log(at))
            assert link.closed()


def test_server_outlives_resets_and_drips(echo_server):
    for part in (b"", b"\x81", b"\x81\x85ab", masked(0x81, b"hello")):
        with upgraded(echo_server) as link:
            link.send(part)
            link.abort()
    with upgraded(echo_server) as link:
        for byte in masked(0x81, b"hello"):
            link.send(bytes([byte]))
            time.sleep(0.002)
        assert link.socket.recv(7) == b"\x81\x05hello"
