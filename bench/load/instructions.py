#!/usr/bin/env python3
"""User-space instructions per request under callgrind: ours and the peer's, free of noise.

    bench/load/instructions.py [BINARY] [--peer NGINX] [--paths /hello,/r200]

One keep-alive connection (h2load --h1 -c1). The difference between two request counts leaves
start-up and shutdown out.
"""
import argparse
import glob
import os
import re
import shutil
import subprocess

import common

COUNTS = (2000, 6000)


def instructions_of(bench, name, binary, path, requests):
    """Instructions of the worker over its life, with this many requests."""
    output = bench.path("callgrind-%s-%d" % (name, requests))
    wrapper = ["valgrind", "--tool=callgrind", "--trace-children=yes", "--smc-check=all-non-file",
               "--callgrind-out-file=%s.%%p" % output]
    server = bench.start("%s-%d" % (name, requests), binary, wrapper)
    try:
        done = subprocess.run(["h2load", "--h1", "-c1", "-n%d" % requests,
                               "http://127.0.0.1:%d%s" % (server.port, path)],
                              text=True, capture_output=True, check=False)
        if "%d succeeded" % requests not in done.stdout:
            raise SystemExit("h2load: %s%s" % (done.stdout, done.stderr))
    finally:
        server.stop()
    totals = []
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
    arguments = parser.parse_args()
    if not shutil.which("valgrind") or not shutil.which("h2load"):
        raise SystemExit("needs valgrind and nghttp2-client: ./dev deps bench")
    contestants = {"ours": arguments.binary, "peer": arguments.peer}
    print("%-10s %10s %10s %10s" % ("path", "ours", "peer", "ours/peer"))
    with common.Bench() as bench:
        for path in arguments.paths.split(","):
            found = {}
            for who, binary in contestants.items():
                if not os.path.exists(binary):
                    continue
                low, high = (instructions_of(bench, who + path.replace("/", "-"),
                                             os.path.abspath(binary), path, count)
                             for count in COUNTS)
                found[who] = (high - low) / (COUNTS[1] - COUNTS[0])
            both = "%.3f" % (found["ours"] / found["peer"]) if len(found) == 2 else "-"
            print("%-10s %10.0f %10.0f %10s" % (path, found.get("ours", 0), found.get("peer", 0),
                                                both), flush=True)


if __name__ == "__main__":
    main()
