"""An authority with an OCSP responder: certificates naming it, answers made by `openssl ocsp`."""
import base64
import http.server
import os
import subprocess
import threading
import urllib.parse

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout")


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


class Authority:
    """Files NAME.pem and NAME.key in `folder`; the responder answers on `port` while it is open."""

    def __init__(self, folder, name="ca"):
        self.folder = str(folder)
        self.name = name
        self.serial = 4096
        self.index = self.path("index.txt")
        self.questions = []              # certificates asked for, as bytes of the requests
        self.mode = "answer"             # or "silent", "broken", "refuse"
        self.minutes = 60                # how long answers are good
        self.ended = threading.Event()
        openssl("req", "-x509", *KEY, self.path(name + ".key"), "-out", self.path(name + ".pem"),
                "-days", "10", "-subj", "/CN=" + name)
        open(self.index, "w").close()
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.http.daemon_threads = False
        self.port = self.http.server_address[1]
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.05,))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def path(self, name):
        return os.path.join(self.folder, name)

    def issue(self, name, host=None, status="V", names_responder=True, kind=KEY):
        """A certificate of ours; status: V good, R revoked, empty: the responder knows nothing."""
        self.serial += 1
        extensions = "subjectAltName=DNS:%s\n" % (host or name)
        if names_responder:
            extensions += "authorityInfoAccess=OCSP;URI:http://%s:%d/ocsp\n" % (
                "127.0.0.1", self.port)
        with open(self.path("extensions"), "w") as file:
            file.write(extensions)
        openssl("req", *kind, self.path(name + ".key"), "-out", self.path("request"), "-subj",
                "/CN=" + name)
        openssl("x509", "-req", "-in", self.path("request"), "-CA", self.path(self.name + ".pem"),
                "-CAkey", self.path(self.name + ".key"), "-set_serial", str(self.serial), "-days",
                "5", "-extfile", self.path("extensions"), "-out", self.path(name + ".leaf"))
        with open(self.path(name + ".pem"), "w") as chain:
            chain.write(open(self.path(name + ".leaf")).read())
            chain.write(open(self.path(self.name + ".pem")).read())
        if status:
            revoked = "250101000000Z" if status == "R" else ""
            with open(self.index, "a") as index:
                index.write("%s\t401231000000Z\t%s\t%X\tunknown\t/CN=%s\n" % (
                    status, revoked, self.serial, name))
        return self.path(name + ".pem"), self.path(name + ".key")

    def answer_to(self, question):
        """An answer in DER to a question in DER."""
        run = subprocess.run(
            ["openssl", "ocsp", "-index", self.index, "-CA", self.path(self.name + ".pem"),
             "-rsigner", self.path(self.name + ".pem"), "-rkey", self.path(self.name + ".key"),
             "-nmin", str(self.minutes), "-reqin", "/dev/stdin", "-respout", "/dev/stdout"],
            input=question, capture_output=True, check=True)
        return run.stdout

    def handler(authority):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                try:
                    self.answer()
                except OSError:
                    pass                   # who asked is gone

            def answer(self):
                part = urllib.parse.unquote(self.path.split("/ocsp/", 1)[1])
                question = base64.b64decode(part)
                authority.questions.append(question)
                if authority.mode == "silent":
                    authority.ended.wait(20)
                    return
                if authority.mode == "refuse":
                    self.send_error(503)
                    return
                body = b"nonsense" if authority.mode == "broken" else authority.answer_to(question)
                self.send_response(200)
                self.send_header("Content-Type", "application/ocsp-response")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass
        return Handler
