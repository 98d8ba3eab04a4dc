"""The programs in the README: a fenced block whose line before is `<!-- file: NAME -->`."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
MARKED = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text():
    return README.read_text(encoding="utf-8")


def programs():
    """By file name."""
    found = MARKED.findall(text())
    by_name = dict(found)
    if len(by_name) != len(found) or len(found) != text().count("<!-- file:"):
        raise AssertionError("a marker is twice, or is not right before a block")
    return by_name


def shown(section):
    """The lines of the first `text` block of a section: what its programs print."""
    begin = text().index(f"\n## {section}\n")
    return re.search(r"^```text\n(.*?)^```$", text()[begin:], re.MULTILINE | re.DOTALL).group(1).splitlines()


def resembles(line, pattern):
    """Whether a line is what the README shows, where `…` stands for anything; gives what it stood for."""
    found = re.fullmatch("(.+)".join(map(re.escape, pattern.split("…"))), line)
    return found and found.groups()
