"""A TCP peer that does as a script says: for clients that meet reset, silence, garbage.

`Peer(script)` listens on a port of its own; `script(link)` runs in a thread for every connection,
which is closed when it returns. With an SSL context as `tls` the script speaks through it.
"""
import socket
import struct
import threading
import time


class Link:
    """One accepted connection."""

    def __init__(self, sock, peer):
        self.sock = sock
        self.peer = peer
        self.buffer = b""

    def send(self, data):
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def drip(self, data, pause=0.01, step=1):
        for at in range(0, len(data), step):
            self.send(data[at:at + step])
            time.sleep(pause)

    def read_until(self, end=b"\r\n\r\n"):
        """Bytes up to and with `end`; what there was when the other side closed."""
        while end not in self.buffer:
            more = self.sock.recv(65536)
            if not more:
                break
            self.buffer += more
        at = self.buffer.find(end)
        at = len(self.buffer) if at < 0 else at + len(end)
        data, self.buffer = self.buffer[:at], self.buffer[at:]
        return data

    def read(self, count):
        while len(self.buffer) < count:
            more = self.sock.recv(65536)
            if not more:
                break
            self.buffer += more
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def end_writing(self):
        self.sock.shutdown(socket.SHUT_WR)

    def wait_closed(self, timeout=5):
        """True when the other side closes within the time; what it still sends does not count."""
        self.sock.settimeout(timeout)
        try:
            while self.sock.recv(65536):
                pass
            return True
        except ConnectionError:
            return True
        except OSError:
            return False


class Peer:
    def __init__(self, script, tls=None):
        self.script = script
        self.tls = tls
        self.accepted = 0
        self.open = set()
        self.threads = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def stop_listening(self):
        # Closing alone would leave the port open for as long as accept() waits.
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()

    def __exit__(self, *_):
        """Afterwards no script runs any more: what they saw can be looked at."""
        self.stop_listening()
        with self.lock:
            for sock in self.open:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            threads = list(self.threads)
        for thread in threads:
            thread.join(10)

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.accepted += 1
                self.open.add(sock)
                self.threads = [thread for thread in self.threads if thread.is_alive()]
                self.threads.append(threading.Thread(target=self.serve, args=(sock,), daemon=True))
                self.threads[-1].start()

    def serve(self, sock):
        try:
            if self.tls:
                # From here on `sock` has no descriptor: it is the other's.
                sock = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                with self.lock:
                    self.open.add(sock)
                sock.do_handshake()
            self.script(Link(sock, self))
        except OSError:
            pass
        finally:
            with self.lock:
                self.open.discard(sock)
            sock.close()


def replies(text):
    """A script: reads a request's head, sends `text`, waits until the client is gone."""
    def script(link):
        link.read_until()
        link.send(text)
        link.wait_closed()
    return script


def replies_and_closes(text):
    def script(link):
        link.read_until()
        link.send(text)
    return script
