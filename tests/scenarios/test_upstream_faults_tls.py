"""The faults of test_upstream_faults with an upstream asked over TLS, and those that only TLS
has. One server for all: the path says which fault the upstream shows."""
import ssl
import threading

import pytest

from runner.client import Connection, ProtocolError, get, request_bytes
from runner.raw_upstream import RawUpstream, answer
from scenarios.conftest import ScenarioServer
from scenarios.test_upstream_faults import CUT, OK, REFUSED


class Faulty(RawUpstream):
    """Answers /refused/N and /cut/N with what the tables of plain faults say."""

    def __init__(self, certs):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certs + "/good.test.pem", certs + "/good.test.key")
        self.served = []                  # the paths of each connection
        super().__init__(self.talk)

    def talk(self, peer):
        raw = peer.socket
        peer.socket = self.context.wrap_socket(raw, server_side=True)
        paths = []
        self.served.append(paths)
        while True:
            path = peer.head().split()[1]
            paths.append(path)
            reply, then = self.reply_for(path)
            peer.send(reply)
            if then == "reset":
                return peer.reset()
            if then == "goodbye":
                peer.socket.unwrap()
            if then in ("close", "goodbye"):
                return None

    @staticmethod
    def reply_for(path):
        table, _, at = path.strip("/").partition("/")
        if table == "refused":
            return REFUSED[int(at)][1:3]
        if table == "cut":
            return CUT[int(at)][1:3]
        if table == "until-close":
            return OK + b"\r\nthe body", "goodbye"
        if table == "until-reset":
            return OK + b"\r\nthe body", "reset"
        if table == "slow":
            return OK + b"Content-Length: 9\r\n\r\npart" if at == "body" else b"", "stay"
        return answer(), "stay"


@pytest.fixture(scope="module")
def gateway(certs):
    with Faulty(certs) as upstream, ScenarioServer() as server:
        server.upstream = upstream
        server.up(http="upstream faulty { server 127.0.0.1:%d max_fails=0; keepalive 8; }"
                       % upstream.port,
                  locations="location / { proxy_pass https://faulty; }"
                            "location /direct/ { proxy_buffering off; "
                            "proxy_pass https://faulty/; }"
                            "location /slow/ { proxy_read_timeout 200ms; "
                            "proxy_pass https://faulty; }")
        yield server


@pytest.mark.parametrize("at", range(len(REFUSED)), ids=[case[0] for case in REFUSED])
def test_refused(gateway, at):
    path = "/refused/%d" % at
    for _ in range(2):
        response = get(gateway.port, path)
        assert response.status == 502 and b"SECRET" not in response.body
    asked = [paths for paths in gateway.upstream.served if path in paths]
    assert all(paths[-1] == path for paths in asked), "a connection that failed was used again"
    assert get(gateway.port, "/fine").body == b"ok"


@pytest.mark.parametrize("at", range(len(CUT)), ids=[case[0] for case in CUT])
@pytest.mark.parametrize("prefix", ["", "/direct"])
def test_truncated_body_is_seen_as_such(gateway, at, prefix):
    with Connection(gateway.port) as connection:
        connection.send(request_bytes(target="%s/cut/%d" % (prefix, at), close=False))
        with pytest.raises(ProtocolError):
            connection.read_response()
    assert get(gateway.port, "/fine").body == b"ok"


def test_a_body_until_the_end(gateway):
    assert get(gateway.port, "/until-close").body == b"the body"
    try:                       # the reset may be there before the response has been read
        assert get(gateway.port, "/until-reset").status == 502
    except ProtocolError:
        pass


def test_slow_head_and_slow_body_time_out(gateway):
    assert get(gateway.port, "/slow/head").status == 504
    with pytest.raises(ProtocolError):
        get(gateway.port, "/slow/body")
    assert get(gateway.port, "/fine").body == b"ok"


def test_a_handshake_that_is_not_answered_times_out(server):
    over = threading.Event()
    with RawUpstream(lambda peer: over.wait(20)) as upstream:
        server.up(locations="location / { proxy_pass https://127.0.0.1:%d; "
                            "proxy_connect_timeout 200ms; }" % upstream.port)
        assert get(server.port, "/x").status == 504
        over.set()
    assert "upstream timed out (110: Connection timed out) while SSL handshaking to upstream" \
        in server.log()


def test_bytes_on_an_idle_connection_end_it(server, certs):
    ended = threading.Event()

    def talk(peer):
        peer.socket = context.wrap_socket(peer.socket, server_side=True)
        peer.head()
        peer.send(answer(b"first"))
        peer.send(answer(b"unasked"))
        try:
            while peer.socket.recv(1000):
                pass
        except OSError:
            pass
        ended.set()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs + "/good.test.pem", certs + "/good.test.key")
    with RawUpstream(talk) as upstream:
        server.up(http="upstream raw { server 127.0.0.1:%d; keepalive 8; }" % upstream.port,
                  locations="location / { proxy_pass https://raw; }")
        for count in range(1, 4):
            ended.clear()
            assert get(server.port, "/x").body == b"first"
            assert ended.wait(10)
            assert upstream.connections == count
