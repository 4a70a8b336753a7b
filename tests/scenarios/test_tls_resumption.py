"""Tickets and their keys, early data (0-RTT): what a returning client gets, and what not."""
import os
import socket
import ssl
import subprocess
import threading

import pytest

from runner.server import free_port, wait_until

HEAD = "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: %s\r\n%s\r\n"


def request(target="/", host="good.test", close=True, body=""):
    length = "Content-Length: %d\r\n" % len(body) if body else ""
    return HEAD % (target, host, "close" if close else "keep-alive", length) + body


def context_of(version=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version:
        context.maximum_version = version
    return context


def ask(port, context, session=None, name="good.test"):
    """(body, session) of one answer over a connection of its own."""
    raw = socket.create_connection(("127.0.0.1", port), 20)
    with context.wrap_socket(raw, server_hostname=name, session=session) as stream:
        stream.sendall(request(host=name).encode())
        answer = b""
        while piece := stream.recv(65536):
            answer += piece
        return answer.partition(b"\r\n\r\n")[2].decode(), stream.session


class Client:
    """`openssl s_client`, which keeps its session in a file and can send early data."""

    def __init__(self, port, folder):
        self.port = port
        self.folder = str(folder)
        self.session = os.path.join(self.folder, "session")

    def run(self, text, *more, name="good.test"):
        run = subprocess.run(
            ["openssl", "s_client", "-connect", "127.0.0.1:%d" % self.port, "-servername", name,
             "-ign_eof", *more], input=text.encode(), capture_output=True, timeout=60)
        return run.stdout.decode("latin-1")

    def ask(self, text=None, **how):
        return self.run(text or request(), "-sess_out", self.session, **how)

    def ask_early(self, early, then="", **how):
        path = os.path.join(self.folder, "early")
        with open(path, "w") as file:
            file.write(early)
        return self.run(then, "-sess_in", self.session, "-early_data", path, **how)


class SlowHandshake:
    """Between a client and the server: holds back what the client sends after its early data until
    the server has sent `enough` bytes, more than its part of the handshake takes."""

    def __init__(self, port, enough=320):
        self.target = port
        self.enough = enough
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)
        self.held_back = False

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join(60)
        self.listener.close()

    def serve(self):
        client, _ = self.listener.accept()
        server = socket.create_connection(("127.0.0.1", self.target), 20)
        with client, server:
            while self.record(client, server) != 0x17:
                pass
            sent = 0
            while sent < self.enough:
                piece = server.recv(65536)
                if not piece:
                    return
                client.sendall(piece)
                sent += len(piece)
            self.held_back = True
            back = threading.Thread(target=self.copy, args=(server, client))
            back.start()
            self.copy(client, server)
            back.join()

    @staticmethod
    def record(source, target):
        """Passes one TLS record on; its type."""
        head = source.recv(5, socket.MSG_WAITALL)
        body = source.recv(int.from_bytes(head[3:], "big"), socket.MSG_WAITALL)
        target.sendall(head + body)
        return head[0]

    @staticmethod
    def copy(source, target):
        try:
            while piece := source.recv(65536):
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def ask_early_slowly(client, early, then="", **how):
    with SlowHandshake(client.port) as between:
        through = Client(between.port, client.folder)
        answer = through.ask_early(early, then, **how)
        assert between.held_back, answer
        return answer


SERVERS = """
    ssl_certificate %(certs)s/good.test.pem;
    ssl_certificate_key %(certs)s/good.test.key;
    server {
        listen 127.0.0.1:%(port)d ssl;
        %(first)s
        location / { return 200 "first:$ssl_session_reused:$ssl_early_data;"; }
    }
    server {
        listen 127.0.0.1:%(port)d ssl;
        server_name good.test;
        %(second)s
        location / { return 200 "second:$ssl_session_reused:$ssl_early_data;"; }
        location /slow { content_by_lua_block {
            ngx.req.read_body()
            ngx.sleep(0.01)
            ngx.print("slow:", ngx.var.ssl_early_data, ":", ngx.req.get_body_data() or "", ";")
        } }
        location /large { content_by_lua_block {
            for _ = 1, 50 do ngx.print(("x"):rep(10000)) end
            ngx.print(";end;")
        } }
        location /wary {
            if ($ssl_early_data) { return 425; }
            return 200 "late;";
        }
    }
"""


def up(server, certs, first="", second="", **parts):
    port = free_port()
    server.tls_port = port
    server.up(http=SERVERS % {"certs": certs, "port": port, "first": first, "second": second},
              **parts)
    return port


# ---- early data ----

@pytest.mark.parametrize("first", ["", "ssl_early_data on;"])
def test_early_data(server, certs, tmp_path, first):
    client = Client(up(server, certs, first, "ssl_early_data on;"), tmp_path)
    assert "second:.:;" in client.ask()
    early = ask_early_slowly(client, request())
    assert "second:r:1;" in early and "Early data was accepted" in early, early[-900:]
    # A ticket is good for more than one use; the answer may wait, or be large.
    assert "slow:1:;" in ask_early_slowly(client, request("/slow"))
    large = client.ask_early(request("/large"))
    assert large.count("x") >= 500000 and ";end;" in large
    assert "425 Too Early" in ask_early_slowly(client, request("/wary"))


def test_more_after_early_data(server, certs, tmp_path):
    client = Client(up(server, certs, "", "ssl_early_data on;"), tmp_path)
    client.ask()
    answers = ask_early_slowly(client, request(close=False), request())
    assert "second:r:1;" in answers and "second:r:;" in answers, answers[-1500:]
    # One request, begun early and ended late: once the client has proved itself nothing is early.
    half = request("/slow", body="0123456789")
    answer = client.ask_early(half[:-4], half[-4:])
    assert "slow::0123456789;" in answer, (answer[-900:], server.log())


def test_early_data_only_where_it_is_on(server, certs, tmp_path):
    client = Client(up(server, certs, "ssl_early_data on;"), tmp_path)
    client.ask(name="good.test")
    early = client.ask_early(request(), request())
    assert "Early data was accepted" not in early and "second:r:;" in early, early[-900:]
    plain = request(host="other.test")
    client.ask(plain, name="other.test")
    assert "first:r:1;" in ask_early_slowly(client, plain, name="other.test")


def test_early_data_of_another_server_is_refused(server, certs, tmp_path):
    other = "ssl_early_data on; ssl_verify_client optional; ssl_client_certificate %s/ca.pem;" \
        % certs
    client = Client(up(server, certs, "ssl_early_data on;", other), tmp_path)
    assert "first:.:;" in client.ask(request(host="other.test"), name="other.test")
    answer = client.ask_early(request(), request(), name="good.test")
    assert "Early data was accepted" not in answer and "second:.:;" in answer, answer[-900:]


# ---- tickets ----

CACHE = "ssl_session_cache shared:tls:128k;"


@pytest.mark.parametrize("directives, version", [("", ssl.TLSVersion.TLSv1_3),
                                                 (CACHE, ssl.TLSVersion.TLSv1_2)])
def test_tickets_outlive_a_reload(server, certs, directives, version):
    port = up(server, certs, directives, directives, workers=2)
    context = context_of(version)
    body, session = ask(port, context)
    assert body == "second:.:;"
    before = set(server.workers())
    assert server.reload()
    assert wait_until(lambda: not before & set(server.workers()), 20)
    assert ask(port, context, session)[0] == "second:r:;"


def test_keys_are_replaced(server, certs):
    """Each lifetime of a session the key that makes tickets is a new one; the last one opens old
    tickets for as long as they are good."""
    port = up(server, certs, "", CACHE + "ssl_session_timeout 1s;")
    context = context_of(ssl.TLSVersion.TLSv1_2)
    names = set()

    def name_of_key():
        # The ticket begins with the name of its key; s_client shows it.
        run = subprocess.run(["openssl", "s_client", "-connect", "127.0.0.1:%d" % port, "-tls1_2",
                              "-servername", "good.test"], stdin=subprocess.DEVNULL,
                             capture_output=True, timeout=60)
        line = next(line for line in run.stdout.decode("latin-1").splitlines()
                    if line.strip().startswith("0000 - "))
        names.add(line[:60])
        return len(names)
    assert wait_until(lambda: name_of_key() >= 3, 60, 0.2)
    # Resumption works whatever key is the current one.
    assert wait_until(lambda: ask(port, context, ask(port, context)[1])[0] == "second:r:;", 60)


def test_keys_from_files(server, certs, tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(os.urandom(80))
    line = "ssl_session_ticket_key %s; "
    old, new = line % (tmp_path / "old"), line % (tmp_path / "new")
    port = up(server, certs, old, old)
    context = context_of(ssl.TLSVersion.TLSv1_2)
    _, session = ask(port, context)

    def reload(keys):
        before = set(server.workers())
        server.setup(http=SERVERS % {"certs": certs, "port": port, "first": keys, "second": keys})
        assert server.reload()
        assert wait_until(lambda: not before & set(server.workers()), 20)
    reload(new + old)
    assert ask(port, context, session)[0] == "second:r:;"
    reload(new)
    assert ask(port, context, session)[0] == "second:.:;"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("cache", ["", CACHE, CACHE + "ssl_session_tickets off;"])
def test_sessions_stay_with_their_server(server, certs, version, cache):
    """One that was made without a certificate is of no use where one is asked for."""
    demand = "ssl_verify_client optional; ssl_client_certificate %s/ca.pem;" % certs
    port = up(server, certs, cache, cache + demand)
    context = context_of(version)
    _, session = ask(port, context, name="other.test")
    assert ask(port, context, session, "other.test")[0] == "first:r:;"
    try:
        assert ask(port, context, session, "good.test")[0] == "second:.:;"
    except ssl.SSLError:
        pass                           # refused at once is as good
