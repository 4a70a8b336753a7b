#!/usr/bin/env python3
"""User-space instructions per request under callgrind: ours and the peer's, free of noise.

    bench/load/instructions.py [BINARY] [--peer NGINX] [--paths /hello,/r200] [--lua]
                               [--gateway] [--save FOLDER]

One keep-alive connection (h2load --h1 -c1). The difference between two request counts leaves
start-up and shutdown out. --lua: the Lua workloads; --gateway: proxying, and TLS by tls_client,
whose options come before a path there; --save keeps callgrind's files.
"""
import argparse
import glob
import os
import re
import shutil
import subprocess

import common

COUNTS = (2000, 6000)
# As a browser sends them; on /json, whose handler reads them.
BROWSER = ["Accept: text/html,application/xhtml+xml", "Accept-Language: en-GB,en;q=0.5",
           "User-Agent: Mozilla/5.0 (X11; Linux x86_64) test",
           "Cookie: session=abcdef0123456789; theme=dark"]
GATEWAY_PATHS = "/proxy,/proxy_1m,tls /hello,tls -o /r200,tls -o -t /r200,tls /1m.txt"
# What takes long under callgrind needs no more for a steady figure.
HEAVY, HEAVY_COUNTS = ("1m", "-o"), (100, 300)
LUA_PATHS = "/json,/shdict,/re?user=12345&name=alice&x=1,/phases,/capture,/timer"


def ask(bench, server, path, requests):
    if path.startswith("tls "):
        *options, path = path.split()[1:]
        done, _, errors = bench.load(server, path, "-c", 1, "-r", requests, *options, tls=True)
        if done != requests or errors:
            raise SystemExit("tls_client: %d answers, %d errors" % (done, errors))
        return
    headers = BROWSER if path == "/json" else []
    done = subprocess.run(["h2load", "--h1", "-c1", "-n%d" % requests,
                           *[word for header in headers for word in ("-H", header)],
                           "http://127.0.0.1:%d%s" % (server.port, path)],
                          text=True, capture_output=True, check=False)
    if "%d succeeded" % requests not in done.stdout:
        raise SystemExit("h2load: %s%s" % (done.stdout, done.stderr))


def instructions_of(bench, name, binary, path, requests, saved):
    """Instructions of the worker over its life, with this many requests."""
    output = bench.path("callgrind-%s-%d" % (name, requests))
    wrapper = ["valgrind", "--tool=callgrind", "--trace-children=yes", "--smc-check=all-non-file",
               "--callgrind-out-file=%s.%%p" % output]
    server = bench.start("%s-%d" % (name, requests), binary, wrapper)
    try:
        ask(bench, server, path, requests)
    finally:
        server.stop()
    totals = []
    if saved:
        for file_name in glob.glob(output + ".*"):
            shutil.copy(file_name, saved)
    for file_name in glob.glob(output + ".*"):
        with open(file_name, encoding="utf-8", errors="replace") as file:
            found = re.findall(r"^(?:totals|summary): (\d+)", file.read(), re.M)
            totals += [max(map(int, found))] if found else []
    if not totals:
        raise SystemExit("callgrind wrote nothing for " + name)
    return sum(totals)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", default=common.OURS)
    parser.add_argument("--peer", default=common.PEER)
    parser.add_argument("--paths", default="/hello,/r200")
    parser.add_argument("--lua", action="store_true")
    parser.add_argument("--gateway", action="store_true")
    parser.add_argument("--save")
    arguments = parser.parse_args()
    if arguments.lua:
        arguments.paths = LUA_PATHS
    if arguments.gateway:
        arguments.paths = GATEWAY_PATHS
    if not shutil.which("valgrind") or not shutil.which("h2load"):
        raise SystemExit("needs valgrind and nghttp2-client: ./dev deps bench")
    contestants = {"ours": arguments.binary, "peer": arguments.peer}
    print("%-30s %10s %10s %10s" % ("path", "ours", "peer", "ours/peer"))
    with common.Bench() as bench:
        for path in arguments.paths.split(","):
            counts = HEAVY_COUNTS if any(word in path for word in HEAVY) else COUNTS
            found = {}
            for who, binary in contestants.items():
                if not os.path.exists(binary):
                    continue
                low, high = (instructions_of(bench, who + re.sub(r"\W", "-", path),
                                             os.path.abspath(binary), path, count,
                                             arguments.save)
                             for count in counts)
                found[who] = (high - low) / (counts[1] - counts[0])
            both = "%.3f" % (found["ours"] / found["peer"]) if len(found) == 2 else "-"
            print("%-30s %10.0f %10.0f %10s" % (path, found.get("ours", 0), found.get("peer", 0),
                                                both), flush=True)


if __name__ == "__main__":
    main()
