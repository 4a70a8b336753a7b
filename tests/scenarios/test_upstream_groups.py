"""Groups of servers while the server runs: names that change, peers replaced in all workers, reload
with kept connections."""
import threading
import time

import pytest

from runner.client import Connection, get, request_bytes
from runner.raw_upstream import RawUpstream, answer
from runner.server import wait_until
from scenarios.conftest import Load
from scenarios.dns_server import DNSMASQ, Dns

BACKENDS = """
    server { listen 127.0.0.2:@PORT@; listen 127.0.0.3:@PORT@; listen 127.0.0.4:@PORT@;
             location / { return 200 $server_addr; } }
"""
PROXY = "location = /p { proxy_pass http://group; proxy_connect_timeout 1s; }"


@pytest.fixture
def dns(tmp_path):
    one = Dns(str(tmp_path))
    yield one
    one.stop()


def seen(server, count=8):
    return {get(server.port, "/p").text() for _ in range(count)}


@pytest.mark.skipif(not DNSMASQ, reason="needs dnsmasq")
@pytest.mark.parametrize("zone", ["", "zone z 128k;"])
def test_resolve_follows_the_name(server, dns, zone):
    dns.set(back_test=["127.0.0.2"])
    dns.start()
    server.up(workers=2, locations=PROXY, http=BACKENDS + """
        upstream group { %s resolver %s ipv6=off; server back.test:@PORT@ resolve max_fails=0; }
        """ % (zone, dns.server))
    assert wait_until(lambda: seen(server) == {"127.0.0.2"}), server.log()
    dns.set(back_test=["127.0.0.3", "127.0.0.4"])
    assert wait_until(lambda: seen(server, 16) == {"127.0.0.3", "127.0.0.4"}, 8)


@pytest.mark.skipif(not DNSMASQ, reason="needs dnsmasq")
def test_a_name_unknown_at_start_heals(server, dns):
    dns.start()
    server.up(locations=PROXY, http=BACKENDS + """
        resolver %s ipv6=off;
        upstream group { server late.invalid:@PORT@; }
        """ % dns.server)
    assert 'host not found in upstream "late.invalid:' in server.log() + server.output()
    assert get(server.port, "/p").status == 502
    assert "no live upstreams" in server.log()
    dns.set(late_invalid=["127.0.0.2"])
    assert wait_until(lambda: get(server.port, "/p").status == 200, 9, 0.2), server.log()


@pytest.mark.skipif(not DNSMASQ, reason="needs dnsmasq")
def test_service_records(server, tmp_path):
    dns = Dns(str(tmp_path))
    dns.args = ["--srv-host=_http._tcp.shop.test,one.test,%d,10,3" % server.port,
                "--srv-host=_http._tcp.shop.test,two.test,%d,10,1" % server.port,
                "--srv-host=_http._tcp.shop.test,three.test,%d,20,1" % server.port]
    dns.hosts = {"one.test": ["127.0.0.2"], "two.test": ["127.0.0.3"], "three.test": ["127.0.0.4"]}
    dns.start()
    try:
        server.up(locations=PROXY, http=BACKENDS + """
            upstream group { resolver %s ipv6=off; server shop.test service=http resolve; }
            """ % dns.server)
        assert wait_until(lambda: get(server.port, "/p").status == 200), server.log()
        answers = [get(server.port, "/p").text() for _ in range(8)]
        assert answers.count("127.0.0.2") == 6 and answers.count("127.0.0.3") == 2
    finally:
        dns.stop()


@pytest.mark.parametrize("zone", ["", "zone z 128k;"])
def test_peers_are_replaced_in_all_workers_under_load(server, zone):
    server.up(workers=2, locations=PROXY + """
        location = /set { content_by_lua_block {
            ngx.say(require("ngx.upstream").set_peers("group", { ngx.var.arg_addr .. ":@PORT@" }))
        } }""", http=BACKENDS + "upstream group { %s server 127.0.0.2:@PORT@; }" % zone)
    with Load(server.port, target="/p") as load:
        for number in (3, 4, 2, 3):
            address = "127.0.0.%d" % number
            assert get(server.port, "/set?addr=" + address).text() == "true\n"
            # From here on nobody, in whichever worker, is sent anywhere else.
            assert seen(server, 20) == {address}
        load.wait_answers(50)
    assert not load.failures, load.failures[:5]


def test_down_in_a_zone_counts_for_all_workers(server):
    server.up(workers=2, locations=PROXY + """
        location = /down { content_by_lua_block {
            ngx.say(require("ngx.upstream").set_peer_down("group", false, 0, true))
        } }""", http=BACKENDS + """
        upstream group { zone z 128k; server 127.0.0.2:@PORT@; server 127.0.0.3:@PORT@; }""")
    assert seen(server, 20) == {"127.0.0.2", "127.0.0.3"}
    assert get(server.port, "/down").text() == "true\n"
    assert seen(server, 30) == {"127.0.0.3"}


def test_reload_under_load_with_kept_connections(server):
    group = "upstream group { server 127.0.0.2:@PORT@; server 127.0.0.3:@PORT@; keepalive 8; }"
    server.up(workers=2, locations=PROXY, http=BACKENDS + group)
    with Load(server.port, target="/p") as load:
        for _ in range(5):
            assert server.reload(), server.log()
            time.sleep(0.1)
        load.wait_answers(50)
    assert not load.failures, load.failures[:5]


def test_a_graceful_exit_waits_for_the_upstream(server):
    release = threading.Event()

    def script(peer):
        peer.head()
        release.wait(5)
        peer.send(answer(b"late"))
    with RawUpstream(script) as upstream:
        server.up(http="upstream group { server 127.0.0.1:%d; }" % upstream.port, locations=PROXY)
        with Connection(server.port) as connection:
            connection.send(request_bytes(target="/p"))
            assert wait_until(lambda: upstream.heads)
            server.signal("QUIT")
            time.sleep(0.2)
            release.set()
            assert connection.read_response().body == b"late"
        assert server.process.wait(5) == 0
