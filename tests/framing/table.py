"""HTTP/1.1 message framing: every request variant with the outcome it must have.

Row numbers group variants of one rule; `rule` names the RFC section (RFC 9112 where not said).
The probe request X is appended to every case, so a message whose end is misjudged shows itself.

    R  one response with one of `statuses`, connection closed, probe unanswered, no handler reached
    A  one 2xx per request, then the probe answered once
    C  one 2xx per request, connection closed, probe unanswered
    E  A or R: both are right
    AC A or C: both are right
"""
from dataclasses import dataclass

CRLF = b"\r\n"
HOST = b"Host: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LAST = b"0\r\n\r\n"
PROBE = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass
class Case:
    """One variant: the bytes before the probe and what must come of them."""

    row: int
    rule: str
    name: str
    data: bytes
    outcome: str = "R"
    statuses: tuple = (400,)
    methods: tuple = ("GET",)
    body_has: tuple = ()
    body_lacks: tuple = ()

    @property
    def label(self):
        return "%02d %s" % (self.row, self.name)

    @property
    def answers(self):
        """Responses due before the probe's own when the case is accepted."""
        return len(self.methods)


def post(fields, body=b"", version=b"1.1", host=HOST):
    return b"POST / HTTP/" + version + CRLF + host + fields + CRLF + body


def get(fields=b"", version=b"1.1", host=HOST):
    return b"GET / HTTP/" + version + CRLF + host + fields + CRLF


def length(value, body=b""):
    return post(b"Content-Length: " + value + CRLF, body)


def coding(value, body=LAST, more=b""):
    return post(b"Transfer-Encoding: " + value + CRLF + more, body)


def chunks(body):
    return post(CHUNKED, body)


def line(text, fields=HOST):
    return text + CRLF + fields + CRLF


def content_length_rows():
    both = "6.1, 6.3"
    yield Case(1, both, "CL then TE", post(b"Content-Length: 5\r\n" + CHUNKED, LAST))
    yield Case(1, both, "TE then CL", post(CHUNKED + b"Content-Length: 5\r\n", LAST))
    yield Case(2, "6.3, 9110 8.6", "two CL that differ",
               post(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"AB"))
    yield Case(3, "9110 8.6", "two equal CL",
               post(b"Content-Length: 1\r\nContent-Length: 1\r\n", b"A"))
    yield Case(3, "9110 8.6", "CL list", length(b"1, 1", b"A"))
    for value, body in ((b"+1", b"A"), (b"-1", b"A"), (b"0x1", b"A"), (b"1_0", b"0123456789"),
                        (b"1 2", b"A"), (b"", b"")):
        yield Case(4, "9110 8.6", "CL %r" % value.decode(), length(value, body))
    yield Case(5, "9110 8.6", "CL 2^63", length(b"9223372036854775808"), statuses=(400, 413))
    yield Case(6, "9110 8.6", "CL 2^64", length(b"18446744073709551616"), statuses=(400, 413))
    yield Case(6, "9110 8.6", "CL twenty nines", length(b"9" * 20), statuses=(400, 413))
    yield Case(7, "9110 8.6", "CL 010", length(b"010", b"0123456789"), "A",
               body_has=(b"body=10 ",))
    yield Case(8, "5.1", "CL with space before colon", post(b"Content-Length : 1\r\n", b"A"))
    yield Case(8, "5.1", "TE with space before colon",
               post(b"Transfer-Encoding : chunked\r\n", LAST))
    yield Case(9, "2.2", "white space before the first field",
               b"POST / HTTP/1.1\r\n Content-Length: 1\r\nHost: a\r\n\r\nA")


def transfer_encoding_rows():
    yield Case(10, "6.1", "TE in HTTP/1.0", post(CHUNKED, LAST, b"1.0"))
    yield Case(10, "6.1", "TE and CL in HTTP/1.0",
               post(CHUNKED + b"Content-Length: 5\r\n", LAST, b"1.0"))
    for value in (b"xchunked", b"identity", b"gzip", b'"chunked"', b"chunked;a=b",
                  b"\xa0chunked"):
        yield Case(11, "6.1, 6.3", "TE %r" % value, coding(value), statuses=(501,))
    yield Case(11, "6.1, 6.3", "TE \\x0bchunked", coding(b"\x0bchunked"), statuses=(400, 501))
    yield Case(12, "6.1", "TE gzip, chunked", coding(b"gzip, chunked"), statuses=(501,))
    yield Case(12, "6.1", "TE identity, then chunked",
               coding(b"identity", more=CHUNKED), statuses=(501,))
    yield Case(13, "6.1", "TE ,chunked", coding(b",chunked"))
    yield Case(14, "6.1", "TE in an open quoted string", coding(b'x;q="a,chunked'))
    for value in (b"chunked, gzip", b"chunked, chunked", b"chunked,"):
        yield Case(15, "6.1", "TE " + value.decode(), coding(value))
    yield Case(15, "6.1", "TE twice", post(CHUNKED + CHUNKED, LAST))
    yield Case(16, "6.3", "TE empty", post(b"Transfer-Encoding:\r\n", LAST))
    yield Case(16, "6.3", "TE empty and CL",
               post(b"Transfer-Encoding:\r\nContent-Length: 5\r\n", LAST))
    yield Case(17, "5.2", "TE on a folded line", post(b"Transfer-Encoding:\r\n chunked\r\n", LAST))
    yield Case(17, "5.2", "CL on a folded line", post(b"Content-Length:\r\n 1\r\n", b"A"))
    yield Case(18, "9110 5.1", "Transfer_Encoding is another field",
               post(b"Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", LAST), "A",
               body_has=(b"body=5 ",), body_lacks=(b"underscore=chunked",))
    yield Case(19, "2.2", "bare CR hides TE", post(b"X:\rTransfer-Encoding: chunked\r\n", LAST))
    yield Case(19, "2.2", "bare CR in a value", get(b"X: a\rb\r\n"))


def field_rows():
    yield Case(20, "2.2", "bare CR ends the head",
               b"GET / HTTP/1.1\r\nHost: a\r\n\rZGET /evil HTTP/1.1\r\nHost: a\r\n\r\n")
    yield Case(21, "5.2", "folded value", get(b"X: a\r\n b\r\n"))
    yield Case(22, "2.2", "bare LF among CRLF", get(b"X: a\nY: b\r\n"))
    yield Case(23, "2.2", "every line ends in bare LF", b"GET / HTTP/1.1\nHost: a\n\n", "A")
    yield Case(24, "9110 5.1", "empty field name", get(b": v\r\n"))
    yield Case(25, "5", "field without colon", get(b"Foo\r\n"))
    for name in (b"X(", b"X\x85", b"X\0", b"X Y"):
        yield Case(26, "9110 5.6.2", "field name %r" % name, get(name + b": v\r\n"))
    for value in (b"a\0b", b"a\x01b", b"a\x7fb"):
        yield Case(27, "9110 5.5", "field value %r" % value, get(b"X: " + value + CRLF))
    yield Case(28, "3.2", "no Host", get(host=b""))
    yield Case(28, "3.2", "two Hosts", get(b"Host: b\r\n"))
    yield Case(28, "3.2", "two equal Hosts", get(HOST))
    for value in (b"a, b", b"a b", b"a/b", b"u@a", b"a:99999999"):
        yield Case(29, "3.2", "Host %s" % value.decode(), get(host=b"Host: " + value + CRLF))


def request_line_rows():
    yield Case(30, "3.2.2", "absolute form wins over Host", line(b"GET http://b/ HTTP/1.1"), "A",
               body_has=(b"host=b ",))
    for target in (b"*", b"http://u:p@b/", b"file:///x", b"a"):
        yield Case(31, "3.2", "target %s" % target.decode(),
                   line(b"GET " + target + b" HTTP/1.1"))
    for target in (b"/a\0b", b"/a\x01b", b"/a b"):
        yield Case(32, "3", "target %r" % target, line(b"GET " + target + b" HTTP/1.1"))
    yield Case(33, "3", "tabs in the request line", line(b"GET\t/\tHTTP/1.1"))
    yield Case(33, "3", "space after the version", line(b"GET / HTTP/1.1 "))
    yield Case(34, "3", "two spaces", line(b"GET  /  HTTP/1.1"))
    yield Case(34, "3", "two spaces before the target", line(b"GET  / HTTP/1.1"))
    yield Case(34, "3", "two spaces before the version", line(b"GET /  HTTP/1.1"))
    for version in (b"HTTP/2.0", b"HTTP/0.9"):
        yield Case(35, "2.3", version.decode(), line(b"GET / " + version), statuses=(505,))
    yield Case(35, "2.3", "RTSP/1.0", line(b"DESCRIBE / RTSP/1.0"), statuses=(505,))
    yield Case(35, "2.3", "ICE/1.0", line(b"SOURCE / ICE/1.0"), statuses=(505,))
    for version in (b"HTTP/1.01", b"HTTP/01.1", b"http/1.1"):
        yield Case(36, "2.3", "version " + version.decode(), line(b"GET / " + version))
    yield Case(36, "2.3", "no version", b"GET /\r\n")
    yield Case(36, "9110 2.5", "HTTP/1.2", line(b"GET / HTTP/1.2"), "E", (400, 505))
    yield Case(37, "2.2", "two empty lines first", CRLF * 2 + PROBE, "A")
    yield Case(37, "2.2", "534 empty lines first", CRLF * 534 + PROBE, "A")
    yield Case(37, "2.2", "64 KB of empty lines first", CRLF * 32768 + PROBE)
    yield Case(38, "9110 9.1", "method in lower case", line(b"get / HTTP/1.1"))
    yield Case(38, "9110 9.1", "method G@T", line(b"G@T / HTTP/1.1"))
    yield Case(39, "9110 9.3.6", "CONNECT", line(b"CONNECT a:80 HTTP/1.1", b"Host: a:80\r\n"),
               statuses=(405,))
    yield Case(40, "9113 3.4", "HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
               statuses=(400, 505))


def connection_rows():
    yield Case(41, "9110 7.8", "Upgrade with a body",
               post(b"Connection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 3\r\n", b"ABC"), "A",
               body_has=(b"body=3 ",))
    yield Case(42, "9110 10.1.1", "final answer before an expected body",
               line(b"POST /early HTTP/1.1",
                    HOST + b"Expect: 100-continue\r\nContent-Length: 3\r\n") + b"ABC", "AC")
    yield Case(43, "6.3", "GET with a body", get(b"Content-Length: 3\r\n") + b"ABC", "A",
               body_has=(b"body=3 ",))
    yield Case(43, "6.3", "HEAD with a body",
               line(b"HEAD / HTTP/1.1", HOST + b"Content-Length: 3\r\n") + b"ABC", "A",
               methods=("HEAD",))
    yield Case(43, "6.3", "a body nobody reads",
               line(b"GET /early HTTP/1.1", HOST + b"Content-Length: 27\r\n")
               + b"GET /evil HTTP/1.1\r\nHost: a", "AC")
    yield Case(44, "9.6", "close with a tab", get(b"Connection: close\t\r\n"), "C")
    yield Case(45, "9110 7.6.1", "Connection names CL",
               post(b"Connection: Content-Length\r\nContent-Length: 3\r\n", b"ABC"), "A",
               body_has=(b"body=3 ",))
    yield Case(55, "9.3.2", "two pipelined requests", PROBE, "A")
    yield Case(55, "9.6", "close, then another request", get(b"Connection: close\r\n"), "C")


def chunk_rows():
    for size in (b"0x1", b"+1", b"-1", b"1_0", b" 1", b""):
        yield Case(46, "7.1", "chunk size %r" % size.decode(),
                   chunks(size + b"\r\nA\r\n" + LAST))
    for extension in (b';a="b"', b";a=b;c=d", b" ;a=b"):
        yield Case(47, "7.1.1", "chunk extension %r" % extension.decode(),
                   chunks(b"1" + extension + b"\r\nA\r\n" + LAST), "E")
    yield Case(48, "7.1", "space after the size", chunks(b"1 \r\nA\r\n" + LAST))
    for name, body in (("size line in LF", b"1\nA\r\n" + LAST), ("data in LF", b"1\r\nA\n" + LAST),
                       ("last chunk in LF", b"0\n\n"),
                       ("extension in LF", b"2;\nxx\r\n4\r\n0000\r\n" + LAST)):
        yield Case(49, "7.1", name, chunks(body))
    for name, body in (("CR CR in an extension", b"5\r\r;ABCD\r\n34\r\nE\r\n" + LAST),
                       ("CR X after the size", b"1\rXA\r\n" + LAST),
                       ("CR X after the data", b"1\r\nA\rX" + LAST)):
        yield Case(50, "7.1", name, chunks(body))
    yield Case(51, "7.1", "data longer than its chunk", chunks(b"1\r\nABC\r\n" + LAST))
    yield Case(51, "7.1", "no line end after the data", chunks(b"1\r\nA" + LAST))
    yield Case(52, "7.1", "chunk size 2^64 + 1", chunks(b"10000000000000001\r\nA\r\n" + LAST),
               statuses=(400, 413))
    yield Case(52, "7.1", "chunk size 2^64 - 1", chunks(b"ffffffffffffffff\r\nA\r\n" + LAST),
               statuses=(400, 413))
    yield Case(52, "7.1", "chunk size 2^63 - 1", chunks(b"7fffffffffffffff\r\nA\r\n" + LAST),
               statuses=(400, 413))
    yield Case(53, "7.1.1", "64 KB of leading zeros",
               chunks(b"0" * 65536 + b"1\r\nA\r\n" + LAST), statuses=(400, 413))
    yield Case(53, "7.1.1", "64 KB of extension",
               chunks(b"1;a=" + b"b" * 65536 + b"\r\nA\r\n" + LAST), statuses=(400, 413))
    for field, lacks in ((b"Content-Length: 5", b"length=5"), (b"Host: evil", b"evil"),
                         (b"Authorization: secret", b"secret")):
        yield Case(54, "7.1.2, 9110 6.5.1", "trailer " + field.decode(),
                   chunks(b"1\r\nA\r\n0\r\n" + field + b"\r\n\r\n"), "A",
                   body_has=(b"body=1 ",), body_lacks=(lacks,))


def plain_rows():
    """Row 0: what must go on working, and plain limits."""
    yield Case(0, "6.1", "TE Chunked in capitals", coding(b"Chunked"), "A")
    yield Case(0, "7.1", "one chunk", chunks(b"1\r\nA\r\n" + LAST), "A", body_has=(b"body=1 ",))
    yield Case(0, "7.1", "hexadecimal sizes", chunks(b"a\r\n0123456789\r\n1\r\nA\r\n" + LAST), "A",
               body_has=(b"body=11 ",))
    yield Case(0, "7.1.2", "a trailer", chunks(b"0\r\nX-T: 1\r\n\r\n"), "A")
    yield Case(0, "6.3", "POST without framing has no body", post(b""), "A",
               body_has=(b"body=0 ",))
    yield Case(0, "9.3", "HTTP/1.0 closes", get(version=b"1.0"), "C")
    yield Case(0, "9.3", "HTTP/1.0 without Host", get(version=b"1.0", host=b""), "C")
    yield Case(0, "9.3", "HTTP/1.0 keep-alive",
               get(b"Connection: keep-alive\r\n", version=b"1.0"), "A")
    yield Case(0, "9110 5.5", "value with obs-text", get(b"X: a\xffb\r\n"), "A")
    yield Case(0, "9110 5.4", "head of 100 KB", get(b"X: " + b"a" * 100000 + CRLF),
               statuses=(400, 431))
    yield Case(0, "3", "target of 40 KB", line(b"GET /" + b"a" * 40000 + b" HTTP/1.1"),
               statuses=(414,))
    yield Case(0, "2", "TLS client hello", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03")


CASES = [case for rows in (plain_rows, content_length_rows, transfer_encoding_rows, field_rows,
                           request_line_rows, connection_rows, chunk_rows) for case in rows()]
