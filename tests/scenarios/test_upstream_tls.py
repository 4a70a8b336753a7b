"""Upstream servers asked by TLS: names, verification, client certificates, sessions, faults."""
import ssl
import subprocess

import pytest

from runner.client import get
from runner.raw_upstream import RawUpstream, answer
from runner.server import wait_until


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A certificate for "backend" that vouches for itself."""
    folder = tmp_path_factory.mktemp("keys")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj", "/CN=backend",
                    "-addext", "subjectAltName=DNS:backend", "-keyout", folder / "key.pem",
                    "-out", folder / "cert.pem"], check=True, capture_output=True)
    return folder


class TlsUpstream(RawUpstream):
    """Answers over TLS with what it saw of the handshake."""

    def __init__(self, keys, client=False, requests=100):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(keys / "cert.pem", keys / "key.pem")
        if client:
            self.context.verify_mode = ssl.CERT_REQUIRED
            self.context.load_verify_locations(keys / "cert.pem")
        self.names = []
        self.context.sni_callback = lambda _, name, __: self.names.append(name)
        self.requests = requests
        super().__init__(self.talk)

    def talk(self, peer):
        peer.socket = self.context.wrap_socket(peer.socket, server_side=True)
        for _ in range(self.requests):
            peer.head()
            text = "%s %s" % (peer.socket.version(), peer.socket.session_reused)
            peer.send(answer(text.encode()))


def up(server, upstream, location=""):
    server.up(http="upstream backend { server 127.0.0.1:%d; keepalive 4; }" % upstream.port,
              locations="location /p { proxy_pass https://backend; %s }" % location)


def test_plain_use_keeps_connections(server, keys):
    with TlsUpstream(keys) as upstream:
        up(server, upstream)
        for _ in range(5):
            assert get(server.port, "/p").text() == "TLSv1.3 False"
        assert upstream.connections == 1 and upstream.names == [None]


def test_sessions_are_resumed(server, keys):
    with TlsUpstream(keys, requests=1) as upstream:
        up(server, upstream)
        assert get(server.port, "/p").text() == "TLSv1.3 False"
        assert get(server.port, "/p").text() == "TLSv1.3 True"
        up_again = "location /p { proxy_pass https://backend; proxy_ssl_session_reuse off; }"
        server.setup(http="upstream backend { server 127.0.0.1:%d; }" % upstream.port,
                     locations=up_again)
        assert server.reload()
        assert wait_until(lambda: get(server.port, "/p").text() == "TLSv1.3 False")


def test_name_and_verification(server, keys):
    with TlsUpstream(keys) as upstream:
        trust = "proxy_ssl_verify on; proxy_ssl_trusted_certificate %s;" % (keys / "cert.pem")
        up(server, upstream, trust + "proxy_ssl_server_name on; "
                                     "add_header X-Name $upstream_last_server_name;")
        response = get(server.port, "/p")
        assert response.status == 200 and response.get("X-Name") == "backend"
        assert upstream.names == ["backend"]
        server.setup(http="upstream backend { server 127.0.0.1:%d; }" % upstream.port,
                     locations="location /p { proxy_pass https://backend; proxy_ssl_name other; "
                               + trust + " }")
        assert server.reload()
        assert wait_until(lambda: get(server.port, "/p").status == 502)
        assert 'upstream SSL certificate does not match "other" while SSL handshaking to upstream' \
            in server.log()


def test_unknown_authority_is_refused(server, keys, tmp_path):
    other = tmp_path / "other.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=other", "-keyout",
                    tmp_path / "key.pem", "-out", other], check=True, capture_output=True)
    with TlsUpstream(keys) as upstream:
        up(server, upstream, "proxy_ssl_verify on; proxy_ssl_trusted_certificate %s;" % other)
        assert get(server.port, "/p").status == 502
        assert "upstream SSL certificate verify error: (18:" in server.log(), server.log()
        assert upstream.heads == []


@pytest.mark.parametrize("variable", [False, True])
def test_client_certificate(server, keys, variable):
    with TlsUpstream(keys, client=True) as upstream:
        up(server, upstream)
        assert get(server.port, "/p").status == 502
        own = "proxy_ssl_certificate %s; proxy_ssl_certificate_key %s;" % (
            keys / "cert.pem", keys / "key.pem")
        if variable:
            own = "set $c cert; proxy_ssl_certificate_cache max=1 valid=1m; " \
                  "proxy_ssl_certificate %s/$c.pem; " \
                  "proxy_ssl_certificate_key %s/key.pem;" % (keys, keys)
        server.setup(http="upstream backend { server 127.0.0.1:%d; }" % upstream.port,
                     locations="location /p { proxy_pass https://backend; %s }" % own)
        assert server.reload()
        assert wait_until(lambda: get(server.port, "/p").status == 200), server.log()


def test_an_answer_before_the_handshake_is_no_answer(server):
    def script(peer):
        peer.send(answer(b"injected"))
        peer.socket.recv(65536)
    with RawUpstream(script) as upstream:
        up(server, upstream)
        response = get(server.port, "/p")
        assert response.status == 502 and b"injected" not in response.body
        assert "SSL_do_handshake() failed" in server.log()


def test_large_bodies_both_ways(server, keys):
    class Echo(TlsUpstream):
        def talk(self, peer):
            peer.socket = self.context.wrap_socket(peer.socket, server_side=True)
            head = peer.head()
            size = int(head.lower().split("content-length:")[1].split("\r\n")[0])
            peer.send(answer(peer.read(size)))
    with Echo(keys) as upstream:
        up(server, upstream, "client_max_body_size 0;")
        body = bytes(range(256)) * 20000
        assert get(server.port, "/p", method="POST", body=body).body == body
