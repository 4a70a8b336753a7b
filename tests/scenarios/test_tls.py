"""TLS of the server's side: names, sessions, client certificates, and clients that do it wrong."""
import os
import re
import shutil
import socket
import ssl

import pytest

from runner.server import ROOT, free_port
from scenarios.conftest import ScenarioServer, openssl

HTTP = """
ssl_session_cache shared:SSL:1m;
ssl_certificate %(certs)s/good.test.pem;
ssl_certificate_key %(certs)s/good.test.key;
server {
    listen 127.0.0.1:%(port)d ssl;
    server_name good.test;
    location / {
        set $agreed "$ssl_protocol|$ssl_server_name|$ssl_session_reused|$ssl_client_verify";
        return 200 "open|$scheme|$https|$agreed";
    }
    location = /big {
        content_by_lua_block {
            local piece = ("x"):rep(65536)
            for _ = 1, 160 do ngx.print(piece) end
        }
    }
    location = /echo { client_body_buffer_size 1k; content_by_lua_block {
        ngx.req.read_body()
        local file = io.open(ngx.req.get_body_file())
        ngx.print(#file:read("*a"))
        file:close()
    } }
}
server {
    listen 127.0.0.1:%(port)d ssl;
    server_name closed.test;
    ssl_verify_client on;
    ssl_client_certificate %(certs)s/ca.pem;
    location / { return 200 "closed|$ssl_client_s_dn|$ssl_client_verify|$ssl_session_reused"; }
}
server {
    listen 127.0.0.1:%(port)d ssl;
    server_name none.test;
    ssl_reject_handshake on;
}
server {
    listen 127.0.0.1:%(impatient)d ssl;
    client_header_timeout 500ms;
}
"""


@pytest.fixture(scope="module")
def tls_server(certs):
    with ScenarioServer() as server:
        server.tls_port, server.impatient_port = free_port(), free_port()
        server.up(workers=2, http=HTTP % {"certs": certs, "port": server.tls_port,
                                          "impatient": server.impatient_port})
        yield server


def context_of(certs=None, version=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version:
        context.maximum_version = version
    if certs:
        context.load_cert_chain(certs + "/client.pem", certs + "/client.key")
    return context


def connect(server, name="good.test", context=None, session=None):
    raw = socket.create_connection(("127.0.0.1", server.tls_port), 5)
    return (context or context_of()).wrap_socket(raw, server_hostname=name, session=session)


def ask(stream, target="/", host="good.test", last=True, body=b""):
    """Sends a request and reads to the end of the connection, or of one short answer."""
    extra = "Connection: close\r\n" if last else ""
    if body:
        extra += "Content-Length: %d\r\n" % len(body)
    method = "POST" if body else "GET"
    stream.sendall(("%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n" % (method, target, host, extra)).encode()
                   + body)
    answer = b""
    while True:
        piece = stream.recv(65536)
        answer += piece
        if not piece or (not last and b"\r\n\r\n" in answer):
            return answer


def body_of(answer):
    return answer.partition(b"\r\n\r\n")[2].decode()


def test_speaks_tls(tls_server):
    assert body_of(ask(connect(tls_server))) == "open|https|on|TLSv1.3|good.test|.|NONE"
    old = context_of(version=ssl.TLSVersion.TLSv1_2)
    assert body_of(ask(connect(tls_server, context=old))).split("|")[3] == "TLSv1.2"


def test_ciphers_in_the_order_of_the_server(tls_server):
    def agreed(ciphers):
        context = context_of(version=ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(ciphers)
        return connect(tls_server, context=context).cipher()[0]
    aes_128, aes_256 = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"
    chacha = "ECDHE-ECDSA-CHACHA20-POLY1305"
    assert agreed(aes_128 + ":" + aes_256) == agreed(aes_256 + ":" + aes_128)
    assert agreed(chacha + ":" + aes_256) == chacha and agreed(aes_256 + ":" + chacha) == aes_256


def test_large_bodies_both_ways(tls_server):
    assert ask(connect(tls_server), "/big").count(b"x") >= 160 * 65536
    assert body_of(ask(connect(tls_server), "/echo", body=b"y" * 300000)).strip() \
        .splitlines()[1] == "300000"


def test_a_kept_connection_serves_many(tls_server):
    stream = connect(tls_server)
    for _ in range(20):
        assert b"open|" in ask(stream, last=False)


def test_the_end_is_said(tls_server):
    """A connection that we close ends with close_notify: nobody has cut the answer short."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        raw = socket.create_connection(("127.0.0.1", tls_server.tls_port), 5)
        stream = context_of(version=version).wrap_socket(raw, suppress_ragged_eofs=False)
        assert b"open|" in ask(stream)


def test_sessions_are_resumed_by_every_worker(tls_server):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = context_of(version=version)
        first = connect(tls_server, context=context)
        ask(first)
        for _ in range(6):
            again = connect(tls_server, context=context, session=first.session)
            assert body_of(ask(again)).split("|")[5] == "r"


def test_client_certificates(tls_server, certs):
    assert b" 400 Bad Request" in ask(connect(tls_server, "closed.test"), host="closed.test")
    known = connect(tls_server, "closed.test", context_of(certs))
    assert body_of(ask(known, host="closed.test")) == "closed|CN=client|SUCCESS|."


def test_a_stranger_is_refused(tls_server, certs, tmp_path):
    path = str(tmp_path / "stranger")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", path + ".key", "-out",
            path + ".pem", "-subj", "/CN=stranger", "-days", "2")
    context = context_of()
    context.load_cert_chain(path + ".pem", path + ".key")
    answer = ask(connect(tls_server, "closed.test", context), host="closed.test")
    assert b"The SSL certificate error" in answer


def test_no_way_around_the_certificate(tls_server, certs):
    """Neither another Host nor another server's session gets past ssl_verify_client."""
    assert b" 421 " in ask(connect(tls_server, "good.test"), host="closed.test")
    context = context_of(version=ssl.TLSVersion.TLSv1_2)
    first = connect(tls_server, "good.test", context)
    ask(first)
    try:
        crossed = connect(tls_server, "closed.test", context, first.session)
        assert not crossed.session_reused
        assert b" 400 " in ask(crossed, host="closed.test")
    except ssl.SSLError:
        pass                           # refused at once is as good


def test_rejected_handshake(tls_server):
    with pytest.raises(ssl.SSLError):
        connect(tls_server, "none.test")


def test_http_in_the_clear(tls_server):
    with socket.create_connection(("127.0.0.1", tls_server.tls_port), 5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n")
        answer = plain.recv(4096)
    assert b" 400 " in answer and b"plain HTTP request was sent to HTTPS port" in answer


def test_clients_that_never_finish_are_left(tls_server):
    address = ("127.0.0.1", tls_server.impatient_port)
    streams = [socket.create_connection(address, 5) for _ in range(3)]
    streams[1].sendall(b"\x16\x03\x01")
    streams[2].sendall(b"\x16\x03\x01\x00\x05hello and garbage")
    for stream in streams:
        stream.settimeout(30)
        try:
            while stream.recv(1024):
                pass
        except ConnectionError:
            pass
        stream.close()
    assert body_of(ask(connect(tls_server))).startswith("open|")


CERTIFICATE = "ssl_certificate %(certs)s/good.test.pem; "


@pytest.mark.parametrize("text, error", [
    ("", 'no "ssl_certificate" is defined for the "listen ... ssl" directive in'),
    ("ssl_certificate none.pem; ssl_certificate_key none.key;", "cannot load certificate"),
    (CERTIFICATE, 'no "ssl_certificate_key" is defined for certificate'),
    (CERTIFICATE + "ssl_certificate_key %(certs)s/client.key;", "SSL_CTX_use_PrivateKey() failed"),
    (CERTIFICATE + "ssl_certificate_key %(certs)s/good.test.key; ssl_ciphers NONESUCH;",
     'SSL_CTX_set_cipher_list("NONESUCH") failed'),
    (CERTIFICATE + "ssl_certificate_key %(certs)s/good.test.key; ssl_verify_client on;",
     "no ssl_client_certificate or ssl_trusted_certificate for ssl_verify_client"),
])
def test_configuration_errors(server, certs, text, error):
    server.setup(http="server { listen 127.0.0.1:%d ssl; %s }"
                      % (free_port(), text % {"certs": certs}))
    done = server.run("-t")
    assert done.returncode != 0
    assert error in done.stdout


def test_encrypted_key(server, certs, tmp_path):
    key = str(tmp_path / "locked.key")
    openssl("pkey", "-in", certs + "/good.test.key", "-aes256", "-passout", "pass:secret", "-out",
            key)
    passwords = tmp_path / "passwords"
    passwords.write_text("wrong\nsecret\n")
    server.tls_port = free_port()
    server.up(http="server { listen 127.0.0.1:%d ssl; ssl_certificate %s/good.test.pem; "
                   "ssl_certificate_key %s; ssl_password_file %s; return 200 unlocked; }"
                   % (server.tls_port, certs, key, passwords))
    assert body_of(ask(connect(server))) == "unlocked"


def test_the_tls_part_of_the_default_configuration(server, certs):
    """It is commented out there; taken into use it works as it stands."""
    with open(os.path.join(ROOT, "conf", "defaults", "server.conf")) as file:
        part = re.search(r"\n    #server \{\n.*?\n    #\}\n", file.read(), re.S).group()
    for name in ("pem", "key"):
        shutil.copy("%s/good.test.%s" % (certs, name), server.path("conf", "cert." + name))
    server.write("html/index.html", "the page")
    server.tls_port = free_port()
    part = part.replace("\n    #", "\n    ")
    assert "8443" in part
    server.up(http=part.replace("8443", "127.0.0.1:%d" % server.tls_port))
    answer = ask(connect(server), host="localhost")
    assert body_of(answer) == "the page"
    assert b"Strict-Transport-Security: max-age=31536000" in answer
