"""pytest's entry: collects *.case files, one item per case and one for vanishing clients."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from runner import case_run, casefile  # noqa: E402
from runner.server import StartError, binary_path  # noqa: E402


def pytest_sessionstart(session):
    if not os.access(binary_path(), os.X_OK):
        pytest.exit("no server at %s: ./dev build asan, or set RESTY_SERVER" % binary_path(), 2)


def pytest_terminal_summary(terminalreporter, config):
    """With RESTY_FAILED_LIST: what failed, a name a line, for the runner's second look. What a
    sanitizer has found is left out: that is never the machine's fault."""
    path = os.environ.get("RESTY_FAILED_LIST")
    if not path or hasattr(config, "workerinput"):
        return
    failed = terminalreporter.stats.get("failed", []) + terminalreporter.stats.get("error", [])
    with open(path, "w", encoding="utf-8") as file:
        for report in failed:
            text = report.longreprtext
            if "Sanitizer" not in text and "runtime error" not in text:
                file.write("%s/%s\n" % (os.path.basename(config.rootpath), report.nodeid))


def pytest_collect_file(parent, file_path):
    if file_path.suffix == ".case":
        return CaseCollector.from_parent(parent, path=file_path)
    return None


class CaseCollector(pytest.File):
    """A case file. Cases that can share a server do; it is started by the first that needs it."""

    holder = None
    broken = False

    def collect(self):
        self.file = casefile.parse(str(self.path))
        for case in self.file.cases:
            yield CaseItem.from_parent(self, name=case.name, case=case)
        yield AbortItem.from_parent(self, name="clients that vanish")

    def shareable(self):
        return [case for case in self.file.cases
                if not case.isolated() and "skip" not in case.flags]

    def shared_holder(self):
        """The common server; None when it cannot start, so that each case tries alone."""
        if self.holder is None and not self.broken:
            holder = case_run.CaseServer(self.file.shared, self.shareable())
            try:
                self.holder = holder.start()
            except StartError:
                self.broken = True
                holder.stop()
        return self.holder

    def teardown(self):
        if self.holder:
            problems, self.holder = self.holder.stop(), None
            assert not problems, "\n".join(problems)


class CaseItem(pytest.Item):
    """One case: run twice."""

    def __init__(self, *, case, **named):
        super().__init__(**named)
        self.case = case
        if "skip" in case.flags:
            self.add_marker(pytest.mark.skip(reason=case.flags["skip"].strip()))
        if "xfail" in case.flags:
            self.add_marker(pytest.mark.xfail(reason=case.flags["xfail"].strip()))

    def runtest(self):
        case, shared = self.case, self.parent.file.shared
        if {"conf_error", "conf_ok", "conf_warn"} & set(case.setup):
            running = case_run.RunningCase(case)
            case_run.check_start(running, shared)
            if not case.steps:
                return
        holder = None if case.isolated() else self.parent.shared_holder()
        if holder:
            running = next(one for one in holder.running if one.case is case)
            self.run_twice(running, holder.server)
            return
        self.run_alone(shared)

    def run_alone(self, shared):
        holder = case_run.CaseServer(shared, [self.case])
        problems = []
        try:
            holder.start()
            self.run_twice(holder.running[0], holder.server)
            if "skip_abort" not in self.case.flags:
                case_run.abort_client(holder.running[0], holder.server)
        finally:
            problems = holder.stop()
        assert not problems, "\n".join(problems)

    def run_twice(self, running, server):
        for _ in range(1 if "once" in self.case.flags else 2):
            case_run.run_once(running, server)

    def repr_failure(self, excinfo):
        where = "%s:%d: %s" % (self.path, self.case.line, self.case.name)
        if isinstance(excinfo.value, (AssertionError, StartError, OSError,
                                      case_run.ProtocolError)):
            return "%s\n%s: %s" % (where, type(excinfo.value).__name__, excinfo.value)
        return "%s\n%s" % (where, super().repr_failure(excinfo))

    def reportinfo(self):
        return self.path, self.case.line, self.name


class AbortItem(pytest.Item):
    """Every case of the shared server again, with clients that reset their connections."""

    def runtest(self):
        if not self.parent.shareable():
            return
        holder = self.parent.shared_holder()
        if holder is None:
            pytest.skip("the shared server does not start")
        for running in holder.running:
            if "skip_abort" not in running.case.flags:
                case_run.abort_client(running, holder.server)
                problems = holder.health_problems()
                assert not problems, "%s: %s" % (running.case.name, "\n".join(problems))

    def reportinfo(self):
        return self.path, 0, self.name
