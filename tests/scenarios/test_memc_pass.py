"""memc_pass with a real memcached, and with servers that break the protocol."""
import pytest

from runner.client import ProtocolError, get
from runner.raw_upstream import RawUpstream
from scenarios.databases import Memcached, shared

LOCATIONS = """
    default_type text/plain;
    location /command {
        set $memc_cmd $arg_cmd; set $memc_key $arg_key; set $memc_value $arg_val;
        set $memc_exptime $arg_time;
        memc_pass group;
    }
    location /method {
        set $memc_key $arg_key; set $memc_flags $arg_flags;
        memc_cmds_allowed get add set;
        memc_pass 127.0.0.1:%(port)d;
        add_header X-Flags $memc_flags;
    }
    location /capture {
        content_by_lua_block {
            local cmd = function(text) return ngx.location.capture("/command?" .. text) end
            local set, got = cmd("cmd=set&key=lua&val=value"), cmd("cmd=get&key=lua")
            ngx.say(set.status, set.body == "STORED\\r\\n", got.status, got.body,
                    cmd("cmd=get&key=absent").status)
        }
    }
"""


@pytest.fixture
def memc(server):
    backend = shared(Memcached)
    server.up(http="upstream group { server 127.0.0.1:%d; keepalive 2; }" % backend.port,
              locations=LOCATIONS % {"port": backend.port})
    return server


def test_commands(memc):
    expected = [
        ("cmd=flush_all", 200, "OK\r\n"),
        ("cmd=set&key=a&val=hello", 201, "STORED\r\n"), ("cmd=get&key=a", 200, "hello"),
        ("cmd=add&key=a&val=other", 200, "NOT_STORED\r\n"),
        ("cmd=append&key=a&val=+x", 201, "STORED\r\n"), ("cmd=get&key=a", 200, "hello+x"),
        ("cmd=set&key=n&val=5", 201, "STORED\r\n"), ("cmd=incr&key=n&val=37", 201, "42\r\n"),
        ("cmd=decr&key=n&val=x", 400, None), ("cmd=incr&key=absent&val=1", 404, None),
        ("cmd=delete&key=n", 200, "DELETED\r\n"), ("cmd=delete&key=n", 404, None),
        ("cmd=bogus", 400, None), ("cmd=get", 400, None),
        ("cmd=set&key=t&val=v&time=soon", 400, None), ("cmd=verbosity&val=0", 200, "OK\r\n"),
    ]
    for query, status, text in expected:
        got = get(memc.port, "/command?" + query)
        assert got.status == status, query
        assert text is None or got.text() == text, query
    assert get(memc.port, "/command?cmd=version").text().startswith("VERSION ")
    stats = get(memc.port, "/command?cmd=stats").text()
    assert stats.startswith("STAT ") and stats.endswith("\r\nEND\r\n")
    log = memc.log()
    assert 'unknown $memc_cmd "bogus"' in log and '"$memc_key" variable is not set' in log
    assert 'variable "$memc_exptime" takes invalid value: soon' in log


def test_methods_and_bodies(memc):
    def ask(method, body=b"", query="key=posted&flags=7"):
        return get(memc.port, "/method?" + query, method=method, body=body)
    assert get(memc.port, "/command?cmd=flush_all").status == 200
    assert ask("GET").status == 404
    assert ask("POST", b"first").status == 201
    assert ask("POST", b"second").text() == "NOT_STORED\r\n"
    got = ask("GET")
    assert (got.text(), got.get("X-Flags")) == ("first", "7")
    big = b"0123456789" * 30000
    assert ask("PUT", big).status == 201
    assert ask("GET").body == big
    assert ask("DELETE").status == 403
    assert "memcached command \"delete\" not allowed" in memc.log()


def test_captured(memc):
    assert get(memc.port, "/capture").text() == "201true200value404\n"


@pytest.mark.parametrize("command, reply, status", [
    ("get", b"VALUE other 0 5\r\nhello\r\nEND\r\n", 502),
    ("get", b"VALUE k 0 five\r\n", 502),
    ("get", b"nonsense\r\n", 502),
    ("get", b"SERVER_ERROR out of memory\r\n", 502),
    ("set", b"\n", 502),
    ("set", b"", 502),
    ("get", b"VALUE k 0 5\r\nhelloXXEND\r\n", 200),
    ("get", b"VALUE k 0 50\r\nhello", None),
])
def test_broken_replies(server, command, reply, status):
    def script(peer):
        while b"\r\n" not in peer.buffer:
            peer.fill()
        peer.send(reply)
    with RawUpstream(script) as upstream:
        server.up(http="upstream group { server 127.0.0.1:%d max_fails=0; }" % upstream.port,
                  locations=LOCATIONS % {"port": upstream.port})
        try:
            got = get(server.port, "/command?key=k&val=v&cmd=" + command, timeout=5)
        except ProtocolError:
            got = None
        assert (got and got.status) == status
        assert "memcached sent invalid" in server.log() or status in (None, 502)
