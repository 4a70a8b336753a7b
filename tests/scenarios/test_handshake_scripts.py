"""Scripts in TLS handshakes: certificates, sessions, refusals, waiting, clients that leave."""
import os
import re
import socket
import ssl
import subprocess
import threading

import pytest

from runner.server import free_port, wait_until
from scenarios.conftest import ScenarioServer
from scenarios.tcp_peer import Peer

HTTP = """
lua_shared_dict kept 4m;
ssl_certificate %(certs)s/client.pem;
ssl_certificate_key %(certs)s/client.key;
init_by_lua_block {
    function read_file(path)
        local file = assert(io.open(path))
        local text = file:read("*a")
        file:close()
        return text
    end
    -- What code that calls OpenSSL by itself may leave behind.
    local ffi = require "ffi"
    ffi.cdef "void ERR_new(void); void ERR_set_error(int lib, int reason, const char *why, ...);"
    function leave_an_error()
        ffi.C.ERR_new()
        ffi.C.ERR_set_error(20, 100, nil)
    end
    -- What came over a plain connection up to its end.
    function fetch(port, line)
        local sock = ngx.socket.tcp()
        sock:settimeout(60000)
        assert(sock:connect("127.0.0.1", port))
        assert(sock:send(line .. "\\r\\n"))
        local text = assert(sock:receive("*a"))
        sock:close()
        return text
    end
}
ssl_session_store_by_lua_block {
    local session = require "ngx.ssl.session"
    local id, text = session.get_session_id(), assert(session.get_serialized_session())
    ngx.sleep(0.001)
    ngx.shared.kept:set(id, text)
}
ssl_session_fetch_by_lua_block {
    local session = require "ngx.ssl.session"
    ngx.shared.kept:incr("asked", 1, 0)
    ngx.sleep(0.001)
    local text = ngx.shared.kept:get(session.get_session_id())
    if text then
        assert(session.set_serialized_session(text))
        ngx.shared.kept:incr("fetched", 1, 0)
    end
}

# The certificate of the name, from a file by way of another server, then from the dictionary.
server {
    listen 127.0.0.1:%(names)d ssl;
    ssl_session_tickets off;
    ssl_certificate_by_lua_block {
        local ssl = require "ngx.ssl"
        local name = ssl.server_name()
        leave_an_error()
        if name == "unknown.test" then return ngx.exit(ngx.ERROR) end
        if name == "oops.test" then error("no certificate today") end
        local pem = ngx.shared.kept:get(name)
        if not pem then
            ngx.sleep(0.001)
            local answer = fetch(%(plain)d, "GET /pem/" .. name .. " HTTP/1.0\\r\\n")
            pem = answer:match("\\r\\n\\r\\n(.*)")
            ngx.shared.kept:set(name, pem)
        end
        assert(ssl.clear_certs())
        assert(ssl.set_cert(assert(ssl.parse_pem_cert(pem))))
        assert(ssl.set_priv_key(assert(ssl.parse_pem_priv_key(pem))))
        ngx.ctx.chosen = name
    }
    location / {
        content_by_lua_block {
            ngx.say(ngx.ctx.chosen, "|", ngx.var.ssl_session_reused, "|",
                    require("ngx.ssl").get_tls1_version_str())
        }
    }
}
server {
    listen 127.0.0.1:%(hello)d ssl;
    ssl_client_hello_by_lua_block {
        local hello = require "ngx.ssl.clienthello"
        ngx.sleep(0.001)
        leave_an_error()
        local name, why = hello.get_client_hello_server_name()
        if why then ngx.log(ngx.NOTICE, "no name: ", why) end
        if name == "old.test" then hello.set_protocols({"TLSv1.2"}) end
        if name == "denied.test" then return ngx.exit(ngx.ERROR) end
        ngx.ctx.versions = table.concat(hello.get_supported_versions() or {}, ",")
        ngx.ctx.ciphers = #hello.get_client_hello_ciphers()
        ngx.ctx.text = table.concat(hello.get_client_hello_ext_present(), ",")
    }
    location / {
        content_by_lua_block {
            ngx.say(ngx.ctx.versions, "|", ngx.ctx.ciphers > 0, "|", ngx.ctx.text:match("^%%d+,"))
        }
    }
}
# Nobody gets a certificate before as many have come as are asked for by the name: "w100.test".
server {
    listen 127.0.0.1:%(crowd)d ssl;
    ssl_certificate_by_lua_block {
        local count = tonumber(require("ngx.ssl").server_name():match("%%d+"))
        ngx.shared.kept:incr("crowd", 1, 0)
        while ngx.shared.kept:get("crowd") < count do ngx.sleep(0.005) end
    }
}
# Holds the handshake while 127.0.0.1:%(peer)d says nothing.
server {
    listen 127.0.0.1:%(held)d ssl;
    client_header_timeout %(timeout)s;
    lua_check_client_abort on;
    ssl_certificate_by_lua_block { fetch(%(peer)d, "held") }
}
server {
    listen 127.0.0.1:%(patient)d ssl;
    ssl_certificate_by_lua_block {
        fetch(%(peer)d, "patient")
        ngx.log(ngx.NOTICE, "went on without the client")
    }
}
server {
    listen 127.0.0.1:%(asking)d ssl;
    ssl_certificate_by_lua_block {
        local ssl = require "ngx.ssl"
        assert(ssl.verify_client(assert(ssl.parse_pem_cert(read_file("%(certs)s/ca.pem")))))
        local address, kind = ssl.raw_client_addr()
        local server, port = ssl.raw_server_addr(), ssl.server_port()
        ngx.ctx.seen = table.concat({kind, address:byte(1), server:byte(4), port}, ",")
        ngx.ctx.var = pcall(function() return ngx.var.host end)
        ngx.ctx.say = pcall(ngx.say, "x")
    }
    location / {
        content_by_lua_block {
            ngx.say(ngx.var.ssl_client_verify, "|", ngx.ctx.seen, "|", ngx.ctx.var, ngx.ctx.say)
        }
    }
}
server {
    listen 127.0.0.1:%(plain)d;
    location /pem/ {
        content_by_lua_block {
            local name = ngx.var.uri:match("/pem/(.*)")
            ngx.print(read_file("%(certs)s/" .. name .. ".pem"),
                      read_file("%(certs)s/" .. name .. ".key"))
        }
    }
    location /kept/ { content_by_lua_block { ngx.say(ngx.shared.kept:get(ngx.var.uri:sub(7))) } }
}
"""
PORTS = ("names", "hello", "crowd", "held", "patient", "asking", "plain")


class Silent(Peer):
    """Says nothing, and hangs up when it is released; counts who came, and who left before."""

    def __init__(self):
        self.came, self.left = threading.Semaphore(0), threading.Semaphore(0)
        self.released = threading.Event()
        super().__init__(self.hold)

    def hold(self, link):
        link.read_until(b"\r\n")
        self.came.release()
        link.sock.settimeout(0.02)
        while not self.released.is_set():
            try:
                if not link.sock.recv(1):
                    self.left.release()
                    return
            except TimeoutError:
                pass


def up(server, certs, peer_port=1, timeout="60s", **parts):
    server.ports = {name: free_port() for name in PORTS}
    server.up(http=HTTP % {**server.ports, "certs": certs, "peer": peer_port, "timeout": timeout},
              **parts)
    return server


@pytest.fixture(scope="module")
def scripted(certs):
    with ScenarioServer() as server:
        yield up(server, certs)


def context_of(version=None, certs=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version:
        context.maximum_version = version
    if certs:
        context.load_cert_chain(certs + "/client.pem", certs + "/client.key")
    return context


def connect(server, which, name, context=None, session=None):
    raw = socket.create_connection(("127.0.0.1", server.ports[which]), 60)
    return (context or context_of()).wrap_socket(raw, server_hostname=name, session=session)


def ask(stream, target="/"):
    stream.sendall(b"GET %s HTTP/1.0\r\n\r\n" % target.encode())
    answer = b""
    while piece := stream.recv(65536):
        answer += piece
    stream.close()
    return answer.partition(b"\r\n\r\n")[2].decode("latin-1").strip()


def kept(server, key):
    return ask(socket.create_connection(("127.0.0.1", server.ports["plain"]), 60), "/kept/" + key)


def subject(stream, certs):
    """The common name of what the server showed."""
    pem = ssl.DER_cert_to_PEM_cert(stream.getpeercert(binary_form=True))
    shown = subprocess.run(["openssl", "x509", "-noout", "-subject"], input=pem, text=True,
                           capture_output=True, check=True).stdout
    return re.search(r"CN\s*=\s*(\S+)", shown).group(1)


def test_a_certificate_for_each_name(scripted, certs):
    for _ in range(2):
        for name in ("good.test", "client"):
            stream = connect(scripted, "names", name)
            assert subject(stream, certs) == name
            assert ask(stream) == name + "|.|TLSv1.3"


def test_refusals_and_errors_end_the_handshake(scripted):
    mark = scripted.size("logs/error.log")
    with pytest.raises(ssl.SSLError):
        connect(scripted, "names", "unknown.test")
    with pytest.raises(ssl.SSLError):
        connect(scripted, "names", "oops.test")
    where = r"client: 127\.0\.0\.1, server: 127\.0\.0\.1:%d" % scripted.ports["names"]
    expected = (r"\[error\] .*lua entry thread aborted: runtime error: ssl_certificate_by_lua"
                r"\(server\.conf:\d+\):\d+: no certificate today(\n.*)*"
                r", context: ssl_certificate_by_lua\*, " + where)
    log = scripted.read("logs/error.log", mark)
    assert len(re.findall(r"thread aborted", log)) == 1 and re.search(expected, log), log


def test_the_hello_is_seen_and_can_be_refused(scripted):
    # What else OpenSSL's client offers is its affair; it begins with its name.
    first = "0,"
    assert ask(connect(scripted, "hello", "new.test")).endswith("TLSv1.2,TLSv1.3|true|" + first)
    assert connect(scripted, "hello", "new.test").version() == "TLSv1.3"
    assert connect(scripted, "hello", "old.test").version() == "TLSv1.2"
    with pytest.raises(ssl.SSLError):
        connect(scripted, "hello", "denied.test")


def test_what_brings_its_own_session_is_not_looked_up(scripted):
    """TLS 1.3, and tickets."""
    asked = kept(scripted, "asked")
    assert connect(scripted, "names", "good.test").version() == "TLSv1.3"
    context = context_of(ssl.TLSVersion.TLSv1_2)
    first = connect(scripted, "hello", "old.test", context)
    session = first.session
    assert session.has_ticket and ask(first)
    assert connect(scripted, "hello", "old.test", context, session).session_reused
    assert kept(scripted, "asked") == asked


def test_a_malformed_name_is_an_error(scripted):
    """RFC 6066 3: the list's length is two bytes, and so is the name's."""
    name = b"\x00\x00\x01a"
    good = b"\x00\x00\x00\x06\x00\x04" + name
    assert hello_bytes().count(good) == 1
    for count, bad in enumerate((b"\x00\x00\x00\x06\x00\x05" + name,
                                 b"\x00\x00\x00\x06\x00\x04\x00\x00\x09a",
                                 b"\x00\x00\x00\x06\x00\x04\x01\x00\x01a",
                                 b"\x00\x00\x00\x06\x00\x00" + name), 1):
        with socket.create_connection(("127.0.0.1", scripted.ports["hello"]), 60) as stream:
            stream.sendall(hello_bytes().replace(good, bad))
            stream.recv(100)
            said = scripted.log().count("no name: Bad SSL Client Hello Extension")
            assert said == count, scripted.log()


def stored_session(server, context):
    """One of TLS 1.2 whose storing, which is not waited for, is over."""
    stream = connect(server, "names", "good.test", context)
    session = stream.session
    assert ask(stream) == "good.test|.|TLSv1.2"
    assert wait_until(lambda: kept(server, session.id.hex()) != "nil", 30)
    return session


def test_sessions_are_stored_and_fetched(scripted):
    context = context_of(ssl.TLSVersion.TLSv1_2)
    session = stored_session(scripted, context)
    again = connect(scripted, "names", "good.test", context, session)
    assert again.session_reused and ask(again) == "nil|r|TLSv1.2"
    assert int(kept(scripted, "fetched")) >= 1
    # A session that nobody knows any more: a full handshake.
    other = context_of(ssl.TLSVersion.TLSv1_2)
    unknown = connect(scripted, "hello", "old.test", other)
    session = unknown.session
    unknown.close()
    back = connect(scripted, "names", "good.test", other, session)
    assert not back.session_reused and ask(back) == "good.test|.|TLSv1.2"


def test_openresty_does_not_wait_while_it_stores(server, certs):
    up(server, certs, main="lua_compat openresty;")
    stream = connect(server, "names", "good.test", context_of(ssl.TLSVersion.TLSv1_2))
    assert ask(stream) == "good.test|.|TLSv1.2"
    refusal = (r"failed to run session_store_by_lua\*: ssl_session_store_by_lua"
               r"\(server\.conf:\d+\):\d+: API disabled in the context of "
               r"ssl_session_store_by_lua\*")
    assert re.search(refusal, server.log()), server.log()


STORE_LATE = """
ssl_certificate %(certs)s/client.pem;
ssl_certificate_key %(certs)s/client.key;
ssl_session_store_by_lua_block {
    ngx.sleep(2.5)
    ngx.log(ngx.NOTICE, "storing for ", require("ngx.ssl").server_name())
}
server {
    listen 127.0.0.1:%(port)d ssl;
    ssl_session_tickets off;
    location / { return 200 "hello"; }
}
"""


def test_storing_outlasts_the_use_of_the_connection(server, certs):
    """What an idle connection needs less memory for is still there for the script."""
    server.ports = {"names": free_port()}
    server.up(http=STORE_LATE % {"certs": certs, "port": server.ports["names"]})
    workers = server.workers()
    context = context_of(ssl.TLSVersion.TLSv1_2)
    streams = [connect(server, "names", "good.test", context) for _ in range(3)]
    said = "storing for good.test"
    assert wait_until(lambda: server.log().count("storing for") == 3, 60)
    assert server.log().count(said) == 3, server.log()
    assert [ask(stream) for stream in streams] == ["hello"] * 3
    assert server.workers() == workers


def test_a_session_stays_with_its_server(scripted, certs):
    """One that was made without a client's certificate is no way round being asked for it."""
    context = context_of(ssl.TLSVersion.TLSv1_2)
    session = stored_session(scripted, context)
    refused = connect(scripted, "asking", "good.test", context, session)
    assert not refused.session_reused and int(kept(scripted, "fetched")) >= 1
    refused.close()


def test_clients_are_asked_for_certificates(scripted, certs):
    seen = "inet,127,1,%d" % scripted.ports["asking"]
    assert ask(connect(scripted, "asking", "a")) == "NONE|%s|falsefalse" % seen
    known = connect(scripted, "asking", "a", context_of(certs=certs))
    assert ask(known) == "SUCCESS|%s|falsefalse" % seen


def test_a_hundred_handshakes_wait_at_once(scripted):
    count = 100
    done = []

    def shake():
        with connect(scripted, "crowd", "w%d.test" % count) as stream:
            done.append(stream.version())
    threads = [threading.Thread(target=shake) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == ["TLSv1.3"] * count


def hello_bytes():
    """A client's first message."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    half = context_of().wrap_bio(incoming, outgoing, server_hostname="a")
    with pytest.raises(ssl.SSLWantReadError):
        half.do_handshake()
    return outgoing.read()


def held_client(server, which, peer):
    """A client whose handshake a script holds."""
    stream = socket.create_connection(("127.0.0.1", server.ports[which]), 60)
    stream.sendall(hello_bytes())
    assert peer.came.acquire(timeout=60)
    return stream


def test_scripts_end_with_the_time(server, certs):
    with Silent() as peer:
        up(server, certs, peer.port, timeout="300ms")
        # The time is up: the client is let go, the script's connection closes with it. On a slow
        # machine the time can be up before the script has begun.
        held = False
        while not held:
            with socket.create_connection(("127.0.0.1", server.ports["held"]), 60) as late:
                late.sendall(hello_bytes())
                with pytest.raises(ConnectionResetError):      # reset_timedout_connection
                    late.recv(100)
            held = peer.came.acquire(blocking=False)
        assert peer.left.acquire(timeout=60)


def open_files(pid):
    return len(os.listdir("/proc/%d/fd" % pid))


def test_clients_that_leave(server, certs):
    with Silent() as peer:
        up(server, certs, peer.port)
        worker = server.workers()[0]
        assert kept(server, "x") == "nil"
        before = open_files(worker)
        # lua_check_client_abort: what the script waits for is cancelled.
        for _ in range(5):
            held_client(server, "held", peer).close()
            assert peer.left.acquire(timeout=60)
        # Without it the script is none the wiser, and nobody is left when it is done.
        for _ in range(5):
            held_client(server, "patient", peer).close()
        assert not peer.left.acquire(blocking=False)
        peer.released.set()
        gone = "went on without the client"
        assert wait_until(lambda: server.log().count(gone) == 5, 60), server.log()
        assert wait_until(lambda: open_files(worker) <= before, 60)
        assert "[alert]" not in server.log() and "[crit]" not in server.log()


def test_the_server_ends_while_a_script_waits(server, certs):
    with Silent() as peer:
        up(server, certs, peer.port)
        clients = [held_client(server, which, peer) for which in ("held", "patient")]
        server.stop()
        for client in clients:
            client.close()
