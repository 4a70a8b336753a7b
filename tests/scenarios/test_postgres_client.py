"""resty.postgres with a real PostgreSQL, and with servers that break the protocol."""
import struct
import threading
import time

import pytest

from scenarios.databases import Lua, Postgres, certificate, shared
from scenarios.tcp_peer import Peer

OPEN = """
local postgres = require "resty.postgres"
local db = assert(postgres:new())
db:set_timeouts(2000, 2000, %d)
local function open(changes)
    local options = { user = "scram", password = "scram word", database = "postgres", %s }
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
    return shared(Postgres)


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
        local rows, again, info = db:query([[select 1 as a, 'x' as b, null as c, true as d,
            1.5::real as e, 9007199254740993 as f, 12::bigint as g, 1.10::numeric as h,
            '{"k":[1,2]}'::jsonb as i, '\\x00ff'::bytea as j, '2026-01-02'::date as k,
            '{}'::int[] as l, '{{1,2},{3,null}}'::int[] as m,
            array['a"b\\c', 'NULL', null, 'c,d', ''] as n,
            '[0:1]={t,f}'::bool[] as o]])
        return rows, again, info.command, info.affected_rows, #info.columns, info.columns[1],
               db:set_keepalive()
        """) == [[{"a": 1, "b": "x", "c": None, "d": True, "e": 1.5, "f": "9007199254740993",
                   "g": 12, "h": "1.10", "i": {"k": [1, 2]}, "j": "\0\xff", "k": "2026-01-02",
                   "l": {}, "m": [[1, 2], [3, None]], "n": ['a"b\\c', "NULL", None, "c,d", ""],
                   "o": [True, False]}],
                 None, "SELECT", 1, 15, {"name": "a", "type": 23}, 1]


def test_parameters(lua, opened):
    assert lua.run(opened + """
        local row = db:query([[select $1::int + 1 as a, $2 as b, $3::bool as c, $4::text as d,
            $5::bytea as e, $6::text[] as f, $7::json as g, $8::float8 as h, $9 as i,
            $10::text as j]],
            41, "it's; drop", false, nil, postgres.bytea("\\0\\255'"),
            postgres.array{ 'a"\\\\', ngx.null, "", 5 }, postgres.json{ k = { 1 } }, 0.1,
            postgres.typed("7", 23), ngx.null)[1]
        local bad, why = pcall(db.query, db, "select $1", {})
        local wrong, err, report = db:query("select $1::int", "x")
        return row, bad, why, wrong, err, report.code, (db:query("select 1 as ok"))
        """) == [{"a": 42, "b": "it's; drop", "c": False, "d": None, "e": "\0\xff'",
                  "f": ['a"\\', None, "", "5"], "g": {"k": [1]}, "h": 0.1, "i": 7, "j": None},
                 False, "bad parameter: table (see postgres.array, postgres.json)", None,
                 'invalid input syntax for type integer: "x"', "22P02", [{"ok": 1}]]


def test_several_statements_and_errors(lua, opened):
    assert lua.run(opened + """
        local list = { { db:query("select 1 as a; create temp table t(n int); insert into t values "
                                  .. "(1),(2); select 1/0; select 2") } }
        while list[#list][2] == "again" do
            list[#list + 1] = { db:read_result() }
        end
        local done = list[4]
        local none, err = db:read_result()
        db:send_query("select 'y' as y")
        local busy, why = db:query("select 1")
        local kept, refused = db:set_keepalive()
        return #list, list[1][1], list[2][1], list[3][1], done[1], done[2], done[3].code, none, err,
               busy, why, kept, refused, (db:read_result()), (db:query(""))
        """) == [4, [{"a": 1}], {"command": "CREATE TABLE"},
                 {"command": "INSERT", "affected_rows": 2}, None, "division by zero", "22012", None,
                 "cannot read result in the current state: ready", None,
                 "cannot send query in the current state: busy", None,
                 "cannot be reused in the current connection state: busy", [{"y": "y"}], {}]


def test_pipelines_and_prepared_statements(lua, opened):
    assert lua.run(opened + """
        db:init_pipeline(4)
        db:query("select $1::int as a", 5)
        db:query("select 1/0")
        db:prepare("double", "select $1::int * 2 as d")
        db:execute("double", 4)
        db:query("select 'x' as x")
        local list = db:commit_pipeline()
        local none, err = db:commit_pipeline()
        db:init_pipeline()
        db:query("select 1")
        db:cancel_pipeline()
        local one = db:execute("double", 21)
        db:deallocate("double")
        local gone, why = db:execute("double", 1)
        return list[1], list[2][1], list[2][2], list[2][3].code, list[4], list[5], none, err, one,
               gone, why
        """) == [[{"a": 5}], False, "division by zero", "22012", [{"d": 8}], [{"x": "x"}], None,
                 "no pipeline", [{"d": 42}], None, 'prepared statement "double" does not exist']


def test_copy(lua, opened):
    assert lua.run(opened + """
        db:query("create temp table c (n int, t text)")
        local i = 0
        local big = db:copy_in("copy c from stdin", function()
            i = i + 1
            return i <= 20000 and i .. "\\ttext\\n" or nil
        end)
        local small = db:copy_in("copy c from stdin", "1\\tx\\n2\\ty\\n")
        local list = db:copy_out("copy (select * from c order by n desc limit 2) to stdout")
        local bytes = 0
        local out = db:copy_out("copy c to stdout", function(piece) bytes = bytes + #piece end)
        local bad, err, report = db:copy_in("copy c from stdin", { "x\\n" })
        local stopped, why = db:copy_in("copy c from stdin", function() error("enough", 0) end)
        local a, b = db:query("copy c to stdout")
        local c, d = db:query("copy c from stdin")
        local e, f = db:copy_in("select 1", "x")
        return big, small, list, out.affected_rows, bytes > 200000, bad, report.code, stopped, why,
               a, b, c, d, e, f, (db:query("select count(*) as n from c"))
        """) == [{"command": "COPY", "affected_rows": 20000},
                 {"command": "COPY", "affected_rows": 2}, ["20000\ttext\n", "19999\ttext\n"], 20002,
                 True, None, "22P02", None, "COPY from stdin failed: enough", None,
                 "use copy_out() for COPY ... TO STDOUT", None,
                 "COPY from stdin failed: use copy_in()", None, "not a COPY in this direction",
                 [{"n": 20002}]]


def test_notices_and_notifications(lua, opened):
    assert lua.run(opened + """
        local notices = {}
        db.on_notice = function(notice) notices[#notices + 1] = notice.message end
        db:query("do $$ begin raise notice 'hello'; end $$")
        db:query("listen one")
        db:set_timeout(50)
        local none, err = db:wait_notification()
        db:set_timeout(3000)
        local first = db
        db = postgres:new()
        open{ pool = "other" }
        db:query("select pg_notify('one', 'pay ' || n) from generate_series(1, 3) n")
        local list = {}
        for i = 1, 3 do
            list[i] = first:wait_notification().payload
        end
        first:query("notify one, 'own'")
        return notices, none, err, list, first:wait_notification().payload,
               first:query("unlisten *").command, first:set_keepalive()
        """) == [["hello"], None, "timeout", ["pay 1", "pay 2", "pay 3"], "own", "UNLISTEN", 1]


def test_cancelling(lua, opened):
    assert lua.run(opened + """
        local function cancelled()
            local thread = ngx.thread.spawn(function() return db:query("select pg_sleep(10)") end)
            ngx.sleep(0.05)
            local ok, err = db:cancel()
            local _, rows, why, report = ngx.thread.wait(thread)
            return { ok, err, report and report.code or why }
        end
        local pool = "cancelling " .. tostring(db)
        assert(open{ pool = pool })
        local first = cancelled()
        assert(db:set_keepalive())
        db = postgres:new()
        assert(open{ pool = pool })
        local pooled = { db:get_reused_times(), db:cancel() }
        assert(db:set_keepalive())
        db = postgres:new()
        assert(open{ cancellable = true, pool = pool })
        return first, pooled[1] > 0, pooled[3], cancelled()
        """) == [[1, None, "57014"], True, "no cancel key: connect with cancellable = true",
                 [1, None, "57014"]]


def test_transactions_do_not_go_to_the_pool(lua, backend):
    assert lua.run(to_tcp(backend.port) + """
        assert(open{ pool = "transactions" })
        db:query("begin")
        local kept, err = db:set_keepalive()
        db:query("rollback")
        local after = db:set_keepalive()
        local closed, why = db:query("select 1")
        assert(open{ pool = "transactions" })
        return kept, err, after, closed, why, db:get_reused_times()
        """) == [None, "cannot be reused in the current connection state: in a transaction", 1,
                 None, "cannot send query in the current state: not connected", 1]


def test_logins(lua, backend):
    code = to_tcp(backend.port)
    for user, password, method in (("scram", "scram word", "scram-sha-256"),
                                   ("hashed", "md5 word", "md5"),
                                   ("clear", "clear word", "password")):
        assert lua.run(code + """
            assert(open{ user = "%s", password = "%s", require_auth = "%s", pool = "own",
                         application_name = "tests", parameters = { statement_timeout = 5000 } })
            return db:query("select current_user as u, current_setting('application_name') as a, "
                            .. "current_setting('statement_timeout') as t"), db:close()
            """ % (user, password, method)) == [[{"u": user, "a": "tests", "t": "5s"}], 1]
        assert lua.run(code + """
            local ok, err, report = open{ user = "%s", password = "wrong" }
            return ok, err, report.code, (db:query("select 1"))""" % user) == [
                None, 'password authentication failed for user "%s"' % user, "28P01", None]
    assert lua.run(code + "return open{ user = 'clear', require_auth = 'scram-sha-256' }")[:2] == [
        None, "the server asks for authentication password, not scram-sha-256"]
    assert lua.run(code + "return open{ user = 'postgres', require_auth = 'md5' }")[:2] == [
        None, "the server asks for authentication none, not md5"]
    ok, err, report = lua.run(code + "return open{ database = 'nowhere' }")
    assert ok is None and report["code"] == "3D000" and "nowhere" in err


def test_rows_of_all_sizes(lua, opened):
    assert lua.run(opened + """
        for _, size in ipairs{ 0, 1, 4000, 8191, 8192, 65536, 3000000 } do
            local rows = db:query("select repeat('x', $1) as v, g from generate_series(1, 3) g",
                                  size)
            assert(#rows == 3 and #rows[3].v == size and rows[3].g == 3, size)
        end
        local thousand = db:query("select g, 'value ' || g as v from generate_series(1, 20000) g")
        assert(open{ compact_arrays = true, max_message_size = 1000, pool = "small" })
        db:set_decoder(1700, tonumber)
        local compact = db:query("select 1, 'x', 2.5::numeric")
        local large, err = db:query("select repeat('x', 2000)")
        return #thousand, thousand[20000], compact, large, err
        """) == [20000, {"g": 20000, "v": "value 20000"}, [[1, "x", 2.5]], None,
                 "message too large: 2006"]


def test_quoting(lua, backend):
    assert lua.run(to_tcp(backend.port) + """
        assert(open())
        local list = {}
        for i, value in ipairs{ "it's", "back\\\\slash'", "", 5, true } do
            list[i] = db:query("select " .. postgres.quote_literal(value) .. " as "
                               .. postgres.quote_identifier('a"b'))[1]['a"b']
        end
        return list, postgres.quote_literal(nil)
        """) == [["it's", "back\\slash'", "", 5, True], "NULL"]


def message(kind, body=b""):
    return kind + struct.pack("!I", len(body) + 4) + body


AUTHENTICATED = (message(b"R", bytes(4)) + message(b"K", bytes(8)) + message(b"Z", b"I"))
ROW = message(b"T", b"\0\1n\0" + bytes(6) + struct.pack("!I", 25) + bytes(8))


def read_startup(link):
    size = struct.unpack("!I", link.read(4))[0]
    return link.read(size - 4)


LOGINS = [
    (b"", "timeout"),
    (b"HTTP/1.1 400 Bad Request\r\n", "message too large: 1414811691"),
    (message(b"R", b"\0\0\0\7"), "unsupported authentication method: 7"),
    (message(b"R", b"\0"), "unexpected message during login"),
    (message(b"T"), "unexpected message during login"),
    (message(b"R", b"\0\0\0\x0aNOTHING\0\0"), "no SASL mechanism in common"),
    (message(b"R", b"\0\0\0\x0aSCRAM-SHA-256\0\0") + message(b"R", b"\0\0\0\x0br=x,s=,i=1"),
     "malformed SCRAM message"),
    (message(b"R", b"\0\0\0\x0aSCRAM-SHA-256\0\0") + message(b"R", bytes(4)),
     "the server did not prove that it knows the password"),
    (message(b"R", b"\0\0\0\x0aSCRAM-SHA-256\0\0") + message(b"R", b"\0\0\0\x0cv=QUJD"),
     "the server did not prove that it knows the password"),
    (message(b"R", b"\0\0\0\5salt") * 10, "too many messages during login"),
    (message(b"E", b"SFATAL\0C53300\0Mtoo many clients\0\0"), "too many clients"),
]


@pytest.mark.parametrize("data,error", LOGINS, ids=[str(n) for n in range(len(LOGINS))])
def test_broken_logins(lua, data, error):
    def script(link):
        read_startup(link)
        link.send(data)
        assert link.wait_closed()
    with Peer(script) as peer:
        assert lua.run(to_tcp(peer.port, 100) + """
            local ok, err = open()
            return ok, err, (db:query("select 1"))""") == [None, error, None]


ANSWERS = [
    (b"", "timeout"),
    (ROW, "timeout"),
    (b"D\0\0", "timeout"),
    (b"D\0\0\0\3", "message too large: -1"),
    (message(b"D", b"\0\1\0\0\0\1x"), "malformed row"),
    (ROW + message(b"D", b"\0\2\0\0\0\1x"), "malformed row"),
    (ROW + message(b"D", b"\0\1\0\0\0\x09x"), "malformed row"),
    (ROW + message(b"D", b"\0"), "malformed row"),
    (message(b"T", b"\0\5n\0"), "malformed row description"),
    (message(b"E", b"SFATAL\0C57P01\0Mgoing down\0\0"), "going down"),
    (message(b"E", b"M"), "timeout"),
]


@pytest.mark.parametrize("answer,error", ANSWERS, ids=[str(n) for n in range(len(ANSWERS))])
def test_broken_answers(lua, answer, error):
    def script(link):
        read_startup(link)
        link.send(AUTHENTICATED)
        link.read(5)
        link.send(answer)
        assert link.wait_closed()
    with Peer(script) as peer:
        assert lua.run(to_tcp(peer.port, 100) + """
            assert(open())
            local rows, err = db:query("select 1")
            return rows, err, (db:query("select 1"))""") == [None, error, None]


def test_a_server_that_closes_within_a_reply(lua):
    for answer in (b"", ROW, ROW + b"D\0\0\0\x10ab"):
        def script(link):
            read_startup(link)
            link.send(AUTHENTICATED)
            link.read(5)
            link.send(answer)
        with Peer(script) as peer:
            assert lua.run(to_tcp(peer.port) + "assert(open()) return db:query('select 1')") in (
                [None, "closed"], [None, "connection reset by peer"])


def test_a_server_without_tls(lua):
    with Peer(lambda link: (link.read(8), link.send("N"), link.wait_closed())) as peer:
        assert lua.run(to_tcp(peer.port) + "return open{ ssl = true }")[:2] == [
            None, "the server does not support SSL connections"]


def test_a_session_that_is_terminated_and_a_backend_that_is_killed(lua, backend):
    code = to_tcp(backend.port) + """
        assert(open{ pool = "victim" })
        local rows, err, report = db:query("select pg_sleep(10), 'victim'")
        return rows, err, report and report.code, (db:query("select 1"))
        """
    results = []
    for how in (lambda: lua.run(to_tcp(backend.port) + """
                    assert(open{ user = "postgres", pool = "killer" })
                    db:query("select pg_terminate_backend(pid) from pg_stat_activity "
                             .. "where query like '%victim%' and pid <> pg_backend_pid()")
                    return db:close()"""), backend.kill):
        thread = threading.Thread(target=lambda: results.append(lua.run(code)))
        thread.start()
        time.sleep(0.4)
        how()
        thread.join(10)
    assert results[0] == [None, "terminating connection due to administrator command", "57P01",
                          None]
    assert results[1][0] is None and results[1][1] in ("closed", "connection reset by peer")
    backend.launch()
    assert lua.run(to_tcp(backend.port) + """
        assert(open{ pool = "fresh" })
        return (db:query("select 1 as n"))""") == [[{"n": 1}]]
