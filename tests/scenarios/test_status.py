"""resty_status: what is counted adds up over workers and lives through reloads and deaths; large
answers are made beside other work; what Prometheus reads is what its format asks for."""
import json
import os
import signal

import pytest

from runner.client import Connection, get, request_bytes
from runner.prometheus import check_conventions, parse
from runner.server import wait_until

STATUS = """
location = /status { resty_status; }
location = /metrics { resty_status prometheus; }
location = /one { status_zone one; return 200 "1\\n"; }
"""


def status(server):
    response = get(server.port, "/status")
    assert response.status == 200
    return json.loads(response.body)


def metrics(server):
    response = get(server.port, "/metrics")
    assert response.get("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    families = parse(response.body.decode())
    check_conventions(families)
    return families


def row(rows, **labels):
    found = [one for one in rows if labels.items() <= one.items()]
    assert len(found) == 1, (labels, rows)
    return found[0]


def requests_of(server, zone):
    found = [one for one in status(server)["location_responses"] if one["location_zone"] == zone]
    return sum(one["requests"] for one in found)


def ask_both_workers(server, target, count):
    """Over connections of their own; returns how many requests each worker has seen in all."""
    for _ in range(count):
        assert get(server.port, target).status == 200
    return {one["worker"]: one["requests"] for one in status(server)["workers"]}


def test_sums_over_workers_reloads_and_deaths(server):
    server.up(workers=2, locations=STATUS)
    asked = 0
    for _ in range(200):        # until both have had some
        seen = ask_both_workers(server, "/one", 10)
        asked += 10
        if len([count for count in seen.values() if count > 0]) == 2:
            break
    assert requests_of(server, "one") == asked
    # A reload that changes something: other workers, in other slots.
    server.setup(workers=2, locations=STATUS + "location = /new { return 204; }")
    assert server.reload(30)
    assert wait_until(lambda: len(server.workers()) == 2, 30)
    assert requests_of(server, "one") == asked
    before = status(server)
    assert before["reloads"]["count"] == 1 and before["reloads"]["failed"] == 0
    assert before["reloads"]["generation"] == 2
    assert wait_until(
        lambda: [one["generation"] for one in status(server)["workers"]] == [2, 2], 30)
    # Killed workers: their counts stay, and go on.
    for pid in list(server.workers()):
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: pid not in server.workers() and len(server.workers()) == 2, 30)
    assert wait_until(lambda: get(server.port, "/one").status == 200, 30)
    now = requests_of(server, "one")
    assert now > asked
    assert get(server.port, "/one").status == 200
    assert requests_of(server, "one") == now + 1
    # The dead hold none.
    assert wait_until(lambda: status(server)["connections"]["active"] == 1, 30)


def test_a_failed_reload_is_told(server):
    server.up(locations=STATUS)
    server.setup(locations=STATUS + "nonsense on;")
    server.signal("HUP")
    assert wait_until(lambda: status(server)["reloads"]["failed"] == 1, 30)
    reloads = status(server)["reloads"]
    assert 'unknown directive "nonsense"' in reloads["last_error"]
    assert reloads["last_successful"] == 0 and reloads["generation"] == 1
    assert metrics(server)["resty_config_last_reload_successful"].value() == 0
    server.setup(locations=STATUS + "location = /x { return 204; }")
    assert server.reload(30)
    assert wait_until(lambda: status(server)["reloads"]["last_successful"] == 1, 30)
    assert status(server)["reloads"]["last_error"] == ""


def test_everything_is_in_both_formats(server):
    """Every part of the server that counts; the text format is read strictly."""
    server.up(http="""
        lua_shared_dict d 64k;
        limit_req_zone $arg_k zone=lr:64k rate=1r/m;
        limit_conn_zone $arg_k zone=lc:64k;
        resolver 127.0.0.1:1 status_zone=names ipv6=off;
        upstream group { server 127.0.0.1:@PORT@; server 127.0.0.1:1 down; keepalive 2; }
        init_worker_by_lua_block { ngx.timer.at(1000, function() end) }
        """, locations=STATUS + r"""
        location = /up { proxy_pass http://group/one; proxy_http_version 1.1;
                         proxy_set_header Connection ""; }
        location = /limited { limit_req zone=lr; limit_conn lc 3; empty_gif; }
        location = /busy {
            rewrite_by_lua_block { ngx.ctx.a = 1 }
            content_by_lua_block {
                ngx.shared.d:set("a \"quoted\" \\ key", 1)
                local socket = ngx.socket.tcp()
                assert(socket:connect("127.0.0.1", @PORT@, {pool = 'a "pool"\\'}))
                socket:setkeepalive()
                ngx.thread.spawn(function() ngx.sleep(0.001) end)
                ngx.log(ngx.WARN, "a warning")
                ngx.say("done")
            }
        }""")
    for target in ("/up", "/up", "/busy", "/limited?k=1"):
        assert get(server.port, target).status == 200
    assert get(server.port, "/limited?k=1").status == 503
    page, families = status(server), metrics(server)
    for key in ("build", "connections", "server_zones", "responses", "location_zones",
                "location_responses", "workers", "reloads", "loop", "log_lines", "lua_memory",
                "lua_threads", "lua_timers", "lua_phases", "shared_dicts", "socket_pools",
                "limit_reqs", "limit_conns", "resolvers", "tls", "upstreams", "upstream_peers",
                "handler_files", "file_cache", "lua_limits"):
        assert key in page, key
    peer = row(page["upstream_peers"], upstream="group", peer="127.0.0.1:%d" % server.port)
    assert (peer["requests"], peer["responses_2xx"], peer["state"]) == (2, 2, "up")
    assert row(page["upstream_peers"], peer="127.0.0.1:1")["state"] == "down"
    group = row(page["upstreams"], upstream="group")
    assert group["response_seconds"]["count"] == 2 and group["connections_reused"] == 1
    assert row(page["limit_reqs"], zone="lr") == {
        "zone": "lr", "passed": 1, "delayed": 0, "rejected": 1, "delayed_dry_run": 0,
        "rejected_dry_run": 0}
    assert row(page["limit_conns"], zone="lc")["passed"] == 1
    assert page["lua_timers"]["pending"] == 1
    assert page["log_lines"]["warn"] == 1
    assert row(page["shared_dicts"], dict="d")["keys"] == 1
    assert row(page["lua_phases"], phase="content")["duration_seconds"]["count"] == 1
    assert row(page["socket_pools"], pool='a "pool"\\')["idle"] == 1
    assert families["resty_socket_pool_connections"].value(pool='a "pool"\\', state="idle") == 1
    assert families["resty_limit_req_requests_total"].value(zone="lr", result="rejected") == 1
    assert families["resty_upstream_peer_up"].value(upstream="group", peer="127.0.0.1:1") == 0
    phases = families["resty_lua_phase_duration_seconds"]
    assert phases.value("_count", phase="rewrite") == 1
    assert families["resty_requests_total"].total(code="503") == 1


def test_handler_files_and_cached_files(server):
    server.write("handlers/good.lua", 'return function() return "good" end\n')
    server.write("handlers/bad.lua", "return function(\n")
    server.write("html/page.txt", "text\n")
    server.up(locations=STATUS + """
        lua_handlers /h/ handlers;
        location = /page.txt { root html; }""")
    assert get(server.port, "/h/good").text() == "good"
    assert get(server.port, "/h/bad").status == 500
    for _ in range(3):
        assert get(server.port, "/page.txt").text() == "text\n"
    files = status(server)["handler_files"]
    good, bad = row(files, file="good.lua"), row(files, file="bad.lua")
    assert (good["prefix"], good["failed"], good["error"]) == ("/h/", 0, "")
    assert good["version"] >= 1 and good["loaded_seconds"] > 0
    assert bad["failed"] == 1 and bad["error"] and bad["loaded_seconds"] is None
    assert metrics(server)["resty_handler_file_failed"].value(prefix="/h/", file="bad.lua") == 1
    cache = status(server)["file_cache"]
    assert cache["hits"] >= 1 and cache["misses"] >= 1 and cache["entries"] >= 1


def test_a_shared_group_tells_of_every_worker(server):
    server.up(workers=2, http="upstream group { zone z 64k; server 127.0.0.1:@PORT@; }",
              locations=STATUS + "location = /up { proxy_pass http://group/one; }")
    for _ in range(20):
        assert get(server.port, "/up").status == 200
    peer = row(status(server)["upstream_peers"], upstream="group")
    assert peer["requests"] == 20 and peer["active"] == 0


def many_servers(count):
    """An upstream whose servers make so many rows."""
    lines = ["server 127.%d.%d.1:80;" % (n // 250 + 1, n % 250 + 1) for n in range(count)]
    return "upstream many { %s }" % "\n".join(lines)


def test_a_large_answer(server):
    """10,000 values, whole and in order, while others are answered; a slow reader is waited for."""
    servers = 640
    server.up(http=many_servers(servers), locations=STATUS + """
        location = /up { proxy_pass http://many; }""")
    families = metrics(server)
    assert sum(len(family.samples) for family in families.values()) > 10000
    assert len(families["resty_upstream_peer_up"].samples) == servers
    page = status(server)
    assert len(page["upstream_peers"]) == servers
    with Connection(server.port, timeout=60) as slow:
        slow.send(request_bytes(target="/metrics"))
        # Nothing is read yet: the answer fills the sockets and waits. Others are not kept.
        for _ in range(20):
            assert get(server.port, "/one").status == 200
        body = slow.read_response().body.decode()
    assert len(parse(body)["resty_upstream_peer_up"].samples) == servers


def test_a_reader_who_leaves(server):
    server.up(http=many_servers(300), locations=STATUS + """
        location = /up { proxy_pass http://many; }""")
    for _ in range(10):
        with Connection(server.port) as leaver:
            leaver.send(request_bytes(target="/metrics"))
    assert wait_until(lambda: status(server)["connections"]["active"] == 1, 30)
    assert server.workers() and "exited on signal" not in server.log()


def test_without_the_directive_nothing_is_counted(server):
    one = """location = /one { status_zone one; return 200; }"""
    server.up(locations=one)
    assert get(server.port, "/one").status == 200
    server.setup(locations=STATUS)
    assert server.reload(30)
    assert wait_until(lambda: get(server.port, "/status").status == 200, 30)
    assert requests_of(server, "one") == 0
    assert get(server.port, "/one").status == 200
    assert requests_of(server, "one") == 1


@pytest.mark.parametrize("main", ["master_process off;"])
def test_a_single_process(server, main):
    server.up(main=main, locations=STATUS)
    for _ in range(3):
        assert get(server.port, "/one").status == 200
    page = status(server)
    assert len(page["workers"]) == 1 and requests_of(server, "one") == 3
