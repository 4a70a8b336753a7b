"""A mix of everything with clients that leave at any moment: memory, descriptors, threads and
timers of the worker stay flat. RESTY_SOAK_SECONDS=1800 for the long run."""
import os
import random
import threading
import time

from runner.client import Connection, ProtocolError, get, request_bytes
from runner.server import wait_until

SECONDS = float(os.environ.get("RESTY_SOAK_SECONDS", "3"))
CLIENTS = 8
# What memory may still grow by after the first quarter: caches and the collector's rhythm.
GROWTH_MAX_MB = 12

HTTP = """
    lua_shared_dict d 2m;
    lua_check_client_abort on;
"""
LOCATIONS = """
    location = /sub { content_by_lua_block { ngx.sleep(0.002) ngx.print(("s"):rep(3000)) } }
    location = /capture { content_by_lua_block {
        local a, b = ngx.location.capture_multi{{"/sub"}, {"/sub"}}
        ngx.print(a.body, b.body)
    } }
    location = /json { content_by_lua_block {
        local cjson = require "cjson"
        local t = cjson.decode('{"a":[1,2,{"b":"c"}],"n":' .. math.random(1e6) .. "}")
        t.headers = ngx.req.get_headers()
        ngx.say(cjson.encode(t))
    } }
    location = /threads { content_by_lua_block {
        ngx.on_abort(function() end)
        local threads = {}
        for i = 1, 5 do
            threads[i] = ngx.thread.spawn(function() ngx.sleep(math.random() * 0.01) return i end)
        end
        local ok, first = ngx.thread.wait(unpack(threads))
        for i = 1, 5 do ngx.thread.kill(threads[i]) end
        ngx.say(first)
    } }
    location = /timer { content_by_lua_block {
        ngx.timer.at(math.random() * 0.01, function() ngx.shared.d:incr("timers", 1, 0) end)
        ngx.say("set")
    } }
    location = /body { content_by_lua_block {
        ngx.req.read_body()
        ngx.say(#(ngx.req.get_body_data() or ""))
    } }
    location = /re { content_by_lua_block {
        ngx.say((ngx.re.gsub("hello world", "[eo]", "x", math.random(2) == 1 and "jo" or "")))
    } }
    location = /dict { content_by_lua_block {
        ngx.shared.d:set("k" .. math.random(2000), ("v"):rep(math.random(2000)), 0.5)
        ngx.say("ok")
    } }
    location = /big { content_by_lua_block {
        for i = 1, 20 do ngx.print(("x"):rep(8000)) ngx.flush(true) end
    } }
    location = /filters {
        access_by_lua_block { ngx.ctx.n = 0 }
        content_by_lua_block { ngx.say("a") ngx.sleep(0.001) ngx.say("b") }
        body_filter_by_lua_block { ngx.ctx.n = ngx.ctx.n + #ngx.arg[1] }
        log_by_lua_block { ngx.shared.d:incr("bytes", ngx.ctx.n, 0) }
    }
    location = /error { content_by_lua_block { local t = nil; ngx.say("part") t.x = 1 } }
    location = /counts { content_by_lua_block {
        collectgarbage()
        collectgarbage()
        ngx.say(ngx.timer.pending_count(), " ", ngx.timer.running_count(), " ",
                math.floor(collectgarbage("count")))
    } }
"""
TARGETS = ["/", "/lua", "/capture", "/json", "/threads", "/timer", "/body", "/re", "/dict", "/big",
           "/filters", "/error", "/slow?t=0.01", "/missing"]


class Clients:
    """Each asks for something at random; one in four leaves early."""

    def __init__(self, port):
        self.port = port
        self.running = True
        self.asked = 0
        self.threads = [threading.Thread(target=self.run, args=(seed,), daemon=True)
                        for seed in range(CLIENTS)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.running = False
        for thread in self.threads:
            thread.join(20)

    def once(self, connection, chance):
        target = chance.choice(TARGETS)
        body = b"b" * chance.randrange(30000) if target == "/body" else b""
        data = request_bytes(method="POST" if body else "GET", target=target, body=body,
                             close=False)
        self.asked += 1
        if chance.random() < 0.25:
            connection.send(data[:chance.randrange(1, len(data) + 1)])
            time.sleep(chance.random() * 0.01)
            connection.abort()
            return False
        connection.send(data)
        response = connection.read_response()
        return response is not None and response.get("Connection", "") != "close"

    def run(self, seed):
        chance = random.Random(seed)
        while self.running:
            try:
                with Connection(self.port) as connection:
                    while self.running and self.once(connection, chance):
                        pass
            except (OSError, ProtocolError):
                pass


def usage(server, pid):
    """(MB resident, descriptors, threads, pending timers, running timers, KB of Lua)."""
    with open("/proc/%d/statm" % pid) as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    counts = [int(word) for word in get(server.port, "/counts").text().split()]
    return (resident, len(os.listdir("/proc/%d/fd" % pid)),
            len(os.listdir("/proc/%d/task" % pid)), *counts)


def settled(server, pid):
    """Usage once what was under way has ended."""
    wait_until(lambda: usage(server, pid)[3:5] == (0, 0), 5)
    time.sleep(0.2)
    return usage(server, pid)


def test_mix_with_aborts_stays_flat(server):
    server.up(http=HTTP, locations=LOCATIONS)
    pid = server.workers()[0]
    with Clients(server.port) as clients:
        time.sleep(SECONDS / 4)
    early = settled(server, pid)
    with Clients(server.port) as more:
        time.sleep(SECONDS * 3 / 4)
    late = settled(server, pid)
    print("%d requests: %s then %s" % (clients.asked + more.asked, early, late))
    assert server.workers() == [pid], server.log()[-2000:]
    assert late[0] - early[0] < GROWTH_MAX_MB
    assert late[1] <= early[1] + 2 and late[2] == early[2]
    assert late[3:5] == (0, 0)
    assert late[5] < early[5] * 1.5 + 500
