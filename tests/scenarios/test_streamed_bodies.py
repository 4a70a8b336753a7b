"""Bodies far larger than memory should be, through the proxy both ways: the worker stays as it was.

RESTY_STREAM_MB=5120 for the long run; -s prints memory and times."""
import os
import shutil
import subprocess
import threading
import time

import pytest

from runner.server import free_port
from scenarios.conftest import ScenarioServer

BYTES = int(os.environ.get("RESTY_STREAM_MB", "64")) << 20
GROWTH_MAX_MB = 16

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")

TLS = """
server {
    listen 127.0.0.1:%(port)d ssl;
    ssl_certificate %(certs)s/good.test.pem;
    ssl_certificate_key %(certs)s/good.test.key;
    %(locations)s
}
"""

# The other end: sends a file that takes no room on the disk, and counts what it is sent.
ORIGIN = """
client_max_body_size 0;
location = /down { alias @PREFIX@/html/sparse; }
location = /up { content_by_lua_block {
    local socket = assert(ngx.req.socket())
    local total = 0
    repeat
        local piece, err = socket:receiveany(65536)
        total = total + #(piece or "")
    until not piece
    ngx.say(total)
} }
"""

PASSED = """
client_max_body_size 0;
location /direct/ { proxy_buffering off; proxy_request_buffering off; proxy_pass %(to)s/; }
location /memory/ { proxy_max_temp_file_size 0; proxy_pass %(to)s/; }
location /file/ { proxy_max_temp_file_size 8m; proxy_pass %(to)s/; }
"""


def both(server, certs, locations):
    """Plain and TLS listeners with these locations."""
    server.env["ASAN_OPTIONS"] += ":quarantine_size_mb=4"
    server.tls = free_port()
    server.up(http="lua_stall_warning off;\n" + TLS % {
        "port": server.tls, "certs": certs, "locations": locations}, locations=locations)
    return server


@pytest.fixture(scope="module")
def origin(certs):
    with ScenarioServer() as server:
        with open(server.write("html/sparse", b""), "wb") as file:
            file.truncate(BYTES)
        yield both(server, certs, ORIGIN)


@pytest.fixture(scope="module", params=["plain", "tls"])
def gateway(request, certs, origin):
    """`base` is what clients ask; the origin is asked in the same way."""
    with ScenarioServer() as server:
        tls = request.param == "tls"
        to = "https://127.0.0.1:%d" % origin.tls if tls else "http://127.0.0.1:%d" % origin.port
        both(server, certs, PASSED % {"to": to})
        server.base = "https://127.0.0.1:%d" % server.tls if tls else \
            "http://127.0.0.1:%d" % server.port
        server.source = origin.path("html/sparse")
        for path in ("/direct/up", "/direct/down", "/memory/down", "/file/down"):
            curl(server, path, first_mb=4)
        yield server


def curl(server, path, first_mb=None):
    """Moves all of the body, or some MB of it; what was moved as curl or the origin counted it."""
    command = ["curl", "-sS", "-k", "--max-time", "3000"]
    if path.endswith("/up"):
        part = subprocess.Popen(["head", "-c", str(first_mb << 20 if first_mb else BYTES),
                                 server.source], stdout=subprocess.PIPE)
        done = subprocess.run([*command, "-T", "-", server.base + path], stdin=part.stdout,
                              capture_output=True)
        part.stdout.close()
        part.wait()
    else:
        some = ["-r", "0-%d" % ((first_mb << 20) - 1)] if first_mb else []
        done = subprocess.run([*command, *some, "-o", "/dev/null", "-w", "%{size_download}",
                               server.base + path], capture_output=True)
    assert done.returncode == 0, (done.stderr, server.log())
    return int(done.stdout)


class Memory:
    """The highest resident memory of the worker while inside, in MB."""

    def __init__(self, server):
        self.pid = server.workers()[0]
        self.running = True
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def now(self):
        with open("/proc/%d/statm" % self.pid) as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def watch(self):
        while self.running:
            self.peak = max(self.peak, self.now())
            time.sleep(0.01)

    def __enter__(self):
        self.before = self.peak = self.now()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.running = False
        self.thread.join()
        self.peak = max(self.peak, self.now())


@pytest.mark.parametrize("path", ["/direct/down", "/memory/down", "/file/down", "/direct/up"])
def test_memory_stays_flat(gateway, path):
    started = time.monotonic()
    with Memory(gateway) as memory:
        assert curl(gateway, path) == BYTES
    print("%s%s: %d MB in %.1f s, worker %.1f MB, at most %.1f" % (
        gateway.base[:5], path, BYTES >> 20, time.monotonic() - started, memory.before,
        memory.peak))
    assert memory.peak - memory.before < GROWTH_MAX_MB
