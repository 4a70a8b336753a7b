"""Asks a server's control socket: JSON over HTTP over a Unix socket, or TCP with a token."""
import http.client
import json
import socket


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout=60):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.etag = response.getheader("ETag")
        self.text = response.read().decode()
        self.json = json.loads(self.text) if self.text else None

    @property
    def error(self):
        return self.json["error"]["message"]

    def __repr__(self):
        return "%d %s" % (self.status, self.text)


class Control:
    """`path`: of a Unix socket; or `port` and `token`. Keeps one connection."""

    def __init__(self, path=None, port=None, token=None):
        self.path, self.port, self.token = path, port, token
        self.connection = None

    def ask(self, method, path, body=None, headers=None):
        headers = dict(headers or {})
        if self.token:
            headers["Authorization"] = "Bearer " + self.token
        if not self.connection:
            self.connection = (UnixConnection(self.path) if self.path else
                               http.client.HTTPConnection("127.0.0.1", self.port, timeout=60))
        try:
            text = None if body is None else json.dumps(body)
            self.connection.request(method, "/v1/" + path, text, headers)
            return Answer(self.connection.getresponse())
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def get(self, path):
        answer = self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.json

    def change(self, method, path, body=None, headers=None):
        """A change that must go well; the version that it made."""
        answer = self.ask(method, path, body, headers)
        assert answer.status == 200, answer
        return answer.json

    def close(self):
        if self.connection:
            self.connection.close()
            self.connection = None
