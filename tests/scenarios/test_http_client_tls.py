"""resty.http and resty.websocket.client over TLS, and resty.http through proxies."""
import asyncio
import socket
import ssl
import threading

import pytest
import websockets

from runner.client import get
from runner.server import wait_until
from scenarios.conftest import ScenarioServer
from scenarios.tcp_peer import Peer, replies

LOCATIONS = r"""
lua_socket_log_errors off;
lua_ssl_trusted_certificate %(certs)s/ca.pem;
location = /ask {
    content_by_lua_block {
        local args = ngx.req.get_uri_args()
        local client = require("resty.http").new()
        client:set_timeout(2000)
        if args.proxy then
            local uri = "http://127.0.0.1:" .. args.proxy
            client:set_proxy_options{
                http_proxy = uri, https_proxy = uri, no_proxy = args.no_proxy,
                http_proxy_authorization = "Basic cGxhaW4=",
                https_proxy_authorization = "Basic dHVubmVs",
            }
        end
        local params = { ssl_server_name = args.name }
        if args.verify == "no" then
            params.ssl_verify = false
        end
        local res, err = client:request_uri(args.scheme .. "://127.0.0.1:" .. args.port .. "/x?y=1",
                                            params)
        ngx.say(res and res.status .. " " .. res.body or "error: " .. err)
    }
}
location = /shown {
    content_by_lua_block {
        local ssl = require "ngx.ssl"
        local function read(name)
            local file = assert(io.open("%(certs)s/" .. name))
            local text = file:read("*a")
            file:close()
            return text
        end
        local args = ngx.req.get_uri_args()
        local pem = read(args.cert .. ".pem")
        local cert, key = assert(ssl.parse_pem_cert(pem)), nil
        if args.der then
            cert = assert(ssl.parse_der_cert(assert(ssl.cert_pem_to_der(pem))))
        end
        key = assert(ssl.priv_key_pem_to_der(read(args.key .. ".key")))
        key = assert(ssl.parse_der_priv_key(key))
        if args.no_key then
            key = "text"
        end
        local res, err = require("resty.http").new():request_uri(
            "https://127.0.0.1:" .. args.port .. "/",
            { ssl_client_cert = cert, ssl_client_priv_key = key })
        ngx.say(res and res.body or "error: " .. err)
    }
}
location = /wss {
    content_by_lua_block {
        local args = ngx.req.get_uri_args()
        local ws = require("resty.websocket.client"):new{ timeout = 2000 }
        local ok, err = ws:connect("wss://127.0.0.1:" .. args.port .. "/",
                                   { ssl_verify = true, server_name = args.name,
                                     verify_handshake = true })
        if not ok then
            return ngx.say("error: ", err)
        end
        ws:send_text("hello")
        ngx.say(ws:recv_frame())
        ws:close()
    }
}
"""

OK = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture(scope="module")
def asker(certs):
    with ScenarioServer() as server:
        server.up(locations=LOCATIONS % {"certs": certs})
        yield server


@pytest.fixture(scope="module")
def tls(certs):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs + "/good.test.pem", certs + "/good.test.key")
    return context


def ask(server, peer, more="", scheme="https"):
    return get(server.port, "/ask?scheme=%s&port=%d%s" % (scheme, peer.port, more)).text().strip()


def keeps(link):
    while link.read_until():
        link.send(OK)


def test_the_certificate_is_verified(asker, tls):
    with Peer(keeps, tls) as peer:
        assert ask(asker, peer) == "200 hello"
        assert ask(asker, peer, "&name=good.test") == "200 hello"
        assert ask(asker, peer, "&name=other.test") == "error: certificate host mismatch"
        assert ask(asker, peer, "&name=other.test&verify=no") == "200 hello"


def test_kept_connections_are_told_apart(asker, tls):
    with Peer(keeps, tls) as peer:
        for _ in range(3):
            assert ask(asker, peer, "&verify=no") == "200 hello"
        assert peer.accepted == 1
        for _ in range(3):
            assert ask(asker, peer) == "200 hello"
        assert peer.accepted == 2
        assert ask(asker, peer, "&verify=no&name=x") == "200 hello"
        assert peer.accepted == 3


def test_a_peer_that_speaks_no_tls(asker):
    with Peer(replies("HTTP/1.1 400 No\r\n\r\n")) as peer:
        assert ask(asker, peer).startswith("error: ")
        assert wait_until(lambda: not peer.open)


def test_client_certificates(asker, certs):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs + "/good.test.pem", certs + "/good.test.key")
    context.load_verify_locations(certs + "/ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED

    def says_who(link):
        subject = dict(pair[0] for pair in link.sock.getpeercert()["subject"])["commonName"]
        while link.read_until():
            link.send("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(subject), subject))

    with Peer(says_who, context) as peer:
        def shown(cert, key, more=""):
            return get(asker.port, "/shown?port=%d&cert=%s&key=%s%s"
                       % (peer.port, cert, key, more)).text().strip()
        for _ in range(2):
            assert shown("client", "client") == "client"
            assert shown("client", "client", "&der=1") == "client"
            assert shown("good.test", "good.test") == "good.test"
        # One kept connection for each identity.
        assert peer.accepted == 2
        assert shown("client", "good.test") \
            == "error: the private key doesn't match the cert: key values mismatch"
        assert shown("client", "client", "&no_key=1") \
            == "error: bad ssl_client_priv_key: cdata expected, got string"


class Proxy(Peer):
    """A proxy: tunnels for CONNECT; anything else is answered with what was asked."""

    def __init__(self):
        super().__init__(self.proxy)
        self.heads = []

    def proxy(self, link):
        while True:
            head = link.read_until().decode()
            if not head:
                return
            self.heads.append(head)
            if head.startswith("CONNECT "):
                return self.tunnel(link, head.split()[1])
            line = head.split("\r\n")[0]
            link.send("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(line), line))

    def tunnel(self, link, target):
        host, port = target.split(":")
        other = socket.create_connection((host, int(port)))
        link.send("HTTP/1.1 200 Connection established\r\n\r\n")

        def copy(source, target):
            try:
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        back = threading.Thread(target=copy, args=(other, link.sock), daemon=True)
        back.start()
        copy(link.sock, other)
        back.join()
        other.close()


def test_a_tunnel_through_a_proxy(asker, tls):
    with Proxy() as proxy, Peer(keeps, tls) as peer:
        for _ in range(3):
            assert ask(asker, peer, "&proxy=%d" % proxy.port) == "200 hello"
        # One tunnel served all; it is not mixed up with a straight connection.
        assert proxy.accepted == peer.accepted == 1
        assert ask(asker, peer) == "200 hello"
        assert (proxy.accepted, peer.accepted) == (1, 2)
    head = proxy.heads[0]
    assert head.startswith("CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % peer.port)
    assert "\r\nHost: 127.0.0.1:%d\r\n" % peer.port in head
    assert "\r\nProxy-Authorization: Basic dHVubmVs\r\n" in head


def test_plain_requests_through_a_proxy(asker):
    with Proxy() as proxy, Peer(keeps) as peer:
        for _ in range(2):
            assert ask(asker, peer, "&proxy=%d" % proxy.port, "http") \
                == "200 GET http://127.0.0.1:%d/x?y=1 HTTP/1.1" % peer.port
        assert proxy.accepted == 1 and peer.accepted == 0
        assert "\r\nProxy-Authorization: Basic cGxhaW4=\r\n" in proxy.heads[1]
        for exempt in ("127.0.0.1", "x.test,127.0.0.1", "*"):
            assert ask(asker, peer, "&proxy=%d&no_proxy=%s" % (proxy.port, exempt), "http") \
                == "200 hello"
        assert proxy.accepted == 1


@pytest.mark.parametrize("reply, error", [
    ("HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n",
     "error: failed to establish a tunnel through a proxy: 407"),
    ("garbage\r\n\r\n", "error: failed to issue CONNECT to proxy: couldn't parse HTTP version"),
])
def test_proxies_that_refuse(asker, reply, error):
    with Peer(replies(reply)) as proxy:
        assert ask(asker, proxy, "&proxy=%d" % proxy.port).startswith(error)
        assert wait_until(lambda: not proxy.open)


def test_wss(asker, tls):
    async def echo(link, *_):
        async for message in link:
            await link.send(message)

    async def run():
        loop = asyncio.get_running_loop()
        async with websockets.serve(echo, "127.0.0.1", 0, ssl=tls) as listener:
            port = listener.sockets[0].getsockname()[1]

            async def said(name):
                target = "/wss?port=%d&name=%s" % (port, name)
                answer = await loop.run_in_executor(None, get, asker.port, target)
                return answer.text().strip()
            assert await said("good.test") == "hellotextnil"
            assert await said("other.test") \
                == "error: ssl handshake failed: certificate host mismatch"
    asyncio.run(asyncio.wait_for(run(), 20))
