"""Settings of the server's side of TLS, each seen by a client: versions, suites, groups, chains,
revocation lists, two certificates at once."""
import socket
import ssl
import subprocess

import pytest

from runner.server import free_port, wait_until
from scenarios.ocsp_responder import KEY, Authority, openssl


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """server (EC) and rsa of one authority; root > middle > low, a chain of clients, low and root
    with revocation lists: gone.crl has low in it, none.crl nobody."""
    folder = tmp_path_factory.mktemp("settings")

    def path(name):
        return str(folder / name)

    def issue(name, by, kind=KEY, authority=False):
        extensions = "basicConstraints=CA:%s\nsubjectAltName=DNS:good.test\n" % (
            "TRUE" if authority else "FALSE")
        (folder / "extensions").write_text(extensions)
        openssl("req", *kind, path(name + ".key"), "-out", path("request"), "-subj", "/CN=" + name)
        openssl("x509", "-req", "-in", path("request"), "-CA", path(by + ".pem"), "-CAkey",
                path(by + ".key"), "-CAcreateserial", "-days", "5", "-extfile",
                path("extensions"), "-out", path(name + ".pem"))
    openssl("req", "-x509", *KEY, path("root.key"), "-out", path("root.pem"), "-days", "10",
            "-subj", "/CN=root")
    issue("server", "root")
    issue("rsa", "root", ("-newkey", "rsa:2048", "-nodes", "-keyout"))
    issue("middle", "root", authority=True)
    issue("low", "middle")
    issue("near", "root")
    chain = (folder / "low.pem").read_text() + (folder / "middle.pem").read_text()
    (folder / "low-chain.pem").write_text(chain)
    (folder / "index").write_text("")
    (folder / "ca.conf").write_text(
        "[ca]\ndefault_ca=x\n[x]\ndatabase=%s\ndefault_md=sha256\n" % path("index"))
    ca = ("ca", "-config", path("ca.conf"), "-cert", path("root.pem"), "-keyfile",
          path("root.key"), "-crldays", "5")
    openssl(*ca, "-gencrl", "-out", path("none.crl"))
    openssl(*ca, "-revoke", path("near.pem"))
    openssl(*ca, "-gencrl", "-out", path("gone.crl"))
    return folder


def up(server, keys, directives, second=""):
    server.tls_port = free_port()
    server.up(http="""server {
        listen 127.0.0.1:%d ssl;
        ssl_certificate %s/server.pem;
        ssl_certificate_key %s/server.key;
        %s
        location / { return 200 "$ssl_protocol|$ssl_cipher|$ssl_curve|$ssl_client_verify|"; }
    } %s""" % (server.tls_port, keys, keys, directives, second))


def ask(server, client=None, keys=None, **settings):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in settings.items():
        attribute = getattr(context, name)
        attribute(value) if callable(attribute) else setattr(context, name, value)
    if client:
        context.load_cert_chain(str(keys / (client + ".pem")),
                                str(keys / (client.split("-")[0] + ".key")))
    raw = socket.create_connection(("127.0.0.1", server.tls_port), 20)
    with context.wrap_socket(raw, server_hostname="good.test") as stream:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := stream.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode().split("|")


def test_versions(server, keys):
    up(server, keys, "ssl_protocols TLSv1.2;")
    assert ask(server)[1][0] == "TLSv1.2"
    with pytest.raises(ssl.SSLError):
        ask(server, minimum_version=ssl.TLSVersion.TLSv1_3)


def test_suites_and_groups(server, keys):
    up(server, keys, "ssl_ciphers ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256; "
                     "ssl_ecdh_curve P-384:P-256; ssl_prefer_server_ciphers on; "
                     "ssl_conf_command Ciphersuites TLS_CHACHA20_POLY1305_SHA256;")
    assert ask(server)[1][1:3] == ["TLS_CHACHA20_POLY1305_SHA256", "secp384r1"]
    old = {"maximum_version": ssl.TLSVersion.TLSv1_2}
    assert ask(server, set_ciphers="ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384",
               **old)[1][1] == "ECDHE-ECDSA-AES256-GCM-SHA384"
    assert ask(server, set_ecdh_curve="prime256v1", **old)[1][2] == "prime256v1"
    with pytest.raises(ssl.SSLError):
        ask(server, set_ciphers="ECDHE-ECDSA-CHACHA20-POLY1305", **old)


def test_the_clients_choice(server, keys):
    up(server, keys, "ssl_ciphers ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256; "
                     "ssl_prefer_server_ciphers off;")
    assert ask(server, set_ciphers="ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384",
               maximum_version=ssl.TLSVersion.TLSv1_2)[1][1] == "ECDHE-ECDSA-AES128-GCM-SHA256"


@pytest.mark.parametrize("depth, good", [(0, False), (1, True)])
def test_depth_of_chains(server, keys, depth, good):
    up(server, keys, "ssl_verify_client on; ssl_client_certificate %s/root.pem; "
                     "ssl_verify_depth %d; error_log logs/error.log info;" % (keys, depth))
    status, body = ask(server, "low-chain", keys)
    assert (status == 200 and body[3] == "SUCCESS") == good
    if not good:
        assert wait_until(lambda: "client SSL certificate verify error: (" in server.log())


@pytest.mark.parametrize("name, status", [("none", 200), ("gone", 400)])
def test_revocation_list(server, keys, name, status):
    up(server, keys, "ssl_verify_client on; ssl_client_certificate %s/root.pem; ssl_crl %s/%s.crl;"
                     " error_log logs/error.log info;" % (keys, keys, name))
    assert ask(server, "near", keys)[0] == status
    if status == 400:
        assert wait_until(lambda: "verify error: (23:certificate revoked)" in server.log())


def test_trusted_but_not_named(server, keys):
    """ssl_trusted_certificate verifies clients without telling them which authorities are known."""
    for directive, named in (("ssl_client_certificate", True), ("ssl_trusted_certificate", False)):
        up(server, keys, "ssl_verify_client optional; %s %s/root.pem;" % (directive, keys))
        assert ask(server, "near", keys)[1][3] == "SUCCESS"
        assert ask(server)[1][3] == "NONE"
        shown = subprocess.run(
            ["openssl", "s_client", "-connect", "127.0.0.1:%d" % server.tls_port, "-tls1_2"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60).stdout
        assert ("No client certificate CA names sent" not in shown) == named
        server.stop()


def test_optional_no_ca(server, keys):
    up(server, keys, "ssl_verify_client optional_no_ca;")
    status, body = ask(server, "near", keys)
    assert status == 200 and body[3].startswith("FAILED:")


def test_two_certificates(server, keys):
    """Each client gets the one it can check."""
    up(server, keys, "ssl_certificate %s/rsa.pem; ssl_certificate_key %s/rsa.key; "
                     "ssl_ciphers ALL;" % (keys, keys))
    for suite in ("ECDSA", "RSA"):
        assert "-%s-" % suite in ask(server, maximum_version=ssl.TLSVersion.TLSv1_2,
                                     set_ciphers="ECDHE-%s-AES128-GCM-SHA256" % suite)[1][1]


def test_each_certificate_has_its_own_staple(server, tmp_path):
    with Authority(tmp_path) as authority:
        authority.issue("ec", "good.test")
        authority.issue("rsa", "good.test", kind=("-newkey", "rsa:2048", "-nodes", "-keyout"))
        server.tls_port = free_port()
        server.up(http="""server {
            listen 127.0.0.1:%d ssl;
            ssl_certificate %s/ec.pem;  ssl_certificate_key %s/ec.key;
            ssl_certificate %s/rsa.pem; ssl_certificate_key %s/rsa.key;
            ssl_stapling on;
        }""" % (server.tls_port, *[tmp_path] * 4))

        def staple(kind):
            run = subprocess.run(
                ["openssl", "s_client", "-connect", "127.0.0.1:%d" % server.tls_port, "-status",
                 "-sigalgs", kind + "+SHA256"], stdin=subprocess.DEVNULL, capture_output=True,
                text=True, timeout=60)
            serial = [line.split(":")[1].strip() for line in run.stdout.splitlines()
                      if "Serial Number:" in line]
            return serial[0] if "Cert Status: good" in run.stdout else ""
        assert wait_until(lambda: staple("ECDSA") == "%X" % (authority.serial - 1), 20)
        assert wait_until(lambda: staple("RSA-PSS") == "%X" % authority.serial, 20)


def test_diffie_hellman_of_a_file(server, keys):
    """ssl_dhparam: without it there are no DHE suites."""
    with open(keys / "dh.pem", "w") as file:
        subprocess.run(["openssl", "genpkey", "-genparam", "-algorithm", "DH", "-pkeyopt",
                        "group:ffdhe2048"], stdout=file, check=True, stderr=subprocess.DEVNULL)
    suites = "ssl_certificate %s/rsa.pem; ssl_certificate_key %s/rsa.key; " \
             "ssl_ciphers DHE-RSA-AES128-GCM-SHA256; %s"
    old = {"maximum_version": ssl.TLSVersion.TLSv1_2, "set_ciphers": "DHE-RSA-AES128-GCM-SHA256"}
    up(server, keys, suites % (keys, keys, "ssl_dhparam %s/dh.pem;" % keys))
    assert ask(server, **old)[1][1] == "DHE-RSA-AES128-GCM-SHA256"
    server.stop()
    up(server, keys, suites % (keys, keys, ""))
    with pytest.raises(ssl.SSLError):
        ask(server, **old)
