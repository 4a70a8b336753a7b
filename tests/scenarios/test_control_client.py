"""`resty-server ctl`: finds the socket, says what came of it, and by its exit status too."""
import json
import os
import subprocess

from runner import server as runner
from runner.client import get

MAIN = "control_socket logs/control.sock;"
HTTP = """
    map $arg_k $told { default nothing; a first; }
    upstream back { server 127.0.0.1:1 weight=3; }
"""
TOLD = "location = /told { return 200 $told; }"


def ctl(server, *arguments, conf=True, stdin=None, env=None):
    """Exit status, standard output, standard error."""
    where = ["-p", server.prefix, "-c", server.path("conf/server.conf")] if conf else []
    asked = subprocess.run([server.binary, "ctl", *where, *arguments], input=stdin, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
                           env={**server.env, **(env or {})})
    return asked.returncode, asked.stdout, asked.stderr


def good(server, *arguments, **more):
    status, said, complaint = ctl(server, *arguments, **more)
    assert status == 0, (arguments, status, said, complaint)
    return said


def test_commands(server, certs):
    server.write("handlers/x.lua", "return function() ngx.say('x') end")
    server.up(main=MAIN, http=HTTP, locations=TOLD)
    assert "settled: true" in good(server, "status") and good(server, "ping") == "pong: true\n"
    assert good(server, "peers", "list").splitlines()[1].split() == ["back", "1", "false"]
    good(server, "peers", "add", "back", "127.0.0.1:2", "weight=5", "fail_timeout=1m", "backup")
    assert good(server, "peers", "list", "back").splitlines() == [
        "127.0.0.1:1  weight=3 max_conns=0 max_fails=1 fail_timeout=10 slow_start=0",
        "127.0.0.1:2  weight=5 max_conns=0 max_fails=1 fail_timeout=60 slow_start=0 backup"]
    good(server, "peers", "set", "back", "127.0.0.1:2", "backup=false", "down")
    good(server, "peers", "remove", "back", "127.0.0.1:1")
    good(server, "peers", "replace", "back", "127.0.0.1:3,weight=2", "127.0.0.1:4,down")
    assert "127.0.0.1:3  weight=2" in good(server, "peers", "list", "back")
    good(server, "peers", "reset", "back")
    good(server, "map", "set", "$told", "b", "second")
    assert get(server.port, "/told?k=b").text() == "second"
    assert "second" in good(server, "map", "get", "told", "b")
    assert "run time" in good(server, "map", "list", "told")
    good(server, "map", "remove", "told", "b")
    good(server, "cert", "set", "x.test", certs + "/client.pem", certs + "/client.key")
    assert "CN=client" in good(server, "cert", "list")
    assert "x.test" in good(server, "cert", "show", "x.test")
    good(server, "cert", "remove", "x.test")
    good(server, "handlers", "add", "/api", "handlers")
    assert get(server.port, "/api/x").text() == "x\n"
    assert "/api/" in good(server, "handlers", "list")
    good(server, "handlers", "remove", "/api")
    good(server, "log-level", "info")
    good(server, "log-level", "debug", "worker-0")
    assert "worker-0: debug" in good(server, "log-level")
    assert len(good(server, "changes", "list").splitlines()) == 3
    good(server, "changes", "reset")
    changes = json.dumps({"changes": [{"path": "/v1/maps/told/c", "body": {"value": "third"}}]})
    good(server, "changes", "apply", "-", stdin=changes)
    assert get(server.port, "/told?k=c").text() == "third"


def test_exit_statuses(server):
    server.up(main=MAIN, http=HTTP)
    for arguments, status, said in (
            (("peers", "add", "back", "127.0.0.1:1"), 4, "is there already"),
            (("--if-match", "77", "map", "set", "told", "x", "y"), 4, "77 was named"),
            (("map", "set", "nothing", "x", "y"), 1, "no map"),
            (("log-level", "nonsense"), 1, "invalid log level"),
            (("map", "set", "told"), 2, "wants VARIABLE KEY VALUE"),
            (("peers", "add", "back", "127.0.0.1:9", "fail_timeout=x"), 2, "invalid time"),
            (("cert", "set", "x", "/nowhere", "/nowhere"), 2, "cannot read"),
            (("nonsense",), 2, ""),
            ((), 2, "subcommand"),
            (("-s", server.path("nowhere"), "ping"), 3, "No such file"),
            (("--tcp", "127.0.0.1", "-s", "", "ping"), 3, "no address")):
        got, _, complaint = ctl(server, *arguments)
        assert got == status and said in complaint, (arguments, got, complaint)
    assert ctl(server, "--help")[0] == 0
    assert json.loads(good(server, "version", "--json")) == {"version": 1}
    assert "dry_run: true" in good(server, "--dry-run", "log-level", "info")
    assert good(server, "version") == "version: 1\n"


def test_without_a_control_socket(server):
    server.up()
    status, _, complaint = ctl(server, "ping")
    assert status == 2 and "has no control_socket" in complaint


def test_reload_waits_and_tells(server):
    server.up(main=MAIN, workers=2)
    before = server.workers()
    good(server, "reload")
    server.setup(main=MAIN, workers=2, http="map $arg_k $fresh { default 1; }")
    good(server, "reload")
    # Its workers are up: nobody need wait for them.
    assert set(server.workers()) - set(before)
    server.write("conf/server.conf", "events { } nonsense;")
    status, _, complaint = ctl(server, "reload", "-s", server.path("logs/control.sock"))
    assert status == 1 and 'unknown directive "nonsense"' in complaint


def test_over_tcp(server):
    port = runner.free_port()
    server.up(main="control_listen 127.0.0.1:%d token=0123456789abcdef;" % port)
    assert good(server, "ping") == "pong: true\n"      # as the configuration says
    where = ("--tcp", "127.0.0.1:%d" % port)
    token = {"RESTY_CONTROL_TOKEN": "0123456789abcdef"}
    assert good(server, *where, "ping", conf=False, env=token) == "pong: true\n"
    path = server.write("token", "0123456789abcdef\n")
    assert good(server, *where, "--token-file", path, "ping", conf=False) == "pong: true\n"
    status, _, complaint = ctl(server, *where, "--token", "wrong", "ping", conf=False)
    assert status == 1 and "Authorization" in complaint


def test_quit_and_stop(server):
    for order in ("quit", "stop"):
        server.up(main=MAIN)
        good(server, order)
        assert server.process.wait(30) == 0
        server.process = None
        assert not os.path.exists(server.path("logs", "control.sock"))
