"""A plain HTTP/1.1 client over a socket: sends exactly the bytes given, reads whole responses.

Used by every test that talks to a server. Blocking, one connection per object.
"""
import socket
import struct
import time


class ProtocolError(Exception):
    """The server's answer is not HTTP, or ended before it was complete."""


class Response:
    """One response: status, reason, headers as a list of pairs, body, trailers."""

    def __init__(self, version, status, reason, headers):
        self.version = version
        self.status = status
        self.reason = reason
        self.headers = headers
        self.trailers = []
        self.body = b""
        self.interim = []

    def get(self, name, default=None):
        """The first value of a header, by name without case."""
        return next(iter(self.get_all(name)), default)

    def get_all(self, name):
        name = name.lower()
        return [value for key, value in self.headers if key.lower() == name]

    def text(self):
        return self.body.decode("latin-1")


class Connection:
    """A client connection. `host` may be a path of a Unix socket when `port` is None; `source`, an
    address to connect from."""

    def __init__(self, port, host="127.0.0.1", timeout=10.0, source=None):
        if port is None:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(host)
        else:
            self.socket = socket.create_connection((host, port), timeout,
                                                   (source, 0) if source else None)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.ended = False
        self.last_closes = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def abort(self):
        """Closes with a reset instead of an orderly end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def fill(self):
        """Reads once more; False at the end of the stream."""
        if self.ended:
            return False
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            data = b""
        self.ended = not data
        self.buffer += data
        return bool(data)

    def read_line(self):
        while b"\n" not in self.buffer:
            if not self.fill():
                raise ProtocolError("connection ended in a line: %r" % self.buffer[:200])
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.rstrip(b"\r").decode("latin-1")

    def read_bytes(self, count):
        while len(self.buffer) < count:
            if not self.fill():
                raise ProtocolError("connection ended %d bytes early" % (
                    count - len(self.buffer)))
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def read_fields(self):
        fields = []
        while True:
            line = self.read_line()
            if not line:
                return fields
            name, colon, value = line.partition(":")
            if not colon:
                raise ProtocolError("no colon in header line %r" % line)
            fields.append((name, value.strip(" \t")))

    def read_chunks(self, response):
        parts = []
        while True:
            size = int(self.read_line().split(";")[0], 16)
            if size == 0:
                break
            parts.append(self.read_bytes(size))
            if self.read_line():
                raise ProtocolError("no line end after a chunk")
        response.trailers = self.read_fields()
        return b"".join(parts)

    def read_body(self, response, method):
        if method == "HEAD" or response.status in (204, 304) or response.status < 200:
            return b""
        if "chunked" in response.get("Transfer-Encoding", "").lower():
            return self.read_chunks(response)
        length = response.get("Content-Length")
        if length is not None:
            return self.read_bytes(int(length))
        while self.fill():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def read_response(self, method="GET"):
        """The next final response; None when the connection ended before it."""
        interim = []
        while True:
            if not self.buffer and not self.fill():
                return None
            line = self.read_line()
            parts = line.split(" ", 2)
            if len(parts) < 2 or not parts[0].startswith("HTTP/") or not parts[1].isdigit():
                raise ProtocolError("not a status line: %r" % line[:200])
            response = Response(parts[0], int(parts[1]), (parts + [""])[2], self.read_fields())
            if 100 <= response.status < 200 and response.status != 101:
                interim.append(response)
                continue
            response.interim = interim
            response.body = self.read_body(response, method)
            self.last_closes = response.get("Connection", "").lower() == "close"
            return response

    def closed(self, timeout=2.0):
        """True when the server ends the connection within the time."""
        self.socket.settimeout(timeout)
        try:
            while self.fill():
                pass
            return True
        except socket.timeout:
            return False


def request_bytes(method="GET", target="/", headers=(), body=b"", host="localhost", close=True):
    lines = ["%s %s HTTP/1.1" % (method, target), "Host: " + host]
    lines += ["%s: %s" % pair for pair in headers]
    if body:
        lines.append("Content-Length: %d" % len(body))
    if close:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def get(port, target="/", headers=(), timeout=10.0, method="GET", body=b""):
    """One request on a connection of its own."""
    with Connection(port, timeout=timeout) as connection:
        connection.send(request_bytes(method, target, headers, body))
        response = connection.read_response(method)
        if response is None:
            raise ProtocolError("no response")
        return response


def timed(call, *args, **named):
    """(seconds, result) of a call."""
    started = time.monotonic()
    result = call(*args, **named)
    return time.monotonic() - started, result
