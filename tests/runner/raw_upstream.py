"""An upstream server that follows a script: what each connection does is a Python function.

    with RawUpstream(lambda peer: (peer.head(), peer.send(answer()))) as upstream:
        ... upstream.port, upstream.connections, upstream.heads
"""
import socket
import struct
import threading


class Peer:
    """One accepted connection."""

    def __init__(self, upstream, accepted):
        self.upstream = upstream
        self.socket = accepted
        self.socket.settimeout(10)
        self.buffer = b""

    def fill(self):
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("closed")
        self.buffer += data

    def head(self):
        """The next request head."""
        while b"\r\n\r\n" not in self.buffer:
            self.fill()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        self.upstream.heads.append(head.decode("latin-1"))
        return self.upstream.heads[-1]

    def read(self, count):
        while len(self.buffer) < count:
            self.fill()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def send(self, data):
        self.socket.sendall(data)

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self):
        self.socket.close()


class RawUpstream:
    def __init__(self, script):
        self.script = script
        self.heads = []
        self.connections = 0
        self.errors = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.stopping = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            try:
                accepted, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(accepted,), daemon=True).start()

    def serve(self, accepted):
        peer = Peer(self, accepted)
        try:
            self.script(peer)
        except OSError as error:
            self.errors.append(error)
        finally:
            peer.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def answer(body=b"ok", status="200 OK", fields=()):
    lines = ["HTTP/1.1 " + status, "Content-Length: %d" % len(body), *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body
