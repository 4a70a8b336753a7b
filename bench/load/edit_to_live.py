#!/usr/bin/env python3
"""What live handlers cost (lua_handlers): how soon an edit is served, how many requests a server
answers meanwhile, and how soon one with 10,000 handler files is up.

    bench/load/edit_to_live.py [BINARY] [--edits 300] [--rounds 7] [--seconds 2] [--starts 5]

The goals: median and p99 of edit to live below 100 ms; during 10 edits a second at least 0.95 of
the requests of calm (by rate, and by CPU time of the server for each request, which other load on
the machine disturbs less); 10,000 files in less than a second.
"""
import argparse
import os
import shutil
import socket
import statistics
import threading
import time

import common

CONF = """
daemon off; worker_processes %(workers)d; %(user)s
error_log logs/error.log warn; pid logs/pid;
events { worker_connections 1024; }
http {
    access_log off; keepalive_requests 1000000000;
    lua_package_path "%(prefix)s/lib/?.lua;;";
    server { listen 127.0.0.1:%(port)d; lua_handlers /h/ handlers; }
}
"""


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def rename_over(path, text):
    write(path + ".new", text)
    os.rename(path + ".new", path)


class Site:
    """A folder with a configuration, handlers and perhaps a server."""

    def __init__(self, bench, name, binary, workers=1):
        self.bench, self.name, self.binary = bench, name, binary
        self.prefix = bench.path(name)
        self.port = common.free_port()
        os.makedirs(self.prefix + "/logs")
        write(self.prefix + "/server.conf", CONF % {
            "workers": workers, "port": self.port, "prefix": self.prefix,
            "user": "user root;" if os.geteuid() == 0 else ""})

    def path(self, name):
        return os.path.join(self.prefix, "handlers", name)

    def start(self):
        argv = [self.binary, "-p", self.prefix + "/", "-c", self.prefix + "/server.conf"]
        return self.bench.keep(common.Running(self.name, argv, self.port))


class Client:
    """One kept connection."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, path):
        self.socket.sendall(b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % path.encode())
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.endswith(b"#"):
            piece = self.socket.recv(65536)
            if not piece:
                raise SystemExit("the server closed the connection")
            answer += piece
        return answer.split(b"\r\n\r\n", 1)[1].decode()


def edit_to_live(bench, binary, edits, how):
    """Milliseconds from the end of an edit to the end of the first answer that shows it."""
    site = Site(bench, "edit-" + how, binary)
    text = "return function() return '%d#' end\n"
    if how == "module":
        write(site.path("a.lua"), "local m = require 'm'\nreturn function() return m.text end")
        edited, text = site.prefix + "/lib/m.lua", "return { text = '%d#' }"
    else:
        edited = site.path("a.lua")
    rename_over(edited, text % 0)
    site.start()
    client, times = Client(site.port), []
    client.ask("/h/a")
    for number in range(1, edits + 1):
        (write if how == "in place" else rename_over)(edited, text % number)
        began = time.perf_counter()
        while client.ask("/h/a") != "%d#" % number:
            if time.perf_counter() - began > 10:
                raise SystemExit("edit %d was not taken up" % number)
        times.append((time.perf_counter() - began) * 1000)
    return sorted(times)


class Editor(threading.Thread):
    """Ten edits a second: of the handler that is asked for, of another, of a module of both."""

    def __init__(self, site):
        super().__init__(daemon=True)
        self.site, self.ended, self.count = site, threading.Event(), 0

    def run(self):
        while not self.ended.wait(0.1):
            self.count += 1
            if self.count % 3 == 0:
                rename_over(self.site.prefix + "/lib/m.lua", "return %d" % self.count)
            else:
                name = "a.lua" if self.count % 3 == 1 else "other.lua"
                rename_over(self.site.path(name), HELLO % self.count)


HELLO = "local m = require 'm'\nreturn function() ngx.say('hello') end -- %d\n"


def requests_during_edits(bench, binary, rounds, seconds):
    """Pairs (calm, with edits) of (requests a second, CPU microseconds a request)."""
    site = Site(bench, "rate", binary)
    write(site.prefix + "/lib/m.lua", "return 0")
    for name in ("a.lua", "other.lua"):
        write(site.path(name), HELLO % 0)
    server = site.start().wait()
    pairs = []
    for _ in range(rounds + 1):
        pair = []
        for editing in (False, True):
            editor = Editor(site)
            if editing:
                editor.start()
            used = server.cpu_seconds()
            requests, took, errors = bench.load(server, "/h/a", "-c", 32, "-d", seconds)
            used = server.cpu_seconds() - used
            if editing:
                editor.ended.set()
                editor.join()
            if errors:
                raise SystemExit("%d failed requests" % errors)
            pair.append((requests / took, used / requests * 1e6))
        pairs.append(pair)
    return pairs[1:]


def start_time(bench, binary, files, number):
    """Seconds from exec to the first answer from the last of so many files."""
    site = Site(bench, "start-%d-%d" % (files, number), binary)
    for at in range(files):
        write(site.path("d%d/f%d.lua" % (at // 100, at % 100)),
              "return function() return '%d#' end\n" % at)
    began = time.perf_counter()
    server = site.start()
    while True:
        try:
            client = Client(site.port)
            break
        except OSError:
            time.sleep(0.001)
    last = files - 1
    assert client.ask("/h/d%d/f%d" % (last // 100, last % 100)) == "%d#" % last
    took = time.perf_counter() - began
    server.stop()
    shutil.rmtree(site.prefix)
    return took


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", default=common.OURS)
    parser.add_argument("--edits", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--starts", type=int, default=5)
    arguments = parser.parse_args()
    binary = os.path.abspath(arguments.binary)
    with common.Bench() as bench:
        for how in ("rename", "in place", "module"):
            times = edit_to_live(bench, binary, arguments.edits, how)
            print("edit to live, %-9s median %6.2f ms   p99 %6.2f ms   most %6.2f ms" % (
                how + ":", statistics.median(times), times[int(len(times) * 0.99) - 1], times[-1]))
        pairs = requests_during_edits(bench, binary, arguments.rounds, arguments.seconds)
        for name, at in (("requests a second", 0), ("CPU of a request", 1)):
            calm, busy = (statistics.median(pair[i][at] for pair in pairs) for i in (0, 1))
            ratio = busy / calm if at == 0 else calm / busy
            print("10 edits a second, %s: calm %.1f, then %.1f: %.3f" % (name, calm, busy, ratio))
        for files in (1, 10000):
            times = [start_time(bench, binary, files, i) for i in range(arguments.starts)]
            print("start with %5d files: %.3f s" % (files, statistics.median(times)))


if __name__ == "__main__":
    main()
