"""Cosockets whose other side misbehaves, whose thread is killed or whose client leaves: the
documented error, and nothing left behind. Sockets and pools that outlive their request."""
import contextlib
import os
import socket
import threading
import time

import pytest

from runner.client import get
from runner.server import wait_until
from scenarios.tcp_peer import Peer

LUA = """
lua_socket_log_errors off;
location = /t { content_by_lua_block {
    local port = tonumber(ngx.var.arg_port)
    local function open(options)
        local socket = ngx.socket.tcp()
        socket:settimeouts(1000, 1000, 200)
        assert(socket:connect("127.0.0.1", port, options))
        return socket
    end
    %s
} }
"""


def descriptors(server):
    return len(os.listdir("/proc/%d/fd" % server.workers()[0]))


@pytest.fixture
def peers():
    """Makes peers that follow a script."""
    with contextlib.ExitStack() as stack:
        yield lambda script: stack.enter_context(Peer(script))


@pytest.fixture
def ask(server, peers):
    """Runs Lua code against a peer that follows a script; returns what it said."""
    def go(script, code, times=1):
        peer = peers(script)
        server.up(locations=LUA % code)
        path = "/t?port=%d" % peer.port
        text = get(server.port, path).text()
        before = descriptors(server)
        for _ in range(times - 1):
            assert get(server.port, path).text() == text
        assert wait_until(lambda: descriptors(server) <= before, 5)
        return text

    return go


def test_reset_in_a_reply(ask):
    def script(link):
        link.read_until(b"\n")
        link.send("par")
        time.sleep(0.02)
        link.reset()
    assert ask(script, """
        local socket = open()
        socket:send("?\\n")
        local line, why, part = socket:receive()
        ngx.say(line, " ", why, " ", part == "par" or part == "")
        ngx.say(socket:receive())
    """, times=20) == "nil connection reset by peer true\nnilclosed\n"


def test_an_end_in_a_reply(ask):
    def script(link):
        link.send("one\ntwo\nthr")
    assert ask(script, """
        local socket = open()
        ngx.say(socket:receive(), " ", socket:receiveuntil("o\\n")())
        ngx.say(socket:receive(10))
        ngx.say(socket:receive(10))
        ngx.say(socket:send("x"))
    """, times=20).startswith("one tw\nnilclosedthr\nnilclosed\n")


def test_silence(ask):
    def script(link):
        link.wait_closed()
    assert ask(script, """
        local socket = open()
        socket:settimeout(20)
        for i = 1, 3 do ngx.say(socket:receive()) end
        ngx.say(socket:receiveuntil("x")(5))
    """, times=5) == "niltimeout\nniltimeout\nniltimeout\nniltimeout\n"


def test_a_slow_drip(ask):
    def script(link):
        link.drip("ab\r\ncd--x--y", pause=0.002)
        link.wait_closed()
    assert ask(script, """
        local socket = open()
        ngx.say(socket:receive())
        ngx.say(socket:receiveuntil("--y")())
    """, times=3) == "ab\ncd--x\n"


def test_half_open(ask):
    """The other side has ended its sending, and still reads."""
    def script(link):
        link.send("bye\n")
        link.end_writing()
        link.wait_closed()
    assert ask(script, """
        local socket = open()
        ngx.say(socket:receive("*a"))
        ngx.say(socket:send("still here\\n"))
        ngx.say(socket:receive())
        ngx.say(socket:setkeepalive())
        socket:close()
    """, times=5) == "bye\n\n11\nnilclosed\nnilclosed\n"


def test_more_than_was_asked_for(ask):
    def script(link):
        link.send("x" * 100000)
        link.wait_closed()
    assert ask(script, """
        local socket = open()
        ngx.say(#socket:receive(10), " ", socket:setkeepalive())
        ngx.say(#socket:receive(99990), " ", socket:close())
    """, times=3) == "10 nilunread data in buffer\n99990 1\n"


def test_bytes_nobody_asked_for_end_an_idle_connection(ask):
    def script(link):
        link.read_until(b"go\n")
        link.send("late")
        link.wait_closed()
    assert ask(script, """
        local sockets = require "resty.sockets"
        local key = "127.0.0.1:" .. port
        local socket = open()
        socket:send("go\\n")
        ngx.say(socket:setkeepalive(10000, 2))
        ngx.say(sockets.pool(key).idle)
        ngx.sleep(0.05)
        ngx.say(sockets.pool(key))
    """) == "1\n1\nnil\n"


def test_killed_threads_leave_nothing(ask):
    def script(_):
        time.sleep(1)                          # reads nothing: what is sent gets stuck
    assert ask(script, """
        local killed = 0
        local function waits(how)
            local thread = ngx.thread.spawn(function()
                local socket = ngx.socket.tcp()
                if how == "name" then return socket:connect("no.such.host.example", port) end
                if how == "connect" then return socket:connect("127.0.0.1", port) end
                socket = open({pool = "kill", pool_size = 1, backlog = 10})
                if how == "send" then return socket:send(("x"):rep(20000000)) end
                return socket:receive()
            end)
            ngx.sleep(how == "connect" and 0 or 0.005)
            if ngx.thread.kill(thread) then killed = killed + 1 end
        end
        for i = 1, 5 do
            for _, how in ipairs{"connect", "receive", "send", "name"} do waits(how) end
        end
        -- two that wait in the queue of a pool
        local first = open({pool = "kill", pool_size = 1, backlog = 10})
        waits("receive")
        waits("receive")
        ngx.say(require "resty.sockets".pool("kill").waiting)
        first:close()
        ngx.say(killed >= 10, " ", require "resty.sockets".pool("kill"))
    """, times=3) == "0\ntrue nil\n"


def test_clients_that_leave(server, peers):
    peer = peers(lambda link: link.wait_closed(10))
    server.up(locations="lua_check_client_abort on;" + LUA % """
        local socket = open({pool = "left", pool_size = 1, backlog = 100})
        socket:settimeout(10000)
        socket:receive()
    """)
    get(server.port, "/")                      # the worker is up
    before = descriptors(server)
    clients = []
    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(b"GET /t?port=%d HTTP/1.1\r\nHost: x\r\n\r\n" % peer.port)
        clients.append(client)
    assert wait_until(lambda: descriptors(server) >= before + 20, 5)
    for client in clients:
        client.close()
    assert wait_until(lambda: descriptors(server) <= before, 5)


STRESS = """
    local socket = ngx.socket.tcp()
    socket:settimeouts(5, 20, 20)
    local ok, why = socket:connect("127.0.0.1", tonumber(ngx.var.arg_port),
                                   {pool = "p" .. math.random(3), pool_size = 2, backlog = 4})
    if not ok then return ngx.say(why) end
    local function receive() return socket:receive() end
    local ways = {
        function() socket:send("?\\n") receive() socket:setkeepalive(math.random(20)) end,
        function() socket:send("?\\n") socket:setkeepalive() end,
        function()
            local thread = ngx.thread.spawn(receive)
            ngx.sleep(math.random() * 0.01)
            ngx.thread.kill(thread)
            socket:send("x")
        end,
        function() ngx.thread.spawn(receive) socket:send("?\\n") ngx.exit(200) end,
        function() socket:detach() shared[math.random(5)] = socket end,
        function()
            local other = shared[math.random(5)]
            if not other then return end
            pcall(function() other:send("?\\n") other:receive() other:attach() end)
        end,
        function()
            socket:send("?\\n")
            ngx.timer.at(0, function() pcall(receive) end)
            error("x")
        end,
        function() require("resty.sockets").close_idle("p1") collectgarbage() end,
    }
    ways[math.random(#ways)]()
    ngx.say("done")
"""


def test_everything_at_once(server, peers):
    def script(link):
        while link.read_until(b"\n"):
            link.send("!\n")
    peer = peers(script)
    server.up(http="init_by_lua_block { shared = {} }", locations="""
        lua_check_client_abort on;
        lua_socket_log_errors off;
        location = /t { content_by_lua_block { %s } }
    """ % STRESS)
    get(server.port, "/")
    worker = server.workers()[0]

    def client():
        for turn in range(60):
            with socket.create_connection(("127.0.0.1", server.port)) as link:
                link.sendall(b"GET /t?port=%d HTTP/1.0\r\n\r\n" % peer.port)
                if turn % 10:
                    while link.recv(4096):
                        pass

    clients = [threading.Thread(target=client) for _ in range(12)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    assert server.workers() == [worker]
    assert get(server.port, "/").status == 200


def test_turns_come_in_order(ask):
    def script(link):
        for _ in range(10):
            if not link.read_until(b"\n"):
                return
            link.send("ok\n")
    assert ask(script, """
        local sockets = require "resty.sockets"
        local order = {}
        local threads = {}
        for i = 1, 6 do
            threads[i] = ngx.thread.spawn(function()
                local socket, why = ngx.socket.connect("127.0.0.1", port,
                                                       {pool = "turns", pool_size = 1, backlog = 4})
                if not socket then return why end
                socket:send("x\\n")
                socket:receive()
                order[#order + 1] = i
                assert(socket:setkeepalive())
            end)
        end
        local counts = sockets.pool("turns")
        local refusal = select(2, ngx.thread.wait(threads[6]))
        for i = 1, 5 do ngx.thread.wait(threads[i]) end
        ngx.say(table.concat(order, ","), " ", refusal)
        local after = sockets.pool("turns")
        ngx.say(counts.waiting, " ", counts.connections, " ", after.connections, " ", after.idle,
                " ", after.queued, " ", after.refused, " ", after.reused)
        ngx.say(sockets.close_idle("turns"), " ", sockets.pool("turns"))
    """, times=3) == ("1,2,3,4,5 too many waiting connect operations\n"
                      "4 1 1 1 4 1 4\n1 nil\n")


def test_a_detached_socket_serves_other_requests(server, peers):
    def script(link):
        count = 0
        while link.read_until(b"\n"):
            count += 1
            link.send("%d\n" % count)
    peer = peers(script)
    server.up(http="init_by_lua_block { shared = {} }", locations="""
        lua_socket_log_errors off;
        location = /open { content_by_lua_block {
            local socket = assert(ngx.socket.connect("127.0.0.1", %d))
            shared.own = assert(ngx.socket.connect("127.0.0.1", %d))
            ngx.say(socket:detach())
            shared.socket = socket
        } }
        location = /use { content_by_lua_block {
            assert(shared.socket:send("x\\n"))
            ngx.say(shared.socket:receive())
        } }
        location = /own { content_by_lua_block { ngx.say(shared.own:send("x\\n")) } }
        location = /timer { content_by_lua_block {
            ngx.timer.at(0, function()
                shared.socket:send("x\\n")
                shared.told = shared.socket:receive()
            end)
            ngx.sleep(0.05)
            ngx.say(shared.told)
        } }
        location = /attach { content_by_lua_block { ngx.say(shared.socket:attach()) } }
    """ % (peer.port, peer.port))
    said = [get(server.port, path).text() for path in
            ("/open", "/use", "/use", "/timer", "/own", "/attach")]
    assert said == ["true\n", "1\n", "2\n", "3\n", "nilclosed\n", "true\n"]
    assert get(server.port, "/use").status == 500


def test_a_detached_client_is_served_by_a_timer(server):
    server.up(locations="""
        location = /raw { content_by_lua_block {
            local client = assert(ngx.req.socket(true))
            assert(client:detach())
            ngx.timer.at(0.02, function()
                local line = client:receive()
                client:send("timer: " .. line .. "\\n")
                client:close()
            end)
        } }
    """)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(5)
        client.sendall(b"GET /raw HTTP/1.1\r\nHost: x\r\n\r\nhel")
        time.sleep(0.05)
        client.sendall(b"lo\n")
        assert client.makefile("rb").read() == b"timer: hello\n"
