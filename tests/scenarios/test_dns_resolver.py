"""resty.dns.resolver asks dnsmasq: every record type it knows, TCP, truncation, dead servers."""
import json
import random

import pytest

from runner.client import get
from scenarios.dns_server import DNSMASQ, Dns, loopback_address

pytestmark = pytest.mark.skipif(not DNSMASQ, reason="needs dnsmasq")

LOCATION = """
    location = /ask {
        content_by_lua_block {
            local cjson = require "cjson"
            local resolver = require "resty.dns.resolver"
            local servers = {}
            for address, port in ngx.var.arg_servers:gmatch("([%%d.]+):(%%d+)") do
                table.insert(servers, { address, tonumber(port) })
            end
            local r = assert(resolver:new { nameservers = servers, timeout = 300, no_random = true,
                                            retrans = 2 })
            local how = ngx.var.arg_how or "query"
            local options = { qtype = r["TYPE_" .. (ngx.var.arg_type or "A")],
                              additional_section = true }
            local answers, err, tries = r[how](r, ngx.var.arg_name, options, {})
            for _, answer in ipairs(answers or {}) do answer.ttl = nil end
            ngx.say(cjson.encode { answers = answers, err = err, tries = tries })
        }
    }
"""
RECORDS = [
    "--mx-host=mail.test,mx1.test,7", "--srv-host=_sip._udp.test,sip.test,5060,1,2",
    "--txt-record=text.test,one,two words", "--cname=alias.test,www.test",
    "--ptr-record=9.0.0.127.in-addr.arpa,nine.test", "--naptr-record=n.test,1,2,u,SIP,!.*!x!",
]


@pytest.fixture
def ask(server):
    dns = Dns(server.prefix, args=RECORDS)
    dns.hosts = {"www.test": ["127.0.0.2", "2001:db8::7"],
                 "many.test": ["10.0.0.%d" % n for n in range(1, 100)]}
    dns.start()
    server.up(locations=LOCATION % ())

    def call(name, servers=None, **parts):
        more = "".join("&%s=%s" % item for item in parts.items())
        page = get(server.port, "/ask?name=%s&servers=%s%s" % (name, servers or dns.server, more))
        assert page.status == 200, server.log()
        return json.loads(page.text())

    call.dns = dns
    yield call
    dns.stop()


def answers(found):
    return [{key: value for key, value in one.items() if key not in ("section", "class", "type")}
            for one in found["answers"]]


def test_record_types(ask):
    assert answers(ask("www.test")) == [{"name": "www.test", "address": "127.0.0.2"}]
    assert answers(ask("www.test", type="AAAA")) == [
        {"name": "www.test", "address": "2001:db8:0:0:0:0:0:7"}]
    assert answers(ask("mail.test", type="MX")) == [
        {"name": "mail.test", "preference": 7, "exchange": "mx1.test"}]
    assert answers(ask("_sip._udp.test", type="SRV")) == [
        {"name": "_sip._udp.test", "target": "sip.test", "port": 5060, "priority": 1, "weight": 2}]
    assert answers(ask("text.test", type="TXT")) == [
        {"name": "text.test", "txt": ["one", "two words"]}]
    assert answers(ask("alias.test")) == [{"name": "alias.test", "cname": "www.test"},
                                          {"name": "www.test", "address": "127.0.0.2"}]
    assert answers(ask("127.0.0.9", how="reverse_query")) == [
        {"name": "9.0.0.127.in-addr.arpa", "ptrdname": "nine.test"}]


def test_no_such_name(ask):
    found = ask("nothing.test")["answers"]
    assert (found["errcode"], found["errstr"]) == (3, "name error")


def test_over_tcp_and_by_truncation(ask):
    assert len(ask("www.test", how="tcp_query")["answers"]) == 1
    assert len(ask("many.test")["answers"]) == 99


def test_the_next_server_is_tried(ask):
    port = random.randint(20000, 29999)
    dead = "%s:%d" % (loopback_address(), port)
    found = ask("www.test", servers="%s,%s" % (dead, ask.dns.server))
    assert len(found["answers"]) == 1
    assert found["tries"] == [
        "failed to receive reply from UDP server %s: connection refused" % dead]
