"""The program of each language prints its five lines, and the server saw what they say: alone, in the queue, and when calls fail."""

import contextlib
import itertools
import os
import re
import subprocess
import time
import unittest
from pathlib import Path

from server import LIMIT_S, Relay, Server

HERE = Path(__file__).parent
BUILD = Path(os.environ["LANGUAGES_BUILD"])
KEY = "reports/2026:p+q=r,s@x~y"
PRINTED = """\
acquired with token (.+), mine for (.+) ms
423 lock-held: (.+) has it for (.+) ms
renewed, mine for (.+) ms
released
409 lease-lost: not_held
"""
SEEN = ["POST 201", "POST 423", "PUT 200", "DELETE 204", "PUT 409"]
TTL_MS = 6000
# A program that leaves its wait out of its count, or counts from the answer, is wrong by the wait. Lines may be late by less.
WAIT_S = 4.5
SLACK_MS = 4000
TOKEN = "token-of-a-test-of-languages"


class FiveCalls:
    """What each program must do. The classes below name the language."""

    def begin(self, url, key=KEY, **environment):
        environment |= {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        process = subprocess.Popen(
            [*self.command, key], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**environment, "LOCK_URL": url, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def succeeds(self, process, server, seen=SEEN, own=()):
        """Checks the lines, and the server's log without the test's `own` requests. Returns the token."""
        output, errors = process.communicate(timeout=LIMIT_S)
        self.assertEqual(process.returncode, 0, output + errors)
        values = re.fullmatch(PRINTED, output)
        self.assertIsNotNone(values, output)
        token, acquired_ms, holder, held_ms, renewed_ms = values.groups()
        self.assertEqual(holder, self.holder)
        for left_ms in map(int, (acquired_ms, held_ms, renewed_ms)):
            self.assertLessEqual(left_ms, TTL_MS, output)
            self.assertGreater(left_ms, TTL_MS - SLACK_MS, output)
        requests = [request for request in server.requests(KEY) if request != "GET 200"]
        for request in own:
            requests.remove(request)
        # Go's program also renews in the background.
        self.assertEqual([request for request, _ in itertools.groupby(requests)], seen)
        self.assertGreaterEqual(requests.count("PUT 200"), 3 if self.holder == "go" else 1)
        return int(token)

    def fails(self, process, text):
        output, errors = process.communicate(timeout=LIMIT_S)
        self.assertNotEqual(process.returncode, 0, output)
        self.assertIn(text, errors, output)
        return output

    def test_server_that_starts_later(self):
        server = Server()
        process = self.begin(server.url)
        time.sleep(3)  # all languages have made their first attempt
        self.assertIsNone(process.poll())
        with server:
            self.succeeds(process, server)

    def test_waiting_with_a_token(self):
        with Server(TOKEN=TOKEN) as server:
            bearer = {"Authorization": f"Bearer {TOKEN}"}
            status, lease = server.call("POST", f"/locks/{KEY}", **bearer)
            self.assertEqual(status, 201)
            process = self.begin(server.url, LOCK_TOKEN=TOKEN)
            limit = time.monotonic() + LIMIT_S
            while server.call("GET", f"/locks/{KEY}", **bearer)[1]["waiters"] == 0:
                self.assertLess(time.monotonic(), limit, "the program does not wait")
                time.sleep(0.05)
            time.sleep(WAIT_S)
            status, _ = server.call("DELETE", f"/locks/{KEY}", Lease_Id=lease["lease_id"], **bearer)
            self.assertEqual(status, 204)
            token = self.succeeds(process, server, own=["POST 201", "DELETE 204"])
            self.assertGreater(token, lease["fencing_token"])
            self.assertEqual(server.call("POST", f"/locks/{KEY}", **bearer)[0], 201)

    def test_calls_that_fail_are_repeated(self):
        with Server() as server, Relay(
            server, POST=[502, 429, "lose"], PUT=[503, "lose"], DELETE=[500, "lose"],
        ) as relay:
            self.succeeds(self.begin(relay.url), server, ["POST 201", "POST 200", *SEEN[1:]])
            posts = [(at, headers["Idempotency-Key"]) for at, method, headers in relay.requests if method == "POST"]
            keys = [key for _, key in posts]
            # One acquisition, and the one of the lock that is held.
            self.assertEqual([len(list(group)) for _, group in itertools.groupby(keys)], [4, 1])
            self.assertGreaterEqual(len(keys[0]), 32)
            self.assertGreaterEqual(posts[1][0] - posts[0][0], 1)  # Retry-After
            self.assertLess(posts[1][0] - posts[0][0], 5)

    def test_calls_are_not_repeated_for_ever(self):
        with Server() as server, Relay(server, retry_after="60", POST=[503] * 9) as relay:
            self.fails(self.begin(relay.url), "503")
            self.assertEqual(len(relay.requests), 1)

    def test_renewal_ends_with_the_lease(self):
        with Server() as server, Relay(server, PUT=["hold"] * 9) as relay:
            self.assertNotIn("renewed", self.fails(self.begin(relay.url), ""))
            (acquired_at, _, _), *_ = relay.requests
            self.assertLess(time.monotonic() - acquired_at, TTL_MS / 1000 + 3)
            # A third of the TTL, and not the two thirds that are left.
            self.assertLess(relay.held_s[0], 3)

    def test_lease_that_is_over_before_its_answer_comes(self):
        with Server() as server, Relay(server, POST=[TTL_MS / 1000 + 0.5]) as relay:
            output = self.fails(self.begin(relay.url), "the lease was over before the answer came")
            self.assertEqual(output, "")

    def test_refusals_are_not_repeated(self):
        with Server(TOKEN=TOKEN) as server, Relay(server) as relay:
            # Without quoting, the server would see the valid keys a/b and a.
            keys = ("a%2Fb", "a#b", "2026 is not valid")
            refused = [self.begin(relay.url, key, LOCK_TOKEN=TOKEN) for key in keys]
            stranger = self.begin(relay.url, LOCK_TOKEN="not-the-token-of-the-server")
            for process in refused:
                self.fails(process, "invalid-key")
            self.fails(stranger, "unauthenticated")
            self.assertEqual(len(relay.requests), 4)


class Python(FiveCalls, unittest.TestCase):
    holder, command = "python", ["python3", HERE / "python/five_calls.py"]


class JavaScript(FiveCalls, unittest.TestCase):
    holder, command = "javascript", ["node", HERE / "javascript/five_calls.mjs"]


class Java(FiveCalls, unittest.TestCase):
    holder, command = "java", ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", BUILD / "java", "FiveCalls"]


class Go(FiveCalls, unittest.TestCase):
    holder, command = "go", [BUILD / "five_calls"]


del FiveCalls
