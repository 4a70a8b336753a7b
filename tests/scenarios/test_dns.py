"""Names at run time, with dnsmasq answering: TTLs, healing, dead servers, resolv.conf, hosts."""
import os
import socket
import subprocess
import time

import pytest

from runner.client import get
from runner.server import wait_until
from scenarios.dns_server import DNSMASQ, Dns, loopback_address

pytestmark = pytest.mark.skipif(not DNSMASQ, reason="needs dnsmasq")

HTTP = """
    server { listen 127.0.0.2:@PORT@; listen 127.0.0.3:@PORT@;
             location / { return 200 $server_addr; } }
"""
LOCATIONS = """
    location = /proxy { proxy_pass http://$arg_host:@PORT@/; }
    location = /udp {
        content_by_lua_block {
            local sock = ngx.socket.udp()
            local ok, err = sock:setpeername(ngx.var.arg_host, 9)
            ngx.say(ok and "resolved" or err)
        }
    }
    location = /parallel {
        content_by_lua_block {
            local threads = {}
            for i = 1, 50 do
                threads[i] = ngx.thread.spawn(function()
                    return ngx.socket.udp():setpeername(ngx.var.arg_host, 9)
                end)
            end
            if ngx.var.arg_kill then
                for _, thread in ipairs(threads) do ngx.thread.kill(thread) end
                return ngx.say("killed")
            end
            local good = 0
            for _, thread in ipairs(threads) do
                local _, ok = ngx.thread.wait(thread)
                good = good + (ok or 0)
            end
            ngx.say(good)
        }
    }
"""


@pytest.fixture
def dns(server):
    one = Dns(server.prefix)
    yield one
    one.stop()


def up(server, resolver, more=""):
    line = "resolver %s; %s" % (resolver, more) if resolver else more
    server.up(http=HTTP + line, locations=LOCATIONS)
    return server


def ask(server, host, where="/udp"):
    return get(server.port, "%s?host=%s" % (where, host)).text().strip()


def not_found(host):
    return host + " could not be resolved (3: Host not found)"


def test_an_answer_holds_for_its_ttl(server, dns):
    dns.hosts = {"www.test": ["127.0.0.2"]}
    dns.start()
    up(server, dns.server)
    assert ask(server, "www.test", "/proxy") == "127.0.0.2"
    dns.set(www_test=["127.0.0.3"])
    assert ask(server, "www.test", "/proxy") == "127.0.0.2"
    assert wait_until(lambda: ask(server, "www.test", "/proxy") == "127.0.0.3", 3, 0.1)


def test_valid_overrides_the_ttl(server, dns):
    dns.hosts = {"www.test": ["127.0.0.2"]}
    dns.start()
    up(server, dns.server + " valid=1h")
    assert ask(server, "www.test", "/proxy") == "127.0.0.2"
    dns.set(www_test=["127.0.0.3"])
    time.sleep(1.3)
    assert ask(server, "www.test", "/proxy") == "127.0.0.2"


def test_a_name_that_appears_is_found(server, dns):
    dns.start()
    up(server, dns.server + " valid=1h")
    assert ask(server, "new.test") == not_found("new.test")
    assert get(server.port, "/proxy?host=new.test").status == 502
    assert "new.test could not be resolved (3: Host not found), client:" in server.log()
    dns.set(new_test=["127.0.0.2"])
    assert wait_until(lambda: ask(server, "new.test") == "resolved", 4, 0.1)


def test_a_refusing_server_is_passed_over(server, dns):
    dns.hosts = {"www.test": ["127.0.0.2"]}
    dns.start()
    dead = "%s:%d" % (loopback_address(), dns.port)
    up(server, "%s %s" % (dead, dns.server))
    started = time.monotonic()
    assert ask(server, "www.test") == "resolved"
    assert time.monotonic() - started < 1
    assert "recv() failed (111: Connection refused) while resolving, resolver: " + dead \
        in server.log()


def test_a_silent_server_is_passed_over_and_blocks_nobody(server, dns):
    dns.hosts = {"www.test": ["127.0.0.2"], "other.test": ["127.0.0.2"]}
    dns.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((loopback_address(), 0))
        up(server, "%s:%d %s" % (*silent.getsockname(), dns.server))
        asking = subprocess.Popen(["curl", "-s", "http://127.0.0.1:%d/udp?host=www.test"
                                   % server.port], stdout=subprocess.PIPE)
        time.sleep(0.2)
        started = time.monotonic()
        assert get(server.port, "/").status == 200
        assert time.monotonic() - started < 0.2
        assert asking.communicate(timeout=8)[0] == b"resolved\n"
        started = time.monotonic()                # the next name need not wait for it
        assert ask(server, "other.test") == "resolved"
        assert time.monotonic() - started < 1


def test_nobody_answers(server):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((loopback_address(), 0))
        up(server, "%s:%d" % silent.getsockname(), "resolver_timeout 300ms;")
        started = time.monotonic()
        text = "www.test could not be resolved (110: Operation timed out)"
        assert ask(server, "www.test") == text
        assert 0.25 < time.monotonic() - started < 1.5


def test_an_old_answer_stands_in_for_a_dead_server(server, dns):
    dns.hosts = {"www.test": ["127.0.0.2"]}
    dns.start()
    up(server, dns.server, "resolver_timeout 2s;")
    assert ask(server, "www.test") == "resolved"
    dns.stop()
    time.sleep(1.1)
    assert ask(server, "www.test") == "resolved"
    assert ask(server, "other.test") != "resolved"
    dns.hosts["other.test"] = ["127.0.0.2"]
    dns.start()
    assert wait_until(lambda: ask(server, "other.test") == "resolved", 4, 0.1)


def test_an_answer_too_long_for_a_datagram(server, dns):
    dns.hosts = {"many.test": ["127.0.0.%d" % n for n in range(2, 120)]}
    dns.start()
    up(server, dns.server)
    assert ask(server, "many.test") == "resolved"


def test_families(server, dns):
    dns.hosts = {"four.test": ["127.0.0.2"], "six.test": ["::1"]}
    dns.start()
    up(server, dns.server + " ipv6=off")
    assert ask(server, "four.test") == "resolved"
    assert ask(server, "six.test") == not_found("six.test")
    server.setup(http=HTTP + "resolver %s ipv4=off;" % dns.server, locations=LOCATIONS)
    assert server.reload()
    assert wait_until(lambda: ask(server, "four.test") == not_found("four.test"), 3)
    assert wait_until(lambda: ask(server, "six.test") == "resolved", 3, 0.1)


def test_many_wait_for_one_lookup(server, dns):
    dns.hosts = {"www.test": ["127.0.0.2"]}
    dns.start()
    up(server, dns.server)
    assert ask(server, "gone.test", "/parallel?kill=1&x=") == "killed"
    assert ask(server, "www.test", "/parallel") == "50"


def test_no_resolver_line(server, dns):
    """resolv.conf with a search domain, and the hosts file, both followed as they change."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs a mount namespace")
    dns.port = 53
    dns.hosts = {"www.corp.test": ["127.0.0.2"], "other.test": ["127.0.0.3"]}
    dns.start()
    resolv = server.write("etc/resolv.conf", "nameserver %s\nsearch corp.test\n" % dns.address)
    hosts = server.write("etc/hosts", "127.0.0.3 byfile\n")
    wrapper = server.write("wrapper", """#!/bin/sh
exec unshare -m sh -c 'mount --bind %s /etc/resolv.conf && mount --bind %s /etc/hosts &&
    exec "$@"' - %s "$@"\n""" % (resolv, hosts, server.binary))
    os.chmod(wrapper, 0o755)
    server.binary = wrapper
    up(server, None)
    assert ask(server, "www", "/proxy") == "127.0.0.2"
    assert ask(server, "other.test", "/proxy") == "127.0.0.3"
    assert ask(server, "byfile", "/proxy") == "127.0.0.3"
    assert ask(server, "nothing.test") == not_found("nothing.test")
    with open(hosts, "w", encoding="ascii") as file:
        file.write("127.0.0.2 byfile later\n")
    assert wait_until(lambda: ask(server, "byfile", "/proxy") == "127.0.0.2", 3, 0.1)
    assert ask(server, "later", "/proxy") == "127.0.0.2"
