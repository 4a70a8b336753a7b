"""Clients that people have, over TLS: served by Lua, and through the proxy, to HTTP and HTTPS."""
import asyncio
import hashlib
import http.client
import json
import shutil
import ssl
import subprocess

import pytest
import websockets

from runner.server import free_port
from scenarios.conftest import ScenarioServer

SERVED = """
gzip on; gzip_types text/plain; gzip_min_length 100;
client_max_body_size 0;
location = /hello { return 200 "hello\\n"; }
location = /text { content_by_lua_block { ngx.print(("some text "):rep(10000)) } }
location = /file { alias @PREFIX@/html/file; }
location = /digest { content_by_lua_block {
    ngx.req.read_body()
    local digest = require("resty.sha256"):new()
    local path = ngx.req.get_body_file()
    local body = path and io.open(path):read("*a") or ngx.req.get_body_data() or ""
    digest:update(body)
    ngx.say(require("resty.string").to_hex(digest:final()))
} }
location = /ws { content_by_lua_block {
    local ws = assert(require("resty.websocket.server"):new{ max_payload_len = 2000000 })
    while true do
        local data, kind, err = ws:recv_frame()
        if kind == "close" then return ws:send_close(err, data) end
        if not data then return end
        local send = kind == "binary" and ws.send_binary or ws.send_text
        assert(send(ws, data))
    end
} }
"""

PASSED = """
location /%s/ {
    proxy_pass %s://127.0.0.1:%d/;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    %s
}
"""

HTTP = """
map $http_upgrade $connection_upgrade { default upgrade; "" ""; }
server {
    listen 127.0.0.1:%(tls)d ssl;
    ssl_certificate %(certs)s/good.test.pem;
    ssl_certificate_key %(certs)s/good.test.key;
    %(served)s
    %(passed)s
}
"""

FILE = bytes(range(256)) * 12000
UPLOAD = b"what goes up " * 150000
WAYS = ["", "/plain", "/tls", "/streamed"]


@pytest.fixture(scope="module")
def tls_server(certs):
    with ScenarioServer() as server:
        server.tls = free_port()
        server.certs = certs
        server.write("html/file", FILE)
        passed = (PASSED % ("plain", "http", server.port, "") +
                  PASSED % ("tls", "https", server.tls, "") +
                  PASSED % ("streamed", "https", server.tls,
                            "proxy_buffering off; proxy_request_buffering off;"))
        server.up(http=HTTP % {"tls": server.tls, "certs": certs, "served": SERVED,
                               "passed": passed}, locations=SERVED)
        yield server
        assert "[error]" not in server.log(), server.log()


@pytest.fixture(params=WAYS, ids=[way[1:] or "served" for way in WAYS])
def way(request):
    return request.param


def context_for(server):
    return ssl.create_default_context(cafile=server.certs + "/ca.pem")


# ---- curl

def curl(server, *arguments, targets=(), body=None):
    """What curl prints; it checks certificate and name."""
    base = "https://good.test:%d" % server.tls
    command = ["curl", "-sS", "--max-time", "60", "--cacert", server.certs + "/ca.pem",
               "--resolve", "good.test:%d:127.0.0.1" % server.tls, *arguments,
               *[base + target for target in targets]]
    done = subprocess.run(command, input=body, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")
class TestCurl:
    def test_answers(self, tls_server, way):
        assert curl(tls_server, targets=[way + "/hello"]) == b"hello\n"
        assert curl(tls_server, "--http1.0", targets=[way + "/hello"]) == b"hello\n"
        assert curl(tls_server, targets=[way + "/file"]) == FILE
        assert curl(tls_server, "--compressed", targets=[way + "/text"]) == b"some text " * 10000
        head = curl(tls_server, "-I", targets=[way + "/file"])
        assert b"200 OK" in head and b"Content-Length: %d" % len(FILE) in head
        part = curl(tls_server, "-r", "1000-1999", targets=[way + "/file"])
        assert part == FILE[1000:2000]

    @pytest.mark.parametrize("version", ["1.2", "1.3"])
    def test_a_connection_is_used_again(self, tls_server, way, version):
        counts = curl(tls_server, "--tlsv" + version, "--tls-max", version, "-w",
                      "%{num_connects} ", targets=[way + "/hello"] * 3)
        assert counts.split() == [b"hello", b"1", b"hello", b"0", b"hello", b"0"]

    @pytest.mark.parametrize("headers", [[], ["Transfer-Encoding: chunked"],
                                         ["Expect: 100-continue"]])
    def test_uploads(self, tls_server, way, headers):
        options = [part for header in headers for part in ("-H", header)]
        told = curl(tls_server, "-X", "POST", "--data-binary", "@-", *options,
                    targets=[way + "/digest"], body=UPLOAD)
        assert told.decode().strip() == hashlib.sha256(UPLOAD).hexdigest()


# ---- Python

def test_python_http_client(tls_server, way):
    link = http.client.HTTPSConnection("127.0.0.1", tls_server.tls, timeout=60,
                                       context=context_for(tls_server))
    for target, wanted in (("/hello", b"hello\n"), ("/file", FILE), ("/hello", b"hello\n")):
        link.request("GET", way + target)
        assert link.getresponse().read() == wanted
        assert link.sock, "the connection was not kept"
    for body in (UPLOAD, (UPLOAD[at:at + 100000] for at in range(0, len(UPLOAD), 100000))):
        link.request("POST", way + "/digest", body, encode_chunked=True,
                     headers={} if body is UPLOAD else {"Transfer-Encoding": "chunked"})
        assert link.getresponse().read().decode().strip() == hashlib.sha256(UPLOAD).hexdigest()
    link.close()


def test_python_websockets(tls_server, way):
    async def run():
        async with websockets.connect("wss://127.0.0.1:%d%s/ws" % (tls_server.tls, way),
                                      ssl=context_for(tls_server), max_size=None,
                                      server_hostname="good.test") as link:
            for message in ("hello", b"\0\1\2", "x" * 1500000):
                await link.send(message)
                assert await link.recv() == message
            await link.close(4002, "bye")
            assert (link.close_code, link.close_reason) == (4002, "bye")
    asyncio.run(asyncio.wait_for(run(), 60))


# ---- Node

NODE = r"""
const https = require("https"), crypto = require("crypto"), fs = require("fs");
const [port, ca, way] = process.argv.slice(2);
const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ca: fs.readFileSync(ca) });
const sha = (data) => crypto.createHash("sha256").update(data).digest("hex");
const options = (path, more) =>
    ({ host: "127.0.0.1", port, path: way + path, agent, servername: "good.test", ...more });

function ask(path, more = {}, body = null) {
    return new Promise((resolve, reject) => {
        const request = https.request(options(path, more), (response) => {
            const pieces = [];
            response.on("data", (piece) => pieces.push(piece));
            response.on("end", () => resolve({ status: response.statusCode,
                reused: request.reusedSocket, body: Buffer.concat(pieces) }));
        });
        request.on("error", reject);
        if (body) for (let at = 0; at < body.length; at += 100000)
            request.write(body.subarray(at, at + 100000));
        request.end();
    });
}

function upgrade() {
    return new Promise((resolve, reject) => {
        const headers = { Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Version": 13,
                          "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==" };
        const request = https.request(options("/ws", { headers }));
        request.on("error", reject);
        request.on("upgrade", (response, socket) => {
            socket.on("data", (frame) => {
                resolve(response.headers["sec-websocket-accept"] + " " + frame.toString("hex"));
                socket.destroy();
            });
            // A masked text frame "hi", its mask of zeros.
            socket.write(Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69]));
        });
        request.end();
    });
}

(async () => {
    const hello = await ask("/hello"), file = await ask("/file");
    const upload = Buffer.alloc(2000000, "node");
    const told = await ask("/digest", { method: "POST" }, upload);
    const sized = await ask("/digest", { method: "POST",
        headers: { "Content-Length": upload.length, Expect: "100-continue" } }, upload);
    console.log(JSON.stringify({ hello: hello.body.toString(), file: sha(file.body),
        reused: file.reused, upload: [told, sized].every(
            (answer) => answer.body.toString().trim() === sha(upload)),
        upgrade: await upgrade() }));
    process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
"""


@pytest.mark.skipif(not shutil.which("node"), reason="no Node here; its packages are large")
def test_node(tls_server, way, tmp_path):
    script = tmp_path / "client.js"
    script.write_text(NODE)
    done = subprocess.run(["node", script, str(tls_server.tls), tls_server.certs + "/ca.pem", way],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "hello": "hello\n", "file": hashlib.sha256(FILE).hexdigest(), "reused": True,
        "upload": True, "upgrade": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo= 81026869"}
