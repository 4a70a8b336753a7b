"""What the load benchmarks share: servers pinned to a core, their CPU time, the load client."""
import glob
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OURS = os.path.join(ROOT, "build", "release", "resty-server")
PEER = "/usr/sbin/nginx"
PEER_MODULES = ["ndk_http_module.so", "ngx_http_lua_module.so"]
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]


def on_core(core, argv):
    return ["taskset", "-c", str(core), *argv]


def free_port():
    for _ in range(1000):
        port = random.randrange(10240, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port")


def prose(size):
    """Text that compresses about as English does, the same every time."""
    source = random.Random(1)
    words = ["".join(source.choices("etaoinshrdlu", k=source.randrange(2, 10)))
             for _ in range(2000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    return " ".join(source.choices(words, weights, k=size // 4))[:size]


class Bench:
    """A directory with the built tools, the static files and the servers started in it."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="resty-bench-")
        os.chmod(self.directory, 0o755)
        self.servers = []
        self.backends = {}
        for name, libraries in (("bare_loop", ()), ("load_client", ()),
                                ("tls_client", ("-lssl", "-lcrypto"))):
            subprocess.run(["cc", "-O2", "-o", self.path(name),
                            os.path.join(HERE, name + ".c"), *libraries], check=True)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj",
                        "/CN=localhost", "-keyout", self.path("key.pem"), "-out",
                        self.path("certificate.pem")], check=True, capture_output=True)
        os.mkdir(self.path("files"))
        for name, size in (("1k.txt", 1024), ("100k.txt", 102400), ("1m.txt", 1 << 20)):
            with open(self.path("files", name), "w", encoding="ascii") as file:
                file.write(prose(size))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def start(self, name, binary, wrapper=(), replace=None):
        """A web server with the common configuration."""
        self.start_backends()
        prefix = self.path(name)
        os.makedirs(prefix + "/logs", exist_ok=True)
        port, tls_port = free_port(), free_port()
        modules = ""
        if os.path.basename(binary) == "nginx":
            modules = "".join("load_module /usr/lib/nginx/modules/%s;\n" % module
                              for module in PEER_MODULES
                              if os.path.exists("/usr/lib/nginx/modules/" + module))
        values = {"MODULES": modules, "USER": "user root;" if os.geteuid() == 0 else "",
                  "PORT": str(port), "TLSPORT": str(tls_port), "FILES": self.path("files"),
                  "CERTIFICATE": self.path("certificate.pem"), "KEY": self.path("key.pem"),
                  **self.backends}
        with open(os.path.join(HERE, "server.conf.in"), encoding="ascii") as file:
            text = re.sub(r"@([A-Z]+)@", lambda found: values.get(found.group(1), ""), file.read())
        for old, new in (replace or {}).items():
            text = text.replace(old, new)
        with open(prefix + "/server.conf", "w", encoding="ascii") as file:
            file.write(text)
        argv = [*wrapper, binary, "-p", prefix + "/", "-c", prefix + "/server.conf"]
        return self.keep(Running(name, argv, port, tls_port))

    def start_bare(self, name, options, core=SERVER_CORE):
        port = free_port()
        argv = [self.path("bare_loop"), *options, str(port)]
        return self.keep(Running(name, argv, port, core=core))

    def start_backends(self):
        """What /proxy and /proxy_1m ask; beside the load, for their time is not the server's."""
        if self.backends:
            return
        for name, options in (("BACKEND", []), ("BULK", ["-f", self.path("files", "1m.txt")])):
            self.backends[name] = str(self.start_bare(name, options, CLIENT_CORE).port)

    def keep(self, server):
        self.servers.append(server)
        return server.wait()

    def load_command(self, port, path, *options, client="load_client"):
        return on_core(CLIENT_CORE, [self.path(client), *map(str, options), str(port), path])

    def load(self, server, path, *options, tls=False):
        """(requests, seconds, errors) of one run of the load client."""
        port, client = (server.tls_port, "tls_client") if tls else (server.port, "load_client")
        done = subprocess.run(self.load_command(port, path, *options, client=client), text=True,
                              capture_output=True, check=False)
        found = re.search(r"requests (\d+) seconds ([\d.]+) errors (\d+)", done.stdout)
        if not found:
            raise SystemExit("load client on %s: %s%s" % (path, done.stdout, done.stderr))
        return int(found.group(1)), float(found.group(2)), int(found.group(3))


class Running:
    """A server process tree on one core."""

    def __init__(self, name, argv, port, tls_port=None, core=SERVER_CORE):
        self.name = name
        self.port = port
        self.tls_port = tls_port
        self.process = subprocess.Popen(on_core(core, argv), stdin=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)

    def wait(self):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.02)
        raise SystemExit("%s does not listen (exit %s)" % (self.name, self.process.poll()))

    def pids(self):
        """Of the whole tree: taskset and wrappers replace themselves, so this is the root."""
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            for path in glob.glob("/proc/%d/task/*/children" % pid):
                try:
                    with open(path, encoding="ascii") as file:
                        queue += [int(child) for child in file.read().split()]
                except OSError:
                    pass
        return found

    def cpu_seconds(self):
        total = 0
        for pid in self.pids():
            for path in glob.glob("/proc/%d/task/*/schedstat" % pid):
                try:
                    with open(path, encoding="ascii") as file:
                        total += int(file.read().split()[0])
                except OSError:
                    pass
        return total / 1e9

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
