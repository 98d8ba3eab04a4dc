"""A Leasehold server at the address that the README names, and what it logged about the requests it got."""

import contextlib
import json
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from redis_hosts import stop

URL = "http://127.0.0.1:8080"
READY_LIMIT_S = 20


class Server:
    def __init__(self, **settings):
        self.settings = {f"LEASEHOLD_{name}": value for name, value in settings.items()}

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.log = self.stack.enter_context(tempfile.NamedTemporaryFile("w+", encoding="utf-8"))
        self.process = subprocess.Popen(
            [os.environ["LEASEHOLD_TEST_BINARY"]], env={"LEASEHOLD_LISTEN": "127.0.0.1:8080", **self.settings},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.log,
        )
        self.stack.callback(stop, self.process)
        try:
            self.wait()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *error):
        self.stack.close()

    def wait(self):
        limit = time.monotonic() + READY_LIMIT_S
        while call("GET", "/readyz")[0] != 200:
            if self.process.poll() is not None or time.monotonic() > limit:
                raise AssertionError(f"it does not serve\n{self.text()}")
            time.sleep(0.02)

    def text(self):
        with open(self.log.name, encoding="utf-8") as log:
            return log.read()

    def requests(self, key):
        """Method and status of each request about a lock so far, as the server saw them."""
        lines = [json.loads(line) for line in self.text().splitlines()]
        fields = [line.get("fields", line) for line in lines]
        return [f"{line['method']} {line['status']}" for line in fields if line.get("key") == key]


def call(method, path, body=None, **headers):
    """Status and body; 0 if nobody answers."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(URL + path, data, {"Content-Type": "application/json", **headers}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read() or "null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or "null")
    except OSError as error:
        return 0, {"error": str(error)}
