"""What the scenarios share: a ready configuration, a server fixture, load from threads."""
import os
import signal
import subprocess
import threading
import time

import pytest

from runner.client import Connection, ProtocolError, request_bytes
from runner.server import Server, alive, children, wait_until

MAIN = """
%(user)sdaemon %(daemon)s;
worker_processes %(workers)d;
pid logs/server.pid;
error_log logs/error.log notice;
worker_shutdown_timeout %(shutdown)s;
%(main)s
events { worker_connections %(connections)d; }
http {
    default_type text/plain;
    %(log)s
    keepalive_requests 1000000;
    %(http)s
    server {
        %(listen)s
        location = / { return 200 "hello\\n"; }
        location = /lua { content_by_lua_block { ngx.say("from lua") } }
        location = /slow {
            content_by_lua_block { ngx.sleep(tonumber(ngx.var.arg_t) or 1) ngx.say("slept") }
        }
        location = /pid { content_by_lua_block { ngx.say(ngx.worker.pid()) } }
        %(locations)s
    }
}
"""


class ScenarioServer(Server):
    """A server with the common configuration; parts of it by keyword."""

    def setup(self, **parts):
        defaults = {"workers": 1, "daemon": "off", "log": "access_log off;",
                    "connections": 1024, "shutdown": "10s", "main": "", "http": "", "locations": "",
                    "listen": "listen 127.0.0.1:@PORT@ backlog=1024;",
                    "user": "user root;\n" if os.geteuid() == 0 else ""}
        self.configure(MAIN % {**defaults, **parts})
        return self

    def up(self, **parts):
        self.setup(**parts).start()
        if "master_process off" not in parts.get("main", ""):
            # The port is open before the workers are there.
            wait_until(lambda: len(self.workers()) >= parts.get("workers", 1))
        return self

    def up_in_background(self, **parts):
        """As a daemon: what a binary upgrade and WINCH are for. `master` is its process id."""
        self.setup(daemon="on", **parts).start(wait_port=False)
        assert self.process.wait(15) == 0, self.output()
        assert wait_until(self.accepts, 5), self.log()
        return int(self.read("logs/server.pid"))


def end_process(pid):
    """Ends a server that is no child of ours, workers included."""
    if not alive(pid):
        return
    tree = [pid, *children(pid)]
    os.kill(pid, signal.SIGTERM)
    if not wait_until(lambda: not any(map(alive, tree)), 5):
        for left in filter(alive, tree):
            os.kill(left, signal.SIGKILL)
        raise AssertionError("processes did not end: %s" % tree)


@pytest.fixture
def server():
    with ScenarioServer() as one:
        yield one


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def certs(tmp_path_factory):
    """A folder: the CA ca.pem, and certificates of it for good.test and client (.pem, .key)."""
    folder = str(tmp_path_factory.mktemp("certs"))
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout")
    authority = folder + "/ca"
    openssl("req", "-x509", *key, authority + ".key", "-out", authority + ".pem", "-days", "10",
            "-subj", "/CN=ca")
    for name in ("good.test", "client"):
        path = os.path.join(folder, name)
        openssl("req", *key, path + ".key", "-out", path + ".csr", "-subj", "/CN=" + name,
                "-addext", "subjectAltName=DNS:%s,IP:127.0.0.1" % name)
        openssl("x509", "-req", "-in", path + ".csr", "-CA", authority + ".pem", "-CAkey",
                authority + ".key", "-CAcreateserial", "-days", "10", "-copy_extensions",
                "copyall", "-out", path + ".pem")
    return folder


class Load:
    """Clients in threads, each asking again and again; counts answers and failures.

    A keep-alive client whose connection the server closed between two requests dials again and
    repeats: only a request that was begun on a fresh connection, or answered in part, can fail.
    """

    def __init__(self, port, one_shot=2, keep_alive=2, target="/"):
        self.port = port
        self.target = target
        self.running = True
        self.answers = 0
        self.failures = []
        self.lost_idle = 0
        self.lock = threading.Lock()
        calls = [self.one_shot] * one_shot + [self.keep_alive] * keep_alive
        self.threads = [threading.Thread(target=call, daemon=True) for call in calls]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.running = False
        for thread in self.threads:
            thread.join(15)

    def count(self, response, what):
        with self.lock:
            if response is not None and response.status == 200:
                self.answers += 1
            else:
                self.failures.append("%s: %s" % (what, response and response.status))

    def one_shot(self):
        while self.running:
            try:
                with Connection(self.port) as connection:
                    connection.send(request_bytes(target=self.target))
                    self.count(connection.read_response(), "one-shot")
            except (OSError, ProtocolError) as error:
                self.count(None, "one-shot %r" % error)

    def ask(self, connection, fresh):
        """One request on a kept connection; False when the connection is no longer good."""
        try:
            connection.send(request_bytes(target=self.target, close=False))
            response = connection.read_response()
        except OSError:
            response = None
        except ProtocolError as error:
            self.count(None, "keep-alive %r" % error)
            return False
        if response is None:
            if fresh:
                self.count(None, "keep-alive, first request on the connection")
            else:
                with self.lock:
                    self.lost_idle += 1
            return False
        self.count(response, "keep-alive")
        return response.get("Connection", "").lower() != "close"

    def keep_alive(self):
        while self.running:
            try:
                with Connection(self.port) as connection:
                    fresh = True
                    while self.running and self.ask(connection, fresh):
                        fresh = False
            except OSError as error:
                self.count(None, "keep-alive connect %r" % error)

    def wait_answers(self, count, timeout=10):
        end = time.monotonic() + timeout
        goal = self.answers + count
        while self.answers < goal and time.monotonic() < end:
            time.sleep(0.01)
        return self.answers >= goal
