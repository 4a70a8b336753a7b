"""resty.websocket.server behind our own TLS."""
import asyncio
import ssl

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
