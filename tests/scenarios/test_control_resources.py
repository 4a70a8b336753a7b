"""What can be changed through the control socket: seen by each worker, undone, kept."""
import hashlib
import os
import signal
import socket
import ssl
import time

import pytest

from runner import server as runner
from runner.client import Connection, get, request_bytes
from scenarios.control_client import Control

EACH = "listen 127.0.0.1:@PORT@ reuseport;"
MAIN = "control_socket logs/control.sock; control_state logs/state.json;"


def wait_until(check, timeout=30):
    return runner.wait_until(check, timeout)


@pytest.fixture
def control(server):
    one = Control(server.path("logs", "control.sock"))
    yield one
    one.close()


def settle(server, control, workers=2):
    """After a reload: the old workers have left."""
    assert wait_until(lambda: control.get("status")["settled"] and
                      len(server.workers()) == workers)


def workers_say(server, target, workers=2):
    """What each worker answers, by its number: locations say "N answer"."""
    seen = {}

    def all_asked():
        number, _, text = get(server.port, target).text().strip().partition(" ")
        # Later answers count: whoever asks has been told that the change is everywhere.
        seen[int(number)] = text
        return len(seen) == workers
    assert wait_until(all_asked), seen
    return seen


# ---- upstreams

def backends(names):
    """One listener each, in the same server; they say their names."""
    ports = {name: runner.free_port() for name in names}
    text = "".join("server { listen 127.0.0.1:%d; return 200 %s; }\n" % (port, name)
                   for name, port in ports.items())
    return text, {name: "127.0.0.1:%d" % port for name, port in ports.items()}


ASK = """
    location /ask/ { proxy_pass http://back/; }
    location = /who {
        content_by_lua_block {
            local answers = {}
            for i = 1, 6 do answers[ngx.location.capture("/ask/").body] = true end
            local names = {}
            for name in pairs(answers) do names[#names + 1] = name end
            table.sort(names)
            ngx.say(ngx.worker.id(), " ", table.concat(names, ","))
        }
    }
"""


@pytest.mark.parametrize("zone", ["", "zone back 64k;"])
def test_peers_come_change_and_go_in_all_workers(server, control, zone):
    text, at = backends("abc")
    server.up(main=MAIN, workers=2, listen=EACH, locations=ASK,
              http=text + "upstream back { %s server %s; }" % (zone, at["a"]))
    assert workers_say(server, "/who") == {0: "a", 1: "a"}
    control.change("POST", "upstreams/back/peers", {"address": at["b"], "weight": 2})
    assert workers_say(server, "/who") == {0: "a,b", 1: "a,b"}
    shown = control.get("upstreams/back")
    assert shown["changed"] and [peer["weight"] for peer in shown["peers"]] == [1, 2]
    control.change("PATCH", "upstreams/back/peers/" + at["a"], {"down": True})
    assert workers_say(server, "/who") == {0: "b", 1: "b"}
    control.change("PATCH", "upstreams/back/peers/" + at["a"], {"down": False, "max_conns": 5})
    assert workers_say(server, "/who") == {0: "a,b", 1: "a,b"}
    control.change("DELETE", "upstreams/back/peers/" + at["a"])
    assert workers_say(server, "/who") == {0: "b", 1: "b"}
    control.change("PUT", "upstreams/back/peers", [at["c"], {"address": at["a"], "backup": True}])
    assert workers_say(server, "/who") == {0: "c", 1: "c"}
    assert server.reload()
    settle(server, control)
    assert workers_say(server, "/who") == {0: "c", 1: "c"}
    control.change("DELETE", "upstreams/back")
    assert workers_say(server, "/who") == {0: "a", 1: "a"}
    assert not control.get("upstreams/back")["changed"]


def test_what_is_wrong_with_peers(server, control):
    text, at = backends("a")
    server.up(main=MAIN, http=text + "upstream back { server %s; }" % at["a"])
    peers = "upstreams/back/peers"
    for method, path, body, status, said in (
            ("POST", peers, {"address": at["a"]}, 409, "is there already"),
            ("POST", peers, {"address": "nowhere:80"}, 422, "is no address"),
            ("POST", peers, {"address": "127.0.0.1:1", "weight": 0}, 422, "between 1 and"),
            ("POST", peers, {"address": "127.0.0.1:1", "weight": "2"}, 422, "whole number"),
            ("POST", peers, {"address": "127.0.0.1:1", "wait": 2}, 422, "not known"),
            ("POST", peers, {"weight": 2}, 422, "is missing"),
            ("POST", "upstreams/no/peers", {"address": "127.0.0.1:1"}, 404, "no upstream"),
            ("PUT", peers, [], 422, "no peer would be left"),
            ("PUT", peers, [{"address": "127.0.0.1:1", "backup": True}], 422, "no peer would"),
            ("PUT", peers, ["127.0.0.1:1", "127.0.0.1:1"], 422, "twice"),
            ("PUT", peers, "x", 422, "array"),
            ("DELETE", peers + "/" + at["a"], None, 422, "no peer would be left"),
            ("DELETE", peers + "/127.0.0.1:1", None, 404, "no peer"),
            ("PATCH", peers + "/" + at["a"], {"address": "127.0.0.1:1"}, 422, "cannot be changed"),
            ("DELETE", peers, None, 404, "those of the configuration"),
            ("PATCH", peers, {}, 405, "method")):
        answer = control.ask(method, path, body)
        assert answer.status == status and said in answer.error, (method, path, body, answer)
    assert control.get("version")["version"] == 1


def test_names_that_are_looked_up_are_replaced_only_as_a_whole(server, control):
    server.up(main=MAIN, http="resolver 127.0.0.1:1; upstream back { zone back 64k; "
                              "server nowhere.invalid:80 resolve; server 127.0.0.1:1; }")
    answer = control.ask("POST", "upstreams/back/peers", {"address": "127.0.0.1:2"})
    assert answer.status == 409 and "PUT replaces all" in answer.error
    control.change("PUT", "upstreams/back/peers", ["127.0.0.1:2"])
    control.change("POST", "upstreams/back/peers", "127.0.0.1:3")
    assert [peer["address"] for peer in control.get("upstreams/back")["peers"]] == [
        "127.0.0.1:2", "127.0.0.1:3"]


# ---- maps

MAP = """
    map $arg_k $told {
        hostnames; default nothing; a first; b.test of-$arg_x; *.wild.test wild;
        ~^re(?<rest>.*) "re $rest";
    }
"""
TOLD = 'location = /told { content_by_lua_block { ngx.say(ngx.worker.id(), " ", ngx.var.told) } }'


def told(server, key):
    answers = set(workers_say(server, "/told?x=X&k=" + key).values())
    assert len(answers) == 1, answers
    return answers.pop()


def test_map_entries_are_set_and_removed_in_all_workers(server, control):
    server.up(main=MAIN, workers=2, listen=EACH, locations=TOLD, http=MAP)
    assert [told(server, key) for key in ("a", "b.test", "x.wild.test", "rest", "z")] == [
        "first", "of-X", "wild", "re st", "nothing"]
    control.change("PUT", "maps/told/A", {"value": "changed"})
    control.change("PUT", "maps/$told/z", {"value": "added $arg_x"})
    assert told(server, "a") == "changed" and told(server, "z") == "added X"
    control.change("DELETE", "maps/told/b.test")
    assert told(server, "b.test") == "nothing"
    control.change("PATCH", "maps/told", {"default": "else", "*.wild.test": None,
                                          ".dot.test": "dotted", "~^re(?<rest>.*)": "other $rest",
                                          "~new$": "new pattern"})
    assert [told(server, key) for key in ("q", "x.wild.test", "dot.test", "a.dot.test", "rest",
                                          "brandnew")] == [
        "else", "else", "dotted", "dotted", "other st", "new pattern"]
    entries = {each["key"]: each for each in control.get("maps/told")["entries"]}
    assert entries["a"] == {"key": "a", "value": "changed", "from": "run time"}
    assert "b.test" not in entries and entries["~new$"]["value"] == "new pattern"
    assert control.get("maps/told/a")["value"] == "changed"
    assert control.ask("GET", "maps/told/b.test").status == 404
    assert server.reload()
    settle(server, control)
    assert told(server, "a") == "changed" and told(server, "b.test") == "else"
    control.change("DELETE", "maps/told")
    assert [told(server, key) for key in ("a", "b.test", "x.wild.test", "rest", "z")] == [
        "first", "of-X", "wild", "re st", "nothing"]


def test_map_entries_for_a_domain_beside_its_name(server, control):
    server.up(main=MAIN, workers=2, listen=EACH, locations=TOLD, http=MAP)
    control.change("PUT", "maps/told/.c.test", {"value": "domain"})
    control.change("PUT", "maps/told/c.test", {"value": "name"})
    assert told(server, "c.test") == "name" and told(server, "x.c.test") == "domain"
    control.change("DELETE", "maps/told/c.test")
    assert told(server, "c.test") == "domain" and told(server, "x.c.test") == "domain"
    # One place for both: whichever went would take the other along.
    for second, first in (("*.c.test", ".c.test"), (".wild.test", "*.wild.test")):
        answer = control.ask("PUT", "maps/told/" + second, {"value": "x"})
        assert answer.status == 409 and '"%s" has a value' % first in answer.error
    control.change("PATCH", "maps/told", {"*.wild.test": None, ".wild.test": "dotted",
                                          ".c.test": None, "*.c.test": "starred"})
    assert [told(server, key) for key in ("wild.test", "x.wild.test", "c.test", "x.c.test")] == [
        "dotted", "dotted", "nothing", "starred"]
    control.change("DELETE", "maps/told")
    assert [told(server, key) for key in ("wild.test", "x.wild.test", "x.c.test")] == [
        "nothing", "wild", "nothing"]


def test_what_is_wrong_with_map_entries(server, control):
    server.up(main=MAIN, locations=TOLD, http=MAP)
    for method, path, body, status, said in (
            ("PUT", "maps/nothing/a", {"value": "x"}, 404, "no map"),
            ("PUT", "maps/told/a", {"value": 1}, 422, "must be a text"),
            ("PUT", "maps/told/a", {}, 422, "is missing"),
            ("PUT", "maps/told/a", {"value": "$never_seen"}, 422, "is not used"),
            ("PUT", "maps/told/a", {"value": "$"}, 422, "invalid variable name"),
            ("PUT", "maps/told/~(", {"value": "x"}, 422, "pcre2_compile"),
            ("PUT", "maps/told/~(?<fresh>x)", {"value": "x"}, 422, "is not used"),
            ("PUT", "maps/told/x.*.y", {"value": "x"}, 422, "invalid hostname"),
            ("DELETE", "maps/told/never", None, 404, "no entry"),
            ("PATCH", "maps/told", [], 422, "an object"),
            ("POST", "maps/told", {}, 405, "method")):
        path = path.replace("(", "%28").replace("<", "%3C").replace(">", "%3E").replace("?", "%3F")
        answer = control.ask(method, path, body)
        assert answer.status == status and said in answer.error, (method, path, body, answer)
    assert control.get("version")["version"] == 1


def test_a_transaction_over_several_resources_is_all_or_nothing(server, control):
    text, at = backends("ab")
    server.up(main=MAIN, workers=2, listen=EACH, locations=ASK + TOLD,
              http=MAP + text + "upstream back { server %s; }" % at["a"])
    changes = [
        {"method": "PUT", "path": "/v1/maps/told/a", "body": {"value": "one"}},
        {"method": "POST", "path": "/v1/upstreams/back/peers", "body": {"address": at["b"]}},
        {"method": "DELETE", "path": "/v1/upstreams/back/peers/" + at["a"]},
        {"path": "/v1/log-level", "body": {"level": "nonsense"}}]
    refused = control.ask("POST", "changes", {"changes": changes})
    assert refused.status == 422 and refused.error.startswith("change 3: ")
    assert workers_say(server, "/who") == {0: "a", 1: "a"} and told(server, "a") == "first"
    changes[3]["body"]["level"] = "info"
    assert control.change("POST", "changes", {"changes": changes})["workers"] == 2
    assert workers_say(server, "/who") == {0: "b", 1: "b"} and told(server, "a") == "one"
    changes[0]["if_match"] = 1
    stale = control.ask("POST", "changes", {"changes": changes[:1]})
    assert stale.status == 412, stale
    changes[0]["if_match"] = control.ask("GET", "maps/told").etag
    control.change("POST", "changes", {"changes": changes[:1]})


# ---- certificates

TLS = """listen 127.0.0.1:@PORT@ reuseport; listen 127.0.0.1:%(port)d ssl reuseport;
         ssl_certificate %(certs)s/good.test.pem; ssl_certificate_key %(certs)s/good.test.key;"""


def pem_of(certs, name):
    """A certificate and its key as a value of the resource."""
    with open("%s/%s.pem" % (certs, name)) as chain, open("%s/%s.key" % (certs, name)) as key:
        return {"certificate": chain.read(), "key": key.read()}


def fingerprint(certs, name):
    with open("%s/%s.pem" % (certs, name)) as file:
        der = ssl.PEM_cert_to_DER_cert(file.read())
    return hashlib.sha256(der).hexdigest()


def shown_to(port, name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 30) as plain:
        with context.wrap_socket(plain, server_hostname=name) as session:
            return hashlib.sha256(session.getpeercert(True)).hexdigest()


def shown_to_many(port, name):
    """By whatever worker: a dozen handshakes reach all of them, and have to agree."""
    shown = {shown_to(port, name) for _ in range(12)}
    assert len(shown) == 1, shown
    return shown.pop()


def test_certificates_are_set_and_removed_in_all_workers(server, control, certs):
    port = runner.free_port()
    server.up(main=MAIN, workers=2, listen=TLS % {"port": port, "certs": certs})
    good, other = fingerprint(certs, "good.test"), fingerprint(certs, "client")
    assert shown_to_many(port, "other.test") == good
    control.change("PUT", "certificates/Other.test", pem_of(certs, "client"))
    control.change("PUT", "certificates/*.wild.test", pem_of(certs, "client"))
    assert shown_to_many(port, "other.test") == other
    assert shown_to_many(port, "a.wild.test") == other
    twin = control.ask("PUT", "certificates/.wild.test", pem_of(certs, "client"))
    assert twin.status == 409 and "*.wild.test" in twin.error
    assert shown_to_many(port, "good.test") == good
    assert shown_to(port, None) == good
    listed = control.ask("GET", "certificates")
    assert "PRIVATE" not in listed.text
    assert [(each["name"], each["from"], each["sha256"])
            for each in listed.json["certificates"]][:2] == [
        ("*.wild.test", "run time", other), ("other.test", "run time", other)]
    assert control.get("certificates/other.test")["subject"] == "CN=client"
    assert server.reload()
    settle(server, control)
    assert shown_to_many(port, "other.test") == other
    assert wait_until(lambda: len(server.workers()) == 2)
    for pid in server.workers():
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda gone=pid: gone not in server.workers() and
                          len(server.workers()) == 2)
    assert shown_to_many(port, "other.test") == other
    control.change("DELETE", "certificates/other.test")
    assert shown_to_many(port, "other.test") == good
    assert control.ask("GET", "certificates/other.test").status == 404


def test_certificates_are_checked_before_anything_changes(server, control, certs):
    port = runner.free_port()
    server.up(main=MAIN, listen=TLS % {"port": port, "certs": certs})
    good, client = pem_of(certs, "good.test"), pem_of(certs, "client")
    broken = client["certificate"].replace("A", "!", 3)
    for value, said in (
            ({"certificate": good["certificate"], "key": client["key"]}, "does not belong"),
            ({"certificate": broken, "key": client["key"]}, "cannot be read"),
            ({"certificate": good["certificate"] + broken, "key": good["key"]}, "of the chain"),
            ({"certificate": client["certificate"], "key": "nothing"}, "key cannot be read"),
            ({"certificate": client["certificate"]}, "is missing"),
            ({"certificate": 1, "key": 2}, "must be a text"),
            ("text", "an object")):
        refused = control.ask("PUT", "certificates/good.test", value)
        assert refused.status == 422 and said in refused.error, (value, refused)
    assert control.ask("PUT", "certificates/a.*.b", client).status == 422
    assert control.ask("DELETE", "certificates/good.test").status == 404
    assert shown_to(port, "good.test") == fingerprint(certs, "good.test")


def test_a_server_that_rejects_handshakes_takes_names_that_have_certificates(server, control,
                                                                             certs):
    port = runner.free_port()
    server.up(main=MAIN, listen="listen 127.0.0.1:@PORT@; listen 127.0.0.1:%d ssl; "
                                "ssl_reject_handshake on;" % port)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        shown_to(port, "tenant.test")
    control.change("PUT", "certificates/tenant.test", pem_of(certs, "client"))
    assert shown_to(port, "tenant.test") == fingerprint(certs, "client")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        shown_to(port, "another.test")


# ---- handlers

def say(text):
    return 'return function() ngx.say(ngx.worker.id(), " %s") end' % text


def test_folders_of_handlers_come_and_go_in_all_workers(server, control):
    server.write("one/x.lua", say("one"))
    server.write("two/x.lua", say("two"))
    server.up(main=MAIN, workers=2, listen=EACH)
    assert get(server.port, "/api/v2/x").status == 404
    control.change("PUT", "handlers/api/v2", {"folder": server.path("one")})
    assert workers_say(server, "/api/v2/x") == {0: "one", 1: "one"}
    control.change("PUT", "handlers/api/v2", {"folder": "two"})
    assert workers_say(server, "/api/v2/x") == {0: "two", 1: "two"}
    assert control.get("handlers")["handlers"] == [
        {"prefix": "/api/v2/", "folder": "two", "from": "run time"}]
    server.write("two/x.lua", say("edited"))
    assert wait_until(lambda: set(workers_say(server, "/api/v2/x").values()) == {"edited"})
    assert server.reload()
    settle(server, control)
    assert workers_say(server, "/api/v2/x") == {0: "edited", 1: "edited"}
    assert wait_until(lambda: len(server.workers()) == 2)
    os.kill(server.workers()[0], signal.SIGKILL)
    assert workers_say(server, "/api/v2/x") == {0: "edited", 1: "edited"}
    control.change("DELETE", "handlers/api/v2")
    assert {get(server.port, "/api/v2/x").status for _ in range(12)} == {404}
    for path, value, said in (("handlers/x", {"folder": "nowhere"}, "there is no folder"),
                              ("handlers/x", {}, "is missing")):
        refused = control.ask("PUT", path, value)
        assert refused.status == 422 and said in refused.error


def test_added_handlers_among_locations_and_rules(server, control):
    server.write("h/a.lua", 'return function() return "added" end')
    server.write("h/in/_access.lua", "return function() return ngx.var.arg_key ~= '1' and 401 end")
    server.write("h/in/a.lua", 'return { GET = function(p) return "guarded" end }')
    server.write("h/_filter.lua", 'return function() ngx.header["X-Filter"] = "yes" end')
    server.up(main=MAIN, locations="""
        satisfy any; allow 127.0.0.2; deny all;
        location /api/a/longer { satisfy all; allow all; return 200 "longer"; }
        location = /api/exact { return 200 "exact"; }
        location ~ \\.txt$ { return 200 "pattern"; }
        location /api { return 200 "shorter"; }""")

    def answer(path, host="127.0.0.1"):
        with Connection(server.port, source=host) as connection:
            connection.send(request_bytes(target=path))
            response = connection.read_response()
            if response.text() in ("added", "guarded"):
                assert response.get("X-Filter") == "yes"
            return response.text() if response.status == 200 else response.status
    control.change("PUT", "handlers/api", {"folder": server.path("h")})
    assert answer("/api/a", "127.0.0.2") == "added"
    assert answer("/api/a") == 403                           # the server's own rules
    assert answer("/api/in/a") == 401                        # the guard's refusal
    assert answer("/api/in/a?key=1") == "guarded"            # satisfy any: the guard is enough
    assert answer("/api/a/longer") == "longer"
    assert answer("/api/exact") == "exact"
    assert answer("/api/x.txt") == "pattern"
    assert answer("/api/none", "127.0.0.2") == 404
    control.change("DELETE", "handlers/api")
    assert answer("/api/a", "127.0.0.2") == "shorter"


@pytest.mark.skipif(os.geteuid() != 0, reason="workers have the master's rights")
def test_what_a_worker_refuses_is_undone_everywhere(server, control):
    """The master, which is root, finds the folder; the workers, which are nobody, do not."""
    text, at = backends("ab")
    folder = os.path.dirname(server.write("closed/x.lua", say("closed")))
    os.chmod(folder, 0o700)
    server.up(main=MAIN, user="user nobody nogroup;\n", workers=2, listen=EACH,
              locations=ASK + TOLD, http=MAP + text + "upstream back { server %s; }" % at["a"])
    changes = [
        {"method": "PUT", "path": "/v1/maps/told/a", "body": {"value": "one"}},
        {"method": "PUT", "path": "/v1/upstreams/back/peers", "body": [at["b"]]},
        {"method": "PUT", "path": "/v1/handlers/api", "body": {"folder": folder}}]
    for _ in range(3):
        refused = control.ask("POST", "changes", {"changes": changes})
        assert refused.status == 422 and refused.json["error"]["code"] == "refused", refused
        assert refused.json["error"]["worker"] in (0, 1) and "Permission denied" in refused.error
        assert workers_say(server, "/who") == {0: "a", 1: "a"} and told(server, "a") == "first"
    assert control.get("version")["version"] == 1
    assert control.get("changes")["changes"] == []
    assert control.change("POST", "changes", {"changes": changes[:2]})["workers"] == 2
    assert workers_say(server, "/who") == {0: "b", 1: "b"} and told(server, "a") == "one"


# ---- memory

def rss(pid):
    with open("/proc/%d/statm" % pid) as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def is_sanitized(server):
    with open(server.binary, "rb") as file:
        return b"__asan_init" in file.read()


RATE = float(os.environ.get("RESTY_CONTROL_RATE", "0"))
CHANGES = int(os.environ.get("RESTY_CONTROL_CHANGES", "150"))


def test_many_changes_leave_memory_flat(server, control, certs):
    text, at = backends("ab")
    server.up(main="control_socket logs/control.sock;", workers=2, listen=EACH,
              locations=ASK + TOLD,
              http=MAP + text + "upstream back { zone back 64k; server %s; }" % at["a"])

    def change(number):
        control.change("PUT", "maps/told/key%d" % (number % 7), {"value": "v%d" % number * 50})
        control.change("PUT", "upstreams/back/peers", [at["ab"[number % 2]], "127.0.0.1:1"])
        control.change("PUT", "log-level", {"level": ("info", "notice")[number % 2]})
        name = "certificates/name%d.test" % (number % 5)
        control.change("PUT", name, pem_of(certs, ("client", "good.test")[number % 2]))
        if number % 7 == 6:
            control.change("DELETE", "maps/told")
            control.change("DELETE", name)

    def size():
        return [rss(pid) for pid in (server.process.pid, *sorted(server.workers()))]

    for number in range(100):
        change(number)
    told(server, "key1")
    before = size()
    began = time.monotonic()
    for number in range(100, 100 + CHANGES):
        change(number)
        # So many a second, or as fast as it goes.
        if RATE:
            time.sleep(max(0, began + (number - 99) * 4 / RATE - time.monotonic()))
    told(server, "key1")
    after = size()
    print("RSS before and after %d changes: %s %s" % (CHANGES * 4, before, after))
    # Room for what memory does by itself, and a hundred bytes a change. Run longer it shows more.
    # Sanitizers keep freed memory for a while.
    limit = 1_000_000 + CHANGES * 4 * 100
    assert is_sanitized(server) or all(b - a < limit for a, b in zip(before, after)), (before,
                                                                                       after)
