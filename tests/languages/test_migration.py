"""Moving over: the programs of the README do the same work before and after, and each row of its table is what happens.

Redis is the one that the README speaks of: a master with a replica, by its real name, with a password. Leasehold uses it too.
"""

import concurrent.futures
import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import readme
from redis_hosts import Hosts, bitnami_redis
from server import Server, call

MASTER = "redis-sentinel-master.redis-sentinel.svc.cluster.local:6379"
TOKEN, BREAK_TOKEN = "migration-token-of-a-test", "migration-break-token"
SOURCES = Path(__file__).parent / "migration"
# Each in a directory of its own, beside work.go.
PROGRAMS = {
    "before_setnx": [],
    "before_redislock": [],
    "after": ["leasehold.go"],
    "both": ["leasehold.go"],
}
RUNS = 100
AT_ONCE = 8
LIMIT_S = 60


def setUpModule():
    # A mount namespace of the tests' own, see run.
    for command in (
        ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"],
        ["touch", "/run/hosts"],
        ["mount", "--bind", "/run/hosts", "/etc/hosts"],
    ):
        subprocess.run(command, check=True)


def tearDownModule():
    subprocess.run(["umount", "/etc/hosts"], check=True)


class Migration(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        shown = readme.programs()
        for name in ("go.mod", "go.sum"):
            shutil.copy(SOURCES / name, cls.directory)
        for program, others in PROGRAMS.items():
            directory = cls.directory / program
            directory.mkdir()
            shutil.copy(SOURCES / "work.go", directory)
            for name in [f"{program}.go", *others]:
                text = shown[name] if name in shown else (SOURCES / name).read_text(encoding="utf-8")
                (directory / name).write_text(text, encoding="utf-8")
        shutil.copy(SOURCES / "calls_test.go", cls.directory / "after")
        cls.go("vet", "./...")
        for program in PROGRAMS:
            cls.go("build", "-o", f"{program}/program", f"./{program}")

        hosts = cls.enterClassContext(Hosts())
        password = bitnami_redis(hosts)["redis-sentinel"]["redis-password"]
        hosts.name("leasehold.redis-sentinel.svc", "127.0.0.1")
        cls.server = cls.enterClassContext(Server(
            REDIS_URL=f"redis://{MASTER}", REDIS_PASSWORD=password, TOKEN=TOKEN, BREAK_TOKEN=BREAK_TOKEN,
            ALLOWED_HOSTS="leasehold.redis-sentinel.svc",
        ))
        cls.environment = {
            **os.environ,
            "REDIS_PASSWORD": password, "LOCK_TOKEN": TOKEN, "BREAK_TOKEN": BREAK_TOKEN,
            "SERVER_PID": str(cls.server.process.pid),
        }

    @classmethod
    def go(cls, *arguments, **options):
        result = subprocess.run(["go", *arguments], cwd=cls.directory, capture_output=True, text=True, **options)
        if result.returncode != 0:
            raise AssertionError(f"go {' '.join(arguments)}\n{result.stdout}{result.stderr}")
        return result.stdout

    def counted(self, *programs):
        """What the counter says after RUNS runs of these programs in turn, several at once."""
        with tempfile.TemporaryDirectory() as directory:
            counter = Path(directory) / "counter"
            counter.write_text("0 0\n", encoding="utf-8")

            def run(number):
                program = programs[number % len(programs)]
                return subprocess.run(
                    [self.directory / program / "program"], env={**self.environment, "COUNTER": str(counter)},
                    capture_output=True, text=True, timeout=LIMIT_S,
                )

            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                results = list(pool.map(run, range(RUNS)))
            failed = {result.stderr for result in results if result.returncode != 0 or result.stderr}
            self.assertEqual(failed, set())
            return int(counter.read_text(encoding="utf-8").split()[0])

    def test_before_and_after_do_the_same_work(self):
        for program in ("before_setnx", "before_redislock", "after"):
            with self.subTest(program):
                granted = self.server.requests("report").count("POST 201")
                self.assertEqual(self.counted(program), RUNS)
                granted = self.server.requests("report").count("POST 201") - granted
                self.assertEqual(granted, RUNS if program == "after" else 0)

    def test_programs_that_take_both_go_between_old_and_new_ones(self):
        self.assertEqual(self.counted("before_redislock", "both"), RUNS)
        self.assertEqual(self.counted("both", "after"), RUNS)

    def test_old_and_new_ones_together_are_noticed(self):
        """The check itself: without exclusion two are seen inside at once."""
        with self.assertRaisesRegex(AssertionError, "somebody else is inside"):
            self.counted("before_redislock", "after")

    def test_each_row_of_the_table(self):
        output = self.go("test", "-count=1", "-timeout=120s", "-v", "./after", env=self.environment)
        self.assertNotIn("SKIP", output)
        self.assertGreater(output.count("--- PASS"), 15)
        self.assertEqual(call("GET", "/readyz")[1]["store"], "ok")


if __name__ == "__main__":
    unittest.main()
