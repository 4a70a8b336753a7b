"""Runs cases: builds the configuration, sends the requests, compares what came back.

Used by tests/conftest.py, which turns each case into a pytest item.
"""
import os
import re
import time

from runner import casefile
from runner.client import Connection, ProtocolError
from runner.server import Server, StartError, alive, free_port, wait_until

HTTP_DEFAULTS = """
    default_type text/plain;
    keepalive_timeout 10s;
    client_body_temp_path @PREFIX@/logs/client_body_temp;
"""
PAUSE_SECONDS = 0.05
NEVER_LOGGED = "[alert]\n[crit]\n[emerg]\n"


def check(condition, message, *values):
    if not condition:
        raise AssertionError(message % values if values else message)


def matches(pattern, text):
    """`~regex` or plain text."""
    if pattern.startswith("~"):
        return re.search(pattern[1:], text, re.S | re.M) is not None
    return pattern in text


def lines_of(text):
    return [line for line in text.splitlines() if line.strip()]


class RunningCase:
    """A case with the ports it was given."""

    def __init__(self, case):
        self.case = case
        self.ports = [free_port() for _ in range(3)]

    def fill(self, text, server):
        text = text.replace("@PREFIX@", server.prefix)
        for name, port in zip(("@PORT@", "@PORT2@", "@PORT3@"), self.ports):
            text = text.replace(name, str(port))
        return text


class CaseServer:
    """One server process for some cases of a file. The health port answers 204 to anything."""

    def __init__(self, shared, cases):
        self.shared = shared
        self.running = [RunningCase(case) for case in cases]
        setup = dict(shared.setup)
        for case in cases:
            setup.update({key: case.setup[key] for key in ("env", "args") if key in case.setup})
        env = dict(line.split("=", 1) for line in lines_of(setup.get("env", "")))
        self.server = Server(env=env, args=lines_of(setup.get("args", "")))
        self.worker_pids = []
        self.prepare()

    def prepare(self):
        server, shared = self.server, self.shared.setup
        own = {"main_config": shared.get("main_config", ""),
               "http_config": shared.get("http_config", "")}
        blocks = []
        for running in self.running:
            setup = running.case.setup
            for name in own:
                own[name] += running.fill(setup.get(name, ""), server)
            for text in (shared.get("files", ""), setup.get("files", "")):
                files = casefile.parse_files(running.fill(text, server), running.case.name)
                for name, content in files.items():
                    server.write(name, content)
            config = running.fill(shared.get("config", "") + setup.get("config", ""), server)
            listen = "" if re.search(r"^\s*listen\s", config, re.M) else \
                "listen 127.0.0.1:%d;" % running.ports[0]
            blocks.append("    server {\n        %s\n%s    }\n" % (listen, config))
        health = "    server { listen 127.0.0.1:@PORT@; location / { return 204; } }\n"
        user = "user root;\n" if os.geteuid() == 0 and "user " not in own["main_config"] else ""
        main = own["main_config"]
        defaults = [("worker_processes", "worker_processes 1;\n"), ("daemon", "daemon off;\n"),
                    ("error_log", "error_log logs/error.log info;\n"),
                    ("pid", "pid logs/server.pid;\n")]
        head = user + "".join(text for name, text in defaults
                              if not re.search(r"^\s*%s\s" % name, main, re.M))
        events = "" if re.search(r"^\s*events\s", main, re.M) else \
            "events { worker_connections 512; }\n"
        server.configure("%s%s%shttp {\n%s%s%s%s}\n" % (
            head, main, events, HTTP_DEFAULTS, own["http_config"], "".join(blocks), health))

    def start(self):
        self.server.start()
        self.worker_pids = wait_until(self.server.workers, 2)
        return self

    def stop(self):
        """Stops; says what is wrong with the processes: reports, dead or leaked workers."""
        problems = []
        try:
            problems += self.health_problems()
            self.server.stop()
        except AssertionError as error:
            problems.append(str(error))
        problems += self.server.sanitizer_reports()
        self.server.remove()
        return problems

    def health_problems(self):
        server = self.server
        if not server.process:
            return []
        problems = server.sanitizer_reports()
        dead = [pid for pid in self.worker_pids if not alive(pid)]
        if dead:
            problems.append("worker %s died\n%s" % (dead, server.log()[-3000:]))
        try:
            with Connection(server.port, timeout=5) as connection:
                connection.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                answer = connection.read_response()
                if answer is None or answer.status != 204:
                    problems.append("health port does not answer 204")
        except (OSError, ProtocolError) as error:
            problems.append("health port: %r" % error)
        return problems


# ---- one case against a running server


def build_request(text, last):
    """The short form to (method, bytes)."""
    head, _, body = text.partition("\n\n")
    lines = head.rstrip("\n").split("\n")
    words = lines[0].split(" ")
    if not words[-1].startswith("HTTP/"):
        words.append("HTTP/1.1")
    names = [line.split(":")[0].strip().lower() for line in lines[1:]]
    body_bytes = casefile.expand(body.rstrip("\n")).encode()
    head_lines = [" ".join(words)]
    if "host" not in names and words[-1] != "HTTP/1.0":
        head_lines.append("Host: localhost")
    if body_bytes and "content-length" not in names and "transfer-encoding" not in names:
        head_lines.append("Content-Length: %d" % len(body_bytes))
    if last and "connection" not in names:
        head_lines.append("Connection: close")
    head_lines += lines[1:]
    head_text = casefile.expand("\r\n".join(head_lines) + "\r\n\r\n")
    return words[0], head_text.encode() + body_bytes


def step_bytes(running, server, index):
    """(method, pieces): `\\P` in a raw request is a pause between two of them."""
    step = running.case.steps[index]
    text = running.fill(step.text, server)
    if step.kind == "raw_request":
        pieces = [casefile.unescape(piece) for piece in text.split("\\P")]
        return pieces[0].split(b" ")[0].decode("latin-1"), pieces
    last = index == len(running.case.steps) - 1 and "keep_open" not in running.case.flags
    method, data = build_request(text, last)
    return method, [data]


def check_fields(expected, response, fields):
    saved, response.headers = response.headers, fields
    try:
        for line in lines_of(expected):
            name, colon, value = line.partition(":")
            value = value.strip()
            found = response.get_all(name.strip())
            shown = "\n".join("%s: %s" % pair for pair in fields)
            if line.startswith("!"):
                check(not response.get_all(line[1:].strip()), "unwanted %s in\n%s", line, shown)
            elif not colon and "#" in line:
                name, _, count = line.partition("#")
                check(len(response.get_all(name.strip())) == int(count), "%s in\n%s", line,
                      shown)
            elif value.startswith("~"):
                check(any(re.search(value[1:], text) for text in found),
                      "header %s not in\n%s", line, shown)
            else:
                check(value in found, "header %s not in\n%s", line, shown)
    finally:
        response.headers = saved


def check_response(expect, response, server, running):
    shown = "status %d\n%s\n\n%s" % (response.status, "\n".join(
        "%s: %s" % pair for pair in response.headers), response.text()[:2000])
    wanted = expect.get("status", "200").split()
    check(str(response.status) in wanted, "expected status %s\n%s", "/".join(wanted), shown)
    if "reason" in expect:
        check(response.reason == expect["reason"].strip(), "reason %r", response.reason)
    if "headers" in expect:
        check_fields(running.fill(expect["headers"], server), response, response.headers)
    if "trailers" in expect:
        check_fields(expect["trailers"], response, response.trailers)
    if "interim" in expect:
        interim = [str(item.status) for item in response.interim]
        check(interim == expect["interim"].split(), "interim responses %s", interim)
    text = response.body.decode("utf-8", "replace")
    if "body" in expect:
        body = casefile.expand(running.fill(expect["body"], server))
        check(text == body, "body differs: wanted\n%r\ngot\n%r", body[:4000], text[:4000])
    for pattern in lines_of(running.fill(expect.get("body_like", ""), server)):
        check(re.search(pattern, text, re.S | re.M), "body is not like %s\n%s", pattern, shown)
    for pattern in lines_of(expect.get("body_unlike", "")):
        check(not re.search(pattern, text, re.S | re.M), "body is like %s\n%s", pattern, shown)
    if "body_bytes" in expect:
        check(len(response.body) == int(expect["body_bytes"]), "body has %d bytes",
              len(response.body))


def run_step(connection, running, server, index):
    step = running.case.steps[index]
    method, pieces = step_bytes(running, server, index)
    for piece in pieces:
        if piece is not pieces[0]:
            time.sleep(PAUSE_SECONDS)
        try:
            connection.send(piece)
        except ConnectionError:
            break
    if "statuses" in step.expect:
        statuses, wanted = [], casefile.expand(step.expect["statuses"]).split()
        while len(statuses) < 1000:
            response = connection.read_response(method)
            if response is None:
                break
            statuses.append(str(response.status))
            if len(statuses) == len(wanted):
                break
        check(statuses == wanted, "statuses %s", statuses)
        if "closed" not in step.expect:
            return
    elif "truncated" in step.expect:
        try:
            response = connection.read_response(method)
            check(False, "a complete response: %s", response and response.text())
        except ProtocolError:
            pass
    else:
        may_end = "none" in step.expect.get("status", "").split()
        response = connection.read_response(method)
        check(response is not None or may_end, "connection ended without a response\n%s",
              server.log()[-2000:])
        if response is not None:
            check_response(step.expect, response, server, running)
    if "closed" in step.expect:
        wanted = step.expect.get("closed", "yes").strip() == "yes"
        closed = connection.closed(5 if wanted else 0.3)
        check(closed == wanted, "connection %s", "closed" if closed else "stays open")


def check_log(running, server, offset):
    flags = {name: running.fill(text, server) for name, text in running.case.flags.items()}
    if "wait" in flags:
        time.sleep(float(flags["wait"]))
    wanted = lines_of(flags.get("error_log", ""))
    wait_until(lambda: all(matches(line, server.log(offset)) for line in wanted), 3)
    text = server.log(offset)
    for line in wanted:
        check(matches(line, text), "error log has no %s\n%s", line, text[-4000:])
    default = "" if "error_log" in flags else NEVER_LOGGED
    for line in lines_of(flags.get("no_error_log", default)):
        check(not matches(line, text), "error log has %s\n%s", line, text[-4000:])


def watched_files(running, server):
    """(flag, path, lines) of file_has and file_lacks."""
    found = []
    for flag in ("file_has", "file_lacks"):
        if flag in running.case.flags:
            path, *rest = lines_of(running.fill(running.case.flags[flag], server))
            found.append((flag, path.strip(), rest))
    return found


def run_steps(running, server):
    """All requests on one connection; after one that the server closes, on another."""
    timeout = float(running.case.flags.get("timeout", "10"))
    connection = Connection(running.ports[0], timeout=timeout)
    try:
        for index in range(len(running.case.steps)):
            if connection.ended or connection.last_closes:
                connection.close()
                connection = Connection(running.ports[0], timeout=timeout)
            run_step(connection, running, server, index)
    finally:
        connection.close()


def run_once(running, server):
    case = running.case
    offset = server.size("logs/error.log")
    watched = [(flag, path, rest, server.size(path))
               for flag, path, rest in watched_files(running, server)]
    run_steps(running, server)
    check_log(running, server, offset)
    for flag, path, rest, start in watched:
        has = flag == "file_has"
        wait_until(lambda: all(matches(line, server.read(path, start)) for line in rest),
                   3 if has else 0.1)
        text = server.read(path, start)
        for line in rest:
            check(matches(line, text) == has, "%s %s: %s\n%s", flag, path, line, text[-3000:])
    reports = server.sanitizer_reports()
    check(not reports, "%s", "\n".join(reports))


def abort_client(running, server):
    """The case's requests from clients that vanish: within the request, and right after it."""
    data = b"".join(piece for index in range(len(running.case.steps))
                    for piece in step_bytes(running, server, index)[1])
    for part in (data[:len(data) // 2], data[:-1], data):
        with Connection(running.ports[0], timeout=5) as connection:
            try:
                connection.send(part)
            except ConnectionError:
                pass
            connection.abort()


def check_start(running, shared):
    """Cases about the configuration itself: conf_error, conf_warn, conf_ok."""
    case = running.case
    holder = CaseServer(shared, [case])
    server = holder.server
    try:
        test = server.run("-t")
        if "conf_error" not in case.setup:
            check(test.returncode == 0, "-t fails\n%s", test.stdout)
            said = test.stdout
        else:
            check(test.returncode != 0, "-t passes\n%s", test.stdout)
            try:
                server.start()
                raise AssertionError("the server started")
            except StartError as error:
                said = error.output + test.stdout + server.log()
        wanted = case.setup.get("conf_error", "") + case.setup.get("conf_warn", "")
        for line in lines_of(holder.running[0].fill(wanted, server)):
            check(matches(line, said), "not said: %s\n%s", line, said)
        reports = server.sanitizer_reports()
        check(not reports, "%s", "\n".join(reports))
    finally:
        server.stop()
        server.remove()
