#!/usr/bin/env python3
"""Compares the modules' directive tables with those of nginx and OpenResty.

usage: directive_tables.py TABLE.tsv [--missing]

TABLE.tsv (directive, module, contexts, arguments) is compat/directives.tsv of the project's shared
folder. Said are rows whose contexts or argument counts differ, and with --missing the names that no
module declares. Reads the sources, so nothing needs to be built. Exit status 1: there are
differences.
"""
import collections
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONTEXTS = {
    "main": "in_main", "events": "in_events", "http": "in_http", "server": "in_server",
    "location": "in_location", "if-in-server": "in_server_if",
    "if-in-location": "in_location_if", "limit_except": "in_limit_except",
    "upstream": "in_upstream", "stream": "in_stream", "stream-server": "in_stream_server",
    "stream-upstream": "in_stream_upstream"}
# One name may mean different things in these; each is compared by itself.
FAMILIES = [
    {"in_main", "in_events"},
    {"in_http", "in_server", "in_location", "in_server_if", "in_location_if", "in_limit_except"},
    {"in_upstream"},
    {"in_stream", "in_stream_server", "in_stream_upstream"}]
COUNT_MAX = 20
ANY = frozenset(range(COUNT_MAX + 1))


class Row:
    def __init__(self, where, contexts, shape, counts):
        self.where, self.contexts, self.shape, self.counts = where, contexts, shape, counts

    def arity(self):
        text = "%d..%d" % (min(self.counts), max(self.counts)) if self.counts else "none"
        return "%s %s" % (self.shape, text)


# ---- upstream's table


def upstream_counts(text):
    """'flag', '2', '1-2', '1+', '0 2', 'any', each perhaps with 'block'."""
    shape = "block" if text.endswith("block") else "plain"
    words = text.replace("block", "").split()
    if words == ["flag"]:
        return "flag", {1}
    counts = set()
    for word in words:
        if word == "any":
            return shape, ANY
        least, most = re.match(r"(\d+)(?:-(\d+))?", word).groups()
        last = COUNT_MAX if word.endswith("+") else int(most or least)
        counts |= set(range(int(least), last + 1))
    return shape, counts


def upstream_rows(path):
    rows = collections.defaultdict(list)
    for line in path.read_text().splitlines()[1:]:
        name, module, contexts, arguments = (line.split("\t") + [""] * 3)[:4]
        known = {CONTEXTS[word] for word in contexts.split(",") if word in CONTEXTS}
        if known or not contexts:          # some names are listed without their contexts
            rows[name].append(Row(module, known, *upstream_counts(arguments)))
    return rows


# ---- our tables, read from the sources


def split_list(text):
    """Splits at commas outside of brackets and strings."""
    parts, depth, current = [], 0, ""
    for token in re.findall(r'"(?:\\.|[^"\\])*"|.', text, re.S):
        if token in "({[<":
            depth += 1
        elif token in ")}]>":
            depth -= 1
        if token == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += token
    return parts + ([current.strip()] if current.strip() else [])


def braces(text, start):
    """The text from behind an opening brace up to the closing one."""
    depth = 1
    for match in re.compile(r'"(?:\\.|[^"\\])*"|[{}]', re.S).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[start:match.start()]
    return text[start:]


def contexts_of(expression, constants):
    found = set()
    for word in re.findall(r"\b[a-z]\w*\b(?!::)", expression):
        if word == "in_any_http":
            found |= {"in_http", "in_server", "in_location"}
        elif word in CONTEXTS.values():
            found.add(word)
        elif word in constants:
            found |= contexts_of(constants[word], constants)
    return found


def counts_of(expression, constants):
    expression = constants.get(expression, expression).replace("conf::", "")
    if re.match(r"any\b", expression):
        return "plain", ANY
    match = re.match(r"(\w+)\((.*)\)$|.*\{(.*)\}$", expression)
    if not match:
        return "unread", set()
    numbers = [COUNT_MAX if "MAX" in word else int(word)
               for word in re.findall(r"\d+|\w*MAX\w*", match[2] or match[3] or "")]
    least = numbers[0] if numbers else 0
    most = max(numbers[1], least) if len(numbers) > 1 else least
    if match[1] == "takes_flag":
        return "flag", {1}
    if match[1] == "takes_at_least":
        most = COUNT_MAX
    shape = "block" if match[1] == "takes_block" else "plain"
    return shape, set(range(least, min(most, COUNT_MAX) + 1))


def our_rows():
    rows = collections.defaultdict(list)
    for path in sorted(p for folder in ("server", "lua") for p in (ROOT / folder).rglob("*.cpp")):
        text = re.sub(r"//[^\n]*|^#[^\n]*", "", path.read_text(), flags=re.M)
        constants = dict(re.findall(
            r"constexpr (?:conf::)?(?:uint32_t|auto|int|Arity) (\w+)\s*=\s*([^;]+);", text))
        constants.update((name, "{%s}" % value) for name, value in re.findall(
            r"constexpr (?:conf::)?Arity (\w+)\{([^}]*)\};", text))
        tables = re.finditer(r"Directive\s+\w+\s*\[\w*\]\s*=\s*\{|<(?:conf::)?Directive>\(\{", text)
        for table in tables:
            for row in split_list(braces(text, table.end())):
                fields = split_list(row[1:-1])
                name = fields[0].strip('"')
                shape, counts = counts_of(fields[2], constants)
                where = str(path.relative_to(ROOT))
                rows[name].append(Row(where, contexts_of(fields[1], constants), shape, counts))
    return rows


# ---- comparison


def compare(name, ours, theirs):
    """Lines about one directive."""
    for family in FAMILIES:
        have = set().union(*(row.contexts for row in ours)) & family
        want = set().union(*(row.contexts for row in theirs)) & family
        if have and have != want:
            yield "%s (%s): contexts missing: %s; beyond upstream: %s" % (
                name, ours[0].where, " ".join(sorted(want - have)) or "none",
                " ".join(sorted(have - want)) or "none")
    for context in sorted(set().union(*(row.contexts for row in ours))):
        mine = [row for row in ours if context in row.contexts]
        other = [row for row in theirs if context in row.contexts]
        if not other:
            continue
        counts = set().union(*(row.counts for row in mine))
        shapes = {row.shape.replace("flag", "plain") for row in mine}
        if counts != set().union(*(row.counts for row in other)) or \
                shapes != {row.shape.replace("flag", "plain") for row in other}:
            yield "%s (%s): takes %s, upstream %s" % (
                name, mine[0].where, mine[0].arity(), other[0].arity())
            return


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    theirs, ours = upstream_rows(pathlib.Path(sys.argv[1])), our_rows()
    differences = [line for name in sorted(ours) if name in theirs
                   for line in compare(name, ours[name], theirs[name])]
    print("\n".join(differences + ["%s: ours alone (%s)" % (name, ours[name][0].where)
                                   for name in sorted(ours) if name not in theirs]))
    missing = collections.defaultdict(list)
    for name in theirs:
        if name not in ours:
            missing[theirs[name][0].where].append(name)
    if "--missing" in sys.argv:
        for module, names in sorted(missing.items()):
            print("undeclared, %s: %s" % (module, " ".join(names)))
    print("%d names declared, %d differences, %d of upstream's %d undeclared" % (
        len(ours), len(differences), sum(map(len, missing.values())), len(theirs)))
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
