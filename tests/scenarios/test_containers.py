"""As the first process of a container: signals, orphans, logs on pipes, probes, the environment."""
import os
import shutil
import signal
import socket
import subprocess
import threading

import pytest

from runner.client import Connection, get, request_bytes
from runner.server import alive, children, wait_until

PROBES = "location = /live { resty_health live; } location = /ready { resty_health ready; }"


def can_unshare():
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return False
    done = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], check=False,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


@pytest.fixture
def container(server):
    """The server as process 1 of a namespace; `container.first` is its process id out here."""
    if not can_unshare():
        pytest.skip("process namespaces cannot be made here")
    plain = server.command
    server.command = lambda *extra: ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
                                     *plain(*extra)]

    def up(**parts):
        # No "daemon off": process 1 stays in the foreground by itself.
        server.setup(daemon="on", **parts).start()
        assert wait_until(lambda: children(server.process.pid), 10)
        server.first = children(server.process.pid)[0]
        assert wait_until(lambda: children(server.first), 10), server.log()
        return server
    yield up
    # What unshare started ends by TERM to process 1, not to unshare.
    if server.process and server.process.poll() is None:
        os.kill(server.first, signal.SIGINT)
        server.process.wait(20)


def in_flight(server, target="/slow?t=1"):
    """A request that the server has begun; its answer comes into the returned list."""
    answers = []
    link = Connection(server.port, timeout=30)
    link.send(request_bytes(target=target))

    def read():
        with link:
            answers.append(link.read_response())
    thread = threading.Thread(target=read)
    thread.start()
    return thread, answers


BEGUN = """
location = /begun { content_by_lua_block { ngx.log(ngx.NOTICE, "it began") ngx.sleep(1)
                                           ngx.say("slept") } }
"""


def test_first_process_drains_on_term(container):
    server = container(locations=BEGUN)
    thread, answers = in_flight(server, "/begun")
    assert wait_until(lambda: "it began" in server.log(), 20)
    os.kill(server.first, signal.SIGTERM)
    assert wait_until(lambda: not server.accepts(), 20)
    thread.join(30)
    assert answers and answers[0].text() == "slept\n", server.log()
    assert server.process.wait(30) == 0


def test_first_process_buries_orphans(container):
    server = container(locations="""
        location = /orphan { content_by_lua_block { os.execute("(sleep 0.05 &) ; exit 0") } }""")
    for _ in range(5):
        assert get(server.port, "/orphan").status == 200
    worker = wait_until(lambda: children(server.first))
    assert wait_until(lambda: children(server.first) == worker or
                      len(children(server.first)) == 1, 20), children(server.first)
    os.kill(server.first, signal.SIGHUP)
    assert wait_until(lambda: children(server.first) and
                      len(children(server.first)) == 1 and children(server.first) != worker, 30)
    assert get(server.port).status == 200


def test_term_drains_where_it_is_told_to(server):
    server.up(main="terminate graceful;", locations=BEGUN)
    thread, answers = in_flight(server, "/begun")
    assert wait_until(lambda: "it began" in server.log(), 20)
    server.signal("TERM")
    assert wait_until(lambda: not server.accepts(), 20)
    thread.join(30)
    assert answers and answers[0].text() == "slept\n", server.log()
    assert server.process.wait(30) == 0


def test_term_drains_without_a_master(server):
    server.up(main="terminate graceful; master_process off;", locations=BEGUN)
    thread, answers = in_flight(server, "/begun")
    assert wait_until(lambda: "it began" in server.log(), 20)
    server.signal("TERM")
    thread.join(30)
    assert answers and answers[0].text() == "slept\n", server.log()
    assert server.process.wait(30) == 0


def test_probes_know_of_the_end_before_it_comes(server):
    server.up(main="terminate graceful 600s;", locations=PROBES)
    assert wait_until(lambda: get(server.port, "/ready").text() == "ready\n", 20)
    server.signal("TERM")
    assert wait_until(lambda: get(server.port, "/ready").status == 503, 20)
    assert get(server.port, "/ready").text() == "stopping\n"
    assert get(server.port, "/live").status == 200
    assert get(server.port).status == 200, "accepts until the time is over"
    # A second time it means at once.
    server.signal("TERM")
    assert server.process.wait(20) == 0


def test_a_worker_that_is_replaced_is_ready(server):
    server.up(locations=PROBES)
    assert wait_until(lambda: get(server.port, "/ready").status == 200, 20)
    with Connection(server.port) as connection:
        connection.send(request_bytes(target="/ready", close=False))
        assert connection.read_response().status == 200
        assert server.reload(30)
        connection.send(request_bytes(target="/ready", close=False))
        last = connection.read_response()
        assert last is None or last.status == 200


def test_logs_on_pipes_that_nobody_reads(server):
    server.setup(log="access_log /dev/stdout;")
    text = server.read("conf/server.conf").replace("logs/error.log notice", "stderr info")
    server.configure(text)
    server.start(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        filler = "x" * 1000
        for _ in range(150):                 # more than a pipe holds
            assert get(server.port, "/missing?" + filler, timeout=20).status == 404
        assert alive(server.process.pid)
        lines = os.read(server.process.stdout.fileno(), 65536)
        assert b"GET /missing?x" in lines
        lines = os.read(server.process.stderr.fileno(), 65536)
        assert b"start worker process" in lines
        assert get(server.port).status == 200
    finally:
        server.process.stdout.close()
        server.process.stderr.close()


def test_logs_on_sockets_and_for_another_user(server):
    """A service manager's journal is a socket, and workers are not who opened it."""
    here, there = socket.socketpair()
    with here, there:
        server.setup(log="access_log /dev/stdout;",
                     **({"user": "user nobody nogroup;\n"} if os.geteuid() == 0 else {}))
        server.start(stdout=there.fileno())
        there.close()
        assert wait_until(server.workers, 20)
        server.signal("USR1")
        assert wait_until(lambda: server.log().count("reopening logs") >= 2, 20)
        assert get(server.port, "/?seen").status == 200
        here.settimeout(30)
        assert b"GET /?seen" in here.recv(65536)
        assert "[emerg]" not in server.log(), server.log()
