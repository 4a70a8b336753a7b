#!/usr/bin/env python3
"""User memory of an idle keep-alive connection: growth of the worker's private memory.

    bench/load/idle_memory.py [BINARY] [--peer NGINX] [-n CONNECTIONS] [--tls]

Each connection gets one answer first, and is looked at three seconds later. `kept` is what is left
of the growth, for each of them, three seconds after all have closed. `preallocated` is what a
worker holds for its worker_connections before any client comes, found by starting it with few and
with many.
"""
import argparse
import os
import subprocess
import time

import common


def private_bytes(server):
    """Of all worker processes; a lone process counts itself."""
    total = 0
    pids = server.pids()
    for pid in pids[1:] or pids:
        with open("/proc/%d/smaps_rollup" % pid, encoding="ascii") as file:
            for line in file:
                if line.startswith(("Private_Dirty:", "Private_Clean:")):
                    total += int(line.split()[1]) * 1024
    return total


def growth(bench, server, path, count, tls):
    """(bytes for each connection, bytes for each when all have gone)"""
    bench.load(server, path, "-c", 20, "-r", 2000, tls=tls)
    time.sleep(1)
    before = private_bytes(server)
    port, client = (server.tls_port, "tls_client") if tls else (server.port, "load_client")
    command = bench.load_command(port, path, "-c", count, "-i", client=client)
    holder = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    said = holder.stdout.readline().strip()
    time.sleep(3)
    after = private_bytes(server)
    holder.stdin.close()
    holder.wait()
    time.sleep(3)
    left = private_bytes(server)
    if said != "holding %d errors 0" % count:
        raise SystemExit("load client: " + said)
    return (after - before) / count, (left - before) / count


def preallocated(bench, name, binary):
    """Bytes per entry of worker_connections."""
    sizes = {}
    for entries in (1000, 19000):
        server = bench.start("%s-%d" % (name, entries), binary,
                             replace={"worker_connections 19000": "worker_connections %d" %
                                      entries})
        time.sleep(0.5)
        sizes[entries] = private_bytes(server)
        server.stop()
    return (sizes[19000] - sizes[1000]) / 18000


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", default=common.OURS)
    parser.add_argument("--peer", default=common.PEER)
    parser.add_argument("-n", type=int, default=10000)
    parser.add_argument("--tls", action="store_true")
    arguments = parser.parse_args()
    print("%-6s %-8s %19s %14s %8s %8s" % ("", "after", "growth/connection", "preallocated", "sum",
                                          "kept"))
    with common.Bench() as bench:
        for who, binary in (("ours", arguments.binary), ("peer", arguments.peer)):
            if not os.path.exists(binary):
                continue
            binary = os.path.abspath(binary)
            before = preallocated(bench, who, binary)
            for path in ("/hello", "/r200"):
                server = bench.start(who + path.replace("/", "-"), binary)
                grown, kept = growth(bench, server, path, arguments.n, arguments.tls)
                server.stop()
                print("%-6s %-8s %17.0f B %12.0f B %6.0f B %6.0f B" % (
                    who, path, grown, before, grown + before, kept), flush=True)


if __name__ == "__main__":
    main()
