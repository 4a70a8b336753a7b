"""The control socket itself: who may ask, versions, bad input, what survives what."""
import contextlib
import http.client
import os
import signal
import socket
import stat
import subprocess

import pytest

from runner.client import get
from runner import server as runner
from runner.server import alive, free_port
from scenarios.conftest import end_process
from scenarios.control_client import Control

SOCKET = "control_socket logs/control.sock;"
# Each worker has a socket of its own: connections reach all of them.
EACH = "listen 127.0.0.1:@PORT@ reuseport;"
STATE = SOCKET + " control_state logs/state.json;"


def wait_until(check, timeout=30):
    return runner.wait_until(check, timeout)


@pytest.fixture
def control(server):
    one = Control(server.path("logs", "control.sock"))
    yield one
    one.close()


def test_the_socket_is_its_owners_alone(server, control):
    server.up(main=SOCKET, workers=2)
    mode = os.stat(server.path("logs", "control.sock")).st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
    status = control.get("status")
    assert status["pid"] == server.process.pid
    assert sorted(worker["pid"] for worker in status["workers"]) == server.workers()
    path = server.path("logs", "control.sock")
    server.stop()
    assert not os.path.exists(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_other_users_are_refused_whatever_the_mode(server, control):
    server.up(main=SOCKET)
    path = server.path("logs", "control.sock")
    os.chmod(path, 0o777)
    asked = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-c",
         "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
         "print(s.recv(999))", path],     # refused before it asks for anything
        stdout=subprocess.PIPE, text=True, timeout=30)
    assert "403 Forbidden" in asked.stdout
    assert "of another user" in server.log()
    assert control.get("ping")["pong"]


def test_over_tcp_a_token_is_demanded(server):
    port = free_port()
    token = "0123456789abcdef0123"
    server.up(main="control_listen 127.0.0.1:%d token=%s;" % (port, token))
    assert Control(port=port, token=token).get("ping")["pong"]
    for wrong in ("", "0123456789abcdef012", token + "4", "x" * 20):
        answer = Control(port=port, token=wrong).ask("GET", "status")
        assert answer.status == 401, answer
        answer = Control(port=port, token=wrong).ask("PUT", "log-level", {"level": "debug"})
        assert answer.status == 401, answer


def test_strangers_fill_neither_memory_nor_places(server, control):
    port = free_port()
    server.up(main=SOCKET + "control_listen 127.0.0.1:%d token=0123456789abcdef;" % port)
    head = b"PUT /v1/log-level HTTP/1.1\r\nHost: x\r\nContent-Length: 16000000\r\n"
    # Refused before all of the body is there; before any of it to who asks.
    for more in (b"\r\n" + b"x" * 100000, b"Expect: 100-continue\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), 60) as stream:
            stream.sendall(head + more)
            assert stream.recv(999).startswith(b"HTTP/1.1 401 ")
    idle = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(70)]
    assert idle[-1].recv(999).startswith(b"HTTP/1.1 503 ")
    assert control.get("ping")["pong"]
    for stream in idle:
        stream.close()


def test_a_state_passed_on_by_nobody_closes_nothing_that_is_open(server):
    # What a binary upgrade leaves for its successor, set by somebody else to nonsense.
    server.setup(main=SOCKET)
    for nonsense in ("none", "", "0", "2", "-1", "99999999999999999999"):
        server.env["RESTY_CONTROL_STATE"] = nonsense
        server.start()
        assert Control(server.path("logs", "control.sock")).get("ping")["pong"]
        if os.path.isdir("/proc/self/fd"):
            links = [os.readlink("/proc/%d/fd/%d" % (server.process.pid, fd)) for fd in (0, 1, 2)]
            assert links[0] == os.devnull, (nonsense, links)
            assert links[1].endswith(".log") and links[2].endswith(".log"), (nonsense, links)
        server.stop()


def test_a_token_of_a_file_and_bad_directives(server):
    server.write("conf/token", "0123456789abcdef\n")
    port = free_port()
    server.up(main="control_listen 127.0.0.1:%d token_file=token;" % port)
    assert Control(port=port, token="0123456789abcdef").get("ping")["pong"]
    server.stop()
    for line, said in (("control_listen 127.0.0.1:1;", "number of arguments"),
                       ("control_listen 127.0.0.1:1 token=short;", "at least 16"),
                       ("control_listen unix:/x token=0123456789abcdef;", "IP address"),
                       ("control_listen 127.0.0.1:1 word=0123456789abcdef;", "invalid parameter"),
                       ("control_socket /%s;" % ("x" * 200), "too long"),
                       (SOCKET + SOCKET, "duplicate")):
        server.setup(main=line)
        tested = server.run("-t")
        assert tested.returncode == 1 and said in tested.stdout, tested.stdout


def test_a_stale_version_changes_nothing(server, control):
    server.up(main=SOCKET, workers=2)
    first = control.ask("GET", "log-level")
    control.change("PUT", "log-level", {"level": "info"}, {"If-Match": first.etag})
    stale = control.ask("PUT", "log-level", {"level": "debug"}, {"If-Match": first.etag})
    assert stale.status == 412 and stale.json["error"]["code"] == "stale"
    assert control.get("log-level")["set"] == {"all": "info"}
    assert control.ask("PUT", "log-level", {}, {"If-Match": "what"}).status == 400
    control.change("PUT", "log-level", {"level": "debug"}, {"If-Match": "*"})


def test_bad_input_is_answered_and_nothing_else(server, control):
    server.up(main=SOCKET)
    for method, path, body, status in (
            ("PUT", "log-level", {"level": "bogus"}, 422),
            ("PUT", "log-level", [], 422),
            ("PUT", "log-level/nobody", {"level": "info"}, 404),
            ("DELETE", "log-level", None, 404),
            ("PATCH", "log-level", {"level": "info"}, 405),
            ("PUT", "nothing", {}, 404),
            ("GET", "nothing", None, 404),
            ("GET", "reload", None, 405),
            ("OPTIONS", "status", None, 404),
            ("POST", "changes", {"changes": 1}, 400),
            ("POST", "changes", {"changes": [{"path": 5}]}, 400),
            ("POST", "changes", {"changes": [{"path": "/v2/x"}]}, 404)):
        assert control.ask(method, path, body).status == status, (method, path, body)
    assert control.get("version")["version"] == 1


def raw(server, data):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(server.path("logs", "control.sock"))
        got = b""
        try:
            client.sendall(data)
        except OSError:
            pass               # answered before all was sent
        try:
            while True:
                part = client.recv(65536)
                if not part:
                    break
                got += part
        except OSError:
            pass
        return got


def test_garbage_gets_4xx(server, control):
    server.up(main=SOCKET)
    head = b"PUT /v1/log-level HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    for data, status in (
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 not HTTP", b"400"),
            (b"GET /v1/status HTTP/9.9\r\n\r\n", b"400"),
            (b"GET " + b"/x" * 10000 + b" HTTP/1.1\r\n\r\n", b"431"),
            (b"GET /v1/status HTTP/1.1\r\n" + b"A: b\r\n" * 20000, b"431"),
            (head + b"Content-Length: 99999999999\r\n\r\n", b"413"),
            (head + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n12", b"400"),
            (head + b"Content-Length: 5\r\n\r\n{\"a\":", b"400"),
            (head + b"Content-Length: 4\r\n\r\n\xff\xfe\x00\x01", b"400"),
            (head + b"Transfer-Encoding: chunked\r\n\r\n"
             b"4\r\n{\"a\"\r\n3\r\n:1}\r\n0\r\n\r\n", b"422"),
            (b"GET /v1/%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
            (b"GET /v1//status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404")):
        assert raw(server, data).split(b" ", 2)[1:2] == [status], (data[:60], raw(server, data))
    assert control.get("ping")["pong"]


def test_requests_in_one_packet_are_answered_in_turn(server, control):
    server.up(main=SOCKET)
    one = b"GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n"
    put = (b"PUT /v1/log-level HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n"
           b"{\"level\":\"info\"}")
    last = b"GET /v1/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    got = raw(server, one * 300 + put + last)
    assert got.count(b"HTTP/1.1 200 OK") == 302
    assert got.rstrip().endswith(b'{"version":2}')


def test_silent_clients_hold_nobody_up(server, control):
    server.up(main=SOCKET)
    silent = []
    try:
        for _ in range(80):
            client = socket.socket(socket.AF_UNIX)
            client.connect(server.path("logs", "control.sock"))
            client.settimeout(30)
            with contextlib.suppress(OSError):       # there is no place for the last ones
                client.sendall(b"GET /v1/sta")
            silent.append(client)
        # The last ones found no place; the server goes on.
        assert b"503" in silent[-1].recv(100)
        assert get(server.port).status == 200
    finally:
        for client in silent:
            client.close()
    assert wait_until(lambda: control.ask("GET", "ping").status == 200)


def test_changes_survive_reload_crash_and_restart(server, control):
    server.up(main=STATE, workers=2)
    version = control.change("PUT", "log-level", {"level": "debug"})["version"]
    assert server.reload()
    assert wait_until(lambda: control.get("status")["settled"])
    assert control.get("log-level")["set"] == {"all": "debug"}
    assert control.get("version")["version"] > version
    victim = server.workers()[0]
    os.kill(victim, signal.SIGKILL)
    assert wait_until(lambda: not alive(victim) and len(server.workers()) == 2)
    control.change("PUT", "log-level/master", {"level": "info"})
    mode = os.stat(server.path("logs", "state.json")).st_mode
    assert stat.S_IMODE(mode) == 0o600
    version = control.get("version")["version"]
    assert server.reload()
    assert wait_until(lambda: control.get("version")["version"] == version + 1)
    control.close()
    server.stop()
    server.start()
    assert control.get("log-level")["set"] == {"all": "debug", "master": "info"}
    assert control.get("version")["version"] == version + 1


def test_a_broken_state_file_is_an_error_at_start(server):
    server.setup(main=STATE)
    server.write("logs/state.json", '{"version":1,"items":[{"resource"')
    started = server.run()
    assert started.returncode == 1 and "no valid state" in started.stdout


def test_what_fits_no_more_is_dropped(server, control):
    server.setup(main=STATE)
    server.write("logs/state.json", '{"version":7,"items":['
                 '{"resource":"log-level","key":"all","value":{"level":"info"}},'
                 '{"resource":"log-level","key":"master","value":{"level":"no such"}},'
                 '{"resource":"unknown","key":"x","value":1}]}')
    server.start()
    assert control.get("log-level")["set"] == {"all": "info"}
    assert server.log().count("a change made at run time is dropped") == 2
    assert control.get("version")["version"] == 7
    assert "no such" not in server.read("logs/state.json")


def test_a_worker_that_does_not_answer_undoes_the_change(server, control):
    server.up(main=STATE, workers=2)
    assert wait_until(lambda: control.get("status")["settled"])
    worker = server.workers()[0]
    os.kill(worker, signal.SIGSTOP)
    try:
        refused = control.ask("PUT", "log-level", {"level": "debug"})
        assert refused.status == 504 and "process %d" % worker in refused.error
    finally:
        os.kill(worker, signal.SIGCONT)
    assert control.get("log-level")["set"] == {}
    assert control.get("version")["version"] == 1
    assert not os.path.exists(server.path("logs", "state.json"))
    control.change("PUT", "log-level", {"level": "debug"})


def test_a_worker_that_dies_meanwhile_holds_nothing_up(server, control):
    server.up(main=SOCKET, workers=2)
    assert wait_until(lambda: control.get("status")["settled"])
    worker = server.workers()[0]
    os.kill(worker, signal.SIGSTOP)
    other = Control(server.path("logs", "control.sock"))
    control.get("ping")
    control.connection.request("PUT", "/v1/log-level", '{"level":"info"}')
    # The change is under way when another one comes: it waits.
    assert other.get("ping")["pong"]
    os.kill(worker, signal.SIGKILL)
    response = control.connection.getresponse()
    assert response.status == 200, response.read()
    response.read()
    other.change("PUT", "log-level", {"level": "debug"})
    assert wait_until(lambda: len(other.get("status")["workers"]) == 2)
    other.close()


def test_without_a_place_to_write_nothing_changes(server, control):
    server.setup(main=SOCKET + " control_state nowhere/state.json;")
    server.start()
    refused = control.ask("PUT", "log-level", {"level": "debug"})
    assert refused.status == 500 and "No such file" in refused.error
    assert control.get("log-level")["set"] == {}


def test_dry_run_and_all_or_nothing(server, control):
    server.up(main=SOCKET, workers=2)
    tried = control.change("PUT", "log-level?dry_run=1", {"level": "debug"})
    assert tried["dry_run"] and tried["workers"] == 2
    changes = [{"path": "/v1/log-level", "body": {"level": "debug"}},
               {"path": "/v1/log-level/master", "body": {"level": "no such"}}]
    refused = control.ask("POST", "changes", {"changes": changes})
    assert refused.status == 422 and "change 1: " in refused.error
    assert control.get("log-level")["set"] == {}
    changes[1]["body"]["level"] = "warn"
    assert control.change("POST", "changes", {"changes": changes})["changed"] == 2
    assert control.get("log-level")["set"] == {"all": "debug", "master": "warn"}
    assert [each["key"] for each in control.get("changes")["changes"]] == ["all", "master"]
    control.change("DELETE", "changes")
    assert control.get("log-level")["set"] == {}
    version = control.get("version")
    assert control.change("DELETE", "changes")["changed"] == 0
    assert control.get("version") == version


def test_levels_are_those_of_each_process(server, control):
    server.up(main=SOCKET, workers=2, listen=EACH, locations="""
        location = /say { content_by_lua_block {
            ngx.log(ngx.INFO, "said by ", ngx.worker.id()) ngx.say(ngx.worker.id()) } }""")

    def said(worker):
        return "said by %d" % worker in server.log()

    def ask_both():
        seen = set()
        wait_until(lambda: seen.add(get(server.port, "/say").text().strip()) or len(seen) == 2)
        assert seen == {"0", "1"}

    ask_both()
    assert not said(0) and not said(1)
    control.change("PUT", "log-level/worker-1", {"level": "info"})
    ask_both()
    assert said(1) and not said(0)
    # The next one of that number has it as well.
    pid = [each["pid"] for each in control.get("status")["workers"] if each["id"] == 1][0]
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: len(server.workers()) == 2 and not alive(pid))
    size = len(server.log())
    ask_both()
    assert "said by 1" in server.log()[size:] and not said(0)
    control.change("DELETE", "log-level/worker-1")
    size = len(server.log())
    ask_both()
    assert "said by" not in server.log()[size:]


def test_in_a_single_process(server, control):
    server.up(main=STATE + " master_process off;")
    control.change("PUT", "log-level", {"level": "info"})
    control.ask("POST", "reload")
    control.close()

    def reloaded():
        try:
            return control.get("status")["reloads"] == 1
        except (OSError, http.client.HTTPException):
            return False
    assert wait_until(reloaded)
    assert control.get("log-level")["set"] == {"all": "info"}
    assert get(server.port).status == 200


def test_a_reload_comes_before_a_change_that_a_worker_delays(server, control):
    """What was staged belongs to the configuration that goes."""
    server.up(main=SOCKET, http="map $uri $said { default plain; }", locations="""
        location = /said { return 200 $said; }
        location = /busy {
            content_by_lua_block {
                io.open("@PREFIX@/logs/busy", "w"):close()
                while not io.open("@PREFIX@/logs/go") do end
            }
        }""")
    path = server.path("logs", "control.sock")
    request = (b'PUT /v1/maps/said/%2Fsaid HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n'
               b'{"value":"later"}')
    with socket.create_connection(("127.0.0.1", server.port)) as client, \
            socket.socket(socket.AF_UNIX) as asking:
        client.sendall(b"GET /busy HTTP/1.0\r\n\r\n")
        assert wait_until(lambda: os.path.exists(server.path("logs/busy")))
        asking.settimeout(60)
        asking.connect(path)
        asking.sendall(request)
        control.get("status")
        os.kill(server.process.pid, signal.SIGHUP)
        # As the master comes to it: in between, or before it.
        first = asking.recv(999)
        server.write("logs/go", "")
    assert b" 503 " in first or b" 200 " in first or b" 504 " in first, first
    assert wait_until(lambda: control.get("status")["settled"])
    control.change("PUT", "maps/said/%2Fsaid", {"value": "changed"})
    assert get(server.port, "/said").text() == "changed"


def test_reload_and_what_went_wrong_with_it(server, control):
    server.up(main=SOCKET, workers=2)
    workers = server.workers()
    server.setup(main=SOCKET, workers=2, http="map $arg_k $fresh { default 1; }")
    answer = control.ask("POST", "reload")
    assert answer.status == 202 and answer.json["reloads"] == 0
    assert wait_until(lambda: control.get("status")["reloads"] == 1 and
                      control.get("status")["settled"])
    assert control.get("status")["reload_error"] is None
    assert wait_until(lambda: not set(workers) & set(server.workers()))
    server.write("conf/server.conf", "events { } nonsense;")
    control.ask("POST", "reload")
    assert wait_until(lambda: control.get("status")["reloads"] == 2)
    assert "nonsense" in control.get("status")["reload_error"]


def test_a_reload_of_the_same_keeps_workers_and_takes_new_tokens(server, control):
    port = free_port()
    server.write("conf/token", "first token of all\n")
    server.configure("""
        %s daemon off; worker_processes 2; pid logs/server.pid; error_log logs/error.log notice;
        %s control_listen 127.0.0.1:%d token_file=token;
        events { }
        http { lua_code_cache auto;
               server { listen 127.0.0.1:@PORT@; location / { return 200 hello; } } }
        """ % ("user root;" if os.geteuid() == 0 else "", STATE, port))
    server.start()
    assert wait_until(lambda: control.get("status")["settled"])
    # Its file changes with it, and is no reason for new workers.
    control.change("PUT", "log-level", {"level": "info"})
    workers = server.workers()
    server.write("conf/token", "another token, then\n")
    control.ask("POST", "reload")
    assert wait_until(lambda: control.get("status")["reloads"] == 1)
    assert server.workers() == workers, server.log()
    assert Control(port=port, token="first token of all").ask("GET", "ping").status == 401
    assert Control(port=port, token="another token, then").get("ping")["pong"]


def test_a_new_binary_takes_over_and_the_old_one_takes_back(server, control):
    master = server.up_in_background(main=SOCKET)
    processes = [master]
    try:
        control.change("PUT", "log-level", {"level": "info"})
        control.close()
        os.kill(master, signal.SIGUSR2)

        def new_master():
            try:
                pid = control.get("status")["pid"]
            except OSError:
                return None
            finally:
                control.close()
            return pid if pid != master else None
        second = wait_until(new_master)
        assert second
        processes.append(second)
        assert control.get("log-level")["set"] == {"all": "info"}
        assert wait_until(lambda: control.get("status")["settled"])
        control.close()
        os.kill(second, signal.SIGTERM)
        assert wait_until(lambda: not alive(second))

        def old_master():
            try:
                return control.get("status")["pid"] == master
            except OSError:
                return False
            finally:
                control.close()
        assert wait_until(old_master)
        control.change("PUT", "log-level", {"level": "notice"})
    finally:
        control.close()
        for pid in processes:
            end_process(pid)


def test_the_socket_moves_with_the_configuration(server, control):
    server.up(main=SOCKET)
    assert control.get("ping")["pong"]
    server.setup(main="control_socket logs/other.sock;")
    assert server.reload()
    other = Control(server.path("logs", "other.sock"))
    assert wait_until(lambda: os.path.exists(server.path("logs", "other.sock")))
    assert other.get("ping")["pong"]
    assert not os.path.exists(server.path("logs", "control.sock"))
    server.setup()
    assert server.reload()
    assert wait_until(lambda: not os.path.exists(server.path("logs", "other.sock")))
