"""Reloads in numbers: under load with idle WebSockets, in storms, and with generations that stay.

The full figures: RESTY_RELOADS=100 RESTY_WEBSOCKETS=1000 RESTY_RELOAD_SECONDS=60.
"""
import os
import re
import time

from runner.client import Connection, get, request_bytes
from runner.server import children, wait_until
from scenarios.conftest import Load
from scenarios.idle_sockets import LOCATION, IdleSockets

RELOADS = int(os.environ.get("RESTY_RELOADS", "8"))
WEBSOCKETS = int(os.environ.get("RESTY_WEBSOCKETS", "40"))
SECONDS = float(os.environ.get("RESTY_RELOAD_SECONDS", "2"))


def resident_kb(pid):
    """What the process and its children hold for themselves: shared pages are divided."""
    total = 0
    for one in [pid, *children(pid)]:
        try:
            with open("/proc/%d/smaps_rollup" % one) as file:
                total += int(re.search(r"^Pss:\s+(\d+)", file.read(), re.M).group(1))
        except (OSError, AttributeError):
            pass
    return total


def is_sanitized(server):
    with open(server.binary, "rb") as file:
        return b"__asan_init" in file.read()


def started(server):
    return len(re.findall(r"start worker process \d+", server.log()))


def test_reloads_under_load_with_idle_websockets(server):
    # The sockets stay with the first workers, which so drain through all of the reloads.
    server.up(workers=2, locations=LOCATION, connections=WEBSOCKETS + 200, shutdown="600s")
    with IdleSockets(server.port, WEBSOCKETS) as sockets, Load(server.port) as load:
        assert load.wait_answers(200, 30)
        before = resident_kb(server.process.pid)
        first = set(server.workers())
        for _ in range(RELOADS):
            began = time.monotonic()
            assert server.reload(30), server.log()
            time.sleep(max(0, SECONDS / RELOADS - (time.monotonic() - began)))
        load.wait_answers(50, 30)
        assert sockets.lost() == 0, server.log()
        assert first & set(server.workers())
    assert not load.failures, load.failures[:10]
    assert load.lost_idle == 0, "%d requests met a closing connection" % load.lost_idle
    # The sockets are closed now: the first workers leave.
    assert wait_until(lambda: len(server.workers()) == 2, 60), server.workers()
    after = resident_kb(server.process.pid)
    print("reloads %d, answers %d, memory %d kB before, %d kB after" %
          (started(server) // 2 - 1, load.answers, before, after))
    # Sanitizers keep freed memory for a while.
    assert is_sanitized(server) or after < 1.2 * before + 4096, (before, after)


def test_a_storm_of_signals_is_few_reloads(server):
    server.up(workers=2, locations="location = /v { return 200 one; }")
    with Load(server.port) as load:
        assert load.wait_answers(20, 30)
        for _ in range(50):
            server.signal("HUP")
            time.sleep(0.01)
        server.setup(workers=2, locations="location = /v { return 200 two; }")
        server.signal("HUP")
        # The last signal is never lost among the others.
        assert wait_until(lambda: get(server.port, "/v").text() == "two", 30)
        load.wait_answers(20, 30)
    assert not load.failures, load.failures[:10]
    assert started(server) <= 2 * 52
    assert wait_until(lambda: len(server.workers()) == 2, 60), server.workers()


def test_signals_during_a_reload_are_one_more(server):
    init = "init_worker_by_lua_block { local t = os.clock() + 0.3 while os.clock() < t do end }"
    server.up(http=init)
    assert get(server.port, timeout=30).status == 200
    server.signal("HUP")
    assert wait_until(lambda: started(server) == 2, 30)
    for _ in range(10):
        server.signal("HUP")
    assert wait_until(lambda: started(server) >= 3, 60)
    assert wait_until(lambda: len(server.workers()) == 1, 60)
    # One more; on a machine that stops in between perhaps some.
    assert started(server) <= 7


def test_a_signal_mends_workers_that_cannot_start(server):
    server.up()
    server.setup(http="init_worker_by_lua_block { os.exit(3) }")
    server.signal("HUP")
    assert wait_until(lambda: "exited with code 3" in server.log(), 30)
    server.setup(locations="location = /v { return 200 mended; }")
    server.signal("HUP")
    assert wait_until(lambda: get(server.port, "/v").text() == "mended", 30)
    assert wait_until(lambda: len(server.workers()) == 1, 60)


def reload_fully(server):
    """With one worker: returns when the old one no longer accepts."""
    gone = server.log().count("gracefully shutting down")
    server.signal("HUP")
    assert wait_until(lambda: server.log().count("gracefully shutting down") > gone, 60)


def test_draining_generations_are_bounded(server):
    server.up(main="worker_draining_generations 2;", locations=LOCATION, shutdown="600s")
    held = []
    try:
        for _ in range(4):
            held.append(IdleSockets(server.port, 1))
            reload_fully(server)
        assert wait_until(lambda: len(server.workers()) == 3, 60), server.workers()
        assert server.log().count("too many generations of workers drain") == 2
        assert [sockets.lost() for sockets in held] == [1, 1, 0, 0]
    finally:
        for sockets in held:
            sockets.close()


def test_an_idle_connection_may_ask_once_more(server):
    server.up()
    with Connection(server.port) as connection:
        connection.send(request_bytes(close=False))
        assert connection.read_response().status == 200
        server.signal("HUP")
        assert wait_until(lambda: "gracefully shutting down" in server.log(), 30, 0.001)
        connection.send(request_bytes(close=False))
        last = connection.read_response()
        # On a machine that stalls for the whole grace the connection may be gone.
        assert last is None or last.status == 200
        assert last is None or last.get("Connection") == "close"
