"""resty.redis with a real Redis, and with servers that break the protocol."""
import threading
import time

import pytest

from scenarios.databases import Lua, Redis, certificate, shared
from scenarios.tcp_peer import Peer

OPEN = """
local redis = require "resty.redis"
local red = assert(redis:new())
red:set_timeouts(2000, 2000, 2000)
assert(red:connect(%s))
"""


@pytest.fixture(scope="module")
def lua():
    with Lua() as server:
        yield server.start_up(certificate()[0])


@pytest.fixture(scope="module")
def backend():
    return shared(Redis)


def addresses(backend):
    return {
        "tcp": '"127.0.0.1", %d' % backend.port,
        "unix": '"unix:%s"' % backend.path,
        "tls": '"127.0.0.1", %d, { ssl = true, ssl_verify = true, server_name = "localhost" }'
               % backend.tls_port,
    }


@pytest.fixture(params=["tcp", "unix", "tls"])
def opened(request, backend):
    return OPEN % addresses(backend)[request.param]


def test_values_of_all_kinds(lua, opened):
    assert lua.run(opened + """
        red:del("k", "list", "n")
        return red:set("k", "v\\r\\n$5\\r\\n"), red:get("k"), red:get("none"), red:incr("n"),
               red:set("k", 12.5), red:get("k"), red:rpush("list", "a", "", "c"),
               red:lrange("list", 0, -1), red:lrange("none", 0, -1), red:set("k", true),
               red:get("k"), red:incrby("n", -5), red:ping(), (red:echo(""))
        """) == ["OK", "v\r\n$5\r\n", None, 1, "OK", "12.5", 3, ["a", "", "c"], {}, "OK", "true",
                 -4, "PONG", ""]


def test_values_of_all_sizes(lua, opened):
    assert lua.run(opened + """
        for _, size in ipairs{0, 1, 9, 10, 99, 100, 999, 1000, 1023, 1024, 4094, 4095, 4096, 4097,
                              8191, 8192, 65535, 65536, 1000000} do
            local value = ("x"):rep(size)
            assert(red:set("size", value) == "OK")
            assert(red:get("size") == value, size)
            assert(red:mget("size", "none", "size")[3] == value, size)
        end
        return (red:del("size"))
        """) == [1]


def test_errors_and_commands_of_any_number_of_arguments(lua, opened):
    assert lua.run(opened + """
        local many = {}
        for i = 1, 3000 do
            many[i] = "m" .. i
        end
        red:del("many")
        local ok, err = red:lpush("many", unpack(many))
        local counts = {}
        for n = 1, 12 do
            red:del("few")
            counts[n] = red:rpush("few", unpack(many, 1, n))
        end
        local bad, why = red:nosuchcommand("x")
        local wrong, reason = red:get()
        return ok, #red:lrange("many", 0, -1), counts, bad, why:sub(1, 19), wrong, reason:sub(1, 9)
        """) == [3000, 3000, list(range(1, 13)), False, "ERR unknown command", False, "ERR wrong"]


def test_pipelines_transactions_scripts(lua, opened):
    assert lua.run(opened + """
        red:init_pipeline(4)
        red:set("p", "1")
        red:incr("p")
        red:lpush("p", "x")
        red:eval("return {1, 'two', {3, redis.error_reply('ERR four')}}", 0)
        red:get("p")
        local replies = red:commit_pipeline()
        red:init_pipeline()
        red:set("p", "3")
        red:cancel_pipeline()
        local none, err = red:commit_pipeline()
        red:multi()
        red:set("t", "1")
        red:lpop("t")
        local done = red:exec()
        return replies[1], replies[2], replies[3][1], replies[4], replies[5], none, err, done[1],
               done[2][1], red:get("p"),
               (red:evalsha((red:script("load", "return ARGV[1]")), 0, "arg"))
        """) == ["OK", 2, False, [1, "two", [3, [False, "ERR four"]]], "2", None, "no pipeline",
                 "OK", False, "2", "arg"]


def test_hashes(lua, opened):
    assert lua.run(opened + """
        red:del("h")
        local set = red:hmset("h", { a = 1 })
        red:hmset("h", "b", "2")
        local hash = red:array_to_hash(red:hgetall("h"))
        return set, hash.a, hash.b, pcall(red.hmset, red, "h", "scalar")
        """) == ["OK", "1", "2", False, "bad argument #2 to 'hmset' (table expected, got "
                 "string)"]


def test_subscribers(lua, opened):
    assert lua.run(opened + """
        local first = red
        """ + opened.split("\n", 2)[2].replace("local red =", "red =") + """
        local replies = { first:subscribe("s1", "s2"), first:psubscribe("p*") }
        red:publish("s1", "one")
        red:publish("pq", "two")
        local list = { first:ping()[1], first:read_reply(), first:read_reply() }
        first:set_timeout(20)
        local none, err = first:read_reply()
        first:set_timeout(2000)
        local refused, why = first:set_keepalive()
        local left = { first:unsubscribe(), first:punsubscribe("p*") }
        return replies, list, none, err, why, #left[1], left[2], first:get("none"),
               first:set_keepalive()
        """) == [[[["subscribe", "s1", 1], ["subscribe", "s2", 2]], ["psubscribe", "p*", 3]],
                 ["pong", ["message", "s1", "one"], ["pmessage", "p*", "pq", "two"]], None,
                 "timeout", "subscribed state", 2, ["punsubscribe", "p*", 0], None, 1]


def test_a_message_that_comes_in_pieces(lua):
    def script(link):
        link.read(26)
        link.send("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
        link.drip("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\nhel", 0.02, 4)
        time.sleep(0.1)
        link.send("lo\r\n*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n")
        link.wait_closed()
    with Peer(script) as peer:
        assert lua.run(OPEN % ('"127.0.0.1", %d' % peer.port) + """
            red:subscribe("c")
            red:set_timeout(30)
            local timeouts, message, err = 0, nil, nil
            repeat
                message, err = red:read_reply()
                if not message then
                    timeouts = timeouts + 1
                end
            until message or timeouts > 50
            red:set_timeout(1000)
            return timeouts > 1, message, err, (red:read_reply())
            """) == [True, ["message", "c", "hello"], None, ["message", "c", "x"]]


def test_pools(lua, backend):
    """A connection comes back, and none that is encrypted is taken for a plain one."""
    code = """
        local function once(...)
            local red = require("resty.redis"):new()
            assert(red:connect(...))
            local times = red:get_reused_times()
            assert(red:get("none") == ngx.null)
            assert(red:set_keepalive(10000, 10))
            local closed, err = red:get("none")
            assert(not closed and err == "closed")
            return times
        end
        """
    one = addresses(backend)
    assert lua.run(code + "return once(%s), once(%s)" % (
        2 * (one["unix"] + ', { pool = "mine" }',))) == [0, 1]
    first, second, other = lua.run(code + "return once(%s), once(%s), once(%s)" % (
        one["tls"], one["tls"], one["tls"].replace("ssl_verify = true, ", "")))
    assert second == first + 1 and other == 0


def test_an_untrusted_certificate_is_refused(lua, backend):
    ok, err = lua.run("""return require("resty.redis"):new():connect("127.0.0.1", %d,
        { ssl = true, ssl_verify = true, server_name = "elsewhere.example" })""" % backend.tls_port)
    assert ok in (None, False) and err.startswith("failed to do ssl handshake: ")


BROKEN = [
    ("hello\r\n", 'unknown prefix: "104"'),
    ("\r\n", 'unknown prefix: "nil"'),
    ("$x\r\n", 'bad number in reply: "$x"'),
    ("$99999999999\r\n", "bulk reply too large: 99999999999"),
    ("$3\r\nabcdef\r\n", "bulk reply without its line end"),
    ("*1\r\n" * 40, "reply nested too deep"),
    ("+" + "x" * 70000, "line too long"),
    (":12a\r\n", 'bad number in reply: ":12a"'),
    ("$5\r\nab", "timeout"),
    ("*2\r\n$1\r\na\r\n", "timeout"),
    ("*2000000000\r\n", "timeout"),
    ("", "timeout"),
]


@pytest.mark.parametrize("reply,error", BROKEN, ids=[error for _, error in BROKEN])
def test_broken_replies(lua, reply, error):
    def script(link):
        link.read(5)
        link.send(reply)
        assert link.wait_closed()
    with Peer(script) as peer:
        assert lua.run(OPEN % ('"127.0.0.1", %d' % peer.port) + """
            red:set_timeouts(2000, 2000, 100)
            local value, err = red:get("x")
            local again, closed = red:get("x")
            return value, err, again, closed, red:set_keepalive()
            """) == [None, error, None, "closed", None, "closed"]


def test_a_server_that_closes_within_a_reply(lua):
    with Peer(lambda link: (link.read(5), link.send("$100\r\nabc"))) as peer:
        assert lua.run(OPEN % ('"127.0.0.1", %d' % peer.port) + "return red:get('x')") == [
            None, "closed"]
    with Peer(lambda link: (link.read(5), link.send("*2\r\n:1\r\n"), link.reset())) as peer:
        value, err = lua.run(OPEN % ('"127.0.0.1", %d' % peer.port) + "return red:get('x')")
        assert value is None and err in ("closed", "connection reset by peer")


def test_a_backend_killed_while_it_is_asked(lua):
    one = Redis(*certificate()).start()
    results = []
    thread = threading.Thread(target=lambda: results.append(lua.run(
        OPEN % addresses(one)["tcp"] + """
        red:init_pipeline()
        for i = 1, 20 do
            red:set("k", "v")
        end
        red:blpop("never", 5)
        return red:commit_pipeline()""")))
    thread.start()
    time.sleep(0.3)
    one.kill()
    thread.join(10)
    assert results[0] in ([None, "closed"], [None, "connection reset by peer"])
    value, err = lua.run("return require('resty.redis'):new():connect(%s)"
                         % addresses(one)["tcp"])
    assert value is None and err == "connection refused"
    one.launch()
    assert lua.run(OPEN % addresses(one)["tcp"] + "return (red:ping())") == ["PONG"]
    one.remove()
