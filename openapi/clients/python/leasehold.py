"""A client for Leasehold in one file, with the standard library alone: copy it.

    from leasehold import Locks

    with Locks().acquire("reports/nightly") as lease:
        for part in parts:
            lease.check()
            write(part, lease.fencing_token)
"""

import http.client
import json
import logging
import math
import os
import random
import secrets
import threading
import time
import urllib.parse

POLL_S = 20  # how long one request waits for a lock: longer waits are made of several
PATIENCE_S = 10  # for how long an acquisition is repeated at least while no server can serve
ANSWER_S = 5  # a healthy server answers sooner, apart from the time that a request waits
CONNECT_S = 2  # a server that is reachable accepts a connection sooner


class Refused(Exception):
    """A server refused the call. `status` 423: another client holds the lock; see `problem`."""

    def __init__(self, status, problem, retry_after):
        super().__init__(f"{status} {problem.get('type')}: {problem.get('detail')}")
        self.status, self.problem = status, problem
        self.retry_after = int(retry_after) if retry_after.isdecimal() else 0


class Lost(Exception):
    """The lock may be another client's: stop the work."""


def now():
    """Seconds on a clock that also counts while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Locks:
    """The servers of one service, tried in turn: addresses with commas between them."""

    def __init__(self, servers=None, token=None):
        servers = servers or os.environ.get("LEASEHOLD_SERVER") or "http://127.0.0.1:8080"
        self._servers = [urllib.parse.urlsplit(server.strip()) for server in servers.split(",")]
        self._current = 0
        token = token or os.environ.get("LEASEHOLD_TOKEN")
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def acquire(self, key, *, ttl=30, wait=math.inf, max_hold=math.inf, hold_at_least=0, **fields):
        """Waits up to `wait` seconds for the lock, and returns a lease that is renewed until it is released.

        After `max_hold` seconds it is renewed no more, and counts as lost. `fields` are `holder` and `metadata`.
        """
        path = "/locks/" + urllib.parse.quote(key, safe="")  # the key is one segment: its slashes become %2F
        headers = {"Idempotency-Key": secrets.token_hex(16)}  # one acquisition, and one place in the queue
        fields |= {"ttl_ms": round(ttl * 1000), "hold_at_least_ms": round(hold_at_least * 1000)}
        begun = now()
        patient_until, pauses = begun + max(wait if wait < math.inf else 0, PATIENCE_S), _pauses()
        while True:
            sent = now()
            poll = min(max(begun + wait - sent, 0), POLL_S)
            body = json.dumps({**fields, "wait_ms": math.ceil(poll * 1000)})
            # An answer that comes a TTL after the wait is of no use, because its lease is over.
            try:
                grant = self._call("POST", path, headers, body, poll + min(ttl, ANSWER_S))
                return Lease(self, path, grant, sent, max_hold)
            except (OSError, Refused) as failure:
                status = getattr(failure, "status", 503)
                if status == 423 and now() < begun + wait:  # another client has it: ask on
                    patient_until, pauses = math.inf if wait == math.inf else patient_until, _pauses()
                    time.sleep(max(sent + 0.25 - now(), 0))
                    continue
                pause = max(next(pauses), getattr(failure, "retry_after", 0))
                if status < 500 and status not in (408, 429) or now() + pause >= patient_until:
                    raise
                time.sleep(pause)

    def _call(self, method, path, headers, body, timeout):
        """One attempt at the server that answered last. After a failure the next attempt goes to the next server."""
        current = self._current
        try:
            server = self._servers[current % len(self._servers)]
            connect = http.client.HTTPSConnection if server.scheme == "https" else http.client.HTTPConnection
            connection = connect(server.netloc, timeout=min(timeout, CONNECT_S))
            try:
                connection.connect()
                connection.sock.settimeout(timeout)
                connection.request(method, server.path.rstrip("/") + path, body, self._headers | headers)
                response = connection.getresponse()
                text = response.read()
            except http.client.HTTPException as error:
                raise ConnectionError(f"no answer of an HTTP server: {error!r}") from error
            finally:
                connection.close()
            try:
                answer = dict(json.loads(text or "{}"))
            except (TypeError, ValueError):  # from a proxy
                answer = {"type": "about:blank", "detail": response.reason}
            if response.status == 204 or response.status < 300 and "lease_id" in answer:
                return answer
            if response.status < 300:
                raise ConnectionError("no answer of Leasehold")
            raise Refused(response.status, answer, response.headers.get("Retry-After", ""))
        except (OSError, Refused) as failure:
            if getattr(failure, "status", 500) >= 500:
                self._current = current + 1
            raise


class Lease:
    """A lock that is held. `lost` is set before it may be another client's; `check()` raises then."""

    def __init__(self, locks, path, grant, sent, max_hold):
        self.id, self.fencing_token, self.ttl = grant["lease_id"], grant["fencing_token"], grant["ttl_ms"] / 1000
        self.lost, self.why_lost = threading.Event(), None
        self._locks, self._path, self._released = locks, path, threading.Event()
        self._ends = sent + grant["waited_ms"] / 1000 + max_hold
        self._extend(grant, sent)
        self.check()
        for work in (self._watch, self._renew):
            threading.Thread(target=work, daemon=True).start()

    def left(self):
        """For how many seconds the work can go on without a further renewal."""
        return 0 if self.lost.is_set() else max(min(self._until, self._ends) - now(), 0)

    def check(self):
        """Raises `Lost` if the lock may be another client's soon. Call it before each step of the work."""
        if not self.left():
            self._lose("it was held for as long as it may be" if now() >= self._ends else "it was not renewed in time")
            raise Lost(self.why_lost)

    def release(self):
        """Frees the lock. Without an answer of a server it is free when the lease is over."""
        self._released.set()
        pauses, give_up = _pauses(), now() + PATIENCE_S
        while True:
            try:
                return self._locks._call("DELETE", self._path, {"Lease-Id": self.id}, None, min(self.ttl / 3, ANSWER_S))
            except (OSError, Refused) as failure:
                if getattr(failure, "status", 500) < 500 or now() >= min(self._until, give_up):
                    return logging.getLogger("leasehold").warning("the lease was not released: %s", failure)
            time.sleep(next(pauses))

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        try:
            if error is None:
                self.check()  # what was done was not protected to its end
        finally:
            self.release()

    def _extend(self, grant, sent):
        # The lease counts from the sending, and ends for its holder a little before others can have it.
        self._renew_at = sent + grant["waited_ms"] / 1000 + self.ttl / 3
        self._until = sent + (grant["waited_ms"] + grant["expires_in_ms"]) / 1000 - min(self.ttl / 10, 1)

    def _lose(self, why):
        if not self._released.is_set():
            self.why_lost = self.why_lost or why
            self.lost.set()

    def _watch(self):
        # Timers do not count suspensions: look at the clock now and then.
        while not self._released.wait(min(self.left(), self.ttl / 20, 0.5)):
            try:
                self.check()
            except Lost:
                return

    def _renew(self):
        pause = 0
        while not self._released.wait(max(self._renew_at - now(), pause)) and self.left():
            pause, sent = 0, now()
            try:
                timeout = min(self.ttl / 6, ANSWER_S)
                grant = self._locks._call("PUT", self._path + "/lease", {"Lease-Id": self.id}, None, timeout)
                if self.left():  # an answer that comes too late revives nothing
                    self._extend(grant, sent)
            except (OSError, Refused) as failure:
                if getattr(failure, "status", 503) == 409:
                    return self._lose(str(failure))
                pause = min(self.ttl / 20, 1)


def _pauses():
    """Seconds between attempts. They double up to 2; a random part keeps clients apart that fail at the same moment."""
    pause = 0.1
    while True:
        yield pause * random.uniform(0.5, 1)
        pause = min(pause * 2, 2)
