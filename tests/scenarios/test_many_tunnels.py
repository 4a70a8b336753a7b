"""Many upgraded connections through one worker: each carries messages, costs little and is freed.

RESTY_TUNNELS=10000 for the full number, RESTY_PEER=/usr/sbin/nginx to measure another server as
well; -s prints what a tunnel costs."""
import os
import resource
import selectors
import socket
import threading
import time

import pytest

from runner.server import wait_until
from scenarios.conftest import ScenarioServer

TUNNELS = int(os.environ.get("RESTY_TUNNELS", "300"))
DESCRIPTORS = 2 * TUNNELS + 150
PEER = os.environ.get("RESTY_PEER")
# Measured: 5000, of which the two sockets' objects are most; Debian's nginx needs 18100.
BYTES_MAX = 8000

LOCATION = """
location /tunnel {
    proxy_pass http://127.0.0.1:%d;
    proxy_read_timeout 600s;
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection upgrade;
}
"""

HEAD = b"GET /tunnel HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n"


class Origin:
    """Upgrades every connection and gives back what it is sent."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.listener.getsockname()[1]
        self.selector = selectors.DefaultSelector()
        self.wake, self.woken = socket.socketpair()
        self.selector.register(self.listener, selectors.EVENT_READ, self.accept)
        self.selector.register(self.woken, selectors.EVENT_READ, None)
        self.open = set()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            for key, _ in self.selector.select():
                if key.data is None:
                    return
                key.data(key.fileobj)

    def accept(self, listener):
        stream, _ = listener.accept()
        self.open.add(stream)
        self.selector.register(stream, selectors.EVENT_READ, self.upgrade)

    def upgrade(self, stream):
        assert stream.recv(65536).endswith(b"\r\n\r\n")
        self.selector.modify(stream, selectors.EVENT_READ, self.echo)
        stream.sendall(SWITCH)

    def echo(self, stream):
        data = stream.recv(65536)
        if data:
            return stream.sendall(data)
        self.selector.unregister(stream)
        self.open.discard(stream)
        return stream.close()

    def stop(self):
        self.wake.send(b"x")
        self.thread.join(20)
        for stream in (*self.open, self.listener, self.wake, self.woken):
            stream.close()
        self.selector.close()


@pytest.fixture(autouse=True)
def descriptors():
    """Both ends of all tunnels are ours, and both middles are the server's."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[0] < DESCRIPTORS:
        try:
            most = max(before[1], DESCRIPTORS)
            resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, most))
        except ValueError:
            pytest.skip("%d descriptors are not allowed here" % DESCRIPTORS)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def private_bytes(pid):
    with open("/proc/%d/smaps_rollup" % pid) as file:
        return sum(int(line.split()[1]) * 1024 for line in file
                   if line.startswith(("Private_Dirty:", "Private_Clean:")))


def open_tunnel(port):
    stream = socket.create_connection(("127.0.0.1", port), 30)
    stream.sendall(HEAD)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = stream.recv(4096)
        assert piece, head
        head += piece
    assert head.startswith(b"HTTP/1.1 101 "), head
    return stream


def exchange(tunnels, message):
    """To each, then from each, so that all are at work at once."""
    for stream in tunnels:
        stream.sendall(message)
    for stream in tunnels:
        got = b""
        while len(got) < len(message):
            piece = stream.recv(65536)
            assert piece
            got += piece
        assert got == message


def close_all(server, pid, origin, tunnels, descriptors_before):
    for stream in tunnels:
        stream.close()
    assert wait_until(lambda: not origin.open, 60)
    assert wait_until(lambda: len(os.listdir("/proc/%d/fd" % pid)) <= descriptors_before, 60)


def measure(server):
    """(bytes for each tunnel, bytes for each when all have gone)."""
    origin = Origin()
    try:
        server.up(connections=2 * TUNNELS + 100, locations=LOCATION % origin.port,
                  main=server.load + "worker_rlimit_nofile %d;" % DESCRIPTORS)
        pid = server.workers()[0]
        few = [open_tunnel(server.port) for _ in range(20)]
        exchange(few, b"warm" * 1000)
        close_all(server, pid, origin, few, 10**6)
        descriptors_before = len(os.listdir("/proc/%d/fd" % pid))
        before = private_bytes(pid)
        tunnels = [open_tunnel(server.port) for _ in range(TUNNELS)]
        exchange(tunnels, b"hello")
        exchange(tunnels, b"a longer message " * 500)
        during = private_bytes(pid)
        close_all(server, pid, origin, tunnels, descriptors_before)
        if TUNNELS >= 1000:
            time.sleep(3)          # a crowd's memory is given back when it has been gone a while
        after = private_bytes(pid)
        assert server.workers() == [pid], server.log()[-2000:]
        return (during - before) / TUNNELS, (after - before) / TUNNELS
    finally:
        origin.stop()


def is_sanitized(server):
    with open(server.binary, "rb") as file:
        return b"__asan_init" in file.read()


def test_tunnels_cost_little_and_are_freed(server):
    server.load = ""
    each, left = measure(server)
    print("%d tunnels: %d bytes each, %d of them left when all have gone" % (TUNNELS, each, left))
    assert is_sanitized(server) or each < BYTES_MAX


@pytest.mark.skipif(not PEER, reason="RESTY_PEER names no other server")
def test_the_peer():
    modules = "/usr/lib/nginx/modules/"
    with ScenarioServer(binary=PEER) as server:
        server.load = "".join("load_module %s%s.so;\n" % (modules, name) for name in
                              ("ndk_http_module", "ngx_http_lua_module"))
        print("%s: %d bytes each, %d left" % (PEER, *measure(server)))
