"""Servers on free ports: Leasehold, Redis, and a relay in front of Leasehold that fails as networks and proxies do."""

import contextlib
import http.client
import http.server
import json
import os
import random
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from redis_hosts import stop, wait_for_port

LIMIT_S = 60


def free_port():
    """Below the ports that the system gives to connections, so that none of those takes it."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as listener:
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", port))
                return port


class Server:
    """A Leasehold server. It can be started later, on a port that is known before."""

    def __init__(self, **settings):
        self.settings = {f"LEASEHOLD_{name}": value for name, value in settings.items()}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.stack = contextlib.ExitStack()
        self.log, self.kill = None, None

    def __enter__(self):
        self.log = self.stack.enter_context(tempfile.NamedTemporaryFile("w+", encoding="utf-8"))
        process = subprocess.Popen(
            [os.environ["LEASEHOLD_TEST_BINARY"]],
            env={"LEASEHOLD_LISTEN": f"127.0.0.1:{self.port}", **self.settings},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.log,
        )
        self.stack.callback(stop, process)
        self.kill = process.kill
        try:
            self.wait(process)
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *error):
        self.stack.close()

    def wait(self, process):
        limit = time.monotonic() + LIMIT_S
        while not self.ready():
            if process.poll() is not None or time.monotonic() > limit:
                raise AssertionError(f"the server is not ready\n{self.text()}")
            time.sleep(0.02)

    def ready(self):
        try:
            return self.call("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def text(self):
        return Path(self.log.name).read_text(encoding="utf-8")

    def requests(self, key):
        """Method and status of each request about a lock so far, as the server logged them."""
        lines = [json.loads(line) for line in self.text().splitlines()]
        fields = [line.get("fields", line) for line in lines]
        return [f"{line['method']} {line['status']}" for line in fields if line.get("key") == key]

    def call(self, method, path, body=None, **headers):
        """Status and body."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        data = json.dumps(body) if body is not None else None
        status, _, text = forward(self.port, method, path, data, {"Content-Type": "application/json", **headers})
        return status, json.loads(text or "null")


def forward(port, method, path, data, headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    try:
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


class Relay:
    """Passes requests on to a server, after the failures of `failures`: a list for each method.

    A failure is a status that the relay answers itself, `lose` (the server gets the request, and the connection is closed instead of
    an answer), `hold` (there is no answer; `held_s` tells how long the client waited) or a number of seconds by which the answer is late, as a float.
    """

    def __init__(self, server, retry_after="1", **failures):
        self.failures = failures
        self.requests = []
        self.held_s = []
        self.over = threading.Event()
        relay = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                relay.requests.append((time.monotonic(), self.command, self.headers))
                data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                waiting = relay.failures.get(self.command)
                failure = waiting.pop(0) if waiting else None
                if failure == "hold":
                    begun = time.monotonic()
                    self.connection.recv(1)  # until the client closes the connection
                    relay.held_s.append(time.monotonic() - begun)
                if isinstance(failure, int):
                    self.answer(failure, {"Retry-After": retry_after}, b"<p>not now</p>")
                    return
                if failure != "hold":
                    headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                    answer = forward(server.port, self.command, self.path, data or None, headers)
                if failure in ("hold", "lose"):
                    self.close_connection = True
                    return
                if failure:
                    relay.over.wait(failure)
                self.answer(*answer)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any

            def answer(self, status, headers, body):
                self.send_response(status)
                for name in ("Content-Type", "Retry-After"):
                    if name in headers:
                        self.send_header(name, headers[name])
                if status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self.listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.listener.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.over.set()
        self.listener.shutdown()
        self.thread.join()
        self.listener.socket.close()


@contextlib.contextmanager
def redis_with_a_replica(password):
    """The address of a master."""
    with contextlib.ExitStack() as stack:
        ports = free_port(), free_port()
        for port, follow in zip(ports, ([], ["--replicaof", "127.0.0.1", str(ports[0])])):
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            command = [
                "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", "",
                "--repl-diskless-sync-delay", "0", "--requirepass", password, "--masterauth", password, *follow,
            ]
            log = Path(directory) / "log"
            with log.open("wb") as output:
                process = subprocess.Popen(command, stdout=output, stderr=output)
            stack.callback(stop, process)
            wait_for_port("127.0.0.1", port, log.read_text)
        yield f"127.0.0.1:{ports[0]}"
