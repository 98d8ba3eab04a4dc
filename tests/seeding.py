"""What the runners of seeded bugs share: patches, a copy of the working tree to apply them to, and cargo.

Each patch has lines `Name: value` before its unified diff; which ones, and what counts as caught, is the runner's.
"""

import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

BUILD_LIMIT_S = 900
FIRST_BUILD_LIMIT_S = 3600
SHOWN_LINES = 25


class Failure(Exception):
    """Why a patch, or the whole run, proves nothing."""


class Patch:
    """One seeded bug: its header and the files it changes."""

    def __init__(self, path):
        self.path = path
        self.name = path.stem
        text = path.read_text(encoding="utf-8")
        self.header, separator, _ = text.partition("diff --git ")
        if not separator:
            raise Failure("no diff")
        self.bug = self.field("Bug")
        self.files = re.findall(r"^\+\+\+ b/(.+)$", text, re.MULTILINE)
        if not self.files:
            raise Failure("the diff names no file")

    def field(self, name):
        value = self.optional_field(name)
        if value is None:
            raise Failure(f"no line '{name}: …' before the diff")
        return value

    def optional_field(self, name):
        values = re.findall(rf"^{name}: (.+)$", self.header, re.MULTILINE)
        if len(values) > 1:
            raise Failure(f"more than one line '{name}: …' before the diff")
        return values[0].strip() if values else None


class Tree:
    """A copy of the working tree in which bugs are seeded."""

    def __init__(self, directory, target_dir):
        self.root = Path(directory)
        # A bug may leave a variable unused, so warnings must be no errors here; and a test that is told of another
        # binary (LEASEHOLD_TEST_BINARY) would not see the bug at all.
        unwanted = ("GIT_", "LEASEHOLD_", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
        # Inside another repository, git would read a patch's paths from that one's root and skip them in silence.
        self.env["GIT_CEILING_DIRECTORIES"] = str(self.root.parent)
        self.env["CARGO_TARGET_DIR"] = str(target_dir)
        # Half the time of a build is debug information that nobody reads.
        self.env["CARGO_PROFILE_DEV_DEBUG"] = "0"
        self.env["CARGO_TERM_COLOR"] = "never"

    def copy_from(self, source):
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=source, check=True, capture_output=True,
        ).stdout.decode()
        for name in sorted(set(listed.split("\0")) - {""}):
            original, copy = source / name, self.root / name
            if not original.is_file() or original.suffix == ".patch":
                continue  # deleted in the working tree, or a seeded bug
            copy.parent.mkdir(parents=True, exist_ok=True)
            # Not copy2: cargo goes by the time of a file, and every run must look new to it.
            shutil.copyfile(original, copy)
            shutil.copymode(original, copy)

    def apply(self, patch):
        before = self.read(patch)
        result = self.git_apply(patch)
        if result.returncode != 0:
            raise Failure(f"does not apply: {result.stderr.strip()}")
        if self.read(patch) == before:
            raise Failure("changes nothing")

    def revert(self, patch, before):
        for path, content in before.items():
            # Written anew, and so newer than any build with the bug in it.
            path.write_bytes(content)
        if self.read(patch) != before:
            raise Failure("could not be taken back")

    def read(self, patch):
        paths = [self.root / name for name in patch.files]
        return {path: path.read_bytes() for path in paths if path.is_file()}

    def git_apply(self, patch, *options):
        command = ["git", "apply", "-p1", *options, str(patch.path)]
        return subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True)

    def cargo(self, arguments, limit):
        """Runs cargo in a process group of its own, so that a test that hangs ends with all that it started."""
        process = subprocess.Popen(
            ["cargo", *arguments],
            cwd=self.root, env=self.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            raise Failure(f"`cargo {shlex.join(arguments)}` still ran after {limit} s") from None
        finally:
            # Also when this run is interrupted. Nobody else is in that group.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return process.returncode, output.decode(errors="replace")

    def build(self, arguments, limit):
        code, output = self.cargo(arguments, limit)
        if code != 0:
            raise Failure(f"does not build\n{tail(output)}")
        return output

    def seeded(self, patch):
        return Seeded(self, patch)


class Seeded:
    """A tree with a bug in it, for the time of a `with`."""

    def __init__(self, tree, patch):
        self.tree, self.patch = tree, patch

    def __enter__(self):
        self.before = self.tree.read(self.patch)
        try:
            self.tree.apply(self.patch)
        except Failure:
            self.tree.revert(self.patch, self.before)
            raise

    def __exit__(self, *_):
        self.tree.revert(self.patch, self.before)


def tail(output):
    return "\n".join(f"    {line}" for line in output.strip().splitlines()[-SHOWN_LINES:])


def read_patches(directory, kind, words):
    """The patches, in order, and what is wrong with those that cannot be read."""
    patches, failures = [], []
    for path in sorted(directory.glob("*.patch")):
        if words and not any(word in path.stem for word in words):
            continue
        try:
            patches.append(kind(path))
        except Failure as failure:
            failures.append((path.stem, str(failure)))
    if not patches and not failures:
        raise Failure("no such patch")
    return patches, failures


def check(tree, patches):
    """What is wrong with patches before any of them is built."""
    failures = []
    for patch in patches:
        result = tree.git_apply(patch, "--check")
        if result.returncode != 0:
            failures.append((patch.name, f"does not apply: {result.stderr.strip()}"))
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
