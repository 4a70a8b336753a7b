"""resty.memcached with a real memcached, and with servers that break the protocol."""
import pytest

from scenarios.databases import Lua, Memcached, MemcachedUnix, certificate, shared
from scenarios.tcp_peer import Peer

OPEN = """
local memcached = require "resty.memcached"
local memc = assert(memcached:new())
memc:set_timeouts(2000, 2000, %d)
assert(memc:connect(%s))
"""


@pytest.fixture(scope="module")
def lua():
    with Lua() as server:
        yield server.start_up(certificate()[0])


@pytest.fixture(params=["tcp", "unix", "tls"])
def opened(request):
    if request.param == "unix":
        return OPEN % (2000, '"unix:%s"' % shared(MemcachedUnix).path)
    backend = shared(Memcached)
    if request.param == "tcp":
        return OPEN % (2000, '"127.0.0.1", %d' % backend.port)
    return OPEN % (2000, '"127.0.0.1", %d' % backend.tls_port) + \
        'assert(memc:sslhandshake(nil, "localhost", true))\n'


def test_storing(lua, opened):
    assert lua.run(opened + """
        memc:flush_all()
        local stored = { memc:set("a b", "1", 0, 7), memc:add("a b", "x"), memc:add("c", "x"),
                         memc:replace("none", "x"), memc:replace("c", { "y", { 1, "z" } }),
                         memc:append("c", "!"), (memc:prepend("c", "?")) }
        local errors = { select(2, memc:add("a b", "x")), (select(2, memc:replace("none", "x"))) }
        local value, flags = memc:get("a b")
        return #stored, errors, value, flags, memc:get("c"), (memc:get("none"))
        """) == [7, ["NOT_STORED", "NOT_STORED"], "1", "7", "?y1z!", None]


def test_many_keys_and_check_and_set(lua, opened):
    assert lua.run(opened + """
        memc:flush_all()
        memc:set("a/1", "one", 0, 1)
        memc:set("b", "two")
        local many = memc:get({ "a/1", "b", "c" })
        local value, flags, unique = memc:gets("b")
        local ok = memc:cas("b", "three", unique, 0, 3)
        local no, err = memc:cas("b", "four", unique)
        local both = memc:gets({ "b", "c" })
        return many["a/1"], many.b[1], many.c, value, flags, ok, no, err, both.b[1], both.b[2],
               both.b[3] ~= unique, next(memc:get({}))
        """) == [["one", "1"], "two", None, "two", "0", 1, None, "EXISTS", "three", "3", True, None]


def test_numbers_times_and_the_server(lua, opened):
    assert lua.run(opened + """
        memc:set("n", "10")
        local sums = { memc:incr("n", 5), memc:decr("n", 6), (memc:get("n")) }
        local no, err = memc:incr("none", 1)
        memc:set("s", "text")
        local bad, why = memc:incr("s", 1)
        local lines = memc:stats()
        local settings = memc:stats("settings")
        local touched = { memc:touch("n", 100), (select(2, memc:touch("none", 1))) }
        local deleted = { memc:delete("n"), (select(2, memc:delete("n"))) }
        return sums, no, err, bad, why:sub(1, 12), #lines > 10, settings[1]:sub(1, 5), touched,
               deleted, memc:version():match("^%d+%.%d+") ~= nil, memc:verbosity(1), memc:quit(),
               (memc:get("n"))
        """) == [["15", "9", "9 "], None, "NOT_FOUND", None, "CLIENT_ERROR", True, "STAT ",
                 [1, "NOT_FOUND"], [1, "NOT_FOUND"], True, 1, 1, None]


def test_values_of_all_sizes(lua, opened):
    assert lua.run(opened + """
        for _, size in ipairs{0, 1, 1023, 1024, 1025, 4095, 4096, 65536, 1000000} do
            local value = ("\\r\\nEND\\r\\n"):rep(size / 7 + 1):sub(1, size)
            assert(memc:set("size", value))
            assert((memc:get("size")) == value, size)
            assert((memc:gets("size")) == value, size)
            assert(memc:get({ "size" }).size[1] == value, size)
        end
        local ok, err = memc:set("size", ("x"):rep(2 * 1024 * 1024))
        return ok, err
        """) == [None, "SERVER_ERROR object too large for cache"]


def test_pipelines(lua, opened):
    assert lua.run(opened + """
        memc:flush_all()
        local none, err = memc:commit_pipeline()
        memc:init_pipeline()
        local again = memc:init_pipeline()
        memc:set("p", "1")
        memc:get("p")
        memc:add("p", "2")
        memc:incr("p", 4)
        memc:get("none")
        memc:gets("p")
        memc:get({ "p" })
        memc:version()
        memc:delete("p")
        local r = memc:commit_pipeline()
        memc:init_pipeline()
        memc:cancel_pipeline()
        memc:init_pipeline(8)
        return none, err, again, r[1], r[2], r[3], r[4], r[5], r[6][1], r[7][1], #r[8], r[9],
               select(2, memc:commit_pipeline()), (select(2, memc:commit_pipeline()))
        """) == [None, "no pipeline", "already init pipeline", [1], ["1", "0"],
                 [None, "NOT_STORED"], ["5"], {}, "5", {"p": ["5", "0"]}, 1, [1], "no more cmds",
                 "no pipeline"]


def test_keys_by_a_transform_of_ones_own(lua, opened):
    code = opened.replace("memcached:new()", """memcached:new{ key_transform = {
            function(key) return key:gsub("-", "_") end,
            function(key) return key:gsub("_", "-") end } }""")
    assert lua.run(code + """
        memc:set("x-y", "v")
        local plain = memc:get({ "x-y" })
        local none, err = memcached:new{ key_transform = {} }
        return (memc:get("x_y")), plain["x-y"][1], none, err
        """) == ["v", "v", None, "expecting key_transform = { escape, unescape } table"]


BROKEN = [
    ("get", "hello\r\n", "hello", True),
    ("get", "VALUE k 0 3\r\nabcdef\r\nEND\r\n", "malformed reply", False),
    ("get", "VALUE k 0 99999999999\r\n", "value too large: 99999999999", False),
    ("get", "VALUE k 0 100\r\nabc", "timeout", False),
    ("get", "", "timeout", False),
    ("get", "SERVER_ERROR out of memory\r\n", "SERVER_ERROR out of memory", True),
    ("gets", "VALUE k 0 3 x\r\nabc\r\nEND\r\n", "VALUE k 0 3 x", False),
    ("gets", "VALUE k 0 2000 1\r\n" + "x" * 2000 + "\r\nEN", "timeout", False),
    ("incr", "-1\r\n", "-1", True),
    ("version", "VERSIO\r\n", "VERSIO", True),
    ("stats", "STAT a\r\nERROR\r\n", "ERROR", True),
]


@pytest.mark.parametrize("command,reply,error,usable", BROKEN)
def test_broken_replies(lua, command, reply, error, usable):
    def script(link):
        link.read_until(b"\r\n")
        link.send(reply)
        assert link.wait_closed()
    with Peer(script) as peer:
        result = lua.run(OPEN % (100, '"127.0.0.1", %d' % peer.port) + """
            local results = { memc:%s("k", 1) }
            local ok, err = memc:set_keepalive()
            if ok then
                assert(memc:connect("127.0.0.1", %d))
                memc:close()
            end
            return results[table.maxn(results)], results[1], ok""" % (command, peer.port))
        assert result[:2] == [error, None] and (result[2] == 1 or not usable)


def test_a_server_that_closes_within_a_reply(lua):
    for reply in ("", "VALUE k 0 10\r\nabc", "VALUE k 0 3\r\nabc\r\n"):
        with Peer(lambda link: (link.read_until(b"\r\n"), link.send(reply))) as peer:
            opened = OPEN % (2000, '"127.0.0.1", %d' % peer.port)
            assert lua.run(opened + "return memc:get('k')") == [None, None, "closed"]


def test_a_backend_killed_and_back(lua):
    one = Memcached(*certificate()).start()
    opened = OPEN % (2000, '"127.0.0.1", %d' % one.port)
    assert lua.run(opened + "return memc:set('k', 'v'), memc:set_keepalive()") == [1, 1]
    one.kill()
    value, err = lua.run("return require('resty.memcached'):new():connect('127.0.0.1', %d)"
                         % one.port)
    assert value is None and err == "connection refused"
    one.launch()
    assert lua.run(opened + "return memc:set('k', 'v'), (memc:get('k'))") == [1, "v"]
    one.remove()
