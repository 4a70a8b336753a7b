"""WebSockets that are open and silent, and that prove on demand that they still are.

Used by scenarios that reload, upgrade or kill under them.
"""
import base64
import os
import socket

LOCATION = r"""
location = /ws {
    content_by_lua_block {
        local ws = assert(require("resty.websocket.server"):new{ timeout = 600000 })
        while true do
            local data, kind, err = ws:recv_frame()
            if kind == "ping" then
                ws:send_pong(data)
            elseif kind == "close" then
                return ws:send_close(1000, "")
            elseif not data then
                return
            end
        end
    }
}
"""


def handshake(target):
    key = base64.b64encode(os.urandom(16)).decode()
    return ("GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n" % (target, key)).encode()


class IdleSockets:
    def __init__(self, port, count, target="/ws"):
        self.sockets = []
        try:
            for _ in range(count):
                self.sockets.append(self.open(port, target))
        except BaseException:
            self.close()
            raise

    @staticmethod
    def open(port, target):
        link = socket.create_connection(("127.0.0.1", port), 60)
        link.sendall(handshake(target))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = link.recv(1)
            assert piece, head
            head += piece
        assert head.startswith(b"HTTP/1.1 101"), head
        return link

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for link in self.sockets:
            link.close()

    def lost(self):
        """How many no longer answer a ping."""
        return sum(not self.answers(link) for link in self.sockets)

    @staticmethod
    def answers(link):
        payload = os.urandom(4)
        try:
            link.sendall(b"\x89\x84\0\0\0\0" + payload)
            answer = b""
            while len(answer) < 6:
                piece = link.recv(6 - len(answer))
                if not piece:
                    return False
                answer += piece
        except OSError:
            return False
        return answer == b"\x8a\x04" + payload
