"""stream{}: bytes to an upstream and back, TLS in front of it, and how sessions end."""
import os
import socket
import ssl
import threading
import time

import pytest

from runner.server import free_port, wait_until
from scenarios.conftest import ScenarioServer
from scenarios.tcp_peer import Peer


def echo(link):
    while data := link.sock.recv(65536):
        link.send(data)


def answer_at_end(link):
    data = b""
    while more := link.sock.recv(65536):
        data += more
    link.send(b"got " + data)


def dial(port, timeout=5):
    return socket.create_connection(("127.0.0.1", port), timeout=timeout)


def read_all(sock):
    data = b""
    while more := sock.recv(65536):
        data += more
    return data


def read_exactly(sock, count):
    data = b""
    while len(data) < count:
        more = sock.recv(65536)
        if not more:
            break
        data += more
    return data


MAIN = """
stream {
    error_log logs/stream.log info;
    upstream spread {
        server 127.0.0.1:%(dead)d;
        server 127.0.0.1:%(echo)d;
    }
    server { listen 127.0.0.1:%(tcp)d; proxy_pass 127.0.0.1:%(echo)d; }
    server { listen unix:%(folder)s/in.sock; proxy_pass unix:%(folder)s/out.sock; }
    server { listen unix:%(folder)s/out.sock; return "told"; }
    server { listen 127.0.0.1:%(spread)d; proxy_pass spread; }
    server { listen 127.0.0.1:%(refused)d; proxy_pass 127.0.0.1:%(dead)d; }
    server { listen 127.0.0.1:%(idle)d; proxy_pass 127.0.0.1:%(echo)d; proxy_timeout 200ms; }
    server {
        listen 127.0.0.1:%(half)d;
        proxy_pass 127.0.0.1:%(at_end)d;
        proxy_half_close on;
    }
    ssl_certificate %(certs)s/good.test.pem;
    ssl_certificate_key %(certs)s/good.test.key;
    server { listen 127.0.0.1:%(tls)d ssl; proxy_pass 127.0.0.1:%(echo)d; }
    server {
        listen 127.0.0.1:%(client)d ssl;
        ssl_verify_client on;
        ssl_client_certificate %(certs)s/ca.pem;
        return "known";
    }
}
"""


@pytest.fixture(scope="module")
def stream(certs, tmp_path_factory):
    with Peer(echo) as echoing, Peer(answer_at_end) as at_end, ScenarioServer() as server:
        names = ("dead", "tcp", "spread", "refused", "idle", "half", "tls", "client")
        server.ports = {name: free_port() for name in names}
        server.folder = str(tmp_path_factory.mktemp("s"))
        server.certs = certs
        server.up(main=MAIN % {**server.ports, "echo": echoing.port, "at_end": at_end.port,
                               "certs": certs, "folder": server.folder})
        yield server


def logged(server, text):
    return wait_until(lambda: text in server.read("logs/stream.log"), 3)


def test_bytes_go_both_ways(stream):
    payload = os.urandom(3 << 20)
    with dial(stream.ports["tcp"]) as sock:
        threading.Thread(target=sock.sendall, args=(payload,), daemon=True).start()
        assert read_exactly(sock, len(payload)) == payload
    size = len(payload)
    assert logged(stream, "client disconnected, bytes from/to client:%d/%d, "
                          "bytes from/to upstream:%d/%d" % (size, size, size, size))


def test_unix_sockets_and_return(stream):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(stream.folder + "/in.sock")
        assert read_all(sock) == b"told"
    assert logged(stream, "upstream disconnected, bytes from/to client:0/4")


def test_a_dead_server_is_passed_over(stream):
    for _ in range(4):
        with dial(stream.ports["spread"]) as sock:
            sock.sendall(b"hello")
            assert read_exactly(sock, 5) == b"hello"
    assert logged(stream, "upstream server temporarily disabled while connecting to upstream")


def test_refused(stream):
    with dial(stream.ports["refused"]) as sock:
        assert read_all(sock) == b""
    assert logged(
        stream, "connect() failed (111: Connection refused) while connecting to upstream, client: "
        "127.0.0.1, server: 127.0.0.1:%(refused)d, upstream: \"127.0.0.1:%(dead)d\", bytes "
        "from/to client:0/0, bytes from/to upstream:0/0" % stream.ports)


def test_idle_sessions_end(stream):
    with dial(stream.ports["idle"]) as sock:
        sock.sendall(b"x")
        assert read_exactly(sock, 1) == b"x"
        began = time.monotonic()
        assert read_all(sock) == b""
        assert 0.1 < time.monotonic() - began < 3
    assert logged(stream, "connection timed out (110: Connection timed out) while proxying "
                          "connection, client: 127.0.0.1")


def test_half_close_is_passed_on(stream):
    with dial(stream.ports["half"]) as sock:
        sock.sendall(b"all of it")
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"got all of it"


def context_of(certs, client=False):
    context = ssl.create_default_context(cafile=certs + "/ca.pem")
    if client:
        context.load_cert_chain(certs + "/client.pem", certs + "/client.key")
    return context


def test_tls_is_terminated(stream):
    payload = os.urandom(1 << 20)
    with dial(stream.ports["tls"]) as raw, context_of(stream.certs).wrap_socket(
            raw, server_hostname="good.test") as sock:
        sender = threading.Thread(target=sock.sendall, args=(payload[:1000],))
        sender.start()
        assert read_exactly(sock, 1000) == payload[:1000]
        sender.join()


def test_not_tls_at_a_tls_port(stream):
    with dial(stream.ports["tls"]) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"HTTP" not in read_all(sock)
    assert logged(stream, "SSL_do_handshake() failed")


def test_client_certificates(stream):
    with dial(stream.ports["client"]) as raw, context_of(stream.certs, True).wrap_socket(
            raw, server_hostname="good.test", suppress_ragged_eofs=False) as sock:
        assert read_all(sock) == b"known"
    with dial(stream.ports["client"]) as raw, context_of(stream.certs).wrap_socket(
            raw, server_hostname="good.test") as sock:
        assert read_all(sock) == b""
    assert logged(stream, "client sent no required SSL certificate while SSL handshaking")


def test_a_reload_keeps_sessions(stream):
    before = stream.workers()
    with dial(stream.ports["tcp"]) as sock:
        sock.sendall(b"one")
        assert read_exactly(sock, 3) == b"one"
        stream.reload()
        assert wait_until(lambda: set(stream.workers()) - set(before), 5)
        sock.sendall(b"two")
        assert read_exactly(sock, 3) == b"two"
    assert wait_until(lambda: not set(stream.workers()) & set(before), 5)
