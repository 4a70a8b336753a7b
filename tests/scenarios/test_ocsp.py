"""OCSP: answers stapled to our certificates, and asked for about the clients'."""
import socket
import ssl
import subprocess

import pytest

from runner.server import free_port, wait_until
from scenarios.conftest import ScenarioServer
from scenarios.ocsp_responder import Authority


@pytest.fixture
def authority(tmp_path):
    with Authority(tmp_path) as made:
        yield made


def stapled(port, name="good.test"):
    """What `openssl s_client` says of the answer that came with the certificate."""
    run = subprocess.run(["openssl", "s_client", "-connect", "127.0.0.1:%d" % port, "-status",
                          "-servername", name], stdin=subprocess.DEVNULL, capture_output=True,
                         text=True, timeout=30)
    text = run.stdout
    if "OCSP response: no response sent" in text:
        return "none"
    if "OCSP Response Status: successful" in text:
        return "good" if "Cert Status: good" in text else "other"
    return text + run.stderr


def up_stapling(server, authority, directives="", name="good", **parts):
    port = free_port()
    pem, key = authority.path(name + ".pem"), authority.path(name + ".key")
    server.up(http="server { listen 127.0.0.1:%d ssl; ssl_certificate %s; ssl_certificate_key %s; "
                   "ssl_stapling on; %s return 200 ok; }" % (port, pem, key, directives), **parts)
    return port


def test_answers_are_fetched_and_stapled(server, authority):
    authority.issue("good")
    port = up_stapling(server, authority)
    assert wait_until(lambda: stapled(port) == "good", 20), server.log()
    asked = len(authority.questions)
    assert stapled(port) == "good" and len(authority.questions) == asked == 1
    # Who does not ask for it gets none, and is served.
    context = ssl.create_default_context(cafile=authority.path("ca.pem"))
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 10),
                             server_hostname="good"):
        pass


def test_answers_are_verified(server, authority):
    authority.issue("good")
    trust = "ssl_stapling_verify on; ssl_trusted_certificate %s;" % authority.path("ca.pem")
    port = up_stapling(server, authority, trust)
    assert wait_until(lambda: stapled(port) == "good", 20), server.log()


def test_an_answer_of_a_stranger_is_not_stapled(server, authority, tmp_path):
    (tmp_path / "other").mkdir()
    authority.issue("good")
    with Authority(tmp_path / "other", "stranger") as stranger:
        port = up_stapling(server, authority,
                           "ssl_stapling_verify on; ssl_trusted_certificate %s; "
                           "ssl_stapling_responder http://127.0.0.1:%d/ocsp;"
                           % (authority.path("ca.pem"), stranger.port))
        assert wait_until(lambda: "OCSP_basic_verify() failed" in server.log(), 20), server.log()
        assert stapled(port) == "none"


@pytest.mark.parametrize("status", ["R", ""])
def test_bad_news_are_not_stapled(server, authority, status):
    authority.issue("good", status=status)
    port = up_stapling(server, authority)
    word = "revoked" if status else "unknown"
    text = 'certificate status "%s" in the OCSP response while requesting certificate status, ' \
           'responder: 127.0.0.1' % word
    assert wait_until(lambda: text in server.log(), 20), server.log()
    assert stapled(port) == "none"


@pytest.mark.parametrize("mode, error", [
    ("broken", "d2i_OCSP_RESPONSE() failed"),
    ("refuse", "OCSP responder answered with status 503"),
])
def test_it_is_asked_again_after_a_failure(server, authority, mode, error):
    authority.issue("good")
    authority.mode = mode
    port = up_stapling(server, authority)
    assert wait_until(lambda: error in server.log(), 20), server.log()
    assert stapled(port) == "none"
    authority.mode = "answer"
    assert wait_until(lambda: stapled(port) == "good", 40, 0.2), server.log()


def test_a_silent_responder_holds_nobody_up(server, authority):
    authority.issue("good")
    authority.mode = "silent"
    port = up_stapling(server, authority)
    assert wait_until(lambda: authority.questions, 20)
    assert stapled(port) == "none"
    server.stop()


def test_from_a_file(server, authority):
    pem, _ = authority.issue("good", names_responder=False)
    question = subprocess.run(
        ["openssl", "ocsp", "-issuer", authority.path("ca.pem"), "-cert", pem, "-reqout",
         authority.path("question")], capture_output=True, check=True) and \
        open(authority.path("question"), "rb").read()
    with open(authority.path("answer"), "wb") as file:
        file.write(authority.answer_to(question))
    port = up_stapling(server, authority, "ssl_stapling_file %s;" % authority.path("answer"))
    assert stapled(port) == "good" and not authority.questions


def listens(port):
    tables = [open("/proc/net/" + name).read() for name in ("tcp", "tcp6")]
    return any(":%04X 0000" % port in table for table in tables)


def test_openssl_as_the_responder(server, authority):
    """`openssl ocsp` itself, over the network, its name resolved."""
    authority.issue("good")
    port = free_port()
    responder = subprocess.Popen(
        ["openssl", "ocsp", "-port", str(port), "-index", authority.index, "-CA",
         authority.path("ca.pem"), "-rsigner", authority.path("ca.pem"), "-rkey",
         authority.path("ca.key"), "-nmin", "60"], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    try:
        # It serves one connection at a time: none is to be wasted on finding out.
        assert wait_until(lambda: listens(port), 20)
        tls_port = up_stapling(server, authority,
                               "ssl_stapling_responder http://localhost:%d;" % port)
        assert wait_until(lambda: stapled(tls_port) == "good", 20), server.log()
    finally:
        responder.kill()
        responder.wait()


@pytest.mark.parametrize("issue, directives, warning", [
    ({"names_responder": False}, "", "no OCSP responder URL in the certificate"),
    ({}, "ssl_stapling_responder https://127.0.0.1/;", 'invalid URL prefix in OCSP responder'),
    ({}, "ssl_certificate %(folder)s/good.leaf; ssl_certificate_key %(folder)s/good.key;",
     "issuer certificate not found for certificate"),
])
def test_what_cannot_be_stapled_is_said(server, authority, issue, directives, warning):
    authority.issue("good", **issue)
    own = "" if "ssl_certificate " in directives else \
        "ssl_certificate %(folder)s/good.pem; ssl_certificate_key %(folder)s/good.key;"
    text = (own + directives) % {"folder": authority.folder}
    server.setup(http="server { listen 127.0.0.1:%d ssl; ssl_stapling on; %s }"
                      % (free_port(), text))
    done = server.run("-t")
    assert done.returncode == 0 and '"ssl_stapling" ignored, ' + warning in done.stdout


SCRIPT = """
init_by_lua_block {
    local ssl = require "ngx.ssl"
    local file = assert(io.open("%(folder)s/good.pem"))
    chain = assert(ssl.cert_pem_to_der(file:read("*a")))
    file:close()
}
server {
    listen 127.0.0.1:%(port)d ssl;
    ssl_certificate %(folder)s/good.pem;
    ssl_certificate_key %(folder)s/good.key;
    ssl_certificate_by_lua_block {
        local ocsp = require "ngx.ocsp"
        if not answer then
            local url = assert(ocsp.get_ocsp_responder_from_der_chain(chain))
            local question = assert(ocsp.create_ocsp_request(chain))
            local res = assert(require("resty.http").new():request_uri(
                url .. "/" .. ngx.escape_uri(ngx.encode_base64(question))))
            local ok, until_when = ocsp.validate_ocsp_response(res.body, chain)
            ngx.log(ngx.NOTICE, "validated: ", ok, " ", until_when)
            if ok then answer = res.body end
        end
        if answer then
            local ok, err = ocsp.set_ocsp_status_resp(answer)
            ngx.log(ngx.NOTICE, "set: ", ok, " ", err)
        end
    }
    return 200 ok;
}
"""


@pytest.mark.parametrize("status", ["V", "R"])
def test_a_script_asks_and_staples(server, authority, status):
    authority.issue("good", status=status)
    port = free_port()
    server.up(http=SCRIPT % {"port": port, "folder": authority.folder})
    assert stapled(port) == ("good" if status == "V" else "none")
    log = server.log()
    if status == "R":
        assert 'validated: nil certificate status "revoked" in the OCSP response' in log
        return
    assert "validated: true 1" in log and "set: true nil" in log
    assert stapled(port) == "good" and len(authority.questions) == 1
    context = context_of(authority)
    raw = socket.create_connection(("127.0.0.1", port), 20)
    context.wrap_socket(raw).close()
    assert wait_until(lambda: "set: true no status req" in server.log(), 20)


# ---- clients ----

@pytest.fixture
def asking(server, authority):
    """A server that asks about its clients; `ask` gives the status and the body of one answer."""
    server.tls_port = free_port()
    authority.issue("server", "good.test", names_responder=False)
    authority.issue("fine")
    authority.issue("bad", status="R")
    authority.issue("stray", status="")
    authority.issue("mute", names_responder=False)

    def up(directives="ssl_ocsp on;", workers=1):
        server.up(workers=workers, http="""
            server {
                listen 127.0.0.1:%(port)d ssl;
                ssl_certificate %(folder)s/server.pem;
                ssl_certificate_key %(folder)s/server.key;
                error_log logs/error.log info;
                ssl_verify_client optional;
                ssl_client_certificate %(folder)s/ca.pem;
                ssl_session_cache shared:sessions:1m;
                %(directives)s
                return 200 "$ssl_client_verify|$ssl_session_reused";
            }""" % {"port": server.tls_port, "folder": authority.folder,
                    "directives": directives})
        return server
    return up


def context_of(authority, client=None, version=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version:
        context.maximum_version = version
    if client:
        context.load_cert_chain(authority.path(client + ".leaf"), authority.path(client + ".key"))
    return context


def ask(server, context, session=None):
    raw = socket.create_connection(("127.0.0.1", server.tls_port), 20)
    with context.wrap_socket(raw, session=session) as stream:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := stream.recv(65536):
            answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode(), stream.session


def test_clients_are_looked_up(asking, authority):
    server = asking()
    status, body, _ = ask(server, context_of(authority, "fine"))
    assert (status, body) == (200, "SUCCESS|.")
    assert len(authority.questions) == 1
    assert ask(server, context_of(authority))[:2] == (200, "NONE|.")
    for client, error in (("bad", "certificate revoked"), ("stray", "certificate status unknown"),
                          ("mute", "certificate status request failed")):
        status, body, _ = ask(server, context_of(authority, client))
        assert status == 400 and "The SSL certificate error" in body
        assert wait_until(lambda: "client SSL certificate verify error: " + error in server.log())


def test_resumed_clients_are_looked_up_again(asking, authority):
    server = asking()
    context = context_of(authority, "fine", ssl.TLSVersion.TLSv1_2)
    _, body, session = ask(server, context)
    assert body == "SUCCESS|."
    assert ask(server, context, session)[1] == "SUCCESS|r"
    assert len(authority.questions) == 2


def test_answers_are_kept_for_all_workers(asking, authority):
    server = asking("ssl_ocsp leaf; ssl_ocsp_cache shared:answers:64k;", workers=2)
    for _ in range(6):
        assert ask(server, context_of(authority, "fine"))[0] == 200
        assert ask(server, context_of(authority, "bad"))[0] == 400
    assert len(authority.questions) == 2


def test_a_responder_that_fails_refuses_clients(asking, authority):
    authority.mode = "refuse"
    server = asking()
    assert ask(server, context_of(authority, "fine"))[0] == 400
    authority.mode = "answer"
    assert ask(server, context_of(authority, "fine"))[0] == 200


def test_clients_that_leave_while_it_is_asked(asking, authority):
    authority.mode = "silent"
    server = asking("ssl_ocsp on; client_header_timeout 2s;")
    raw = socket.create_connection(("127.0.0.1", server.tls_port), 20)
    stream = context_of(authority, "fine", ssl.TLSVersion.TLSv1_2).wrap_socket(raw)
    stream.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n")
    stream.settimeout(30)
    assert stream.recv(100) == b""       # timed out by the server
    stream.close()
    authority.mode = "answer"
    assert ask(server, context_of(authority, "fine"))[0] == 200


@pytest.mark.parametrize("directives, error", [
    ("ssl_ocsp on; ssl_verify_client optional_no_ca;",
     '"ssl_ocsp" is incompatible with "ssl_verify_client optional_no_ca"'),
    ("ssl_ocsp on; ssl_ocsp_responder https://x/;",
     'invalid URL prefix in OCSP responder "https://x/" in "ssl_ocsp_responder"'),
    ("ssl_ocsp_cache shared:x:1k;", 'OCSP cache "shared:x:1k" is too small'),
    ("ssl_ocsp_cache builtin;", 'invalid OCSP cache "builtin"'),
    ("ssl_stapling on; ssl_stapling_file %(folder)s/server.key;", "d2i_OCSP_RESPONSE_bio"),
])
def test_configuration_errors(authority, directives, error):
    authority.issue("server")
    with ScenarioServer() as server:
        server.setup(http=("server { listen 127.0.0.1:%d ssl; " % free_port() + directives +
                           "ssl_certificate %(folder)s/server.pem; "
                           "ssl_certificate_key %(folder)s/server.key; "
                           "ssl_client_certificate %(folder)s/ca.pem; }")
                     % {"folder": authority.folder})
        done = server.run("-t")
        assert done.returncode != 0 and error in done.stdout, done.stdout
