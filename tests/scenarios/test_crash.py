"""Processes that die, and resources that run out."""
import os
import resource
import signal
import time

import pytest

from runner.client import Connection, ProtocolError, get, request_bytes
from runner.server import alive, wait_until
from scenarios.conftest import Load

CONNECTIONS = int(os.environ.get("RESTY_CONNECTIONS", "1000"))


def cpu_seconds(pid):
    with open("/proc/%d/stat" % pid) as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_killed_worker_is_replaced(server):
    server.up(workers=2)
    for _ in range(3):
        before = server.workers()
        os.kill(before[0], signal.SIGKILL)
        assert wait_until(lambda old=before: len(server.workers()) == 2 and
                          old[0] not in server.workers(), 5)
        assert get(server.port).status == 200
    assert "exited on signal 9" in server.log()


def test_each_worker_killed_in_turn_under_load(server):
    workers, clients = 3, 4
    server.up(workers=workers)
    first = server.workers()
    gaps = []
    with Load(server.port) as load:
        assert load.wait_answers(20, 30)
        for victim in first:
            before = set(server.workers())
            os.kill(victim, signal.SIGKILL)
            began = time.monotonic()
            assert wait_until(lambda old=before: set(server.workers()) - old, 20, 0.001)
            gaps.append(time.monotonic() - began)
            assert load.wait_answers(50, 30)
        assert wait_until(lambda: len(server.workers()) == workers, 20)
    assert not set(first) & set(server.workers())
    print("replaced after %s ms" % ", ".join("%.1f" % (1000 * gap) for gap in gaps))
    # Only what was in flight on the dead worker: at most one request per client and kill.
    assert len(load.failures) <= clients * workers, load.failures


def test_crash_loop_backs_off(server):
    server.up(workers=1)
    started = time.monotonic()
    kills = 0
    while time.monotonic() - started < 3:
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
            kills += 1
        time.sleep(0.005)
    assert server.process.poll() is None
    assert kills < 200, "%d workers started in 3 s" % kills
    assert wait_until(lambda: server.workers() and get(server.port).status == 200, 15)


def test_killed_master_frees_the_port(server):
    server.up(workers=2)
    assert wait_until(lambda: len(server.workers()) == 2)
    workers = server.workers()
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    try:
        assert wait_until(lambda: not any(map(alive, workers)), 5), "workers stay"
        assert wait_until(lambda: not server.accepts(), 1)
    finally:
        for pid in filter(alive, workers):
            os.kill(pid, signal.SIGKILL)


def test_killed_master_drains_a_request(server):
    server.up()
    with Connection(server.port) as connection:
        connection.send(request_bytes(target="/slow?t=1"))
        time.sleep(0.3)
        workers = server.workers()
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        try:
            response = connection.read_response()
            assert response is not None and response.text() == "slept\n"
            assert wait_until(lambda: not any(map(alive, workers)), 5)
        finally:
            for pid in filter(alive, workers):
                os.kill(pid, signal.SIGKILL)


def open_many(server, count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 200
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        except (ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            count = min(count, hard - 200)
    return [Connection(server.port) for _ in range(count)], count


def test_many_keepalive_connections(server):
    """10,000 with RESTY_CONNECTIONS=10000; fewer by default and where the limits are low."""
    server.up(connections=CONNECTIONS + 200, http="keepalive_timeout 120s;",
              main="worker_rlimit_nofile %d;" % (CONNECTIONS + 400))
    connections, count = open_many(server, CONNECTIONS)
    try:
        for _ in range(2):
            for connection in connections:
                connection.send(request_bytes(close=False))
            answered = 0
            for connection in connections:
                response = connection.read_response()
                answered += response is not None and response.status == 200
            assert answered == count
    finally:
        for connection in connections:
            connection.close()


def test_descriptor_exhaustion(server):
    server.up(main="worker_rlimit_nofile 64;", connections=512)
    worker = server.workers()[0]
    held = []
    try:
        for _ in range(120):
            held.append(Connection(server.port))
        time.sleep(0.5)
        before = cpu_seconds(worker)
        time.sleep(1)
        spent = cpu_seconds(worker) - before
        assert spent < 0.2, "the worker spins: %.2f s of CPU in 1 s" % spent
    finally:
        for connection in held:
            connection.close()

    def serves():
        try:
            return get(server.port, timeout=1).status == 200
        except (OSError, ProtocolError):
            return False
    assert wait_until(serves, 3)
    assert server.workers() == [worker], server.log()[-2000:]


def test_idle_connections_make_room(server):
    """With descriptors used up by idle keep-alive connections, a new client is served."""
    server.up(main="worker_rlimit_nofile 64;", connections=512)
    held = []
    try:
        for _ in range(60):
            try:
                connection = Connection(server.port, timeout=3)
                held.append(connection)
                connection.send(request_bytes(close=False))
                assert connection.read_response() is not None
            except OSError:
                pytest.fail("client %d is not served" % len(held))
        assert get(server.port, timeout=5).status == 200
    finally:
        for connection in held:
            connection.close()


def test_worker_connections_run_out(server):
    server.up(connections=32)
    held = [Connection(server.port) for _ in range(60)]
    time.sleep(0.3)
    for connection in held:
        connection.close()
    assert wait_until(lambda: get(server.port).status == 200, 3)
    assert len(server.workers()) == 1


def test_log_to_a_full_device(server):
    server.up(log="access_log /dev/full;")
    workers = server.workers()
    for _ in range(50):
        assert get(server.port).status == 200
        assert get(server.port, "/missing").status == 404
    assert server.workers() == workers
    alerts = server.log().count("[alert]")
    assert alerts <= 10, "%d alerts for 100 lines that could not be written" % alerts


def test_full_error_log(server):
    server.setup()
    text = server.read("conf/server.conf").replace("logs/error.log notice", "/dev/full info")
    server.configure(text)
    server.start()
    for _ in range(20):
        assert get(server.port, "/missing").status == 404


def test_handler_errors_do_not_hurt_the_worker(server):
    server.up(locations="""
        location = /error { content_by_lua_block { error("on purpose") } }
        location = /nil { content_by_lua_block { local t = nil; t.x = 1 } }
        location = /late { content_by_lua_block { ngx.say("part") ngx.flush(true) error("late") } }
    """)
    workers = server.workers()
    for target in ("/error", "/nil"):
        assert get(server.port, target).status == 500
    with Connection(server.port) as connection:
        connection.send(request_bytes(target="/late"))
        with pytest.raises(ProtocolError):
            connection.read_response()
    assert get(server.port, "/lua").text() == "from lua\n"
    assert server.workers() == workers
    assert "stack traceback:" in server.log() and "on purpose" in server.log()
