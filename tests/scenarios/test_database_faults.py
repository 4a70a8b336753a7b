"""Database clients whose backends fail again and again: no descriptor, timer or memory stays."""
import os

import pytest

from runner.server import children
from scenarios import mysql_peer
from scenarios.databases import Lua
from scenarios.tcp_peer import Peer

ROUNDS = int(os.environ.get("RESTY_FAULT_ROUNDS", "100"))

# Per client: what connects and asks, and what the server has said before it fails in its reply.
CLIENTS = {
    "redis": ('connect("127.0.0.1", PORT)', 'get("key")', b"", b"$100\r\nabc"),
    "memcached": ('connect("127.0.0.1", PORT)', 'get("key")', b"", b"VALUE key 0 100\r\nabc"),
    "mysql": ('connect{ host = "127.0.0.1", port = PORT, user = "u" }', 'query("the key")',
              mysql_peer.packet(0, mysql_peer.greeting("mysql_native_password"))
              + mysql_peer.packet(2, mysql_peer.OK),
              mysql_peer.packet(1, b"\1") + b"\x20\0\0\2abc"),
    "postgres": ('connect{ host = "127.0.0.1", port = PORT }', 'query("the key")',
                 b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\0\0\0\0\0Z\0\0\0\x05I",
                 b"T\0\0\0\x20\0\1a"),
}

FAULTS = {
    "close": lambda link: None,
    "reset": lambda link: link.reset(),
    "silence": lambda link: link.wait_closed(),
    "half-open": lambda link: (link.end_writing(), link.wait_closed()),
    "garbage": lambda link: (link.send(b"\xff\xff\xff garbage" * 100), link.wait_closed()),
}


@pytest.fixture(scope="module")
def lua():
    with Lua() as server:
        yield server.start_up()


def descriptors(server):
    worker = children(server.process.pid)[-1]
    return len(os.listdir("/proc/%d/fd" % worker))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("client", CLIENTS)
def test_nothing_stays(lua, client, fault):
    connect, ask, greeting, reply = CLIENTS[client]

    def script(link):
        link.send(greeting)
        link.read_until(b"key")
        link.send(reply)
        FAULTS[fault](link)

    with Peer(script) as peer:
        code = """
            local client = require "resty.%s"
            local function round()
                local o = client:new()
                o:set_timeout(5000)
                assert(o:%s)
                o:set_timeout(%d)
                local value, a, b = o:%s
                assert(not value, "an answer?")
                return a or b
            end
            local first
            local function rounds(n)
                local threads = {}
                for i = 1, n do
                    threads[i %% 10 + 1] = ngx.thread.spawn(round)
                    if i %% 10 == 0 then
                        for j = 1, 10 do
                            local ok, err = ngx.thread.wait(threads[j])
                            assert(ok, err)
                            first = first or err
                        end
                    end
                end
                collectgarbage()
                collectgarbage()
                return collectgarbage("count")
            end
            return rounds(50), rounds(%d), first
            """ % (client, connect.replace("PORT", str(peer.port)),
                   20 if fault == "silence" else 5000, ask, ROUNDS)
        before = descriptors(lua)
        warm, after, error = lua.run(code, 300)
        assert isinstance(error, str) and error
        assert after < warm + 200, (warm, after)
        assert descriptors(lua) <= before + 1
