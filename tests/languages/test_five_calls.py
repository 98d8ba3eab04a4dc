"""The programs of "From your language" print what the README shows, and the server saw what they say."""

import itertools
import os
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import readme
from server import Server, call

FILES = ("five_calls.py", "five_calls.mjs", "FiveCalls.java", "leasehold.go", "five_calls.go")
KEY = "my_lock"
TTL_MS = 6000
# The first run waits for nothing, the second for this long. A deadline that leaves that out, or that is counted from the answer, is
# wrong by as much: more than a line may be late on a busy machine.
WAIT_S = 4.5
SLACK_MS = 4000
LIMIT_S = 60
SEEN = ["POST 201", "POST 423", "PUT 200", "DELETE 204", "PUT 409"]


class FiveCalls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.directory = Path(directory.name)
        for name in FILES:
            (cls.directory / name).write_text(readme.programs()[name], encoding="utf-8")
        (cls.directory / "go.mod").write_text("module five_calls\n\ngo 1.19\n", encoding="utf-8")
        cls.build("javac", "-Xlint:all", "-Werror", "FiveCalls.java")
        cls.build("go", "vet", ".")
        cls.build("go", "build", "-o", "five_calls", ".")

    @classmethod
    def build(cls, *command):
        built = subprocess.run(command, cwd=cls.directory, capture_output=True, text=True)
        if built.returncode != 0:
            raise AssertionError(f"{command}\n{built.stdout}{built.stderr}")

    def begin(self, *command):
        process = subprocess.Popen(
            command, cwd=self.directory, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        )
        self.addCleanup(process.kill)
        return process

    def printed(self, process):
        output, errors = process.communicate(timeout=LIMIT_S)
        self.assertEqual(process.returncode, 0, output + errors)
        return output.splitlines()

    def five_calls(self, holder, *command):
        with Server() as server:
            self.check(holder, self.printed(self.begin(*command)), server.requests(KEY))
        with Server() as server:
            status, lease = call("POST", f"/locks/{KEY}")
            self.assertEqual(status, 201)
            process = self.begin(*command)
            self.wait_for_waiter()
            time.sleep(WAIT_S)
            self.assertEqual(call("DELETE", f"/locks/{KEY}", Lease_Id=lease["lease_id"])[0], 204)
            lines = self.printed(process)
            # Without those of the test itself.
            requests = [seen for seen in server.requests(KEY) if seen != "GET 200"]
            requests.remove("POST 201")
            requests.remove("DELETE 204")
            token = self.check(holder, lines, requests)
            self.assertGreater(token, lease["fencing_token"])
            # It left nothing behind.
            self.assertEqual(call("POST", f"/locks/{KEY}")[0], 201)

    def wait_for_waiter(self):
        limit = time.monotonic() + LIMIT_S
        while call("GET", f"/locks/{KEY}")[1]["waiters"] == 0:
            self.assertLess(time.monotonic(), limit, "it does not wait")
            time.sleep(0.01)

    def check(self, holder, lines, requests):
        patterns = readme.shown("From your language")
        self.assertEqual(len(lines), len(patterns), lines)
        values = [readme.resembles(line, pattern) for line, pattern in zip(lines, patterns)]
        self.assertNotIn(None, values, lines)
        (token, acquired_ms), (who, held_ms), (renewed_ms,), _, _ = values
        self.assertEqual(who, holder)
        for left_ms in map(int, (acquired_ms, held_ms, renewed_ms)):
            self.assertLessEqual(left_ms, TTL_MS, lines)
            self.assertGreater(left_ms, TTL_MS - SLACK_MS, lines)
        # Go's renews in the background as well.
        self.assertEqual([seen for seen, _ in itertools.groupby(requests)], SEEN)
        self.assertGreaterEqual(requests.count("PUT 200"), 3 if holder == "go" else 1)
        return int(token)

    def test_python(self):
        self.five_calls("python", "python3", "five_calls.py")

    def test_javascript(self):
        self.five_calls("javascript", "node", "five_calls.mjs")

    def test_java(self):
        self.five_calls("java", "java", "-cp", ".", "FiveCalls")

    def test_go(self):
        self.five_calls("go", "./five_calls")


if __name__ == "__main__":
    unittest.main()
