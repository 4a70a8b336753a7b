"""Reload, log reopening, binary upgrade and graceful stop, with clients at work."""
import os
import signal
import threading
import time

from runner.client import Connection, get, request_bytes
from runner.server import alive, children, wait_until
from scenarios.conftest import Load, end_process
from scenarios.idle_sockets import LOCATION, IdleSockets

WEBSOCKETS = int(os.environ.get("RESTY_WEBSOCKETS", "20"))
RELOADS = int(os.environ.get("RESTY_RELOADS", "20"))


def test_reload_under_load_loses_nothing(server):
    server.up(workers=2)
    with Load(server.port) as load:
        assert load.wait_answers(50)
        for _ in range(RELOADS):
            assert server.reload(), server.log()
            time.sleep(0.1)
        load.wait_answers(50)
    assert not load.failures, load.failures[:10]
    # A kept connection that the old worker closes between two requests: none with a grace period.
    assert load.lost_idle == 0, "%d requests met a closing connection" % load.lost_idle
    assert wait_until(lambda: len(server.workers()) == 2, 12), server.workers()


def test_reload_takes_new_configuration(server):
    server.up(locations="location = /v { return 200 one; }")
    assert get(server.port, "/v").text() == "one"
    server.setup(locations="location = /v { return 200 two; }")
    assert server.reload()
    assert wait_until(lambda: get(server.port, "/v").text() == "two")


def test_bad_configuration_on_reload_keeps_the_old_one(server):
    server.up()
    workers = server.workers()
    for broken in ("nonsense;", "http {", "http { server { listen 256.0.0.1:1; } }",
                   "http { init_by_lua_block { error('no') } }"):
        server.configure("events { }\n" + broken)
        offset = server.size("logs/error.log")
        server.signal("HUP")
        assert wait_until(lambda at=offset: "[emerg]" in server.log(at) or
                          "[error]" in server.log(at)), broken
        assert get(server.port).text() == "hello\n"
    assert server.workers() == workers


def test_listener_can_be_added_and_removed(server):
    from runner.server import free_port
    other = free_port()
    listen = "listen 127.0.0.1:@PORT@;"
    server.up(listen=listen)
    server.setup(listen=listen + " listen 127.0.0.1:%d;" % other)
    assert server.reload()
    assert wait_until(lambda: server.accepts(other))
    server.setup(listen=listen)
    assert server.reload()
    assert wait_until(lambda: not server.accepts(other))
    assert get(server.port).status == 200


STATE = r"""
location = /count { content_by_lua_block {
    ngx.say(ngx.shared.kept:incr("n", 1, 0), " ", loads_seen)
} }
location = /timer { content_by_lua_block {
    assert(ngx.timer.at(3600, function(premature, what)
        ngx.log(ngx.NOTICE, what, " premature: ", premature)
        ngx.shared.kept:incr("premature", premature and 1 or 0, 0)
    end, "a timer was"))
    ngx.say("set")
} }
location = /premature { content_by_lua_block { ngx.say(ngx.shared.kept:get("premature")) } }
"""
STATE_HTTP = """
lua_shared_dict kept 1m;
init_by_lua_block { loads_seen = ngx.shared.kept:incr("loads", 1, 0) }
"""


def test_zones_live_on_and_timers_are_told(server):
    server.up(http=STATE_HTTP, locations=STATE)
    assert get(server.port, "/count").text() == "1 1\n"
    assert get(server.port, "/timer").text() == "set\n"
    server.setup(http=STATE_HTTP.replace("{ loads", "{ error('not this time') loads"),
                 locations=STATE)
    server.signal("HUP")
    assert wait_until(lambda: "not this time" in server.log(), 30)
    assert get(server.port, "/count").text() == "2 1\n"
    server.setup(http=STATE_HTTP, locations=STATE)
    assert server.reload(30)
    assert wait_until(lambda: get(server.port, "/count").text().endswith(" 2\n"), 30)
    assert wait_until(lambda: get(server.port, "/premature").text() == "1\n", 30), server.log()
    assert "a timer was premature: true" in server.log()


def test_a_tunnel_lives_through_reloads(server):
    """A WebSocket through proxy_pass, which no Lua of ours knows."""
    server.up(shutdown="600s", locations=LOCATION + """
        location = /tunnel {
            proxy_pass http://127.0.0.1:@PORT@/ws;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection Upgrade;
        }""")
    with IdleSockets(server.port, 3, "/tunnel") as sockets:
        for done in range(2):
            assert server.reload(30)
            assert wait_until(lambda count=done + 1: server.log().count(
                "gracefully shutting down") == count, 30)
            assert sockets.lost() == 0
    assert wait_until(lambda: len(server.workers()) == 1, 30)


def test_reopen_logs_on_usr1(server):
    server.up(log="access_log logs/access.log;")
    get(server.port, "/?before")
    assert wait_until(lambda: "before" in server.read("logs/access.log"))
    os.rename(server.path("logs/access.log"), server.path("logs/access.old"))
    os.rename(server.path("logs/error.log"), server.path("logs/error.old"))
    server.signal("USR1")
    assert wait_until(lambda: os.path.exists(server.path("logs/access.log")))
    assert wait_until(lambda: os.path.exists(server.path("logs/error.log")))

    def lands():
        get(server.port, "/?after")
        return "after" in server.read("logs/access.log")
    assert wait_until(lands, interval=0.05)
    assert "before" in server.read("logs/access.old")


def test_quit_finishes_a_slow_request(server):
    server.up()
    answer = []
    client = threading.Thread(target=lambda: answer.append(get(server.port, "/slow?t=1")))
    client.start()
    time.sleep(0.3)
    process = server.process
    server.signal("QUIT")
    assert wait_until(lambda: not server.accepts(), 2), "still listening after QUIT"
    client.join(10)
    assert answer and answer[0].text() == "slept\n", server.log()
    assert process.wait(5) == 0
    assert not os.path.exists(server.path("logs/server.pid"))


def test_quit_closes_idle_connections(server):
    server.up()
    with Connection(server.port) as connection:
        connection.send(request_bytes(close=False))
        assert connection.read_response().status == 200
        server.signal("QUIT")
        assert server.process.wait(8) == 0
        assert connection.closed()


def test_term_is_fast(server):
    server.up()
    with Connection(server.port) as connection:
        connection.send(request_bytes(target="/slow?t=30"))
        time.sleep(0.2)
        started = time.monotonic()
        server.signal("TERM")
        server.process.wait(5)
        assert time.monotonic() - started < 2


def test_binary_upgrade(server):
    old = server.up_in_background(locations=LOCATION, shutdown="600s")
    old_file, new_file = server.path("logs/server.pid.oldbin"), server.path("logs/server.pid")
    new = old
    try:
        with IdleSockets(server.port, WEBSOCKETS) as sockets, Load(server.port) as load:
            assert load.wait_answers(20, 30)
            os.kill(old, signal.SIGUSR2)
            assert wait_until(lambda: os.path.exists(old_file) and
                              server.read(new_file).strip(), 10), server.log()
            assert server.read(old_file).strip() == str(old)
            new = int(server.read(new_file))
            assert new != old and alive(new)
            assert wait_until(lambda: children(new), 5), "the new master has no worker"
            os.kill(old, signal.SIGQUIT)
            assert load.wait_answers(200, 30), "nothing answered after the upgrade"
            assert sockets.lost() == 0, "the old workers have let go of what they hold"
            assert alive(old)
        assert wait_until(lambda: not alive(old), 30), "the old master stays"
        assert not os.path.exists(old_file)
        assert not load.failures, load.failures[:10]
        assert load.lost_idle == 0
    finally:
        end_process(new)
        end_process(old)


def test_upgrade_to_a_broken_binary_keeps_the_old_one(server):
    given, server.binary = server.binary, server.path("logs/server-binary")
    os.symlink(given, server.binary)
    master = server.up_in_background()
    try:
        good = server.read("conf/server.conf")
        with Load(server.port) as load:
            # One that ends by itself, one that refuses its configuration, one that cannot be run.
            for script, conf in (("#!/bin/sh\nexit 1\n", good),
                                 ("#!/bin/sh\nexec %s \"$@\"\n" % given, "nonsense;"),
                                 ("#!/no/such/interpreter\n", good)):
                os.unlink(server.binary)
                os.chmod(server.write("logs/server-binary", script), 0o755)
                server.configure(conf)
                offset = server.size("logs/error.log")
                os.kill(master, signal.SIGUSR2)
                assert wait_until(lambda at=offset: "start new binary" in server.log(at), 20)
                assert wait_until(lambda: server.read("logs/server.pid").strip() == str(master) and
                                  not os.path.exists(server.path("logs/server.pid.oldbin")), 20)
                assert load.wait_answers(20, 30)
        assert alive(master)
        assert not load.failures, load.failures[:10]
        assert load.lost_idle == 0
    finally:
        end_process(master)


def test_upgrade_can_be_taken_back(server):
    old = server.up_in_background()
    new = old
    try:
        os.kill(old, signal.SIGUSR2)
        assert wait_until(lambda: os.path.exists(server.path("logs/server.pid.oldbin")) and
                          server.read("logs/server.pid").strip(), 10), server.log()
        new = int(server.read("logs/server.pid"))
        os.kill(old, signal.SIGWINCH)
        assert wait_until(lambda: children(old) == [new], 12), "old workers stay"
        assert get(server.port).status == 200
        os.kill(old, signal.SIGHUP)
        assert wait_until(lambda: len(children(old)) == 2, 5), "the old master has no worker"
        os.kill(new, signal.SIGQUIT)
        assert wait_until(lambda: not alive(new), 12)
        assert wait_until(lambda: server.read("logs/server.pid").strip() == str(old), 5)
        assert get(server.port).status == 200
    finally:
        end_process(new)
        end_process(old)


def test_winch_leaves_the_master(server):
    master = server.up_in_background()
    try:
        os.kill(master, signal.SIGWINCH)
        assert wait_until(lambda: not children(master), 12)
        assert alive(master)
        os.kill(master, signal.SIGHUP)
        assert wait_until(lambda: children(master), 5)
        assert get(server.port).status == 200
    finally:
        end_process(master)


HANDLERS = """
%s
worker_processes 2;
pid logs/server.pid;
error_log logs/error.log notice;
daemon off;
events { }
http {
    access_log logs/access.log;
    server {
        listen 127.0.0.1:@PORT@;
        location /private { auth_basic x; auth_basic_user_file passwords; }
        lua_handlers /api/ handlers;
    }
}
"""


def test_nothing_but_lua_files_changed(server):
    user = "user root;" if os.geteuid() == 0 else ""
    server.write("passwords", "a:b\n")
    handler = "return function() ngx.say(%r) end\n"
    server.write("handlers/now.lua", handler % "one")
    server.configure(HANDLERS % user)
    time.sleep(0.05)      # a file younger than a step of the clock might have been read before
    server.start()
    assert wait_until(lambda: len(server.workers()) == 2, 20)
    assert wait_until(lambda: get(server.port, "/api/now").text() == "one\n", 20)
    before = server.workers()

    def reload():
        offset = server.size("logs/error.log")
        server.signal("HUP")
        assert wait_until(lambda: "workers stay" in server.log(offset) or
                          "start worker process" in server.log(offset), 30)
        return "workers stay" in server.log(offset)
    os.rename(server.path("logs/access.log"), server.path("logs/access.old"))
    server.write("handlers/now.lua", handler % "two")
    assert reload()
    assert wait_until(lambda: get(server.port, "/api/now").text() == "two\n", 20)
    assert wait_until(lambda: "/api/now" in server.read("logs/access.log"), 20)
    assert server.workers() == before
    # A file that the configuration names, the configuration itself, and what is asked for.
    server.write("passwords", "a:c\n")
    assert not reload()
    assert wait_until(lambda: not set(server.workers()) & set(before), 60)
    server.configure(HANDLERS % (user + " # changed"))
    assert not reload()
    server.configure(HANDLERS % (user + " reload_workers always;"))
    assert not reload()
    assert not reload()
    assert wait_until(lambda: len(server.workers()) == 2, 60)
    assert get(server.port, "/api/now").text() == "two\n"


AUTO = """
%s
pid logs/server.pid;
error_log logs/error.log notice;
daemon off;
events { }
http {
    access_log off;
    lua_code_cache auto;
    lua_package_path "@PREFIX@/lua/?.lua;;";
    lua_shared_dict kept 1m;
    init_by_lua_block { ngx.shared.kept:incr("loads", 1, 0) }
    server {
        listen 127.0.0.1:@PORT@;
        location = /file { content_by_lua_file lua/file.lua; }
        location = /loads { content_by_lua_block { ngx.say(ngx.shared.kept:get("loads")) } }
    }
}
"""


def test_lua_that_is_refreshed_needs_no_new_workers(server):
    user = "user root;" if os.geteuid() == 0 else ""
    server.write("lua/part.lua", "return 'one'\n")
    server.write("lua/file.lua", "ngx.say(require('part'), ' first')\n")
    server.configure(AUTO % user)
    server.start()
    assert wait_until(lambda: get(server.port, "/file").text() == "one first\n", 20)
    before = server.workers()
    with Connection(server.port) as connection:
        connection.send(request_bytes(close=False))
        assert connection.read_response() is not None
        server.write("lua/part.lua", "return 'two'\n")
        server.write("lua/file.lua", "ngx.say(require('part'), ' second')\n")
        server.signal("HUP")
        assert wait_until(lambda: "workers stay" in server.log(), 30)
        assert wait_until(lambda: get(server.port, "/file").text() == "two second\n", 20)
        # Not even an idle connection has noticed.
        connection.send(request_bytes(target="/file", close=False))
        answer = connection.read_response()
        assert answer.text() == "two second\n" and answer.get("Connection") == "keep-alive"
    assert server.workers() == before
    assert get(server.port, "/loads").text() == "1\n"
    # A worker that has to be replaced later comes from the configuration that stayed.
    os.kill(before[0], signal.SIGKILL)
    assert wait_until(lambda: server.workers() and server.workers() != before, 20)
    assert get(server.port, "/file", timeout=20).text() == "two second\n"
