"""Real databases for the scenarios of their clients: each on ports, sockets and files of its own,
with TLS, started by the first test that wants it and ended with the session.

Also the server that runs Lua chunks sent to it: `Lua.run(code)` gives what the chunk returns.
"""
import atexit
import functools
import glob
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile

from runner.client import Connection, request_bytes
from runner.server import free_port, wait_until
from scenarios.conftest import ScenarioServer

HTTP = """
lua_socket_log_errors off;
lua_socket_connect_timeout 5s; lua_socket_send_timeout 5s; lua_socket_read_timeout 5s;
%s
"""

RUN = r"""
location = /run {
    client_max_body_size 10m; client_body_buffer_size 10m;
    content_by_lua_block {
        local cjson = require "cjson"
        ngx.req.read_body()
        local chunk = assert(loadstring(ngx.req.get_body_data(), "=chunk"))
        local list = setmetatable({}, cjson.empty_array_mt)
        local function keep(...)
            for i = 1, select("#", ...) do
                local value = select(i, ...)
                list[i] = value == nil and ngx.null or value
            end
        end
        keep(chunk())
        ngx.print(cjson.encode(list))
    }
}
"""


class Lua(ScenarioServer):
    """A server that runs chunks."""

    def start_up(self, certificate=None, http=""):
        trusted = "lua_ssl_trusted_certificate %s;" % certificate if certificate else ""
        return self.up(http=HTTP % trusted + http, locations=RUN)

    def run(self, code, timeout=20):
        """What the chunk returns, as a list; a table of Lua as list or dict, nil as None."""
        with Connection(self.port, timeout=timeout) as connection:
            connection.send(request_bytes("POST", "/run", body=code.encode("latin-1")))
            response = connection.read_response()
        assert response is not None and response.status == 200, self.log()[-3000:]
        return json.loads(response.body.decode("latin-1"))


class Backend:
    """A database: `start()` once, then `port`, `path` (of its socket) and `tls_port`."""

    user = None  # who runs it when the tests are root's

    def __init__(self, certificate, key):
        self.directory = tempfile.mkdtemp(prefix="resty-db-")
        self.process = None
        self.port, self.tls_port = free_port(), free_port()
        self.certificate, self.key = self.own_copy(certificate), self.own_copy(key)
        self.path = os.path.join(self.directory, "socket")
        atexit.register(self.remove)

    def own_copy(self, path):
        copy = shutil.copy(path, self.directory)
        os.chmod(copy, 0o600)
        return copy

    def as_user(self, command):
        if os.geteuid() != 0 or not self.user:
            return command
        entry = pwd.getpwnam(self.user)
        for name in [self.directory, *glob.glob(self.directory + "/*")]:
            os.chown(name, entry.pw_uid, entry.pw_gid)
        return ["setpriv", "--reuid=%s" % self.user, "--regid=%d" % entry.pw_gid,
                "--clear-groups", *command]

    def launch(self):
        with open(os.path.join(self.directory, "log"), "ab") as log:
            self.process = subprocess.Popen(
                self.as_user(self.command()), cwd=self.directory, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True)
        assert wait_until(self.ready, 30, 0.05), self.log()
        return self

    def start(self):
        self.prepare()
        return self.launch()

    def prepare(self):
        pass

    def ready(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def log(self):
        with open(os.path.join(self.directory, "log"), errors="replace") as file:
            return file.read()[-3000:]

    def kill(self):
        """As a crash does it: without a word to its clients."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def remove(self):
        if self.process:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class Redis(Backend):
    def command(self):
        return ["redis-server", "--port", str(self.port), "--tls-port", str(self.tls_port),
                "--bind", "127.0.0.1", "--unixsocket", self.path, "--unixsocketperm", "777",
                "--tls-cert-file", self.certificate, "--tls-key-file", self.key,
                "--tls-auth-clients", "no", "--save", "", "--appendonly", "no"]


class Memcached(Backend):
    def command(self):
        user = ["-u", "root"] if os.geteuid() == 0 else []
        return ["memcached", *user, "-m", "64", "-U", "0", "-Z", "-l",
                "notls:127.0.0.1:%d,127.0.0.1:%d" % (self.port, self.tls_port),
                "-o", "ssl_chain_cert=%s,ssl_key=%s" % (self.certificate, self.key)]


class MemcachedUnix(Backend):
    def command(self):
        user = ["-u", "root"] if os.geteuid() == 0 else []
        return ["memcached", *user, "-m", "64", "-s", self.path, "-a", "777"]

    def ready(self):
        return os.path.exists(self.path)


MARIADB_USERS = """
create database test_db character set utf8mb4;
create user plain@'%' identified by 'secret word';
create user empty@'%' identified by '';
create user old@'%' identified via mysql_old_password using password('ancient');
install soname 'auth_ed25519';
create user edward@'%' identified via ed25519 using password('curve');
create user secured@'%' identified by 'secret word' require ssl;
grant all on test_db.* to plain@'%', empty@'%', old@'%', edward@'%', secured@'%';
flush privileges;
"""


class MariaDB(Backend):
    user = "mysql"

    def prepare(self):
        self.data = os.path.join(self.directory, "data")
        with open(os.path.join(self.directory, "users.sql"), "w") as file:
            # The statements of an --init-file are a line each.
            file.write(MARIADB_USERS)
        result = subprocess.run(
            self.as_user(["mariadb-install-db", "--no-defaults", "--skip-test-db",
                          "--datadir=" + self.data, "--auth-root-authentication-method=normal"]),
            cwd=self.directory, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr

    def command(self):
        init = os.path.join(self.directory, "users.sql")
        flags = [] if not os.path.exists(init) else ["--init-file=" + init]
        return ["/usr/sbin/mariadbd", "--no-defaults", "--datadir=" + self.data,
                "--socket=" + self.path, "--port=%d" % self.port, "--bind-address=127.0.0.1",
                "--plugin-dir=" + glob.glob("/usr/lib/mysql/plugin")[0],
                "--tmpdir=" + self.directory, "--skip-name-resolve", "--skip-log-bin",
                "--innodb-flush-log-at-trx-commit=0", "--max-allowed-packet=64M",
                "--innodb-buffer-pool-size=16M",
                "--ssl-cert=" + self.certificate, "--ssl-key=" + self.key, "--secure-auth=0",
                *flags]


POSTGRES_USERS = """
set password_encryption = 'md5'; create user hashed password 'md5 word';
set password_encryption = 'scram-sha-256';
create user clear password 'clear word'; create user scram password 'scram word';
"""

POSTGRES_ACCESS = """
local all postgres trust
local all all scram-sha-256
host all hashed 127.0.0.1/32 md5
host all clear 127.0.0.1/32 password
host all postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""


class Postgres(Backend):
    user = "postgres"

    def program(self, name):
        return sorted(glob.glob("/usr/lib/postgresql/*/bin/" + name))[-1]

    def prepare(self):
        self.data = os.path.join(self.directory, "data")
        self.path = os.path.join(self.directory, ".s.PGSQL.%d" % self.port)
        self.checked([self.program("initdb"), "-D", self.data, "-U", "postgres", "-A", "trust",
                      "-E", "UTF8", "--no-locale", "--no-sync"])
        with open(os.path.join(self.data, "pg_hba.conf"), "w") as file:
            file.write(POSTGRES_ACCESS)
        self.checked([self.program("postgres"), "--single", "-D", self.data, "postgres"],
                     POSTGRES_USERS)

    def checked(self, command, text=None):
        result = subprocess.run(self.as_user(command), cwd=self.directory, input=text,
                                capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr

    def command(self):
        settings = ["listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=16MB", "ssl=on",
                    "unix_socket_directories=" + self.directory,
                    "ssl_cert_file=" + self.certificate, "ssl_key_file=" + self.key]
        return [self.program("postgres"), "-D", self.data, "-p", str(self.port),
                *[part for setting in settings for part in ("-c", setting)]]

    def ready(self):
        return subprocess.run([self.program("pg_isready"), "-q", "-h", "127.0.0.1", "-p",
                               str(self.port)]).returncode == 0

    def kill(self):
        # Its sessions are processes in sessions of their own.
        for pid in [self.process.pid, *map(int, subprocess.run(
                ["ps", "-o", "pid=", "--ppid", str(self.process.pid)],
                capture_output=True, text=True).stdout.split())]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None


@functools.lru_cache(None)
def certificate():
    """A certificate for localhost that vouches for itself, and its key."""
    directory = tempfile.mkdtemp(prefix="resty-cert-")
    os.chmod(directory, 0o755)
    atexit.register(shutil.rmtree, directory, True)
    names = [os.path.join(directory, name) for name in ("server.crt", "server.key")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                    "-out", names[0], "-keyout", names[1]], check=True, capture_output=True)
    for name in names:
        os.chmod(name, 0o644)
    return names


@functools.lru_cache(None)
def shared(kind):
    """The one instance of a backend in this session."""
    return kind(*certificate()).start()
