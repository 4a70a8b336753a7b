"""Certificates that variables name, and what else the server's side of TLS is told: file errors at
run time, the cache, kernel TLS, settings that this OpenSSL has nothing for."""
import hashlib
import os
import socket
import ssl

import pytest

from runner.server import free_port, wait_until
from scenarios.conftest import openssl
from scenarios.ocsp_responder import KEY


@pytest.fixture
def folder(tmp_path):
    for name in ("a.test", "b.test", "c.test"):
        make(tmp_path, name)
    return tmp_path


def make(folder, name, subject=None):
    openssl("req", "-x509", *KEY, str(folder / (name + ".key")), "-out",
            str(folder / (name + ".pem")), "-days", "5", "-subj", "/CN=" + (subject or name))


def connect(port, name, version=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version:
        context.maximum_version = version
    raw = socket.create_connection(("127.0.0.1", port), 20)
    return context.wrap_socket(raw, server_hostname=name)


def fingerprint(port, name, version=None):
    with connect(port, name, version) as stream:
        return hashlib.sha256(stream.getpeercert(True)).hexdigest()


def of_file(folder, name):
    der = ssl.PEM_cert_to_DER_cert((folder / (name + ".pem")).read_text())
    return hashlib.sha256(der).hexdigest()


def up(server, folder, directives="", http=""):
    server.tls_port = free_port()
    server.up(http="""%s server {
        listen 127.0.0.1:%d ssl;
        ssl_certificate %s/$ssl_server_name.pem;
        ssl_certificate_key %s/$ssl_server_name.key;
        %s
        location / { return 200 "$ssl_server_name"; }
    }""" % (http, server.tls_port, folder, folder, directives))
    return server.tls_port


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("cache", ["", "ssl_certificate_cache max=2 inactive=20s valid=1m;"])
def test_variables_name_certificates(server, folder, version, cache):
    port = up(server, folder, cache)
    for _ in range(2):
        for name in ("a.test", "b.test", "c.test"):
            assert fingerprint(port, name, version) == of_file(folder, name)


def test_what_cannot_be_loaded_fails_the_handshake(server, folder):
    port = up(server, folder)
    (folder / "b.test.key").write_text((folder / "a.test.key").read_text())
    for name, error in (("none.test", 'cannot load certificate "%s/none.test.pem": BIO_new_file()'
                                      ' failed (SSL: ' % folder),
                        ("b.test", 'cannot use certificate "%s/b.test.pem" (SSL: ' % folder)):
        with pytest.raises(ssl.SSLError):
            connect(port, name)
        assert error in server.log(), server.log()
    assert fingerprint(port, "a.test") == of_file(folder, "a.test")


def test_names_lead_nowhere_else(server, folder):
    """The name is the client's: it is no path."""
    os.mkdir(folder / "inner")
    make(folder / "inner", "a.test")
    port = up(server, folder)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(port, "inner/a.test")


def test_new_files_are_seen(server, folder):
    """At once without a cache, and with one once its time is up."""
    port = up(server, folder)
    old = fingerprint(port, "a.test")
    make(folder, "a.test")
    assert fingerprint(port, "a.test") == of_file(folder, "a.test") != old


def test_the_cache_answers_for_its_time(server, folder):
    port = up(server, folder, "ssl_certificate_cache max=10 inactive=1h valid=1h;")
    old = fingerprint(port, "a.test")
    make(folder, "a.test")
    assert fingerprint(port, "a.test") == old != of_file(folder, "a.test")
    os.remove(folder / "b.test.pem")
    with pytest.raises(ssl.SSLError):
        connect(port, "b.test")


def test_the_cache_ends(server, folder):
    port = up(server, folder, "ssl_certificate_cache max=10 inactive=1h valid=1s;")
    fingerprint(port, "a.test")
    make(folder, "a.test")
    assert wait_until(lambda: fingerprint(port, "a.test") == of_file(folder, "a.test"), 20, 0.1)


def test_by_map_and_from_text(server, folder):
    """From a map, with a password, and as text in a variable."""
    locked = str(folder / "locked.key")
    openssl("pkey", "-in", str(folder / "b.test.key"), "-aes256", "-passout", "pass:secret", "-out",
            locked)
    (folder / "passwords").write_text("wrong\nsecret\n")
    text = {kind: (folder / ("c.test." + kind)).read_text() for kind in ("pem", "key")}
    server.tls_port = free_port()
    server.up(http="""
        map $ssl_server_name $pem { default %(folder)s/b.test.pem; c.test "data:%(pem)s"; }
        map $ssl_server_name $key { default %(folder)s/locked.key; c.test "data:%(key)s"; }
        server {
            listen 127.0.0.1:%(port)d ssl;
            ssl_certificate $pem;
            ssl_certificate_key $key;
            ssl_password_file %(folder)s/passwords;
        }""" % {"folder": folder, "port": server.tls_port, **text})
    assert fingerprint(server.tls_port, "any.test") == of_file(folder, "b.test")
    assert fingerprint(server.tls_port, "c.test") == of_file(folder, "c.test")


KERNEL = """
server {
    listen 127.0.0.1:%d ssl;
    ssl_certificate %s/a.test.pem;
    ssl_certificate_key %s/a.test.key;
    ssl_conf_command Options KTLS;
    sendfile on;
    root html;
}
"""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_kernel_tls(server, folder, version):
    """With it files go out of the page cache; where the kernel has none nothing changes."""
    body = os.urandom(3 * 1024 * 1024)
    server.write("html/file", body)
    server.tls_port = free_port()
    server.up(http=KERNEL % (server.tls_port, folder, folder))
    for extra in ("", "Range: bytes=100000-2999999\r\n"):
        with connect(server.tls_port, "a.test", version) as stream:
            stream.sendall(("GET /file HTTP/1.1\r\nHost: x\r\n%sConnection: close\r\n\r\n" % extra)
                           .encode())
            answer = b""
            while piece := stream.recv(1 << 20):
                answer += piece
        got = answer.partition(b"\r\n\r\n")[2]
        assert got == (body[100000:3000000] if extra else body)


def test_smaller_records(server, folder):
    """ssl_buffer_size bounds what one record holds."""
    server.write("html/file", b"x" * 20000)
    server.tls_port = free_port()
    server.up(http=(KERNEL % (server.tls_port, folder, folder)).replace(
        "ssl_conf_command Options KTLS;", "ssl_buffer_size 2k;"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    sizes, got, seen = [], b"", b""
    with socket.create_connection(("127.0.0.1", server.tls_port), 20) as raw:
        asked = False
        while b"x" * 20000 not in got:
            try:
                if not asked:
                    client.do_handshake()
                    client.write(b"GET /file HTTP/1.1\r\nHost: x\r\n\r\n")
                    asked = True
                got += client.read(65536)
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                piece = raw.recv(65536)
                assert piece
                seen += piece
                incoming.write(piece)
                while len(seen) >= 5 + int.from_bytes(seen[3:5], "big"):
                    size = int.from_bytes(seen[3:5], "big")
                    if seen[0] == 0x17 and asked:
                        sizes.append(size)
                    seen = seen[5 + size:]
    assert len(sizes) > 9 and max(sizes) <= 2048 + 256


@pytest.mark.parametrize("text, error", [
    ("ssl_ech_file x;", '"ssl_ech_file" directive is not supported: OpenSSL'),
    ("ssl_certificate_cache max=0;", 'invalid parameter "max=0"'),
    ("ssl_certificate_cache foo=1;", 'invalid parameter "foo=1"'),
    ("ssl_certificate $none/x; ssl_certificate_key x;", 'unknown "none" variable'),
    ("ssl_certificate x$;", "invalid variable name in"),
    ("ssl_certificate $ssl_server_name;", 'no "ssl_certificate_key" is defined for certificate'),
    ("ssl_ecdh_curve none;", 'SSL_CTX_set1_curves_list("none") failed'),
    ("ssl_conf_command Nothing x;", 'SSL_CONF_cmd("Nothing", "x") failed'),
    ("ssl_crl none.pem; ssl_client_certificate %(folder)s/a.test.pem;", "X509_LOOKUP_load_file"),
    ("ssl_dhparam none.pem;", "BIO_new_file("),
    ("ssl_password_file none;", 'open() "'),
])
def test_configuration_errors(server, folder, text, error):
    own = "" if "ssl_certificate " in text else \
        "ssl_certificate %(folder)s/a.test.pem; ssl_certificate_key %(folder)s/a.test.key;"
    server.setup(http="server { listen 127.0.0.1:%d ssl; %s }"
                      % (free_port(), (own + text) % {"folder": folder}))
    done = server.run("-t")
    assert done.returncode != 0 and error in done.stdout, done.stdout


def test_what_is_ignored_is_said(server, folder):
    server.setup(http="server { listen 127.0.0.1:%d ssl; ssl_certificate_compression on; "
                      "ssl_certificate %s/a.test.pem; ssl_certificate_key %s/a.test.key; }"
                      % (free_port(), folder, folder))
    done = server.run("-t")
    assert done.returncode == 0
    assert '"ssl_certificate_compression" ignored: OpenSSL' in done.stdout
