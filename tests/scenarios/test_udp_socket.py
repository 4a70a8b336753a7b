"""ngx.socket.udp with a peer that answers, over IP and Unix addresses; nothing is left open."""
import os
import socket
import threading

import pytest

from runner.client import get
from runner.server import wait_until

LUA = """
location = /ask {
    content_by_lua_block {
        local sock = ngx.socket.udp()
        sock:settimeout(2000)
        assert(sock:setpeername(%(peer)s))
        local sent = {"ab", {1, 2.5}, {{"c"}}}
        ngx.say(sock:send(sent))
        ngx.say(sock:receive())
        ngx.say(sock:send(12))
        ngx.say(sock:receive(1))
        ngx.say(sock:send(true))
        ngx.say(sock:receive())
        ngx.say(sock:send(""))
        ngx.say("[", sock:receive(), "]")
    }
}
location = /round {
    content_by_lua_block {
        for i = 1, 100 do
            local sock = ngx.socket.udp()
            assert(sock:setpeername(%(peer)s))
            local waiting = ngx.thread.spawn(function() return sock:receive() end)
            if i %% 2 == 0 then ngx.thread.kill(waiting) else sock = nil end
            if i %% 10 == 0 then collectgarbage() end
        end
        ngx.exit(200)
    }
}
location = /timer {
    content_by_lua_block {
        local answer
        ngx.timer.at(0, function()
            local sock = ngx.socket.udp()
            assert(sock:setpeername(%(peer)s))
            assert(sock:send("from a timer"))
            answer = sock:receive()
        end)
        while not answer do ngx.sleep(0.002) end
        ngx.say(answer)
    }
}
"""


class Echo:
    """Answers every datagram with "<it>"."""

    def __init__(self, family, address):
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind(address)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                data, peer = self.socket.recvfrom(65536)
                self.socket.sendto(b"<" + data + b">", peer)
            except OSError:
                return


@pytest.fixture(params=["ip", "unix"])
def peer(request, server):
    if request.param == "ip":
        echo = Echo(socket.AF_INET, ("127.0.0.1", 0))
        yield '"127.0.0.1", %d' % echo.socket.getsockname()[1]
    else:
        path = server.path("echo.sock")
        echo = Echo(socket.AF_UNIX, path)
        yield '"unix:%s"' % path
    echo.socket.close()


def open_files(server):
    return len(os.listdir("/proc/%d/fd" % server.workers()[0]))


def test_answers(server, peer):
    server.up(locations=LUA % {"peer": peer})
    assert get(server.port, "/ask").body == b"1\n<ab12.5c>\n1\n<\n1\n<true>\n1\n[<>]\n"
    assert get(server.port, "/timer").body == b"<from a timer>\n"


def test_nothing_is_left_open(server, peer):
    server.up(locations=LUA % {"peer": peer})
    get(server.port, "/ask")
    before = open_files(server)
    for _ in range(20):
        assert get(server.port, "/round").status == 200
    assert wait_until(lambda: open_files(server) <= before, 3)
