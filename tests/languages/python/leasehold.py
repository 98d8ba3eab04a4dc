"""A client for Leasehold in one file, with the standard library alone: copy it."""

import http.client
import itertools
import json
import random
import secrets
import time
import urllib.parse

CONNECT_S = 2  # a server that is reachable accepts a connection sooner
ANSWER_S = 5  # a healthy server answers sooner, apart from the time that a request waits for a lock
RETRY_S = 10  # how long a call is repeated, apart from that time


class Refused(Exception):
    """The server refused a call. Status 423: another client holds the lock. 409: the lease is lost."""

    def __init__(self, status, problem):
        super().__init__(f"{status} {problem.get('type')}: {problem.get('detail')}")
        self.status, self.problem = status, problem


class Locks:
    """A Leasehold server."""

    def __init__(self, url, token=None):
        self.url = urllib.parse.urlsplit(url)
        self.headers = {"Content-Type": "application/json"}
        if token:
            self.headers["Authorization"] = f"Bearer {token}"

    def acquire(self, key, ttl_ms=30_000, wait_ms=0, **fields):
        """Waits up to `wait_ms` for the lock. `fields` are `holder` and `metadata`."""
        path = "/locks/" + urllib.parse.quote(key, safe="")  # the key is one segment: its slashes become %2F
        # Each attempt has the same key. The server answers all of them with the same lease.
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        body = {"ttl_ms": ttl_ms, "wait_ms": wait_ms, **fields}
        wait = wait_ms / 1000
        # An answer that comes a TTL after the wait is of no use, because its lease is over.
        timeout = wait + min(ttl_ms / 1000, ANSWER_S)
        sent, grant = self.call("POST", path, headers, body, timeout, time.monotonic() + wait + RETRY_S)
        lease = Lease(self, path, grant, sent)
        if lease.left_ms() <= 0:
            raise TimeoutError("the lease was over before the answer came")
        return lease

    def call(self, method, path, headers, body, timeout, until):
        """Repeats a call without a clear answer until `until`. Returns the time of sending and the body."""
        for attempt in itertools.count():
            sent = time.monotonic()
            left = until - sent
            retry_after = 0
            try:
                limit = min(timeout, left) if left > 0 else ANSWER_S  # the one attempt after the end
                status, retry_after, answer = self.send(method, path, headers, body, limit)
                if status < 300:
                    return sent, answer
                failure = Refused(status, answer)
                if status < 500 and status != 429:
                    raise failure
            except (OSError, http.client.HTTPException) as error:
                failure = error
            pause = max(retry_after, random.uniform(0.5, 1) * min(0.1 * 2**attempt, 2))
            if time.monotonic() + pause >= until:
                raise failure
            time.sleep(pause)

    def send(self, method, path, headers, body, timeout):
        """One attempt."""
        https = self.url.scheme == "https"
        connect = http.client.HTTPSConnection if https else http.client.HTTPConnection
        connection = connect(self.url.netloc, timeout=min(timeout, CONNECT_S))
        try:
            connection.connect()
            connection.sock.settimeout(timeout)
            data = json.dumps(body) if body else None
            connection.request(method, self.url.path.rstrip("/") + path, data, {**self.headers, **headers})
            response = connection.getresponse()
            text = response.read()
            try:
                answer = json.loads(text or "{}")
            except ValueError:  # from a proxy
                answer = {"type": "about:blank", "detail": response.reason}
            retry_after = response.headers.get("Retry-After", "")
            return response.status, int(retry_after) if retry_after.isdecimal() else 0, answer
        finally:
            connection.close()


class Lease:
    """A lock that was granted. Count on it while `left_ms()` is above 0."""

    def __init__(self, locks, path, grant, sent):
        self.locks, self.path = locks, path
        self.id, self.fencing_token = grant["lease_id"], grant["fencing_token"]
        self.extend(grant, sent)

    def extend(self, grant, sent):
        self.renew_after = grant["renew_after_ms"] / 1000
        self.until = sent + (grant["waited_ms"] + grant["expires_in_ms"]) / 1000

    def left_ms(self):
        return int((self.until - time.monotonic()) * 1000)

    def renew(self):
        """Makes the lease last its TTL from now. An attempt takes a third of the TTL, so that another fits."""
        sent, grant = self.call("PUT", "/lease", self.until)
        self.extend(grant, sent)

    def release(self):
        """Frees the lock. Without an answer the lock is free when the lease is over."""
        self.call("DELETE", "", min(self.until, time.monotonic() + RETRY_S))

    def call(self, method, path, until):
        timeout = min(self.renew_after, ANSWER_S)
        return self.locks.call(method, self.path + path, {"Lease-Id": self.id}, None, timeout, until)
