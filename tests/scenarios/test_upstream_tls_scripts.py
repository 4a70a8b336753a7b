"""proxy_ssl_certificate_by_lua and proxy_ssl_verify_by_lua: what scripts do in handshakes with
upstream servers, and that nothing gets past them."""
import socket
import ssl
import threading

import pytest

from runner.client import get
from runner.raw_upstream import RawUpstream, answer
from runner.server import wait_until
from scenarios.ocsp_responder import KEY, openssl


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Certificates that vouch for themselves: for "backend", and "client"."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("backend", "client"):
        openssl("req", "-x509", *KEY, str(folder / (name + ".key")), "-out",
                str(folder / (name + ".pem")), "-days", "30", "-subj", "/CN=" + name, "-addext",
                "subjectAltName=DNS:" + name)
    return folder


class TlsUpstream(RawUpstream):
    """Answers with the name of the client's certificate, and whether the session was resumed."""

    def __init__(self, keys, version=None, requests=100):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(keys / "backend.pem", keys / "backend.key")
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self.context.load_verify_locations(keys / "client.pem")
        if version:
            self.context.maximum_version = version
        self.requests = requests
        super().__init__(self.talk)

    def talk(self, peer):
        peer.socket = self.context.wrap_socket(peer.socket, server_side=True)
        for _ in range(self.requests):
            peer.head()
            shown = peer.socket.getpeercert()
            name = shown["subject"][0][0][1] if shown else "nobody"
            peer.send(answer(("%s %s" % (name, peer.socket.session_reused)).encode()))


INIT = """
init_by_lua_block {
    function read(path)
        local file = assert(io.open(path))
        local text = file:read("*a")
        file:close()
        return text
    end
    local ssl = require "ngx.ssl"
    local folder = "%s/"
    chain = assert(ssl.parse_pem_cert(read(folder .. "client.pem")))
    key = assert(ssl.parse_pem_priv_key(read(folder .. "client.key")))
    ran = 0
    -- What code that calls OpenSSL by itself may leave behind.
    local ffi = require "ffi"
    ffi.cdef "void ERR_new(void); void ERR_set_error(int lib, int reason, const char *why, ...);"
    function leave_an_error()
        ffi.C.ERR_new()
        ffi.C.ERR_set_error(20, 100, nil)
    end
}
"""


def up(server, keys, upstream, locations, keepalive=0, **parts):
    block = "upstream backend { server 127.0.0.1:%d; %s }" % (
        upstream.port, "keepalive %d;" % keepalive if keepalive else "")
    server.up(http=INIT % keys + block, locations=locations, **parts)


CHOOSE = """
    proxy_ssl_certificate_by_lua_block {
        ran = ran + 1
        local cert = require "ngx.ssl.proxysslcert"
        %s
        assert(cert.clear_certs())
        assert(cert.set_cert(chain))
        assert(cert.set_priv_key(key))
    }
"""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("wait", ["", "ngx.sleep(0.01)", "leave_an_error()"])
def test_a_script_chooses_our_certificate(server, keys, version, wait):
    with TlsUpstream(keys, version, 1) as upstream:
        up(server, keys, upstream, """
            location /plain { proxy_pass https://backend; }
            location /own { proxy_pass https://backend; %s }
            location /ran { content_by_lua_block { ngx.print(ran) } }
        """ % (CHOOSE % wait))
        assert get(server.port, "/own").text() == "client False"
        # What one location is to a server, the other is not: no session is shared.
        assert get(server.port, "/plain").text() == "nobody False"
        assert get(server.port, "/own").text().startswith("client ")
        assert get(server.port, "/plain").text() == "nobody True"


def test_kept_connections_are_not_shared(server, keys):
    with TlsUpstream(keys) as upstream:
        up(server, keys, upstream, """
            location /plain { proxy_pass https://backend; }
            location /own { proxy_pass https://backend; %s }
        """ % (CHOOSE % ""), keepalive=4)
        for _ in range(3):
            assert get(server.port, "/plain").text() == "nobody False"
            assert get(server.port, "/own").text() == "client False"
        assert upstream.connections == 2


PIN = """
    proxy_ssl_verify_by_lua_block {
        ran = ran + 1
        local ffi = require "ffi"
        local verify = require "ngx.ssl.proxysslverify"
        assert(verify.get_verify_result() == 0)
        local certificate = assert(verify.get_verify_cert())
        %s
        ffi.cdef "int X509_check_host(void *x, const char *name, size_t len, unsigned f, char **p);"
        if ffi.C.X509_check_host(certificate, "%s", 0, 0, nil) ~= 1 then
            return ngx.exit(ngx.ERROR)
        end
        assert(require("ngx.proxyssl").get_tls1_version_str():find("TLSv1.", 1, true))
    }
    lua_upstream_skip_openssl_default_verify on;
"""


@pytest.mark.parametrize("wait", ["", "ngx.sleep(0.01)"])
def test_a_script_judges_the_server(server, keys, wait):
    with TlsUpstream(keys, requests=1) as upstream:
        up(server, keys, upstream, """
            proxy_ssl_session_reuse off;
            location /good { proxy_pass https://backend; %s }
            location /bad { proxy_pass https://backend; %s }
            location /ran { content_by_lua_block { ngx.print(ran) } }
        """ % (PIN % (wait, "backend"), PIN % (wait, "another")))
        assert get(server.port, "/good").text() == "nobody False"
        assert get(server.port, "/good").status == 200
        assert get(server.port, "/bad").status == 502
        assert "was refused by proxy_ssl_verify_by_lua*" in server.log()
        assert get(server.port, "/ran").text() == "3"
        assert len(upstream.heads) == 2


def test_the_verdict_is_what_verification_goes_by(server, keys):
    verdict = """
        proxy_ssl_verify on;
        proxy_ssl_trusted_certificate %s/client.pem;
        lua_upstream_skip_openssl_default_verify on;
        proxy_ssl_verify_by_lua_block {
            assert(require("ngx.ssl.proxysslverify").set_verify_result(%d))
        }
    """
    with TlsUpstream(keys, requests=1) as upstream:
        up(server, keys, upstream, """
            location /good { proxy_pass https://backend; %s }
            location /bad { proxy_pass https://backend; %s }
            location /usual { proxy_pass https://backend; proxy_ssl_verify on;
                              proxy_ssl_trusted_certificate %s/client.pem; }
        """ % (verdict % (keys, 0), verdict % (keys, 23), keys))
        assert get(server.port, "/good").text() == "nobody False"
        assert get(server.port, "/bad").status == 502
        assert "upstream SSL certificate verify error: (23:certificate revoked)" in server.log()
        assert get(server.port, "/usual").status == 502
        assert "upstream SSL certificate verify error: (18:" in server.log()


def test_an_error_refuses_the_server(server, keys):
    with TlsUpstream(keys, requests=1) as upstream:
        up(server, keys, upstream, """
            location /v { proxy_pass https://backend; proxy_ssl_verify_by_lua_block {
                error("no verdict") }
                lua_upstream_skip_openssl_default_verify on; }
            location /c { proxy_pass https://backend; proxy_ssl_certificate_by_lua_block {
                ngx.sleep(0.001) error("no certificate") } }
        """)
        for path, text in (("/v", "no verdict"), ("/c", "no certificate")):
            assert get(server.port, path).status == 502
            assert text in server.log()
        assert not upstream.heads


def test_the_next_server_is_asked(server, keys):
    """A refusal is one try's: the script runs for the next server as well."""
    with TlsUpstream(keys, requests=1) as first, TlsUpstream(keys, requests=1) as second:
        server.up(http=INIT % keys + "upstream two { server 127.0.0.1:%d; server 127.0.0.1:%d; }"
                  % (first.port, second.port),
                  locations="""
            location / { proxy_pass https://two; lua_upstream_skip_openssl_default_verify on;
                proxy_ssl_verify_by_lua_block {
                    ran = ran + 1
                    ngx.sleep(0.001)
                    if ran == 1 then return ngx.exit(ngx.ERROR) end
                } }
            location = /ran { content_by_lua_block { ngx.print(ran) } }""")
        assert get(server.port, "/x").text() == "nobody False"
        assert get(server.port, "/ran").text() == "2"
        assert len(first.heads) + len(second.heads) == 1


@pytest.mark.parametrize("phase", ["certificate", "verify"])
def test_scripts_end_with_their_handshake(server, keys, phase):
    """By a timeout, and by a client that leaves: nothing of them runs on."""
    script = """
        proxy_ssl_%s_by_lua_block {
            ran = ran + 1
            ngx.sleep(%s)
            ended = (ended or 0) + 1
        }
        lua_upstream_skip_openssl_default_verify on;
    """
    with TlsUpstream(keys, requests=1) as upstream:
        up(server, keys, upstream, """
            location /late { proxy_pass https://backend; proxy_connect_timeout 100ms; %s }
            location /left { proxy_pass https://backend; %s }
            location /ran { content_by_lua_block { ngx.print(ran, " ", ended) } }
        """ % (script % (phase, "30"), script % (phase, "30")))
        assert get(server.port, "/late").status == 504
        assert "while loading proxy ssl %s by lua" % phase in server.log()
        with socket.create_connection(("127.0.0.1", server.port), 10) as client:
            client.sendall(b"GET /left HTTP/1.1\r\nHost: x\r\n\r\n")
            assert wait_until(lambda: get(server.port, "/ran").text() == "2 nil", 20)
        # The server sees both handshakes break off.
        assert wait_until(lambda: len(upstream.errors) == 2, 20), upstream.errors
        assert get(server.port, "/ran").text() == "2 nil"


def test_many_at_once(server, keys):
    with TlsUpstream(keys, requests=1) as upstream:
        up(server, keys, upstream, "location / { proxy_pass https://backend; %s %s }" % (
            CHOOSE % "ngx.sleep(math.random() / 100)",
            PIN % ("ngx.sleep(math.random() / 100)", "backend")))
        bodies = []
        threads = [threading.Thread(target=lambda: bodies.append(get(server.port, "/x").text()))
                   for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(bodies) == 12 and all(body.startswith("client ") for body in bodies), bodies


@pytest.mark.parametrize("name", ["proxy_ssl_certificate_by_lua", "proxy_ssl_verify_by_lua"])
def test_configuration_errors(server, name):
    for text, error in (
            ("location / { proxy_pass http://127.0.0.1; %s_block { } }",
             "%s* should be used with proxy_pass https url"),
            ("%s_block { }", '"%s_block" directive is not allowed here')):
        server.setup(locations=text % name)
        done = server.run("-t")
        assert done.returncode != 0 and error % name in done.stdout, done.stdout


def test_the_modules_say_what_they_lack(server):
    server.up(locations="""location /t { content_by_lua_block {
        local cert, verify = require "ngx.ssl.proxysslcert", require "ngx.ssl.proxysslverify"
        ngx.say(cert.clear_certs())
        ngx.say(require("ngx.proxyssl").get_tls1_version())
        ngx.say(pcall(verify.get_verify_cert))
    } }""")
    assert get(server.port, "/t").text() == (
        "nilbad upstream\nnilbad upstream\nfalseAPI disabled in the current context\n")
