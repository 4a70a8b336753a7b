#!/usr/bin/env python3
"""Our server, the distribution's nginx with its Lua module, and a bare epoll loop, side by side.

    bench/load/side_by_side.py [BINARY] [--only hello_lua,...] [--rounds N] [--seconds S]

Server on one core, load on another, the three in turn within every round; medians are printed:
requests/s, CPU microseconds of the server's process tree per request (kernel work included), and
the ratios ours/peer and ours/bare of the CPU, ours/peer of the rate. Other processes disturb
wall-clock rates far more than CPU per request; `noise` is the share of the server's core that
others used. Compare figures only within one run.
"""
import argparse
import os
import statistics
import time

import common

# name: path, options of the load client, options of the bare loop; with "tls" over TLS
WORKLOADS = {
    "hello_lua": ("/hello", [], ["-c"]),
    "hello_lua_pipelined": ("/hello", ["-p", 16], ["-c"]),
    "return_200": ("/r200", [], []),
    "return_200_pipelined": ("/r200", ["-p", 16], []),
    "access_log": ("/logged", [], []),
    "access_log_unbuffered": ("/logged_each", [], []),
    "new_connections": ("/r200", ["-o"], []),
    "static_1k": ("/1k.txt", [], ["-f", "1k.txt"]),
    "static_100k": ("/100k.txt", ["-c", 16], ["-f", "100k.txt"]),
    "lua_json": ("/json", ["-a"], None),
    "lua_shdict": ("/shdict", [], None),
    "lua_regex": ("/re?user=12345&name=alice&x=1", [], None),
    "lua_phases": ("/phases", [], None),
    "lua_capture": ("/capture", [], None),
    "lua_timer": ("/timer", [], None),
    "gzip_100k": ("/gzip/100k.txt", ["-z", "-c", 16], None),
    "proxy_keepalive": ("/proxy", [], None),
    "proxy_1m": ("/proxy_1m", ["-c", 8], None),
    "tls_hello": ("/hello", [], None, "tls"),
    "tls_full": ("/r200", ["-o", "-c", 16], None, "tls"),
    "tls_resumed": ("/r200", ["-o", "-t", "-c", 16], None, "tls"),
    "tls_bulk": ("/1m.txt", ["-c", 8], None, "tls"),
}


def core_busy_seconds(core):
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            if line.startswith("cpu%d " % core):
                user, nice, system, _, _, irq, softirq = map(int, line.split()[1:8])
                return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return 0.0


def sample(bench, server, path, options, tls):
    cpu, busy, started = server.cpu_seconds(), core_busy_seconds(common.SERVER_CORE), \
        time.monotonic()
    requests, seconds, errors = bench.load(server, path, *options, tls=tls)
    cpu = server.cpu_seconds() - cpu
    busy = core_busy_seconds(common.SERVER_CORE) - busy
    return {"rate": requests / seconds, "cpu_us": cpu / max(requests, 1) * 1e6,
            "noise": max(0.0, busy - cpu) / (time.monotonic() - started), "errors": errors}


def measure(bench, servers, name, arguments):
    path, options, bare_options, *transport = WORKLOADS[name]
    tls = bool(transport)
    contestants = dict(servers)
    if bare_options is not None:
        bare_options = [bench.path("files", item) if item.endswith(".txt") else item
                        for item in bare_options]
        contestants["bare"] = bench.start_bare("bare", bare_options)
    samples = {who: [] for who in contestants}
    for server in contestants.values():
        bench.load(server, path, *options, "-d", 0.3, tls=tls)
    for _ in range(arguments.rounds):
        for who, server in contestants.items():
            samples[who].append(sample(bench, server, path,
                                       [*options, "-d", arguments.seconds], tls))
    if "bare" in contestants:
        contestants["bare"].stop()
    return samples


def median(samples, who, key):
    return statistics.median(one[key] for one in samples[who]) if who in samples else None


def ratio(samples, who, other, key):
    """Median of the ratios within each round: what moves both cancels out."""
    if who not in samples or other not in samples:
        return "-"
    pairs = zip(samples[who], samples[other])
    return "%.2f" % statistics.median(a[key] / b[key] if b[key] else 0 for a, b in pairs)


def cell(value, form):
    return "-" if value is None else form % value


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", default=common.OURS)
    parser.add_argument("--peer", default=common.PEER)
    parser.add_argument("--only", default=",".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    arguments = parser.parse_args()
    print("%-22s %9s %7s %9s %7s %9s %7s  %8s %8s %8s %5s" % (
        "workload", "ours/s", "us", "peer/s", "us", "bare/s", "us", "CPU/peer", "CPU/bare",
        "rate", "noise"))
    with common.Bench() as bench:
        servers = {"ours": bench.start("ours", os.path.abspath(arguments.binary))}
        if os.path.exists(arguments.peer):
            servers["peer"] = bench.start("peer", arguments.peer)
        for name in arguments.only.split(","):
            samples = measure(bench, servers, name, arguments)
            cells = [cell(median(samples, who, key), form) for who in ("ours", "peer", "bare")
                     for key, form in (("rate", "%.0f"), ("cpu_us", "%.2f"))]
            noise = max(median(samples, who, "noise") for who in samples)
            errors = sum(one["errors"] for who in samples for one in samples[who])
            print("%-22s %9s %7s %9s %7s %9s %7s  %8s %8s %8s %4.0f%%%s" % (
                name, *cells, ratio(samples, "ours", "peer", "cpu_us"),
                ratio(samples, "ours", "bare", "cpu_us"), ratio(samples, "ours", "peer", "rate"),
                100 * noise, "  ERRORS %d" % errors if errors else ""), flush=True)


if __name__ == "__main__":
    main()
