#!/usr/bin/env python3
"""Runs every kind of test and sums them up; `./dev test [filter]` calls it.

Order: tidy, the sanitizer build, unit tests, cases + framing + scenarios (pytest, two processes),
a few seconds of every fuzz target. The last line is `N passed, N failed` over all of them.
"""
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as xml

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
RESULTS = os.path.join(ROOT, "build", "test-results")
UNSTEADY_MAX = 3
FUZZ_SECONDS = os.environ.get("RESTY_FUZZ_SECONDS", "5")


class Tally:
    """Counts of one run, and the names of what failed."""

    def __init__(self):
        self.passed = self.failed = 0
        self.failures = []

    def add(self, passed, failures):
        self.passed += passed
        self.failed += len(failures)
        self.failures += failures


def say(text):
    print(text, flush=True)


def stage(name, command, **named):
    started = time.monotonic()
    say("== " + name)
    code = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, **named).returncode
    say("== %s: %s, %.0f s" % (name, "ok" if code == 0 else "exit %d" % code,
                               time.monotonic() - started))
    return code


def read_junit(path, label):
    """(passed, names of failures) of a JUnit file; skipped ones count as neither."""
    try:
        tree = xml.parse(path)
    except (OSError, xml.ParseError):
        return 0, [label + ": no results"]
    passed, failures = 0, []
    for case in tree.iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failures.append("%s: %s.%s" % (label, case.get("classname"), case.get("name")))
        elif "skipped" not in kinds and case.get("status") != "notrun":
            passed += 1
    return passed, failures


def fresh(name):
    path = os.path.join(RESULTS, name)
    if os.path.exists(path):
        os.remove(path)
    return path


def build(preset):
    """Configure and build; its output is shown only when it fails."""
    commands = [["cmake", "--build", "--preset", preset]]
    if not os.path.exists(os.path.join(ROOT, "build", preset, "build.ninja")):
        commands.insert(0, ["cmake", "--preset", preset])
    log = os.path.join(RESULTS, "build-%s.log" % preset)
    with open(log, "w", encoding="utf-8") as output:
        for command in commands:
            if stage(" ".join(command), command, stdout=output, stderr=output):
                with open(log, encoding="utf-8", errors="replace") as file:
                    say(file.read()[-6000:])
                return False
    return True


def run_tidy(tally):
    code = stage("tidy", [PYTHON, "tests/tidy.py"])
    tally.add(code == 0, ["tidy"] if code else [])


def run_units(tally, wanted):
    binary = os.path.join(ROOT, "build", "asan", "unit-tests")
    if not os.path.exists(binary):
        return
    results = fresh("units.xml")
    command = [binary, "--gtest_brief=1", "--gtest_output=xml:" + results]
    if wanted:
        command.append("--gtest_filter=*%s*" % wanted)
    # Exceptions cross LuaJIT's frames, and its memory is not scanned for leaks.
    env = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")
    code = stage("unit tests", command, env=env)
    passed, failures = read_junit(results, "unit")
    if code and not failures:
        failures = ["unit: the program ended with %d" % code]
    tally.add(passed, failures)


def pytest_stage(name, results, *options):
    """(exit code, passed, names of failures, node ids worth a second look)"""
    failed = fresh("failed.txt")
    command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short",
               "--junitxml=" + results, *options]
    env = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", RESTY_FAILED_LIST=failed)
    code = stage(name, command, env=env)
    passed, failures = read_junit(results, "pytest")
    if code and not failures:
        failures = ["pytest: ended with %d" % code]
    again = []
    if os.path.exists(failed):
        with open(failed, encoding="utf-8") as file:
            again = file.read().splitlines()
    return code, passed, failures, again


def run_pytest(tally, wanted):
    """All of them, two at a time. At most three that fail are run once more, alone: a machine that
    was too busy is told from a fault, and each is named as unsteady so that it gets mended."""
    options = ["-n", "2", "--dist", "loadfile", "tests"] + (["-k", wanted] if wanted else [])
    code, passed, failures, again = pytest_stage("cases, framing, scenarios", fresh("pytest.xml"),
                                                 *options)
    if code == 5:
        return
    if failures and len(again) == len(failures) <= UNSTEADY_MAX:
        _, recovered, failures, _ = pytest_stage("a second look", fresh("again.xml"), *again)
        passed += recovered
        for name in again if not failures else []:
            say("UNSTEADY " + name)
    tally.add(passed, failures)


def run_fuzz(tally, wanted):
    sources = os.path.join(ROOT, "tests", "fuzz")
    names = sorted(name[:-4] for name in os.listdir(sources) if name.endswith(".cpp"))
    names = [name for name in names if not wanted or wanted in name]
    if not names or not shutil.which("clang++"):
        return
    if not build("fuzz"):
        tally.add(0, ["fuzz: build"])
        return
    for name in names:
        seeds = os.path.join(sources, "seeds", name)
        if not os.path.isdir(seeds):
            seeds = os.path.join(sources, "seeds", name.replace("_fuzz", ""))
        corpus = os.path.join(RESULTS, "fuzz-" + name)
        os.makedirs(corpus, exist_ok=True)
        command = [os.path.join(ROOT, "build", "fuzz", "fuzz-" + name), corpus]
        if os.path.isdir(seeds):
            command.append(seeds)
        dictionary = os.path.join(sources, name + ".dict")
        if os.path.exists(dictionary):
            command.append("-dict=" + dictionary)
        if os.environ.get("CI"):    # a change must not fail for what another seed happens to find
            command.append("-seed=1")
        command += ["-max_total_time=" + FUZZ_SECONDS, "-timeout=10", "-rss_limit_mb=2048",
                    "-verbosity=0", "-print_final_stats=0",
                    "-artifact_prefix=%s/crash-%s-" % (RESULTS, name)]
        env = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")
        code = stage("fuzz " + name, command, env=env)
        tally.add(code == 0, ["fuzz: " + name] if code else [])


def main():
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    if not re.fullmatch(r"[\w ./:*-]*", wanted):
        say("a filter is a part of a test's name")
        return 2
    os.makedirs(RESULTS, exist_ok=True)
    tally = Tally()
    if not wanted or wanted == "tidy":
        run_tidy(tally)
    if wanted != "tidy":
        if build("asan"):
            run_units(tally, wanted)
            run_pytest(tally, wanted)
        else:
            tally.add(0, ["build: asan"])
        run_fuzz(tally, wanted)
    for failure in tally.failures:
        say("FAILED " + failure)
    say("%d passed, %d failed" % (tally.passed, tally.failed))
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
