#!/usr/bin/env python3
"""Checks the rules of the house: who may include whom, sizes, line lengths, opening comments.

    tests/tidy.py             prints `file:line: what is wrong`; exit 1 when there is anything
    tests/tidy.py --ratchet   rewrites tests/tidy_ratchet.txt with today's offenders

An entry of the ratchet file allows one known offender to stay as large as it is, never larger.
"""
import ast
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RATCHET = os.path.join(ROOT, "tests", "tidy_ratchet.txt")
FOLDERS = ["core", "conf", "server", "lua", "lualib", "tests", "bench"]
FUNCTION_LINES, FILE_LINES, LINE_CHARACTERS = 70, 800, 100

# core < conf < server < lua: a folder includes only folders to its left, and itself.
RANK = {"core": 0, "conf": 1, "server": 2, "lua": 3}
# What lua/ may see of server/: the seam features plug into, a request and what it holds, and the
# settings that Lua's directives extend.
SERVER_FOR_LUA = {
    "server/module.h", "server/worker.h", "server/verdict.h", "server/config.h",
    "server/main_conf.h", "server/http/core_conf.h", "server/http/script.h",
    "server/http/request.h", "server/http/exchange.h", "server/http/body.h",
    "server/http/headers.h", "server/http/uri.h", "server/http/variables.h",
    "server/http/subrequest.h",
    "server/http/filters.h", "server/http/phases.h", "server/http/connection.h",
    "server/http/text_functions.h", "server/http/handshake.h", "server/features.h",
    "server/control/resource.h", "server/control/state.h", "server/control/json.h",
    "server/metrics.h",
    "server/upstream/balancer.h", "server/upstream/tls_scripts.h", "server/stream/session.h",
}
MODULES = re.compile(r"server/(?:http|stream|upstream)/modules/([^/]+?)\.(?:h|cpp)$")
GENERATED = re.compile(r"\bgenerated\b", re.I)
REGISTERS = re.compile(r"^REGISTER_MODULE\(", re.M)
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)

CPP_TOKEN = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(?P<mark>[^(\s]*)\(.*?\)(?P=mark)"|"(?:\\.|[^"\\\n])*"'
    r"|\b\d[\w'.]*|'(?:\\.|[^'\\\n])*'|^[ \t]*\#(?:[^\n\\]|\\.)*|[{};]", re.S | re.M)
LUA_TOKEN = re.compile(
    r"--\[(?P<a>=*)\[.*?\](?P=a)\]|--[^\n]*|\[(?P<b>=*)\[.*?\](?P=b)\]"
    r'|"(?:\\.|[^"\\\n])*"|' r"'(?:\\.|[^'\\\n])*'"
    r"|(?<![\w.:])(?:function|if|do|repeat|end|until)(?!\w)", re.S)


class Findings:
    """What is wrong: sized offences can be ratcheted, the others cannot."""

    def __init__(self):
        self.problems = []
        self.sizes = {}

    def add(self, path, line, message):
        self.problems.append("%s:%d: %s" % (path, line, message))

    def size(self, rule, path, name, line, value, limit):
        if value > limit:
            key = "%s %s" % (rule, path + (":" + name if name else ""))
            old = self.sizes.get(key, (0, 0, 0))
            self.sizes[key] = max(old, (value, line, limit))


def cpp_scope(header):
    """What a `{` opens, from the text before it: scope, function or block."""
    header = re.sub(r"^\s*(?:public|private|protected)\s*:", "", header)
    header = re.sub(r"^\s*template\s*<[^{}]*?>\s*(?=\w|\[)", "", header).strip()
    if re.match(r"(?:inline\s+)?namespace\b|extern\s*\"\"$", header):
        return "scope"
    if re.match(r"(?:class|struct|union)\b", header) and not re.search(
            r"\)\s*(?:const|noexcept|override|\s)*$", header):
        return "scope"
    if "(" in header and not re.search(r"=\s*$", header) and not header.startswith("enum"):
        return "function"
    return "block"


def cpp_functions(text):
    """(name, first line, lines) of every function that is not inside another."""
    stack, start, header = [], 0, ""
    for token in CPP_TOKEN.finditer(text):
        found = token.group()
        kind = found[0]
        if kind in "{};":
            header += text[start:token.start()]
        else:
            blank = ' ""' if kind == '"' else (found if kind.isdigit() else "")
            header += text[start:token.start()] + blank
            start = token.end()
            continue
        start = token.end()
        if kind == "{":
            open_parenthesis = header.count("(") > header.count(")")
            attached = header and not header[-1].isspace() and header[-1] not in ")="
            if open_parenthesis or attached:
                stack.append(("initialiser", header, 0))
                continue
            outer = all(entry[0] == "scope" for entry in stack)
            opened = cpp_scope(header) if outer else "block"
            lead = len(header) - len(header.lstrip())
            line = text.count("\n", 0, token.start()) + 1 - header[lead:].count("\n")
            stack.append((opened, header.strip(), line))
            header = ""
        elif kind == "}":
            opened, before, line = stack.pop() if stack else ("block", "", 0)
            if opened == "function":
                name = re.search(r"([\w:~]+(?:\s*[^\w\s(]+)?)\s*\(", before)
                last = text.count("\n", 0, token.start()) + 1
                yield (name.group(1) if name else "?", line, last - line + 1)
            header = before if opened == "initialiser" else ""
        else:
            header = ""


def lua_functions(text):
    stack = []
    for token in LUA_TOKEN.finditer(text):
        word = token.group()
        if word in ("function", "if", "do", "repeat"):
            stack.append((word, token.start()))
        elif word in ("end", "until") and stack:
            opened, at = stack.pop()
            if opened == "function":
                head = text[text.rfind("\n", 0, at) + 1:text.find("\n", at)]
                name = re.search(r"function\s+([\w.:]+)|([\w.]+)\s*=\s*function", head)
                line = text.count("\n", 0, at) + 1
                last = text.count("\n", 0, token.start()) + 1
                yield ((name.group(1) or name.group(2)) if name else "anonymous", line,
                       last - line + 1)


def python_functions(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.lineno, node.end_lineno - node.lineno + 1


LANGUAGES = {
    ".cpp": (cpp_functions, ("//", "/*")),
    ".h": (cpp_functions, ("//", "/*")),
    ".c": (cpp_functions, ("//", "/*")),
    ".lua": (lua_functions, ("--",)),
    ".py": (python_functions, ("#", '"""')),
}


def check_include(findings, path, line, target):
    own, other = path.split("/")[0], target.split("/")[0]
    if "/" not in target:
        findings.add(path, line, 'include "%s" from the root: "folder/file.h"' % target)
        return
    if own not in RANK or other not in RANK:
        return
    if RANK[other] > RANK[own]:
        findings.add(path, line, "%s/ must not include %s/ (%s)" % (own, other, target))
    if own == "lua" and other == "server" and target not in SERVER_FOR_LUA:
        findings.add(path, line, "lua/ may not include %s (see SERVER_FOR_LUA)" % target)
    own_module, other_module = MODULES.match(path), MODULES.match(target)
    if own_module and other_module and not same_module(path, target):
        findings.add(path, line, "a module must not include another: %s" % target)


def same_module(path, target):
    """True for the parts of one module: echo.cpp, echo.h, echo_run.cpp. Each registers once."""
    stems = sorted((os.path.splitext(name)[0] for name in (path, target)), key=len)
    if stems[0] == stems[1]:
        return True
    if not stems[1].startswith(stems[0] + "_"):
        return False
    return not all(registers(stem) for stem in stems)


def registers(stem):
    try:
        with open(os.path.join(ROOT, stem + ".cpp"), encoding="utf-8") as file:
            return REGISTERS.search(file.read()) is not None
    except OSError:
        return False


def check_text(findings, path, text, extension):
    functions, openings = LANGUAGES[extension]
    lines = text.split("\n")
    if not text.startswith(openings):
        findings.add(path, 1, "must open with a comment: what this owns, who calls it")
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_CHARACTERS:
            findings.size("line", path, "", number, len(line), LINE_CHARACTERS)
        if line.endswith((" ", "\t", "\r")):
            findings.add(path, number, "white space at the end of the line")
        if "XX" in line or "TODO" in line or "FIXME" in line:
            if UNFINISHED.search(line) and path != "tests/tidy.py":
                findings.add(path, number, "unfinished: " + line.strip()[:60])
    if not GENERATED.search("\n".join(lines[:5])):
        findings.size("file", path, "", 1, len(lines) - 1, FILE_LINES)
    for name, line, length in functions(text):
        findings.size("function", path, name, line, length, FUNCTION_LINES)
    if extension in (".cpp", ".h"):
        for found in INCLUDE.finditer(text):
            line = text.count("\n", 0, found.start(1)) + 1
            check_include(findings, path, line, found.group(1))


def source_files():
    for folder in FOLDERS:
        for where, folders, names in os.walk(os.path.join(ROOT, folder)):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
            for name in sorted(names):
                extension = os.path.splitext(name)[1]
                if extension in LANGUAGES:
                    yield os.path.relpath(os.path.join(where, name), ROOT), extension


def read_ratchet():
    allowed = {}
    if os.path.exists(RATCHET):
        with open(RATCHET, encoding="utf-8") as file:
            for line in file:
                if line.strip() and not line.startswith("#"):
                    key, _, value = line.strip().rpartition(" ")
                    allowed[key] = int(value)
    return allowed


def write_ratchet(findings):
    with open(RATCHET, "w", encoding="utf-8") as file:
        file.write("# Known offenders against tests/tidy.py: none may grow, entries only leave.\n")
        for key in sorted(findings.sizes):
            file.write("%s %d\n" % (key, findings.sizes[key][0]))


def main():
    findings, count = Findings(), 0
    for path, extension in source_files():
        count += 1
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            try:
                check_text(findings, path, file.read(), extension)
            except (UnicodeDecodeError, SyntaxError) as error:
                findings.add(path, 1, str(error))
    if "--ratchet" in sys.argv[1:]:
        write_ratchet(findings)
    allowed = read_ratchet()
    for key, (value, line, limit) in sorted(findings.sizes.items()):
        if value > max(limit, allowed.get(key, 0)):
            rule, _, place = key.partition(" ")
            path, _, name = place.partition(":")
            findings.add(path, line, "%s %s is %d long, the limit is %d" % (
                rule, name, value, allowed.get(key, limit)))
    for key in sorted(set(allowed) - set(findings.sizes)):
        findings.add("tests/tidy_ratchet.txt", 1, "no longer needed: " + key)
    print("\n".join(findings.problems + ["tidy: %d files, %d problems" % (
        count, len(findings.problems))]))
    return 1 if findings.problems else 0


if __name__ == "__main__":
    sys.exit(main())
