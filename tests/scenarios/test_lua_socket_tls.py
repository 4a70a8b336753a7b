"""sslhandshake() against a real TLS server: names, trust, sessions, client certificates, what a
server may do wrong."""
import socket
import ssl
import threading

import pytest

from runner.client import get

LUA = """
lua_ssl_trusted_certificate %(certs)s/ca.pem;
lua_ssl_verify_depth 2;
lua_socket_log_errors on;
%(more)s
location = /t { content_by_lua_block {
    local port = tonumber(ngx.var.arg_port)
    local function open(...)
        local socket = ngx.socket.tcp()
        socket:settimeout(2000)
        assert(socket:connect("127.0.0.1", port))
        local session, why = socket:sslhandshake(...)
        if not session then return nil, why end
        return socket, session
    end
    local function ask(socket, line)
        assert(socket:send(line .. "\\n"))
        return socket:receive()
    end
    %(code)s
} }
"""


class TlsPeer:
    """Answers each line: sni, resumed, client, big, end; else echoes it."""

    def __init__(self, certs, **settings):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certs + "/good.test.pem", certs + "/good.test.key")
        for name, value in settings.items():
            setattr(self.context, name, value)
        self.context.sni_callback = self.named
        self.name = None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def named(self, session, name, _context):
        self.name = name

    def accept(self):
        while True:
            try:
                plain, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(plain,), daemon=True).start()

    def serve(self, plain):
        try:
            with self.context.wrap_socket(plain, server_side=True) as tls:
                for line in tls.makefile("r"):
                    if line == "end\n":
                        return
                    tls.sendall(self.answer(tls, line.strip()).encode() + b"\n")
        except (OSError, ssl.SSLError):
            plain.close()

    def answer(self, tls, line):
        subject = lambda: dict(pair[0] for pair in tls.getpeercert()["subject"])["commonName"]
        return {"sni": lambda: str(self.name), "resumed": lambda: str(tls.session_reused),
                "client": subject, "big": lambda: "x" * 3000000}.get(line, lambda: line)()

    def close(self):
        self.listener.close()


@pytest.fixture
def ask(server, certs):
    """Runs Lua code against a peer; returns what it said."""
    peers = []

    def go(code, more="", **settings):
        peer = TlsPeer(certs, **settings)
        peers.append(peer)
        if settings.get("verify_mode"):
            peer.context.load_verify_locations(certs + "/ca.pem")
        server.up(locations=LUA % {"certs": certs, "code": code, "more": more})
        text = get(server.port, "/t?port=%d" % peer.port).text()
        go.peer = peer
        return text

    yield go
    for peer in peers:
        peer.close()


def test_the_name_is_sent_and_verified(ask):
    assert ask("""
        local socket, session = open(nil, "good.test", true)
        ngx.say(type(session), " ", ask(socket, "hello"), " ", ask(socket, "sni"))
        ngx.say(socket:close())
    """) == "cdata hello good.test\n1\n"


def test_another_name_or_no_trust_is_refused(ask, server):
    text = ask("""
        ngx.say(open(nil, "other.test", true))
        local socket = open(false, "other.test", false)
        ngx.say(ask(socket, "unverified"))
    """)
    assert text == "nilcertificate host mismatch\nunverified\n"
    assert 'lua ssl certificate does not match host "other.test", upstream: ' in server.log()


def test_an_unknown_authority_is_refused(server, certs):
    peer = TlsPeer(certs)
    parts = {"certs": "", "code": "ngx.say(open(nil, 'good.test', true))", "more": ""}
    server.up(locations=(LUA % parts).replace("lua_ssl_trusted_certificate /ca.pem;", ""))
    text = get(server.port, "/t?port=%d" % peer.port).text()
    assert text == "nil20: unable to get local issuer certificate\n"
    assert "lua ssl certificate verify error: (20: unable to get local" in server.log()
    peer.close()


def test_sessions_are_resumed(ask):
    assert ask("""
        local first = open(nil, "good.test", true)
        ask(first, "hello")                       -- TLS 1.3: the ticket comes with data
        local session = assert(first:getsslsession())
        first:close()
        local second, same = open(session, "good.test", true)
        ngx.say(ask(second, "resumed"), " ", type(same))
    """) == "True cdata\n"


def test_a_client_certificate_by_directive(ask, certs):
    more = "lua_ssl_certificate %s/client.pem; lua_ssl_certificate_key %s/client.key;" % (
        certs, certs)
    assert ask("ngx.say(ask(open(nil, 'good.test', true), 'client'))", more=more,
               verify_mode=ssl.CERT_REQUIRED) == "client\n"


def test_kept_alive_with_its_session(ask):
    assert ask("""
        local socket = open(nil, "good.test", true)
        ask(socket, "hello")
        assert(socket:setkeepalive(1000, 4))
        socket = ngx.socket.tcp()
        assert(socket:connect("127.0.0.1", port))
        ngx.say(socket:getreusedtimes(), " ", type(socket:sslhandshake(nil, "good.test", true)))
        ngx.say(ask(socket, "again"))
    """) == "1 cdata\nagain\n"
    assert ask.peer.connections == 1


def test_much_both_ways(ask):
    assert ask("""
        local socket = open(nil, "good.test", true)
        local line = ("0123456789"):rep(200000)
        ngx.say(#ask(socket, "big"), " ", ask(socket, line) == line)
    """) == "3000000 true\n"


def test_an_end_without_a_word(ask):
    assert ask("""
        local socket = open(nil, "good.test", true)
        ngx.say(ask(socket, "end"))
    """) == "nilclosed\n"


def test_protocols_without_a_common_one(ask, server):
    assert ask("ngx.say(open())", more="lua_ssl_protocols TLSv1.2;",
               minimum_version=ssl.TLSVersion.TLSv1_3) == "nilhandshake failed\n"
    assert "SSL_do_handshake() failed (SSL: " in server.log()


def test_a_server_that_says_nothing(server, certs):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code = """
            local socket = ngx.socket.tcp()
            socket:settimeout(50)
            assert(socket:connect("127.0.0.1", port))
            ngx.say(socket:sslhandshake())
            ngx.say(socket:send("x"))
        """
        server.up(locations=LUA % {"certs": certs, "code": code, "more": ""})
        port = silent.getsockname()[1]
        assert get(server.port, "/t?port=%d" % port).text() == "niltimeout\nnilclosed\n"


def test_a_server_without_tls(server, certs):
    code = """
        local socket = ngx.socket.tcp()
        assert(socket:connect("127.0.0.1", ngx.var.server_port))
        ngx.say(socket:sslhandshake())
    """
    server.up(locations=LUA % {"certs": certs, "code": code, "more": ""})
    assert get(server.port, "/t?port=1").text() == "nilhandshake failed\n"
