"""Feeds framing cases to a running server and judges what comes back.

Each case goes whole, byte by byte and cut at every place. Between two pieces a barrier makes sure
that the server has read the first: one request on a control connection, answered by the same
single worker after everything that arrived before it.
"""
import re
import select
import socket
import time

from framing.table import PROBE

BATCH = 100
# Cases longer than this are cut only near their ends and at some places between.
EVERY_SPLIT_BYTES = 2048
PATIENCE_SECONDS = 5.0

CONFIG = """
%(user)sworker_processes 1;
daemon off;
pid logs/server.pid;
error_log logs/error.log error;
events { worker_connections 1024; }
http {
    access_log off;
    default_type text/plain;
    keepalive_requests 1000000;
    large_client_header_buffers 4 8k;
    lingering_timeout 2s;
    init_by_lua_block { reached = { count = 0 } package.loaded.reached = reached }
    server {
        listen 127.0.0.1:@PORT@ backlog=1024;
        location / {
            content_by_lua_block {
                ngx.req.read_body()
                local reached = require("reached")
                reached.count = reached.count + 1
                local headers = ngx.req.get_headers()
                ngx.say("host=", ngx.var.host, " uri=", ngx.var.uri,
                    " body=", #(ngx.req.get_body_data() or ""),
                    " length=", headers["content-length"] or "none",
                    " underscore=", headers["transfer_encoding"] or "none",
                    " authorization=", headers["authorization"] or "none", ".")
            }
        }
        location = /early {
            content_by_lua_block {
                local reached = require("reached")
                reached.count = reached.count + 1
                ngx.say("early")
            }
        }
        location = /control { content_by_lua_block { ngx.say(require("reached").count) } }
    }
}
"""


class Answer:
    """One response as far as framing cares."""

    def __init__(self, status, body):
        self.status = status
        self.body = body


def chunked_end(data, start):
    """(body, end) of a chunked body, or None while it is incomplete."""
    body = b""
    while True:
        end = data.find(b"\r\n", start)
        if end < 0:
            return None
        size = int(data[start:end].split(b";")[0], 16)
        start = end + 2 + size + 2
        if len(data) < start:
            return None
        if size == 0:
            return body, start
        body += data[end + 2:end + 2 + size]


def parse_answers(data, methods, ended):
    """Complete final responses in `data`, and what is left of it."""
    answers = []
    while True:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return answers, data
        head = data[:end + 2].lower()
        found = re.match(rb"http/1\.[01] (\d{3})", head)
        if not found:
            return answers, data
        status, end = int(found.group(1)), end + 4
        if 100 <= status < 200:
            data = data[end:]
            continue
        method = methods[len(answers)] if len(answers) < len(methods) else "GET"
        size = re.search(rb"\r\ncontent-length: (\d+)\r\n", head)
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif b"\r\ntransfer-encoding: chunked" in head:
            whole = chunked_end(data, end)
            if whole is None:
                return answers, data
            body, end = whole
        elif size:
            if len(data) < end + int(size.group(1)):
                return answers, data
            body, end = data[end:end + int(size.group(1))], end + int(size.group(1))
        elif not ended:
            return answers, data
        else:
            body, end = data[end:], len(data)
        answers.append(Answer(status, body))
        data = data[end:]


class Feeding:
    """One connection being fed one case in pieces."""

    def __init__(self, case, pieces, name, address):
        self.case = case
        self.pieces = pieces
        self.name = name
        self.data = b""
        self.ended = False
        self.socket = socket.create_connection(address, 5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)

    def send_piece(self, index):
        """Sends all of a piece, reading meanwhile so that neither side blocks."""
        piece = memoryview(self.pieces[index])
        end = time.monotonic() + PATIENCE_SECONDS
        while piece and not self.ended and time.monotonic() < end:
            try:
                piece = piece[self.socket.send(piece):]
            except BlockingIOError:
                select.select([self.socket], [self.socket], [], 0.1)
            except OSError:
                self.receive()
                return
            if len(piece):
                self.receive()

    def receive(self):
        while not self.ended:
            try:
                data = self.socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self.data += data
            self.ended = not data

    def complete(self):
        """True when the outcome is decided: the end came, all answers are there, or a wrong one."""
        if self.ended:
            return True
        answers, _ = parse_answers(self.data, self.case.methods + ("GET",), False)
        if self.case.outcome == "R" and answers:
            return answers[0].status not in self.case.statuses
        return len(answers) >= self.case.answers + 1

    def judge(self):
        """None when right, else what is wrong."""
        case = self.case
        answers, rest = parse_answers(self.data, case.methods + ("GET",), self.ended)
        statuses = [answer.status for answer in answers]
        rejected = len(answers) == 1 and statuses[0] in case.statuses and self.ended
        taken = case.answers + 1
        accepted = len(answers) == taken and all(200 <= code < 300 for code in statuses)
        closing = len(answers) == case.answers and self.ended and all(
            200 <= code < 300 for code in statuses)
        right = {"R": rejected, "A": accepted, "C": closing, "E": accepted or rejected,
                 "AC": accepted or closing}[case.outcome] and not rest
        if not right:
            return "want %s %s, got %s%s%s" % (
                case.outcome, "/".join(map(str, case.statuses)) if case.outcome in "RE" else "",
                statuses or "nothing", ", closed" if self.ended else ", open",
                ", rest %r" % rest[:60] if rest else "")
        if accepted and b"uri=/x " not in answers[-1].body:
            return "the probe's answer is %r" % answers[-1].body[:100]
        if accepted or closing:
            return self.judge_body(answers[0].body)
        return None

    def judge_body(self, body):
        for text in self.case.body_has:
            if text not in body:
                return "no %r in %r" % (text, body[:200])
        for text in self.case.body_lacks:
            if text in body:
                return "%r in %r" % (text, body[:200])
        return None


class Feeder:
    """Feeds cases to the server on `port`, which runs CONFIG."""

    def __init__(self, port):
        self.address = ("127.0.0.1", port)
        self.control = socket.create_connection(self.address, 10)
        self.control.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.feedings = 0

    def close(self):
        self.control.close()

    def barrier(self):
        """How often a handler was reached so far, once everything sent before is read."""
        self.control.sendall(b"GET /control HTTP/1.1\r\nHost: a\r\n\r\n")
        data = b""
        while True:
            more = self.control.recv(65536)
            if not more:
                raise ConnectionError("the server closed the control connection")
            data += more
            answers, _ = parse_answers(data, ("GET",), False)
            if answers:
                return int(answers[0].body)

    def plans(self, case):
        """Batches of (name, pieces) for a case."""
        data = case.data + PROBE
        size = len(data)
        if size <= EVERY_SPLIT_BYTES:
            places = range(1, size)
            steps = [data[at:at + 1] for at in range(size)]
        else:
            places = sorted({*range(1, 200), *range(200, size, size // 50),
                             *range(size - 120, size)})
            steps = [data[at:at + 1] for at in range(200)] + \
                [data[at:at + 997] for at in range(200, size, 997)]
        yield [("whole", [data])]
        yield [("byte by byte", steps)]
        splits = [("split at %d" % at, [data[:at], data[at:]]) for at in places]
        for start in range(0, len(splits), BATCH):
            yield splits[start:start + BATCH]

    def run_batch(self, case, batch):
        """Wrong feedings of a batch as (name, what is wrong)."""
        before = self.barrier()
        feedings = [Feeding(case, pieces, name, self.address) for name, pieces in batch]
        self.feedings += len(feedings)
        for index in range(max(len(feeding.pieces) for feeding in feedings)):
            for feeding in feedings:
                if index < len(feeding.pieces):
                    feeding.send_piece(index)
            self.barrier()
            self.barrier()
            for feeding in feedings:
                feeding.receive()
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            waiting = [feeding for feeding in feedings if not feeding.complete()]
            if not waiting:
                break
            select.select([feeding.socket for feeding in waiting], [], [], 0.1)
            for feeding in waiting:
                feeding.receive()
        after = self.barrier()
        for feeding in feedings:
            feeding.receive()
            feeding.socket.close()
        wrong = [(feeding.name, why) for feeding in feedings for why in [feeding.judge()] if why]
        if case.outcome == "R" and after != before and not wrong:
            wrong.append((batch[0][0], "%d requests reached a handler" % (after - before)))
        return wrong

    def run(self, case):
        wrong = []
        for batch in self.plans(case):
            wrong += self.run_batch(case, batch)
            if len(wrong) > 3 * BATCH:
                break
        return wrong
