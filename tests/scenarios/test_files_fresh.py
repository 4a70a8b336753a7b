"""Hot files are kept in memory, and yet a change is seen by the next request; access logs in the
face of rotation, compression, syslog and a full disk."""
import gzip
import os
import socket
import time

from runner.client import get
from runner.server import wait_until


def warm(server, path, text):
    for _ in range(4):
        assert get(server.port, path).text() == text


def test_a_file_written_in_place(server):
    server.up(locations="location /f/ { root html; }")
    for size in (10, 200000):
        for turn in range(5):
            text = str(turn) * size
            server.write("html/f/a.txt", text)
            warm(server, "/f/a.txt", text)


def test_a_file_replaced_by_another(server):
    server.up(locations="location /f/ { root html; }")
    for size in (10, 200000):
        for turn in range(5):
            text = str(turn) * size
            fresh = server.write("html/f/new", text)
            os.rename(fresh, server.path("html/f/a.txt"))
            warm(server, "/f/a.txt", text)


def test_a_file_removed_and_made_again(server):
    server.up(locations="location /f/ { root html; }")
    path = server.write("html/f/a.txt", "one")
    warm(server, "/f/a.txt", "one")
    os.unlink(path)
    assert get(server.port, "/f/a.txt").status == 404
    server.write("html/f/a.txt", "two")
    warm(server, "/f/a.txt", "two")


def test_a_link_to_another_folder_within_a_second(server):
    server.up(locations="location /f/ { root html; }")
    for name in ("one", "two"):
        server.write("releases/%s/a.txt" % name, name)
    link = server.path("html/f")
    os.makedirs(os.path.dirname(link), exist_ok=True)
    os.symlink(server.path("releases/one"), link)
    warm(server, "/f/a.txt", "one")
    os.symlink(server.path("releases/two"), link + ".new")
    os.rename(link + ".new", link)
    assert wait_until(lambda: get(server.port, "/f/a.txt").text() == "two", 2)


def test_open_file_cache_is_no_staler_than_it_says(server):
    server.up(http="open_file_cache max=10; open_file_cache_valid 1s; open_file_cache_errors on;",
              locations="location /f/ { root html; }")
    server.write("html/f/a.txt", "one")
    warm(server, "/f/a.txt", "one")
    assert get(server.port, "/f/b.txt").status == 404
    server.write("html/f/a.txt", "two")
    server.write("html/f/b.txt", "b")
    assert wait_until(lambda: get(server.port, "/f/a.txt").text() == "two", 2.5)
    assert wait_until(lambda: get(server.port, "/f/b.txt").status == 200, 2.5)


def test_rotated_logs_get_their_buffers_first(server):
    server.up(log="access_log logs/buffered.log combined buffer=64k;")
    get(server.port, "/before")
    os.rename(server.path("logs/buffered.log"),
              server.path("logs/buffered.1"))
    server.signal("USR1")
    assert wait_until(lambda: "/before" in server.read("logs/buffered.1"), 3)
    assert wait_until(lambda: os.path.exists(server.path("logs/buffered.log")), 3)
    time.sleep(0.2)
    get(server.port, "/after")
    server.signal("QUIT")
    assert wait_until(lambda: "/after" in server.read("logs/buffered.log"), 5)


def test_a_compressed_log_can_be_read(server):
    server.up(log="access_log logs/packed.gz combined gzip=6 flush=50ms;")
    path = server.path("logs/packed.gz")
    for turn in range(2):
        get(server.port, "/packed%d" % turn)
        size = os.path.getsize(path)
        assert wait_until(lambda at=size: os.path.getsize(path) > at or at > 0, 3)
        time.sleep(0.2)
    with open(path, "rb") as packed:
        text = gzip.decompress(packed.read()).decode()
    assert "/packed0" in text and "/packed1" in text


def test_access_log_to_syslog(server):
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    receiver.settimeout(5)
    server.up(log="access_log syslog:server=127.0.0.1:%d,facility=local3,tag=web,severity=debug;"
              % receiver.getsockname()[1])
    get(server.port, "/to-syslog")
    line = receiver.recv(4096).decode()
    receiver.close()
    assert line.startswith("<159>"), line           # local3 (19) * 8 + debug (7)
    assert " web: " in line and '"GET /to-syslog HTTP/1.1" 404' in line


def test_a_full_disk_is_told_once_a_second(server):
    server.up(log="access_log /dev/full combined;")
    start = time.time()
    for _ in range(50):
        assert get(server.port).status == 200
    lines = server.log().count("[alert]")
    assert 1 <= lines <= time.time() - start + 2, server.log()
    assert 'write() to "/dev/full" failed (28: No space left on device)' in server.log()
