"""A strict reader of Prometheus' text format 0.0.4: what it lets through, Prometheus takes.

parse() gives {metric name: Family}; a Family has type, help and samples {(name, labels): value}.
Anything out of order is a ValueError with the line: samples without TYPE, a family in two places,
the same sample twice, bad names and escapes, histograms that do not add up.
"""
import math
import re

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\Z|[+-]?Inf\Z|NaN\Z")
TYPES = ("counter", "gauge", "histogram", "summary", "untyped")
ESCAPES = {"\\": "\\", "n": "\n", '"': '"'}


class Family:
    def __init__(self, name):
        self.name, self.type, self.help = name, None, None
        self.samples = {}

    def value(self, suffix="", **labels):
        return self.samples[self.name + suffix, tuple(sorted(labels.items()))]

    def total(self, **labels):
        """The sum of the samples that have these labels."""
        wanted = set(labels.items())
        return sum(value for (name, has), value in self.samples.items()
                   if name == self.name and wanted <= set(has))


def read_labels(text, line):
    """{a="b",c="d"} at the start of text: (sorted pairs, what is behind)."""
    labels, at = {}, 1
    while text[at:at + 1] != "}":
        found = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="').match(text, at)
        if not found:
            raise ValueError("bad label: " + line)
        at, value = found.end(), ""
        while text[at:at + 1] != '"':
            if at >= len(text):
                raise ValueError("a label's value does not end: " + line)
            if text[at] == "\\":
                at += 1
                if text[at:at + 1] not in ESCAPES:
                    raise ValueError("bad escape: " + line)
                value += ESCAPES[text[at]]
            else:
                value += text[at]
            at += 1
        at += 1
        if found.group(1) in labels:
            raise ValueError("a label twice: " + line)
        labels[found.group(1)] = value
        if text[at:at + 1] == ",":
            at += 1
        elif text[at:at + 1] != "}":
            raise ValueError("labels: " + line)
    return tuple(sorted(labels.items())), text[at + 1:]


def family_name(name, family):
    """Is it a sample of this family?"""
    if family is None:
        return False
    if family.type == "histogram":
        return name in [family.name + end for end in ("_bucket", "_sum", "_count")]
    return name == family.name


def read_sample(line, family):
    name = re.match(r"[^{ ]*", line).group()
    if not NAME.match(name):
        raise ValueError("bad name: " + line)
    if not family_name(name, family):
        raise ValueError("a sample outside its family: " + line)
    labels, rest = (), line[len(name):]
    if rest.startswith("{"):
        labels, rest = read_labels(rest, line)
    if not rest.startswith(" ") or not NUMBER.match(rest[1:]):
        raise ValueError("bad value: " + line)
    if (name, labels) in family.samples:
        raise ValueError("twice: " + line)
    value = float(rest[1:])
    if family.type == "counter" and not value >= 0:
        raise ValueError("a counter below 0: " + line)
    family.samples[name, labels] = value


def check_histogram(family):
    groups = {}
    for (name, labels), value in family.samples.items():
        if name.endswith("_bucket"):
            bound = dict(labels)["le"]
            rest = tuple(pair for pair in labels if pair[0] != "le")
            groups.setdefault(rest, []).append((float(bound.replace("Inf", "inf")), value))
    for labels, buckets in groups.items():
        bounds, counts = [b for b, _ in buckets], [c for _, c in buckets]
        if bounds != sorted(set(bounds)) or counts != sorted(counts):
            raise ValueError("buckets out of order: %s %s" % (family.name, labels))
        if bounds[-1] != math.inf or counts[-1] != family.samples[family.name + "_count", labels]:
            raise ValueError("buckets and count differ: %s %s" % (family.name, labels))
        family.samples[family.name + "_sum", labels]     # must be there


def parse(text):
    families, family = {}, None
    if not text.endswith("\n"):
        raise ValueError("the last line does not end")
    for line in text[:-1].split("\n"):
        comment = re.match(r"# (HELP|TYPE) (\S+) (.*)", line)
        if not comment:
            if line.startswith("#") or not line.strip():
                raise ValueError("what is this: %r" % line)
            read_sample(line, family)
            continue
        what, name, rest = comment.groups()
        if family is None or family.name != name:
            if name in families:
                raise ValueError("a family in two places: " + line)
            if not NAME.match(name):
                raise ValueError("bad name: " + line)
            family = families[name] = Family(name)
        if family.samples or getattr(family, what.lower()) is not None:
            raise ValueError("too late, or twice: " + line)
        if what == "TYPE" and rest not in TYPES:
            raise ValueError("no such type: " + line)
        setattr(family, what.lower(), rest)
    for each in families.values():
        if not each.samples or not each.help or not each.type:
            raise ValueError("incomplete: " + each.name)
        if each.type == "histogram":
            check_histogram(each)
    return families


def check_conventions(families):
    """Names as Prometheus' own guide has them."""
    for family in families.values():
        if not family.name.startswith("resty_"):
            raise ValueError("prefix: " + family.name)
        if (family.type == "counter") != family.name.endswith("_total"):
            raise ValueError("counters end in _total, others do not: " + family.name)
        if re.search(r"_(ms|milliseconds|kb|kilobytes|percent)(_|$)", family.name):
            raise ValueError("base units: " + family.name)
        if family.type == "histogram" and not family.name.endswith(("_seconds", "_bytes")):
            raise ValueError("a histogram says its unit: " + family.name)
