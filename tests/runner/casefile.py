"""Reads case files: see tests/cases/README.md for the format.

A file becomes a CaseFile: sections all its cases share, and the cases. A case holds its own
sections and its steps: each request with what is expected of its response.
"""
import re

# Sections that say how the server is set up; anything else belongs to a step or is a flag.
SETUP = {"main_config", "http_config", "config", "lua", "files", "env", "args", "conf_error",
         "conf_ok", "conf_warn"}
REQUESTS = {"request", "raw_request"}
EXPECTATIONS = {"status", "statuses", "reason", "headers", "body", "body_like", "body_unlike",
                "body_bytes", "trailers", "truncated", "closed", "interim"}
FLAGS = {"error_log", "no_error_log", "file_has", "file_lacks", "skip", "skip_abort", "once",
         "wait", "timeout", "keep_open", "xfail"}
REPEAT = re.compile(r"%\{(.+?) x (\d+)\}")
# Sections that need a server of their own.
ISOLATING = {"main_config", "http_config", "env", "args", "conf_error", "conf_ok", "conf_warn"}


class FormatError(Exception):
    """The case file is wrong: the message says where."""


class Step:
    """One request and what its response must be."""

    def __init__(self, kind, text):
        self.kind = kind
        self.text = text
        self.expect = {}


class Case:
    """One case: name, line, set-up sections, steps and flags."""

    def __init__(self, name, line):
        self.name = name
        self.line = line
        self.setup = {}
        self.flags = {}
        self.steps = []

    def isolated(self):
        return any(name in self.setup for name in ISOLATING)

    def finish(self, path):
        if "lua" in self.setup:
            block = "location = /t { content_by_lua_block {\n%s} }\n" % self.setup["lua"]
            self.setup["config"] = self.setup.get("config", "") + block
            if not self.steps:
                self.steps.append(Step("request", "GET /t\n"))
        setup_only = {"conf_error", "conf_ok", "conf_warn"} & set(self.setup)
        if not self.steps and not setup_only:
            raise FormatError("%s:%d: case has no request" % (path, self.line))


class CaseFile:
    """A parsed file."""

    def __init__(self, path, shared, cases):
        self.path = path
        self.shared = shared
        self.cases = cases


def expand(text):
    """`%{abc x 3}` -> `abcabcabc`."""
    return REPEAT.sub(lambda found: found.group(1) * int(found.group(2)), text)


def unescape(text):
    """Raw request text to bytes: line ends of the file do not count, \\r \\n \\t \\0 \\xHH do."""
    joined = expand(text.replace("\n", ""))
    simple = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}
    out, at = bytearray(), 0
    while at < len(joined):
        char = joined[at]
        following = joined[at + 1:at + 2]
        if char == "\\" and following in simple:
            out += simple[following]
            at += 2
        elif char == "\\" and following == "x":
            out.append(int(joined[at + 2:at + 4], 16))
            at += 4
        else:
            out += char.encode("utf-8")
            at += 1
    return bytes(out)


def parse_files(text, where):
    """`>>> path` blocks to a dictionary."""
    files, name = {}, None
    for line in text.splitlines(keepends=True):
        if line.startswith(">>>"):
            name = line[3:].strip()
            files[name] = ""
        elif name is None:
            raise FormatError("%s: files must begin with `>>> path`" % where)
        else:
            files[name] += line
    return {name: expand(content) for name, content in files.items()}


def section_text(lines, option):
    while lines and not lines[-1].strip():
        lines = lines[:-1]
    text = "".join(lines)
    return text.rstrip("\n") if option == "chop" else text


def store(case, name, value, where):
    """Puts one section where it belongs."""
    if name in SETUP:
        case.setup[name] = case.setup.get(name, "") + value
    elif name in REQUESTS:
        case.steps.append(Step(name, value))
    elif name in FLAGS:
        case.flags[name] = case.flags.get(name, "") + value
    elif name in EXPECTATIONS:
        if not case.steps and "lua" in case.setup:
            case.steps.append(Step("request", "GET /t\n"))
        if not case.steps:
            raise FormatError("%s: %s comes before any request" % (where, name))
        case.steps[-1].expect[name] = value
    else:
        raise FormatError("%s: unknown section %r" % (where, name))


def sections(lines):
    """Yields (line number, kind, name, option, value): kind `case` or `section`."""
    current, body = None, []
    for number, line in enumerate(lines, 1):
        if line.startswith("=== ") or line.startswith("--- "):
            if current:
                yield (*current, body)
            body = []
            if line.startswith("=== "):
                current = (number, "case", line[4:].strip(), "", "")
                continue
            head, colon, inline = line[4:].rstrip("\n").partition(":")
            name, _, option = head.strip().partition(" ")
            current = (number, "section", name, option, inline.strip() if colon else None)
        elif current:
            body.append(line)
    if current:
        yield (*current, body)


def parse(path):
    with open(path, encoding="utf-8") as file:
        lines = file.readlines()
    shared, cases, names = Case("", 0), [], set()
    for number, kind, name, option, inline, body in sections(lines):
        where = "%s:%d" % (path, number)
        if kind == "case":
            if name in names:
                raise FormatError("%s: second case named %r" % (where, name))
            names.add(name)
            cases.append(Case(name, number))
            continue
        value = inline + "\n" if inline else section_text(body, option)
        store(cases[-1] if cases else shared, name, value, where)
    for case in cases:
        case.finish(path)
    return CaseFile(path, shared, cases)
