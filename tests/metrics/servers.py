"""Real servers on free ports of loopback: Leasehold, Redis with a replica, Prometheus, and clients that keep them busy."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

START_LIMIT_S = 30

# Begins every key, so that one that leaks is found.
MARK = "zebra"


class World(contextlib.ExitStack):
    """All that a test starts; it ends with the `with`."""

    def __enter__(self):
        super().__enter__()
        self.directory = Path(self.enter_context(tempfile.TemporaryDirectory()))
        return self

    def start(self, name, command, env=None):
        log = (self.directory / f"{name}.log").open("wb")
        self.callback(log.close)
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, cwd=self.directory)
        self.callback(stop, process)

    def log(self, name):
        return (self.directory / f"{name}.log").read_text(encoding="utf-8")

    def redis(self, replica_of=None):
        """A port at which Redis listens."""
        port = free_port()
        name = f"redis-{port}"
        (self.directory / name).mkdir()
        command = [
            "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.directory / name),
            "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0",
        ]
        if replica_of:
            command += ["--replicaof", "127.0.0.1", str(replica_of)]
        self.start(name, command)
        until(f"{name} is ready", lambda: "eady to accept connections" in self.log(name))
        if replica_of:
            until(f"{name} follows", lambda: "Finished with success" in self.log(name))
        return port

    def leasehold(self, name, **variables):
        """The address of a server that is ready."""
        own = {key: value for key, value in os.environ.items() if not key.startswith("LEASEHOLD_")}
        env = {**own, **{f"LEASEHOLD_{key}": value for key, value in variables.items()}, "RUST_LOG": "warn"}
        self.start(name, [os.environ["LEASEHOLD_TEST_BINARY"], "--listen", "127.0.0.1:0"], env)
        marker = "listening on http://"
        until(f"{name} listens", lambda: marker in self.log(name))
        address = self.log(name).split(marker)[1].split()[0]
        until(f"{name} is ready", lambda: call(address, "GET", "/readyz")[0] == 200)
        return address

    def prometheus(self, jobs, rules):
        """The address of a Prometheus that reads these servers every two seconds."""
        config = {
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [target], "labels": {"namespace": "locks"}}]}
                for job, target in jobs.items()
            ],
        }
        path = self.directory / "prometheus.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        address = f"127.0.0.1:{free_port()}"
        self.start("prometheus", [
            "prometheus", f"--config.file={path}", f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address={address}", "--log.level=warn",
        ])
        until("Prometheus is ready", lambda: call(address, "GET", "/-/ready")[0] == 200, lambda: self.log("prometheus"))
        return address

    def busy(self, address):
        """Clients that do all that can be done with locks, until the end of the `with`."""
        ended = threading.Event()
        for number in range(4):
            client = threading.Thread(target=work, args=(address, number, ended))
            client.start()
            self.callback(client.join)
        self.callback(ended.set)


def work(address, number, ended):
    connection = http.client.HTTPConnection(address, timeout=60)

    def ask(method, path, body=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            body, headers["Content-Type"] = json.dumps(body), "application/json"
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else {}

    while not ended.is_set():
        own, common = f"/locks/{MARK}-{number}", f"/locks/{MARK}-common"
        status, lease = ask("POST", own, {"ttl_ms": 5000})
        if status == 201:
            ask("POST", own)
            ask("PUT", f"{own}/lease", None, Lease_Id=lease["lease_id"])
            ask("DELETE", own, None, Lease_Id=lease["lease_id"])
            ask("PUT", f"{own}/lease", None, Lease_Id=lease["lease_id"])
        status, lease = ask("POST", common, {"ttl_ms": 2000, "wait_ms": 300})
        if status == 201:
            time.sleep(0.05)
            if number == 0:
                ask("DELETE", f"{common}?force=true&fencing_token={lease['fencing_token']}")
            ask("DELETE", common, None, Lease_Id=lease["lease_id"])
        ask("POST", f"{own}-left", {"ttl_ms": 100})
        ask("GET", own)
        ask("GET", "/locks")
        # The server is to be seen at work, and not the machine at its limit.
        time.sleep(0.05)
    connection.close()


def query(prometheus, text):
    """What an instant query returns: a list of pairs of labels and a number."""
    path = "/api/v1/query?" + urllib.parse.urlencode({"query": text})
    status, answer = call(prometheus, "GET", path)
    answer = json.loads(answer)
    if status != 200 or answer["status"] != "success":
        raise AssertionError(f"{text}\n{answer}")
    return [(sample["metric"], float(sample["value"][1])) for sample in answer["data"]["result"]]


def missing(prometheus, text, is_right):
    """What is wrong with the answer to a query, if it does not become right in time: a busy machine may miss a scrape."""
    limit = time.monotonic() + START_LIMIT_S
    while True:
        found = query(prometheus, text)
        if found and all(is_right(labels, value) for labels, value in found):
            return None
        if time.monotonic() > limit:
            return f"{text}\n{found}"
        time.sleep(0.5)


def call(address, method, path):
    try:
        connection = http.client.HTTPConnection(address, timeout=30)
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


def until(what, condition, explain=lambda: ""):
    limit = time.monotonic() + START_LIMIT_S
    while not condition():
        if time.monotonic() > limit:
            raise AssertionError(f"not within {START_LIMIT_S} s: {what}\n{explain()}")
        time.sleep(0.05)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stop(process):
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
