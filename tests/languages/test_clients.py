"""The client of each language: it is alone with its lock while it works, is told in time when it no longer is, and repeats what can be repeated."""

import contextlib
import datetime
import itertools
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import unittest
from pathlib import Path

from server import LIMIT_S, Relay, Server, redis_with_a_replica

HERE = Path(__file__).parent
BUILD = Path(os.environ["LANGUAGES_BUILD"])
KEY = "reports/2026:p+q=r,s@x~y"
TOKEN = "token-of-a-test-of-languages"
TTL_S = 5
IN_TIME = "it was not renewed in time"


class Program:
    """A program that works under a lease, and what it wrote about that."""

    def __init__(self, test, url, seconds=1, key=KEY, workers=1, **environment):
        folder = tempfile.TemporaryDirectory()
        test.addCleanup(folder.cleanup)
        self.test, self.file = test, Path(folder.name) / "log"
        environment |= {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment = {"LEASEHOLD_SERVER": url, "WORK_TTL": str(TTL_S), **environment}
        self.process = subprocess.Popen(
            [*test.command, key, str(seconds), self.file, str(workers)], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**environment, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": test.path},
        )
        test.addCleanup(self.process.wait)
        test.addCleanup(self.process.kill)

    def lines(self, *words):
        """The word, token and time of each line with one of these words, and of all lines without any."""
        text = self.file.read_text(encoding="ascii") if self.file.exists() else ""
        lines = [(word, int(token), int(at)) for word, token, at in map(str.split, text.splitlines())]
        return [line for line in lines if not words or line[0] in words]

    def at(self, word):
        """When it wrote the last line with this word, in milliseconds."""
        return self.lines(word)[-1][2]

    def begins(self):
        eventually(lambda: self.lines("beat"))
        return self

    def ends(self):
        output, errors = self.process.communicate(timeout=LIMIT_S)
        self.test.assertEqual(self.process.returncode, 0, output + errors)
        return self

    def fails(self, text):
        output, errors = self.process.communicate(timeout=LIMIT_S)
        self.test.assertEqual(self.process.returncode, 1, output + errors)
        self.test.assertIn(text, errors)
        return self

    def was_told_before(self, lease):
        """Its work was over, and it knew that its lease was, before the next holder had the lock."""
        deadline = milliseconds(lease["acquired_at"])
        for word in ("beat", "signal"):
            self.test.assertLess(self.at(word), deadline, word)


def milliseconds(moment):
    return datetime.datetime.fromisoformat(moment).timestamp() * 1000


def eventually(condition):
    limit = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > limit:
            raise AssertionError("it does not happen")
        time.sleep(0.02)


def next_lease(server, key=KEY):
    """Waits for the lock beside the program, and gets it when its lease is over."""
    status, lease = server.call("POST", f"/locks/{key}", {"wait_ms": 30_000})
    if status != 201:
        raise AssertionError(f"{status} {lease}")
    return lease


class Client:
    """What each client must do. The classes below name the language."""

    path = ""

    def program(self, *arguments, **named):
        return Program(self, *arguments, **named)

    def test_server_that_starts_later(self):
        server = Server()
        program = self.program(server.url)
        time.sleep(3)  # all languages have made their first attempt
        self.assertIsNone(program.process.poll())
        with server:
            program.ends()

    def test_waiting_with_a_token(self):
        with Server(TOKEN=TOKEN) as server:
            bearer = {"Authorization": f"Bearer {TOKEN}"}
            status, lease = server.call("POST", f"/locks/{KEY}", **bearer)
            self.assertEqual(status, 201)
            program = self.program(server.url, LEASEHOLD_TOKEN=TOKEN)
            eventually(lambda: server.call("GET", f"/locks/{KEY}", **bearer)[1]["waiters"])
            status, _ = server.call("DELETE", f"/locks/{KEY}", Lease_Id=lease["lease_id"], **bearer)
            self.assertEqual(status, 204)
            program.ends()
            self.assertGreater(program.lines("begin")[0][1], lease["fencing_token"])
            self.assertEqual(server.call("POST", f"/locks/{KEY}", **bearer)[0], 201)

    def test_wait_of_many_requests(self):
        with Server() as server:
            lease = next_lease(server)
            program = self.program(server.url)
            time.sleep(22)
            self.assertIsNone(program.process.poll())
            server.call("DELETE", f"/locks/{KEY}", Lease_Id=lease["lease_id"])
            freed = time.time() * 1000
            program.ends()
            self.assertLess(program.at("begin") - freed, 2000)
            self.assertGreater(server.requests(KEY).count("POST 423"), 0)

    def test_wait_that_ends(self):
        with Server() as server:
            next_lease(server)
            for wait in ("0", "1.5"):
                begun = time.monotonic()
                self.program(server.url, WORK_WAIT=wait).fails("423")
                self.assertGreater(time.monotonic() - begun, float(wait))

    def test_calls_that_fail_are_repeated(self):
        with Server() as server, Relay(
            server, POST=[502, 429, "lose"], PUT=[503, "lose"], DELETE=[500, "lose"],
        ) as relay:
            self.program(relay.url, seconds=2 * TTL_S).ends()
            posts = [(at, headers["Idempotency-Key"]) for at, method, headers in relay.requests if method == "POST"]
            self.assertEqual(len(posts), 4)
            self.assertEqual(len({key for _, key in posts}), 1)
            self.assertGreaterEqual(len(posts[0][1]), 32)
            self.assertGreaterEqual(posts[1][0] - posts[0][0], 1)  # Retry-After
            self.assertLess(posts[1][0] - posts[0][0], 5)
            eventually(lambda: server.requests(KEY)[-1:] == ["DELETE 204"])
            seen = [request for request, _ in itertools.groupby(server.requests(KEY))]
            self.assertEqual(seen[-3:], ["POST 200", "PUT 200", "DELETE 204"])

    def test_calls_are_not_repeated_for_ever(self):
        with Server() as server, Relay(server, retry_after="60", POST=[503] * 9) as relay:
            self.program(relay.url, WORK_WAIT="0").fails("503")
            self.assertEqual(len(relay.requests), 1)

    def test_lease_that_is_over_before_its_answer_comes(self):
        with Server() as server, Relay(server, POST=[1.5]) as relay:
            program = self.program(relay.url, WORK_TTL="1", WORK_WAIT="1").fails(IN_TIME)
            self.assertEqual(program.lines("begin"), [])

    def test_refusals_are_not_repeated(self):
        with Server(TOKEN=TOKEN) as server, Relay(server) as relay:
            # Without quoting, the server would see the valid keys a/b and a.
            keys = ("a%2Fb", "a#b", "2026 is not valid")
            refused = [self.program(relay.url, key=key, LEASEHOLD_TOKEN=TOKEN) for key in keys]
            stranger = self.program(relay.url, LEASEHOLD_TOKEN="not-the-token-of-the-server")
            for program in refused:
                program.fails("invalid-key")
            stranger.fails("unauthenticated")
            self.assertEqual(len(relay.requests), 4)

    def test_server_is_killed(self):
        with on_redis(2) as (server, other):
            program = self.program(server.url, seconds=LIMIT_S).begins()
            server.kill()
            lease = next_lease(other)
            program.fails(IN_TIME).was_told_before(lease)

    def test_another_server_answers(self):
        with on_redis(2) as (server, other):
            program = self.program(f"{server.url},{other.url}", seconds=2 * TTL_S).begins()
            server.kill()
            program.ends()
            self.assertEqual(program.lines("signal"), [])

    def test_network_is_cut(self):
        with Server() as server, Relay(server, PUT=["hold"] * 99) as relay:
            program = self.program(relay.url, seconds=LIMIT_S).begins()
            lease = next_lease(server)
            program.fails(IN_TIME).was_told_before(lease)
            # A part of the TTL, so that another attempt fits.
            self.assertLess(relay.held_s[0], TTL_S / 3)

    def test_program_is_paused(self):
        with Server() as server:
            program = self.program(server.url, seconds=LIMIT_S).begins()
            program.process.send_signal(signal.SIGSTOP)
            lease = next_lease(server)
            time.sleep(1)
            resumed = time.time() * 1000
            program.process.send_signal(signal.SIGCONT)
            program.fails(IN_TIME)
            self.assertLess(program.at("beat"), milliseconds(lease["acquired_at"]))
            self.assertLess(program.at("signal") - resumed, 2000)

    def test_lease_is_broken(self):
        with Server() as server:
            program = self.program(server.url, seconds=LIMIT_S).begins()
            token = program.lines("begin")[0][1]
            status, _ = server.call("DELETE", f"/locks/{KEY}?force=true&fencing_token={token}")
            self.assertEqual(status, 204)
            begun = time.monotonic()
            program.fails("lease-lost")
            self.assertLess(time.monotonic() - begun, TTL_S)

    def test_program_that_hangs(self):
        with Server() as server:
            program = self.program(server.url, seconds=LIMIT_S, WORK_MAX_HOLD="2").fails("it was held for as long as it may be")
            held = program.at("signal") - program.at("begin")
            self.assertTrue(1000 < held < 3000, held)  # it counts from the request on
            eventually(lambda: server.requests(KEY)[-1:] == ["DELETE 204"])

    def test_hand_over(self):
        with Server() as server:
            first = self.program(server.url, seconds=2).begins()
            second = self.program(server.url)
            first.ends()
            second.ends()
            pause = second.at("begin") - first.at("end")
            self.assertTrue(0 <= pause < 2000, pause)

    def test_hundred_contenders(self):
        with Server() as server:
            program = self.program(server.url, seconds=0.01, workers=100).ends()
            lines = program.lines("begin", "end")
            self.assertEqual([word for word, _, _ in lines], ["begin", "end"] * 100)
            tokens = [token for _, token, _ in lines]
            self.assertEqual(tokens[::2], tokens[1::2])
            self.assertEqual(tokens, sorted(tokens))
            self.assertEqual(len(set(tokens)), 100)


class Files(unittest.TestCase):
    def test_each_is_small_enough_to_be_copied(self):
        for file in HERE.parent.parent.glob("openapi/clients/*/[lL]easehold.*"):
            lines = map(str.strip, file.read_text(encoding="utf-8").splitlines())
            code = [line for line in lines if line and not re.match(r"//|/\*|\*|#[^\[]", line)]
            self.assertLessEqual(len(code), 200, file)
            self.assertGreater(len(code), 100, file)


@contextlib.contextmanager
def on_redis(count):
    """So many servers on one Redis."""
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(redis_with_a_replica(TOKEN))
        settings = {"REDIS_URL": f"redis://{address}", "REDIS_PASSWORD": TOKEN, "REPLICA_ACKS": "0"}
        yield [stack.enter_context(Server(**settings)) for _ in range(count)]


class Python(Client, unittest.TestCase):
    command = ["python3", HERE / "work/python/work.py"]
    path = HERE.parent.parent / "openapi/clients/python"


class TypeScript(Client, unittest.TestCase):
    command = ["node", BUILD / "typescript/work.js"]


class Java(Client, unittest.TestCase):
    command = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", BUILD / "java", "Work"]


class Go(Client, unittest.TestCase):
    command = [BUILD / "work_go"]


class Rust(Client, unittest.TestCase):
    command = [BUILD / "work_rust"]


del Client
