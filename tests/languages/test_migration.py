"""The programs of `migration` do the same work before and after the move, and each row of its table is what happens.

Redis is a master with a replica and a password. Leasehold uses it too.
"""

import concurrent.futures
import contextlib
import os
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from server import LIMIT_S, Server, redis_with_a_replica

BUILD = Path(os.environ["LANGUAGES_BUILD"])
PASSWORD = "pass:w@rd/%25#1"
TOKEN, BREAK_TOKEN = "migration-token-of-a-test", "migration-break-token"
RUNS = 60
AT_ONCE = 8


class Migration(unittest.TestCase):
    def setUp(self):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        address = stack.enter_context(redis_with_a_replica(PASSWORD))
        self.server = stack.enter_context(Server(
            REDIS_URL=f"redis://{address}", REDIS_PASSWORD=PASSWORD, TOKEN=TOKEN, BREAK_TOKEN=BREAK_TOKEN,
        ))
        self.environment = {
            **os.environ, "REDIS_ADDR": address, "REDIS_PASSWORD": PASSWORD,
            "LEASEHOLD_SERVER": self.server.url, "LEASEHOLD_TOKEN": TOKEN, "BREAK_TOKEN": BREAK_TOKEN,
        }

    def count(self, *programs):
        """What the counter says after RUNS runs of these programs in turn, several at once."""
        with tempfile.TemporaryDirectory() as directory:
            counter = Path(directory) / "counter"
            counter.write_text("0 0\n", encoding="utf-8")

            def run(number):
                return subprocess.run(
                    [BUILD / programs[number % len(programs)]], env={**self.environment, "COUNTER": str(counter)},
                    capture_output=True, text=True, timeout=LIMIT_S,
                )

            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                results = list(pool.map(run, range(RUNS)))
            failed = {result.stderr for result in results if result.returncode != 0 or result.stderr}
            self.assertEqual(failed, set())
            return int(counter.read_text(encoding="utf-8").split()[0])

    def check(self, program, grants):
        self.assertEqual(self.count(program), RUNS)
        time.sleep(0.5)  # the server writes its log soon after its answer
        self.assertEqual(self.server.requests("report").count("POST 201"), grants)

    def test_before_with_setnx(self):
        self.check("before_setnx", 0)

    def test_before_with_redislock(self):
        self.check("before_redislock", 0)

    def test_after(self):
        self.check("after", RUNS)

    def test_programs_that_take_both_run_beside_old_and_new_ones(self):
        self.assertEqual(self.count("before_redislock", "both"), RUNS)
        self.assertEqual(self.count("both", "after"), RUNS)
        self.assertEqual(self.count("before_setnx", "both"), RUNS)

    def test_old_and_new_programs_together_are_noticed(self):
        """The check itself: without exclusion it finds two programs inside at once."""
        with self.assertRaisesRegex(AssertionError, "another program is inside"):
            self.count("before_redislock", "after")

    def test_each_row_of_the_table(self):
        tests = subprocess.run(
            [BUILD / "calls", "-test.v", "-test.parallel=32", "-test.timeout=120s"], env=self.environment,
            capture_output=True, text=True,
        )
        self.assertEqual(tests.returncode, 0, tests.stdout + tests.stderr)
        self.assertNotIn("SKIP", tests.stdout)
        self.assertGreater(tests.stdout.count("--- PASS"), 15)
        self.assertEqual(self.server.call("GET", "/readyz")[1]["store"], "ok")
