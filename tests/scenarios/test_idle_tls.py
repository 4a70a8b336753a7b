"""Many idle TLS connections: they cost little, work when they are used again, and leave nothing.

RESTY_IDLE_TLS=10000 for the full number; -s prints what a connection costs."""
import os
import resource
import socket
import ssl
import time

import pytest

from runner.raw_upstream import RawUpstream
from runner.server import wait_until
from scenarios.test_many_tunnels import is_sanitized, private_bytes

# Fewer than a thousand that leave are no crowd whose memory would be given back.
CONNECTIONS = int(os.environ.get("RESTY_IDLE_TLS", "1100"))
IDLE_BYTES_MAX, LEFT_BYTES_MAX = 11000, 4000

LISTEN = """
listen 127.0.0.1:@PORT@ ssl backlog=1024;
ssl_certificate %(certs)s/good.test.pem;
ssl_certificate_key %(certs)s/good.test.key;
ssl_session_cache shared:tls:1m;
keepalive_timeout 600s;
"""
LOCATION = """
location = /who { return 200 "$ssl_protocol $ssl_cipher $ssl_session_reused $connection_requests"; }
"""


@pytest.fixture(autouse=True)
def descriptors():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 200
    if before[1] < wanted:
        pytest.skip("%d descriptors are not allowed here" % wanted)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], wanted), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def client_context(version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context


def open_one(server, context):
    raw = socket.create_connection(("127.0.0.1", server.port), 30)
    return context.wrap_socket(raw, server_hostname="good.test")


def ask(stream):
    stream.sendall(b"GET /who HTTP/1.1\r\nHost: good.test\r\n\r\n")
    answer = b""
    while not answer.endswith((b"1", b"2", b"3")) or b"\r\n\r\n" not in answer:
        piece = stream.recv(4096)
        assert piece, answer
        answer += piece
    return answer.rpartition(b"\r\n\r\n")[2].decode().split()


def test_idle_connections_cost_little(server, certs):
    server.up(listen=LISTEN % {"certs": certs}, locations=LOCATION, connections=CONNECTIONS + 100,
              main="worker_rlimit_nofile %d;" % (CONNECTIONS + 200))
    pid = server.workers()[0]
    context = client_context(ssl.TLSVersion.TLSv1_3)
    for _ in range(30):
        with open_one(server, context) as stream:
            ask(stream)
    before = private_bytes(pid)

    def each():
        return (private_bytes(pid) - before) / CONNECTIONS
    streams = [open_one(server, context) for _ in range(CONNECTIONS)]
    first = [ask(stream) for stream in streams]
    at_work = each()
    measured = not is_sanitized(server)
    if measured:
        assert wait_until(lambda: each() < IDLE_BYTES_MAX, 60, 0.2), each()
    else:
        time.sleep(2.5)
    idle = each()
    # What was put aside is as it was.
    again = [ask(stream) for stream in streams]
    assert [answer[:3] for answer in again] == [answer[:3] for answer in first]
    assert {answer[3] for answer in again} == {"2"}
    for stream in streams:
        stream.close()
    if measured:
        assert wait_until(lambda: each() < LEFT_BYTES_MAX, 60, 0.2), each()
    print("%d TLS connections: %d bytes each just served, %d idle, %d left when all have gone" % (
        CONNECTIONS, at_work, idle, each()))
    assert server.workers() == [pid]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_all_ends_of_an_idle_connection(server, certs, version):
    """Used after a while, closed by the client, reset, timed out: each from where it was put."""
    server.up(listen=LISTEN % {"certs": certs}, locations=LOCATION + """
        location = /late { content_by_lua_block { ngx.sleep(2.5) ngx.say(ngx.var.ssl_protocol) } }
        location = /short { keepalive_timeout 2s; return 200 "1"; }
    """)
    context = client_context(version)
    used, closed, timed_out, sleeping = [open_one(server, context) for _ in range(4)]
    ask(used), ask(closed)
    timed_out.sendall(b"GET /short HTTP/1.1\r\nHost: good.test\r\n\r\n")
    sleeping.sendall(b"GET /late HTTP/1.1\r\nHost: good.test\r\n\r\n")
    time.sleep(2.3)
    session = used.session
    assert ask(used)[3] == "2"
    closed.unwrap().close()
    assert b"TLSv1." in sleeping.recv(4096) or b"TLSv1." in sleeping.recv(4096)
    assert timed_out.recv(4096).startswith(b"HTTP/1.1 200")
    while timed_out.recv(4096):
        pass
    resumed = context.wrap_socket(socket.create_connection(("127.0.0.1", server.port), 30),
                                  server_hostname="good.test", session=session)
    assert ask(resumed)[2] == "r"
    assert wait_until(lambda: len(server.workers()) == 1)


def test_an_idle_tunnel(server, certs):
    """Its connection's TLS is asked about when the tunnel has taken the socket away."""
    def script(peer):
        peer.head()
        peer.send(b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
        while True:
            peer.send(peer.read(4))
    with RawUpstream(script) as upstream:
        server.up(listen=LISTEN % {"certs": certs},
                  http="log_format tls '$status $ssl_protocol $ssl_server_name';",
                  locations="""location / {
                      access_log logs/tls.log tls;
                      proxy_pass http://127.0.0.1:%d;
                      proxy_set_header Upgrade $http_upgrade;
                      proxy_set_header Connection upgrade;
                  }""" % upstream.port)
        stream = open_one(server, client_context(ssl.TLSVersion.TLSv1_3))
        stream.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\n"
                       b"Connection: upgrade\r\n\r\nping")
        got = b""
        while not got.endswith(b"ping"):
            got += stream.recv(4096)
        for _ in range(2):
            time.sleep(2.3)
            stream.sendall(b"more")
            assert stream.recv(4096) == b"more"
        time.sleep(2.3)
        stream.close()
        assert wait_until(lambda: server.read("logs/tls.log") == "101 TLSv1.3 good.test\n")
