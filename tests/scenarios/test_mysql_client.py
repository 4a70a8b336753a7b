"""resty.mysql with a real MariaDB, with logins of MySQL 8 against a scripted server, and with
servers that break the protocol."""
import threading
import time

import pytest

from scenarios import mysql_peer
from scenarios.databases import Lua, MariaDB, certificate, shared
from scenarios.tcp_peer import Peer

OPEN = """
local mysql = require "resty.mysql"
local db = assert(mysql:new())
db:set_timeouts(2000, 2000, %d)
local function open(changes)
    local options = { user = "plain", password = "secret word", database = "test_db", %s }
    for name, value in pairs(changes or {}) do
        options[name] = value
    end
    return db:connect(options)
end
"""


@pytest.fixture(scope="module")
def lua():
    with Lua() as server:
        yield server.start_up(certificate()[0])


@pytest.fixture(scope="module")
def backend():
    return shared(MariaDB)


def to_tcp(port, timeout=3000):
    return OPEN % (timeout, 'host = "127.0.0.1", port = %d' % port)


@pytest.fixture(params=["tcp", "unix", "tls"])
def opened(request, backend):
    if request.param == "unix":
        return OPEN % (3000, 'path = "%s"' % backend.path) + "assert(open())\n"
    if request.param == "tcp":
        return to_tcp(backend.port) + "assert(open())\n"
    return OPEN % (3000, 'host = "127.0.0.1", port = %d, ssl = true, ssl_verify = true, '
                   'server_name = "localhost"' % backend.port) + "assert(open())\n"


def test_values_of_all_types(lua, opened):
    assert lua.run(opened + """
        db:query("drop table if exists types")
        assert(db:query([[create table types (id serial, a tinyint, b int unsigned, c bigint,
            d decimal(10,3), e double, f year, g varchar(20), h blob, i date, j datetime, k bit(8),
            l enum('x','y'), m text)]]))
        local done = assert(db:query([[insert into types values (default, -5, 4294967295,
            9007199254740993, 1.250, 0.5, 2026, 'text', x'00ff', '2026-01-02',
            '2026-01-02 03:04:05', b'101', 'y', ''), (default, null, null, null, null, null, null,
            null, null, null, null, null, null, null)]]))
        local rows = assert(db:query("select * from types order by id", 2))
        return done, rows[1], rows[2], db:server_ver():match("MariaDB"), db:set_keepalive()
        """) == [
            {"affected_rows": 2, "insert_id": 1, "server_status": 2, "warning_count": 0,
             "message": "Records: 2  Duplicates: 0  Warnings: 0"},
            {"id": "1", "a": -5, "b": 4294967295, "c": "9007199254740993", "d": 1.25, "e": 0.5,
             "f": 2026, "g": "text", "h": "\0\xff", "i": "2026-01-02", "j": "2026-01-02 03:04:05",
             "k": "\5", "l": "y", "m": ""},
            dict.fromkeys("abcdefghijklm", None) | {"id": "2"}, "MariaDB", 1]


def test_compact_rows_and_several_results(lua, opened):
    assert lua.run(opened + """
        db:set_compact_arrays(true)
        local list = { { db:query("select 1, null, 'x'; set @a = 1; select 2 as b; select 1/0") } }
        while list[#list][2] == "again" do
            list[#list + 1] = { db:read_result() }
        end
        local none, err = db:read_result()
        db:set_compact_arrays(false)
        local sent = db:send_query("select 'y' as y")
        local busy, why = db:query("select 1")
        local kept, refused = db:set_keepalive()
        return #list, list[1][1], list[2][1].affected_rows, list[3][1], list[4][1], none, err, sent,
               busy, why, kept, refused, (db:read_result())
        """) == [4, [[1, None, "x"]], 0, [[2]], [[None]], None,
                 "cannot read result in the current context: 1", 20, None,
                 "failed to send query: cannot send query in the current context: 2", None,
                 "cannot be reused in the current connection state: 2", [{"y": "y"}]]


def test_errors(lua, opened):
    assert lua.run(opened + """
        local a = { db:query("select nonsense") }
        local b = { db:query("select 1 as x; select * from nowhere.nothing") }
        local c = { db:read_result() }
        local d = { db:query("load data local infile '/etc/passwd' into table types") }
        return a[2], a[3], a[4], b[1], b[2], c[3], c[4], d[1], (db:query("select 7 as ok"))
        """) == ["Unknown column 'nonsense' in 'SELECT'", 1054, "42S22", [{"x": 1}], "again",
                 1142, "42000", None, [{"ok": 7}]]


def test_logins(lua, backend):
    code = to_tcp(backend.port)
    good = [("empty", ""), ("old", "ancient"), ("edward", "curve"), ("plain", "secret word")]
    for user, password in good:
        assert lua.run(code + """
            assert(open{ user = "%s", password = "%s", pool = "own" })
            return db:query("select substring_index(current_user(), '@', 1) as me"), db:close()
            """ % (user, password)) == [[{"me": user}], 1]
        assert lua.run(code + "return open{ user = '%s', password = 'wrong' }" % user)[2:] == [
            1045, "28000"]
    assert lua.run(code + "return open{ user = 'secured' }")[2:] == [1045, "28000"]
    assert lua.run(code + """
        assert(open{ user = 'secured', ssl = true })
        return db:query("show status like 'Ssl_version'")[1].Value:match("TLS"), db:close()
        """) == ["TLS", 1]


def test_what_connect_refuses(lua, backend):
    assert lua.run(to_tcp(backend.port) + """
        local a = { open{ charset = "klingon" } }
        local b = { open{ database = "nowhere" } }
        local c = { mysql:new():connect{ user = "plain" } }
        local d = { mysql:new():query("select 1") }
        local e = { open{ port = 1 } }
        return a[2], b[3], c[2], d[2], e[2]
        """) == ["charset 'klingon' is not supported", 1044,
                 'neither "host" nor "path" options are specified',
                 "failed to send query: cannot send query in the current context: nil",
                 "failed to connect: connection refused"]


def test_character_sets(lua, backend):
    assert lua.run(to_tcp(backend.port) + """
        local list = {}
        for i, name in ipairs{ "utf8", "utf8mb4", "latin1", "binary" } do
            assert(open{ charset = name, pool = "charset " .. name })
            list[i] = db:query("select @@character_set_client as c, length('\\195\\182') as n")[1]
            db:close()
        end
        return unpack(list)
        """) == [{"c": "utf8mb3", "n": 2}, {"c": "utf8mb4", "n": 2}, {"c": "latin1", "n": 2},
                 {"c": "binary", "n": 2}]


def test_pools(lua, backend):
    """A pooled connection needs no login; its pool is that of user, database and protection."""
    code = to_tcp(backend.port) + """
        local function once(changes)
            db = mysql:new()
            assert(open(changes))
            assert(db:query("select 1")[1]["1"] == 1)
            local times = db:get_reused_times()
            assert(db:set_keepalive(10000, 10))
            return times
        end
        """
    assert lua.run(code + """
        return once{ user = "empty", password = "" }, once{ user = "empty", password = "" },
               once{ user = "empty", password = "", database = "" },
               once{ pool = "p", pool_size = 3 }, once{ pool = "p", pool_size = 3 }
        """) == [0, 1, 0, 0, 1]


def test_a_pool_of_encrypted_connections(lua, backend):
    assert lua.run(to_tcp(backend.port) + """
        local list = {}
        for i, ssl in ipairs{ false, true, true, false } do
            assert(open{ user = "empty", password = "", database = "mysql" and "test_db",
                         ssl = ssl })
            local value = db:query("show status like 'Ssl_version'")[1].Value
            list[i] = (value ~= "") == ssl
            assert(db:set_keepalive())
        end
        return list
        """) == [[True, True, True, True]]


def test_rows_and_queries_longer_than_a_packet(lua, opened):
    assert lua.run(opened.replace("db:connect(options)",
                                  "db:connect((function() options.max_packet_size = 50000000 "
                                  "return options end)())") + """
        for _, size in ipairs{ 250, 251, 65535, 65536, 16777211, 16777215, 17000000 } do
            local value = db:query("select repeat('x', " .. size .. ") as v, 1 as n")[1]
            assert(#value.v == size and value.n == 1, size)
        end
        local long = "select length('" .. ("y"):rep(17000000) .. "') as n"
        local exact = "select 1 as n /*" .. ("z"):rep(16777214 - 18) .. "*/"
        return db:query(long)[1].n, #exact, db:query(exact)[1].n
        """) == [17000000, 16777214, 1]


def test_replies_larger_than_allowed(lua, backend):
    assert lua.run(to_tcp(backend.port) + """
        assert(open{ max_packet_size = 5000, pool = "small" })
        local rows, err = db:query("select repeat('x', 6000)")
        return rows, err, db:close()
        """)[:2] == [None, "packet size too big: 6003"]


def test_a_query_that_is_killed_among_its_rows(lua, backend):
    assert lua.run(to_tcp(backend.port) + """
        assert(open())
        local id = db:query("select connection_id() as id")[1].id
        local one = db
        local thread = ngx.thread.spawn(function()
            return one:query("select seq, sleep(if(seq > 3, 0.2, 0)) from seq_1_to_1000")
        end)
        ngx.sleep(0.1)
        db = mysql:new()
        assert(open{ pool = "killer" })
        assert(db:query("kill query " .. id))
        local _, rows, err, number, state = ngx.thread.wait(thread)
        return rows, number, state, (one:query("select 1 as n"))
        """) == [None, 1317, "70100", [{"n": 1}]]


@pytest.mark.parametrize("way", ["fast", "full", "switched", "sha256"])
def test_logins_of_mysql_8(lua, way):
    key = certificate()[1]
    proved = []

    def script(link):
        proved.append(mysql_peer.login(link, b"secret word", key, way))
        mysql_peer.serve_queries(link, [[mysql_peer.OK]] * 2)
    with Peer(script) as peer:
        code = to_tcp(peer.port)
        assert lua.run(code + """
            assert(open())
            return db:server_ver(), db:query("do 1").affected_rows, db:close()
            """) == ["8.0.36-peer", 0, 1]
        assert lua.run(code + "return open{ password = 'wrong' }") == [
            None, "Access denied", 1045, "28000"]
    assert proved == [True, False]


def test_a_plugin_nobody_knows(lua):
    with Peer(lambda link: mysql_peer.login(link, b"x", None, "nonsense")) as peer:
        assert lua.run(to_tcp(peer.port) + "return select(2, open())")[0] == (
            "unknown plugin: nonsense")


def test_no_password_in_the_clear(lua):
    def script(link):
        link.send(mysql_peer.packet(0, mysql_peer.greeting("mysql_clear_password")))
        number, payload = mysql_peer.read_packet(link)
        assert b"secret" not in payload
        link.send(mysql_peer.packet(number + 1, b"\xfemysql_clear_password\0"))
        link.wait_closed()
    with Peer(script) as peer:
        assert lua.run(to_tcp(peer.port) + "return select(2, open())")[0] == (
            "mysql_clear_password needs ssl or a Unix socket")


GREETINGS = [
    ("", "failed to receive packet header: timeout"),
    (b"\x10\0\0\0ab", "failed to read packet content: timeout"),
    (b"\0\0\0\0", "empty packet"),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "packet size too big: 5526600"),
    (mysql_peer.packet(0, b"\x09old\0"), "unsupported protocol version 9, version 10 or higher is "
     "required"),
    (mysql_peer.packet(0, b"\x0aabc"), "bad handshake initialization packet: bad server version"),
    (mysql_peer.packet(0, b"\x0aabc\0xyz"), "bad handshake initialization packet: too short"),
    (mysql_peer.packet(0, b"\xff\x10\x04Too many connections"), "Too many connections"),
]


@pytest.mark.parametrize("data,error", GREETINGS, ids=[error[-20:] for _, error in GREETINGS])
def test_broken_greetings(lua, data, error):
    def script(link):
        link.send(data)
        assert link.wait_closed()
    with Peer(script) as peer:
        assert lua.run(to_tcp(peer.port, 100) + """
            local ok, err = open()
            return ok, err, (db:query("select 1"))""") == [None, error, None]


COLUMN = b"\3def\0\0\0\1n\1n\x0c\x3f\0\x0b\0\0\0\3\0\0\0\0\0"
EOF = b"\xfe\0\0\2\0"
ANSWERS = [
    ([b"\1"], "failed to receive packet header: timeout"),
    ([b"\1", b"\3def"], "bad field packet"),
    ([b"\1", COLUMN, b"\0\0"], "unexpected packet type 0 while eof packet is expected"),
    ([b"\1", COLUMN, EOF, b"\5abc"], "bad row packet"),
    ([b"\1", COLUMN, EOF, b"\xfd\xff"], "bad row packet"),
    ([b"\1", COLUMN, EOF, b"\x011", b"\x01"], "bad row packet"),
    ([b"\1", COLUMN, EOF, b"\xff\x10\x04#HY000gone"], "gone"),
    ([b"\0"], "malformed packet"),
    ([b"\xfc\xff"], "malformed packet"),
    (["\xff\xff\xff\1"], "packet size too big: 16777215"),
    (["garbage!"], "packet size too big: 7496039"),
]


@pytest.mark.parametrize("answer,error", ANSWERS, ids=[str(n) for n in range(len(ANSWERS))])
def test_broken_answers(lua, answer, error):
    def script(link):
        mysql_peer.login(link, b"secret word", None, "fast")
        mysql_peer.serve_queries(link, [answer])
        link.wait_closed()
    with Peer(script) as peer:
        assert lua.run(to_tcp(peer.port, 200) + """
            assert(open())
            local rows, err = db:query("select 1")
            db:close()
            return rows, err""") == [None, error]


def test_a_server_that_closes_within_a_reply(lua):
    for answer in ([], [b"\1"], [b"\1", COLUMN, EOF, b"\x011"], ["\x10\0\0\1ab"]):
        def script(link):
            mysql_peer.login(link, b"secret word", None, "fast")
            mysql_peer.serve_queries(link, [answer])
        with Peer(script) as peer:
            rows, err = lua.run(to_tcp(peer.port) + """
                assert(open())
                local rows, err = db:query("select 1")
                return rows, err""")
            assert rows is None and err.endswith(": closed"), err


def test_a_backend_killed_among_its_rows(lua, backend):
    results = []
    thread = threading.Thread(target=lambda: results.append(lua.run(to_tcp(backend.port) + """
        assert(open())
        return db:query("select seq, repeat('x', 5000), sleep(0.01) from seq_1_to_1000")""")))
    thread.start()
    time.sleep(0.5)
    backend.kill()
    thread.join(10)
    rows, err = results[0][:2]
    assert rows is None and err.startswith("failed to re") and err.endswith((
        ": closed", ": connection reset by peer"))
    backend.launch()
    assert lua.run(to_tcp(backend.port) + "assert(open()) return (db:query('select 1 as n'))"
                   ) == [[{"n": 1}]]
