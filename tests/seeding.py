"""What the runners of seeded bugs share: their tables, a copy of the working tree to seed them in, and cargo.

A table is a TOML file with an entry for each bug:

    [[bugs]]
    name = "words-with-hyphens"
    bug = "What is wrong then, in a sentence."
    caught_by = "…"                 the runner says how this is written
    file = "src/…"
    find = '''…'''                 matches exactly once in the file
    replace = '''…'''

A bug in several places has `[[bugs.edits]]` instead, each with `file`, `find` and `replace`.
"""

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

BUILD_LIMIT_S = 900
FIRST_BUILD_LIMIT_S = 3600
SHOWN_LINES = 25
EDIT = ("file", "find", "replace")


class Failure(Exception):
    """Why a bug, or the whole run, proves nothing."""


class Overtime(Failure):
    """A command did not end in its time."""


class Bug:
    """One seeded bug: an entry of a table."""

    OPTIONAL = ()

    def __init__(self, entry):
        entry = dict(entry)
        self.name = entry.pop("name", "an entry without a name")
        edits = entry.pop("edits", None)
        if edits is None:
            edits = [{key: entry.pop(key) for key in EDIT if key in entry}]
        missing = sorted({"bug", "caught_by"} - entry.keys()) or [
            key for edit in edits for key in EDIT if not isinstance(edit.get(key), str)
        ]
        if missing:
            raise Failure(f"no '{missing[0]}'")
        self.bug, self.caught_by = entry.pop("bug"), entry.pop("caught_by")
        self.optional = {key: entry.pop(key) for key in self.OPTIONAL if key in entry}
        unknown = [*entry, *(key for edit in edits for key in edit.keys() - set(EDIT))]
        if unknown:
            raise Failure(f"'{unknown[0]}' is no key of an entry")
        self.edits = [tuple(edit[key] for key in EDIT) for edit in edits]
        self.files = list(dict.fromkeys(file for file, _, _ in self.edits))

    def changed(self, root):
        """The text of each file with the bug in it."""
        texts = {}
        for file, find, replace in self.edits:
            path = root / file
            if not path.is_file():
                raise Failure(f"there is no file {file}")
            text = texts.get(path) or path.read_text(encoding="utf-8")
            count = text.count(find) if find else 0
            if count != 1:
                raise Failure(f"does not apply: {file} has {count} matches instead of one of\n{find.rstrip()}")
            if find == replace:
                raise Failure("changes nothing")
            texts[path] = text.replace(find, replace)
        return texts


class Tree:
    """A tree of sources, and commands that run in it."""

    def __init__(self, root, env):
        self.root, self.env = Path(root), env

    def run(self, command, limit, env=None):
        """Runs a command in a process group of its own, so that a test that hangs ends with all that it started."""
        process = subprocess.Popen(
            command,
            cwd=self.root, env={**self.env, **(env or {})}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            raise Overtime(f"`{shlex.join(map(str, command))}` still ran after {limit:.0f} s") from None
        finally:
            # Also when this run is interrupted. The group holds only what the command started.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode, output.decode(errors="replace")

    def build(self, arguments, limit):
        code, output = self.run(["cargo", *arguments], limit)
        if code != 0:
            raise Failure(f"does not build\n{tail(output)}")
        return output

    def test_program(self, name, limit):
        """Builds a test target and gives the path of its program."""
        output = self.build(["test", "--locked", "--no-run", "--test", name, "--message-format=json"], limit)
        artifacts = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        programs = [
            artifact["executable"]
            for artifact in artifacts
            if artifact.get("executable") and artifact["target"]["name"] == name
        ]
        return programs[0]


class WorkingTree(Tree):
    """The working tree as it is, with its own build."""

    def __init__(self):
        # A test that is told of another binary (LEASEHOLD_TEST_BINARY) would not see the bug.
        super().__init__(ROOT, clean_environment("LEASEHOLD_"))
        self.env["CARGO_TERM_COLOR"] = "never"


class Copy(Tree):
    """A copy of the working tree in which bugs are seeded."""

    def __init__(self, directory, target_dir):
        # A bug may leave a variable unused, so warnings must be no errors here.
        super().__init__(directory, clean_environment("GIT_", "LEASEHOLD_", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"))
        self.env["CARGO_TARGET_DIR"] = str(target_dir)
        # Debug information takes half the time of a build, and is not read here.
        self.env["CARGO_PROFILE_DEV_DEBUG"] = "0"
        self.env["CARGO_TERM_COLOR"] = "never"

    def copy_from(self, source):
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=source, check=True, capture_output=True,
        ).stdout.decode()
        for name in sorted(set(listed.split("\0")) - {""}):
            original, copy = source / name, self.root / name
            if not original.is_file():
                continue  # deleted in the working tree
            copy.parent.mkdir(parents=True, exist_ok=True)
            # Not copy2: cargo goes by the time of a file, and every run must look new to it.
            shutil.copyfile(original, copy)
            shutil.copymode(original, copy)

    @contextlib.contextmanager
    def seeded(self, bug):
        """A tree with a bug in it, for the time of a `with`."""
        changed = bug.changed(self.root)
        before = {path: path.read_bytes() for path in changed}
        try:
            for path, text in changed.items():
                path.write_text(text, encoding="utf-8")
            yield
        finally:
            for path, content in before.items():
                # Written anew, and so newer than any build with the bug in it.
                path.write_bytes(content)


def clean_environment(*unwanted):
    """This process's variables, without those that begin with one of these."""
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}


def tail(output):
    return "\n".join(f"    {line}" for line in output.strip().splitlines()[-SHOWN_LINES:])


def read_bugs(table, kind, words):
    """The bugs of a table, in its order, and what is wrong with entries that cannot be read."""
    bugs, failures, names = [], [], set()
    try:
        entries = tomllib.loads(table.read_text(encoding="utf-8"))["bugs"]
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise Failure(f"{table.name}: {error}") from None
    for entry in entries:
        name = entry.get("name", "")
        if words and not any(word in name for word in words):
            continue
        try:
            if name in names:
                raise Failure("another entry has this name")
            names.add(name)
            bugs.append(kind(entry))
        except Failure as failure:
            failures.append((name, str(failure)))
    if not bugs and not failures:
        raise Failure("no such bug")
    return bugs, failures


def check(root, bugs):
    """What is wrong with bugs before any of them is built."""
    failures = []
    for bug in bugs:
        try:
            bug.changed(root)
        except Failure as failure:
            failures.append((bug.name, str(failure)))
    return failures


def show(headings, rows):
    """Prints a table; the last column holds numbers."""
    rows = [headings, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(headings))]
    print()
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths)]
        print("  ".join([*cells, row[-1].rjust(len(headings[-1]))]))


def finish(passed, failures):
    print()
    for name, why in failures:
        print(f"{name}: {why}")
    print(f"{passed} passed, {len(failures)} failed")
    return 1 if failures else 0


class alone:
    """Keeps two runs from building in one target directory."""

    def __init__(self, target_dir):
        target_dir.mkdir(parents=True, exist_ok=True)
        self.path = target_dir / "run.lock"

    def __enter__(self):
        self.file = self.path.open("w", encoding="utf-8")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"another run uses {self.path.parent}") from None

    def __exit__(self, *_):
        self.file.close()


def main(arguments, usage, options, run):
    """Runs `run(words, options)` and gives the exit status."""
    words = [argument for argument in arguments if not argument.startswith("--")]
    given = [argument for argument in arguments if argument.startswith("--")]
    if any(option not in options for option in given):
        print(usage)
        return 0 if "--help" in given else 2
    # A plain end instead of a sudden one, so that the copy is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return run(words, given)
    except Failure as failure:
        print(f"{failure}\n0 passed, 1 failed")
        return 1
    except KeyboardInterrupt:
        return 130
