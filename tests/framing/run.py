#!/usr/bin/env python3
"""Runs the framing table against a server binary and prints one line of totals.

    tests/framing/run.py BINARY [part of a case's label]
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from framing.feeder import CONFIG, Feeder  # noqa: E402
from framing.table import CASES  # noqa: E402
from runner.server import Server  # noqa: E402


def start(binary=None):
    server = Server(binary)
    server.configure(CONFIG % {"user": "user root;\n" if os.geteuid() == 0 else ""})
    return server.start()


def main():
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    cases = [case for case in CASES if wanted in case.label]
    wrong_total = 0
    with start(os.path.abspath(sys.argv[1])) as server:
        feeder = Feeder(server.port)
        for case in cases:
            wrong = feeder.run(case)
            wrong_total += len(wrong)
            if wrong:
                print("row %s: %d wrong, first: %s: %s" % (case.label, len(wrong), *wrong[0]))
        feeder.close()
        print("rows %d cases %d feedings %d wrong %d" % (
            len({case.row for case in cases if case.row}), len(cases), feeder.feedings,
            wrong_total))
    return 1 if wrong_total else 0


if __name__ == "__main__":
    sys.exit(main())
