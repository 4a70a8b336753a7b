"""Disks that are full, logs that nobody reads any more, descriptors that run out under work."""
import os
import resource
import shutil
import subprocess
import time

import pytest

from runner.client import Connection, ProtocolError, get, request_bytes
from runner.server import wait_until
from scenarios.test_crash import cpu_seconds

BODY = b"x" * 400000


@pytest.fixture
def small_disk(server):
    """A file system of 256 KB at PREFIX/small."""
    folder = server.path("small")
    os.makedirs(folder, exist_ok=True)
    if os.geteuid() != 0 or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0777", "tmpfs", folder],
            capture_output=True).returncode != 0:
        pytest.skip("cannot mount a file system")
    yield folder
    server.stop()
    subprocess.run(["umount", folder], check=True)


def post(server, body, headers=()):
    return get(server.port, "/body", method="POST", body=body, headers=headers)


READS_BODY = """
    client_max_body_size 10m;
    client_body_buffer_size 1k;
    location = /body {
        content_by_lua_block {
            ngx.req.read_body()
            ngx.say(ngx.req.get_body_file() and "file" or "memory")
        }
    }
"""


def test_a_request_body_on_a_full_disk(server, small_disk):
    server.up(http="client_body_temp_path %s/body;" % small_disk, locations=READS_BODY)
    workers = server.workers()
    assert post(server, b"x" * 100000).text() == "file\n"
    for _ in range(3):
        assert post(server, BODY).status == 500
    assert "No space left on device" in server.log()
    # What was written before the disk was full is gone again.
    assert wait_until(lambda: os.listdir(os.path.join(small_disk, "body")) == [], 2)
    assert post(server, b"x" * 100000).status == 200
    assert server.workers() == workers


def test_a_chunked_body_on_a_full_disk(server, small_disk):
    server.up(http="client_body_temp_path %s/body;" % small_disk, locations=READS_BODY)
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    with Connection(server.port) as client:
        client.send(b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(40):
                client.send(chunk)
            client.send(b"0\r\n\r\n")
        except OSError:
            pass                      # answered and closed before the end
        response = client.read_response()
    assert response is None or response.status == 500
    assert get(server.port).status == 200
    assert wait_until(lambda: os.listdir(os.path.join(small_disk, "body")) == [], 2)


@pytest.mark.parametrize("options", ["", "buffer=4k flush=50ms", "gzip buffer=4k flush=50ms"])
def test_an_access_log_on_a_full_disk(server, small_disk, options):
    log = os.path.join(small_disk, "access.log")
    server.up(log="access_log %s combined %s;" % (log, options))
    workers = server.workers()
    filler = os.path.join(small_disk, "filler")
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    for _ in range(100):
        assert get(server.port, "/" + "y" * 200).status == 404
    time.sleep(0.1)
    os.unlink(filler)
    size = os.path.getsize(log)
    assert wait_until(lambda: get(server.port).status == 200 and os.path.getsize(log) > size)
    assert server.workers() == workers
    assert server.log().count("No space left on device") < 10


def start_with_pipe(server, log):
    """The server with its standard output and error in a pipe: the end to read from."""
    server.setup(log=log)
    server.configure(server.read("conf/server.conf").replace("logs/error.log notice",
                                                             "stderr notice"))
    reading, writing = os.pipe()
    server.start(stdout=writing, stderr=writing)
    os.close(writing)
    return reading


def test_logs_into_a_pipe_that_nobody_reads(server):
    reading = start_with_pipe(server, "access_log /dev/stdout;")
    assert get(server.port).status == 200
    assert wait_until(server.workers)
    workers = server.workers()
    os.close(reading)
    for _ in range(50):
        assert get(server.port).status == 200
        assert get(server.port, "/missing").status == 404
    assert server.workers() == workers


def test_logs_into_a_pipe_that_is_full(server):
    reading = start_with_pipe(server, "access_log off;")
    os.set_blocking(reading, False)
    assert wait_until(server.workers)
    worker = server.workers()[0]
    # More than a pipe holds, while nobody reads: lines may be lost, the worker may not hang.
    deadline = time.monotonic() + 20
    for _ in range(400):
        assert get(server.port, "/" + "z" * 400, timeout=5).status == 404
    assert time.monotonic() < deadline
    assert server.workers() == [worker]
    os.close(reading)


def test_reopening_logs_whose_folder_is_gone(server):
    server.up(log="access_log logs/more/access.log;" if os.makedirs(
        server.path("logs/more"), exist_ok=True) is None else "")
    workers = server.workers()
    assert get(server.port).status == 200
    shutil.rmtree(server.path("logs/more"))
    server.signal("USR1")
    assert wait_until(lambda: "access.log" in server.log())
    for _ in range(20):
        assert get(server.port).status == 200
    assert server.workers() == workers


def test_files_without_descriptors(server):
    """With every descriptor in use a file cannot be opened: 500, no spinning, and then it can."""
    server.write("html/a.txt", "a" * 100000)
    for i in range(80):
        server.write("html/f%d.txt" % i, "f" * 100000)
    server.up(main="worker_rlimit_nofile 40;", connections=512,
              locations="location /f { root html; } location /slow2 { echo_sleep 2; echo ok; }")
    worker = server.workers()[0]
    held = []
    for _ in range(40):
        client = Connection(server.port, timeout=5)
        client.send(request_bytes(target="/slow2"))
        held.append(client)
    time.sleep(0.3)
    before = cpu_seconds(worker)
    time.sleep(0.5)
    assert cpu_seconds(worker) - before < 0.1
    for client in held:
        client.close()

    def serves():
        try:
            return all(get(server.port, "/f%d.txt" % i, timeout=2).status == 200
                       for i in range(60))
        except (OSError, ProtocolError):
            return False
    assert wait_until(serves, 8)
    assert server.workers() == [worker]


def test_temporary_files_without_descriptors(server):
    server.up(main="worker_rlimit_nofile 32;", connections=512, locations=READS_BODY)
    worker = server.workers()[0]
    held = []
    for _ in range(30):
        client = Connection(server.port, timeout=5)
        held.append(client)
        client.send(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" + b"x" * 3000)
    time.sleep(0.3)
    for client in held:
        try:
            client.send(b"x" * 2000)
        except OSError:
            pass                      # refused: it had no descriptor for its body
    time.sleep(0.2)
    for client in held:
        client.close()
    assert wait_until(lambda: post(server, b"x" * 5000).status == 200, 5)
    assert server.workers() == [worker]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64
