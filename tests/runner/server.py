"""A server under test: its directory, configuration, processes and logs.

Used by the cases, the framing table, the scenarios and the benchmarks. Knows nothing of HTTP.
"""
import glob
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEFAULT_BINARY = os.path.join(ROOT, "build", "asan", "resty-server")
SANITIZER_REPORT = re.compile(
    r"ERROR: \w+Sanitizer|\.(?:cpp|h|hpp|c):\d+:\d+: runtime error: ")


class StartError(Exception):
    """The server ended, or did not listen in time. `output` is its standard error."""

    def __init__(self, message, output="", code=None):
        super().__init__("%s (exit %s)\n%s" % (message, code, output))
        self.output = output
        self.code = code


def binary_path():
    return os.path.abspath(os.environ.get("RESTY_SERVER", DEFAULT_BINARY))


given_ports = set()


def free_port():
    """A port nobody uses, below the kernel's ephemeral range so that no client takes it. Never the
    same one twice: hundreds of cases share a server, and two of them would share its port."""
    for _ in range(1000):
        port = random.randrange(10240, 32000)
        if port in given_ports:
            continue
        given_ports.add(port)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port")


def wait_until(check, timeout=5.0, interval=0.01):
    """The first true answer of check(), or its last answer when the time is up."""
    end = time.monotonic() + timeout
    while True:
        answer = check()
        if answer or time.monotonic() > end:
            return answer
        time.sleep(interval)


def children(pid):
    found = []
    for path in glob.glob("/proc/%d/task/*/children" % pid):
        try:
            with open(path) as file:
                found += [int(child) for child in file.read().split()]
        except OSError:
            pass
    return sorted(found)


def alive(pid):
    """True while the process exists and is no zombie."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Server:
    """One server in a directory of its own. Usable with `with`: stopped and checked at the end."""

    def __init__(self, binary=None, env=None, args=()):
        self.binary = binary or binary_path()
        self.prefix = tempfile.mkdtemp(prefix="resty-test-")
        os.chmod(self.prefix, 0o755)
        for name in ("conf", "logs", "html"):
            os.mkdir(os.path.join(self.prefix, name))
        os.chmod(self.path("logs"), 0o777)
        self.args = list(args)
        self.env = dict(os.environ, **(env or {}))
        self.set_sanitizer_options()
        self.process = None
        self.port = free_port()

    def set_sanitizer_options(self):
        report = "log_path=%s/logs/sanitizer" % self.prefix
        leaks = os.environ.get("RESTY_LEAKS", "0")
        self.env["ASAN_OPTIONS"] = "%s:detect_leaks=%s:abort_on_error=1:%s" % (
            report, leaks, "detect_stack_use_after_return=0:allocator_may_return_null=1")
        self.env["UBSAN_OPTIONS"] = report + ":print_stacktrace=1"

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        try:
            self.stop()
            if kind is None:
                reports = self.sanitizer_reports()
                assert not reports, reports
        finally:
            self.remove()

    # ---- files

    def path(self, *names):
        return os.path.join(self.prefix, *names)

    def write(self, name, text):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
        return path

    def read(self, name, offset=0):
        try:
            with open(self.path(name), "rb") as file:
                file.seek(offset)
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def size(self, name):
        try:
            return os.path.getsize(self.path(name))
        except OSError:
            return 0

    def log(self, offset=0):
        return self.read("logs/error.log", offset)

    def configure(self, text):
        """Writes the configuration; `@PREFIX@` and `@PORT@` are replaced."""
        text = text.replace("@PREFIX@", self.prefix).replace("@PORT@", str(self.port))
        return self.write("conf/server.conf", text)

    # ---- processes

    def command(self, *extra):
        return [self.binary, "-p", self.prefix + "/", "-c", self.path("conf/server.conf"),
                *self.args, *extra]

    def run(self, *extra, timeout=20):
        """Runs the binary to its end: `-t`, `-s reload`, ... The answer holds stdout + stderr."""
        return subprocess.run(self.command(*extra), env=self.env, timeout=timeout, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, errors="replace")

    def start(self, timeout=15, wait_port=True, **popen):
        with open(self.path("logs/stderr.log"), "wb") as output:
            popen = {"stdout": output, "stderr": subprocess.STDOUT, **popen}
            self.process = subprocess.Popen(self.command(), env=self.env,
                                            stdin=subprocess.DEVNULL, **popen)
        if wait_port:
            self.wait_listening(timeout)
            # The sockets are bound before the workers are forked; a lone process never has any.
            wait_until(self.workers, 0.5, 0.002)
        return self

    def wait_listening(self, timeout=15):
        def ready():
            return self.process.poll() is not None or self.accepts()
        if not wait_until(ready, timeout, 0.005):
            raise StartError("does not listen on port %d" % self.port, self.output())
        if self.process.poll() is not None:
            raise StartError("ended at start", self.output(), self.process.returncode)

    def accepts(self, port=None):
        try:
            socket.create_connection(("127.0.0.1", port or self.port), 1).close()
            return True
        except OSError:
            return False

    def output(self):
        return self.read("logs/stderr.log") + "".join(self.sanitizer_reports())

    def workers(self):
        return children(self.process.pid) if self.process else []

    def signal(self, name, pid=None):
        os.kill(pid or self.process.pid, getattr(signal, "SIG" + name))

    def reload(self, timeout=15):
        """HUP; returns when new workers replaced the old ones as the processes accepting."""
        before = set(self.workers())
        self.signal("HUP")
        return wait_until(lambda: set(self.workers()) - before, timeout)

    def stop(self, name="TERM", timeout=10):
        """Ends the server; processes that stay behind are killed and reported."""
        if not self.process:
            return
        tree = [self.process.pid] + self.workers()
        if self.process.poll() is None:
            self.signal(name)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        wait_until(lambda: not any(alive(pid) for pid in tree), 2)
        left = [pid for pid in tree if alive(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        assert not left, "processes %s did not end after SIG%s\n%s" % (left, name, self.log())

    def remove(self):
        if os.environ.get("RESTY_KEEP"):
            print("kept", self.prefix)
        else:
            shutil.rmtree(self.prefix, ignore_errors=True)

    # ---- checks

    def sanitizer_reports(self):
        """Texts of reports of any process of this server so far."""
        texts = []
        for path in sorted(glob.glob(self.path("logs/sanitizer*"))) + [
                self.path("logs/stderr.log"), self.path("logs/error.log")]:
            text = self.read(path)
            found = SANITIZER_REPORT.search(text)
            if found:
                part = text[found.start():found.start() + 4000]
                texts.append("%s: %s" % (os.path.basename(path), part))
        return texts
