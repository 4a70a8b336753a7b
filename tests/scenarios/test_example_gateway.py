"""conf/examples/gateway as it is delivered, with a real Redis and real upstream servers.

Only addresses and times are changed, and each change must find its text in the files.
"""
import hashlib
import json
import os
import shutil
import socket
import ssl

import pytest

from runner.client import Connection, request_bytes
from runner.server import ROOT, free_port, wait_until
from scenarios.conftest import ScenarioServer, openssl
from scenarios.databases import Redis, certificate

EXAMPLE = os.path.join(ROOT, "conf", "examples", "gateway")

RELEASE = """
server {
    listen 127.0.0.1:%d;
    location / { content_by_lua_block {
        local seen = ngx.req.get_headers()
        ngx.header.Release = "%s"
        ngx.say(require("cjson").encode(seen))
    } }
}
"""

CONSUMERS = [("alice", 1000000, 1000), ("bob", 1000000, 1000), ("slow", 0.001, 2)]


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


class Gateway(ScenarioServer):
    """The example in a directory of its own."""

    def install(self, redis_port, releases, fresh, certificates_fresh):
        shutil.copytree(os.path.join(EXAMPLE, "lua"), self.path("lua"))
        with open(os.path.join(EXAMPLE, "server.conf")) as file:
            text = file.read()
        changes = {
            "listen  8443": "listen  127.0.0.1:%d" % self.port,
            "worker_processes  auto": "%sworker_processes  2" % (
                "user root; " if os.geteuid() == 0 else ""),
            "port = 6379, fresh = 5, pause = 2":
                "port = %d, fresh = %s, pause = 0.001" % (redis_port, fresh),
            "127.0.0.1:9001": "127.0.0.1:%d" % releases["stable"],
            "127.0.0.1:9002": "127.0.0.1:%d" % releases["canary"],
            "red:set_timeouts(100, 100, 100)": "red:set_timeouts(2000, 2000, 2000)",
            "local fresh, fresh_none = 60, 10":
                "local fresh, fresh_none = " + certificates_fresh,
        }
        for old, new in changes.items():
            text = self.change(text, old, new)
        self.write("server.conf", "daemon off; pid logs/server.pid;\n" + text)
        self.write("keys.json", json.dumps([
            {"name": name, "rate": rate, "burst": burst, "key_sha256": digest("key of " + name)}
            for name, rate, burst in CONSUMERS]))
        return self

    def change(self, text, old, new):
        if old in text:
            return text.replace(old, new)
        for name in ("store.lua", "certificates.lua"):
            lua = self.read("lua/" + name)
            if old in lua:
                self.write("lua/" + name, lua.replace(old, new))
                return text
        raise AssertionError("%r is not in the example any more" % old)

    def command(self, *extra):
        return [self.binary, "-p", self.prefix + "/", "-c", self.path("server.conf"), *extra]

    def connect(self, name="localhost"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = Connection(self.port)
        connection.socket = context.wrap_socket(connection.socket, server_hostname=name)
        return connection

    def ask(self, consumer=None, target="/", headers=()):
        headers = list(headers) + ([("X-API-Key", "key of " + consumer)] if consumer else [])
        with self.connect() as connection:
            connection.send(request_bytes(target=target, headers=headers))
            return connection.read_response()

    def subject(self, name):
        """The common name of the certificate that clients of this name get."""
        with self.connect(name) as connection:
            der = connection.socket.getpeercert(binary_form=True)
        return certificate_names[hashlib.sha256(der).hexdigest()]

    def access_log(self):
        return [json.loads(line) for line in self.read("logs/access.json").splitlines()]


certificate_names = {}


def make_certificate(folder, file, name):
    path = os.path.join(folder, file)
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-days", "10", "-subj", "/CN=" + name, "-keyout", path + ".key", "-out", path + ".new")
    with open(path + ".new") as pem:
        der = ssl.PEM_cert_to_DER_cert(pem.read())
    certificate_names[hashlib.sha256(der).hexdigest()] = name
    os.chmod(path + ".key", 0o644)
    os.rename(path + ".new", path + ".pem")


@pytest.fixture(scope="module")
def releases():
    ports = {"stable": free_port(), "canary": free_port()}
    with ScenarioServer() as server:
        server.up(http="".join(RELEASE % (ports[name], name) for name in ports))
        yield ports


@pytest.fixture
def redis():
    backend = Redis(*certificate()).start()
    yield backend
    backend.remove()


def command(redis, *words):
    """One command, one line of a reply."""
    with socket.create_connection(("127.0.0.1", redis.port), 10) as stream:
        stream.sendall(b"*%d\r\n" % len(words) + b"".join(
            b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words))
        return stream.makefile("rb").readline().decode().strip()


@pytest.fixture
def start(releases, redis):
    servers = []

    def starter(fresh=0, certificates_fresh="60, 10"):
        gateway = Gateway().install(redis.port, releases, fresh, certificates_fresh)
        servers.append(gateway)
        os.mkdir(gateway.path("certs"))
        make_certificate(gateway.path("certs"), "default", "default")
        gateway.start()
        assert wait_until(lambda: len(gateway.workers()) == 2)
        return gateway
    yield starter
    for gateway in servers:
        gateway.__exit__(None, None, None)


def test_keys_and_what_is_passed_on(start):
    gateway = start()
    refused = gateway.ask()
    assert (refused.status, refused.text()) == (401, '{"error":"unknown key"}\n')
    assert refused.get("WWW-Authenticate") == 'Key realm="gateway"'
    assert gateway.ask("mallory").status == 401
    answer = gateway.ask("alice", "/some/where?x=1", [
        ("X-Consumer", "admin"), ("X-Request-Id", "forged"), ("X-Forwarded-For", "192.0.2.1")])
    assert answer.status == 200 and answer.get("Release") == "stable"
    seen = json.loads(answer.text())
    assert seen["x-consumer"] == "alice" and "x-api-key" not in seen
    assert len(seen["x-request-id"]) == 32 and seen["x-forwarded-proto"] == "https"
    assert seen["x-forwarded-for"] == "192.0.2.1, 127.0.0.1"
    assert gateway.ask(target="/gateway/health").text() == "ok\n"


def test_access_log_is_json(start):
    gateway = start()
    gateway.ask("alice", '/a%22b%0a?c"')
    assert wait_until(gateway.access_log)
    gateway.ask("mallory", "/b")
    assert wait_until(lambda: len(gateway.access_log()) == 2)
    served, refused = gateway.access_log()
    assert (served["consumer"], served["uri"], served["status"]) == ("alice", '/a"b\n', 200)
    assert (served["release"], served["upstream_status"]) == ("stable", "200")
    assert (refused["refused"], refused["status"], refused["upstream"]) == ("unknown key", 401, "")
    assert "key of" not in gateway.read("logs/access.json")


def test_rate_is_of_the_consumer(start):
    gateway = start()
    assert [gateway.ask("slow").status for _ in range(5)] == [200, 200, 200, 429, 429]
    assert gateway.ask("slow").get("Retry-After") == "1"
    assert gateway.ask("alice").status == 200


def test_blocklist_outlives_redis(start, redis):
    gateway = start()
    assert gateway.ask("alice").status == 200 and gateway.ask("bob").status == 200
    command(redis, "SADD", "gateway:blocked", "consumer:bob")
    refused = gateway.ask("bob")
    assert (refused.status, refused.text()) == (403, '{"error":"consumer blocked"}\n')
    redis.kill()
    assert gateway.ask("bob").status == 403 and gateway.ask("alice").status == 200
    assert "the last known answers hold" in gateway.log()
    redis.launch()
    assert wait_until(lambda: gateway.ask("bob").status == 200)
    command(redis, "SADD", "gateway:blocked", "address:127.0.0.1")
    assert wait_until(lambda: gateway.ask("alice").status == 403)
    command(redis, "SREM", "gateway:blocked", "address:127.0.0.1")
    assert wait_until(lambda: gateway.ask("alice").status == 200)


def test_a_redis_that_refuses_is_as_one_away(start, redis):
    gateway = start()
    command(redis, "SET", "gateway:blocked", "not a set")
    assert gateway.ask("alice").status == 200
    assert "WRONGTYPE" in gateway.log()


def test_answers_of_redis_are_remembered(start, redis):
    gateway = start(fresh=1000)
    assert gateway.ask("alice").status == 200
    command(redis, "SADD", "gateway:blocked", "consumer:alice", "consumer:bob")
    assert gateway.ask("alice").status == 200 and gateway.ask("bob").status == 403
    redis.kill()
    assert gateway.ask("alice").status == 200 and gateway.ask("bob").status == 403
    assert "redis" not in gateway.log()


def test_canary(start, redis, releases):
    gateway = start()
    command(redis, "SET", "gateway:canary", "100")
    assert gateway.ask("alice").get("Release") == "canary"
    command(redis, "SET", "gateway:canary", "0")
    assert gateway.ask("alice").get("Release") == "stable"
    command(redis, "SET", "gateway:canary", "50")
    sides = {name: {gateway.ask(name).get("Release") for _ in range(3)}
             for name in ("alice", "bob")}
    assert all(len(side) == 1 for side in sides.values())
    command(redis, "SET", "gateway:canary", "nonsense")
    assert gateway.ask("alice").get("Release") == "stable"


def test_a_canary_that_is_down_costs_no_answer(start, redis, releases):
    down = dict(releases, canary=free_port())
    gateway = start()
    gateway.write("server.conf", gateway.read("server.conf").replace(
        "127.0.0.1:%d" % releases["canary"], "127.0.0.1:%d" % down["canary"]))
    assert gateway.reload()
    command(redis, "SET", "gateway:canary", "100")

    def refused():
        assert gateway.ask("alice").status == 200
        return "Connection refused" in gateway.log()
    assert wait_until(refused)
    assert {gateway.ask("alice").get("Release") for _ in range(5)} == {"stable"}


def test_certificates_are_chosen_by_name(start):
    gateway = start()
    certs = gateway.path("certs")
    make_certificate(certs, "shop.test", "the shop")
    make_certificate(certs, "_.parts.test", "all parts")
    assert gateway.subject("shop.test") == gateway.subject("SHOP.test") == "the shop"
    assert gateway.subject("a.parts.test") == gateway.subject("b.parts.test") == "all parts"
    for other in ("parts.test", "a.b.parts.test", "unknown.test", None):
        assert gateway.subject(other) == "default"


def test_certificates_come_and_change_without_a_reload(start):
    gateway = start(certificates_fresh="-1, -1")
    certs = gateway.path("certs")
    assert gateway.subject("shop.test") == "default"
    make_certificate(certs, "shop.test", "the shop")
    assert gateway.subject("shop.test") == "the shop"
    make_certificate(certs, "shop.test", "the new shop")
    assert gateway.subject("shop.test") == "the new shop"
    # A file that is not one leaves what was in use; both workers have read the good one.
    assert all(gateway.subject("shop.test") == "the new shop" for _ in range(8))
    gateway.write("certs/shop.test.pem", "-----BEGIN nothing")
    assert "the new shop" in {gateway.subject("shop.test") for _ in range(8)}
    assert "certificate shop.test: " in gateway.log()


def test_broken_keys_do_not_replace_good_ones(start):
    gateway = start()
    before = gateway.workers()
    for broken in ("", "[{", '[{"name": "x", "key_sha256": "short", "rate": 1, "burst": 1}]'):
        gateway.write("keys.json", broken)
        lines = gateway.log().count("init_by_lua error")
        gateway.signal("HUP")
        assert wait_until(lambda: gateway.log().count("init_by_lua error") > lines), gateway.log()
        assert gateway.ask("alice").status == 200 and gateway.workers() == before
    gateway.write("keys.json", json.dumps([{"name": "new", "rate": 5, "burst": 5,
                                            "key_sha256": digest("key of new").upper()}]))
    assert gateway.reload()
    assert wait_until(lambda: gateway.ask("new").status == 200)
    assert wait_until(lambda: gateway.ask("alice").status == 401)
