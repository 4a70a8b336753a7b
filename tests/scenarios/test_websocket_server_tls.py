"""resty.websocket.server behind our own TLS."""
import asyncio
import socket
import ssl
import time

import websockets

LISTEN = """
listen 127.0.0.1:@PORT@ ssl;
ssl_certificate %(certs)s/good.test.pem;
ssl_certificate_key %(certs)s/good.test.key;
"""

LOCATION = r"""
location = /echo {
    content_by_lua_block {
        local ws = assert(require("resty.websocket.server"):new{ max_payload_len = 2000000 })
        ws:send_text(ngx.var.ssl_server_name .. " " .. ngx.var.ssl_protocol)
        while true do
            local data, kind, err = ws:recv_frame()
            if kind == "close" then
                return ws:send_close(err, data)
            end
            assert(ws:send_text(assert(data)))
        end
    }
}
"""


def test_echo(server, certs):
    server.up(listen=LISTEN % {"certs": certs}, locations=LOCATION)
    context = ssl.create_default_context(cafile=certs + "/ca.pem")

    async def run():
        async with websockets.connect("wss://127.0.0.1:%d/echo" % server.port, ssl=context,
                                      server_hostname="good.test", max_size=None) as link:
            assert await link.recv() == "good.test TLSv1.3"
            for message in ("hello", "x" * 1500000):
                await link.send(message)
                assert await link.recv() == message
            await link.close(4002, "bye")
            assert (link.close_code, link.close_reason) == (4002, "bye")
    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_raw_socket_whose_request_came_with_the_end_of_the_handshake(server, certs):
    server.up(listen=LISTEN % {"certs": certs}, locations="""
        location = /lines { content_by_lua_block {
            local sock = assert(ngx.req.socket(true))
            sock:send("ready\\n")
            for i = 1, 2 do sock:send(sock:receive() .. "\\n") end
        } }""")
    context = ssl.create_default_context(cafile=certs + "/ca.pem")
    arrived, leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(arrived, leaving, server_hostname="good.test")
    with socket.create_connection(("127.0.0.1", server.port), 20) as link:
        def until_done(step):
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    link.sendall(leaving.read())
                    arrived.write(link.recv(65536))

        def line():
            text = b""
            while not text.endswith(b"\n"):
                text += until_done(lambda: tls.read(1))
            return text

        until_done(tls.do_handshake)
        tls.write(b"GET /lines HTTP/1.1\r\nHost: good.test\r\n\r\n")
        link.sendall(leaving.read())          # Finished and the request, in one piece
        assert line() == b"ready\n"
        for text in (b"one\n", b"two\n"):
            tls.write(text)
            record = leaving.read()
            link.sendall(record[:10])
            time.sleep(0.1)                   # so that the server meets one half alone
            link.sendall(record[10:])
            assert line() == text
