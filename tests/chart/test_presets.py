"""Each preset makes a server that works beside what it is for.

What the chart renders is run as Kubernetes would run it: the program with exactly these variables, as that user and
those groups, with the Secrets' keys as files. What it meets has the names, ports and passwords of the Redis chart in
question.
"""

import contextlib
import json
import os
import re
import subprocess
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path

import helm
from redis_hosts import SURROUNDINGS, Hosts, managed_tls, stop

READY_LIMIT_S = 30
PROGRAM = "/run/image/leasehold"

# The pod's addresses in a cluster with both families.
POD_IPS = ["192.0.2.7", "2001:db8::7"]


def setUpModule():
    # A mount namespace of the tests' own, see run.
    for command in (
        ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"],
        ["mkdir", "/run/image"],
        ["touch", PROGRAM, "/run/hosts"],
        ["mount", "--bind", os.environ["LEASEHOLD_TEST_BINARY"], PROGRAM],
        ["mount", "--bind", "/run/hosts", "/etc/hosts"],
    ):
        subprocess.run(command, check=True)


class Pod:
    """The servers' pod, as the kubelet would run it."""

    def __init__(self, values, secrets):
        documents = {document["kind"]: document for document in helm.render(values)}
        self.spec = documents["Deployment"]["spec"]["template"]["spec"]
        self.service = documents["Service"]
        self.test = documents["Pod"]
        self.secrets = secrets

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        (container,) = self.spec["containers"]
        for mount in container.get("volumeMounts", []):
            (volume,) = [volume for volume in self.spec["volumes"] if volume["name"] == mount["name"]]
            self.mount(volume["projected"], mount["mountPath"])
        self.log = self.stack.enter_context(open("/run/log", "w+", encoding="utf-8"))
        self.process = self.run([], environment(container), stderr=self.log)
        self.stack.callback(stop, self.process)
        return self

    def __exit__(self, *error):
        self.stack.close()

    def mount(self, projected, path):
        subprocess.run(["mkdir", "-p", path], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", path], check=True)
        self.stack.callback(subprocess.run, ["umount", path], check=True)
        for source in projected["sources"]:
            for item in source["secret"]["items"]:
                file = Path(path) / item["path"]
                file.write_text(self.secrets[source["secret"]["name"]][item["key"]], encoding="utf-8")
                os.chown(file, 0, self.spec["securityContext"]["fsGroup"])
                file.chmod(projected["defaultMode"])

    def run(self, arguments, environment, **options):
        context = self.spec["securityContext"]
        return subprocess.Popen(
            [PROGRAM, *arguments], env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            user=context["runAsUser"], group=context["runAsGroup"], extra_groups=[context["fsGroup"]], **options,
        )

    def wait(self):
        """Until it is ready; why it is not, if that takes too long."""
        limit = time.monotonic() + READY_LIMIT_S
        (container,) = self.spec["containers"]
        while True:
            if self.process.poll() is not None:
                raise AssertionError(f"it ended\n{self.text()}")
            status, body = call("GET", container["readinessProbe"]["httpGet"]["path"])
            if status == 200 and body["store"] == "ok":
                return
            if time.monotonic() > limit:
                raise AssertionError(f"{status} {body}\n{self.text()}")
            time.sleep(0.05)

    def reason(self):
        """Why it is not ready."""
        limit = time.monotonic() + READY_LIMIT_S
        while time.monotonic() < limit:
            if self.process.poll() is not None:
                return self.text()
            status, body = call("GET", "/readyz")
            if status == 200 and body["store"] == "ok":
                raise AssertionError("it is ready")
            if status == 503 and body["reason"] != "the server has not reached the store yet":
                return body["reason"]
            time.sleep(0.05)
        raise AssertionError(f"{status} {body}")

    def text(self):
        return Path("/run/log").read_text(encoding="utf-8")


def environment(container):
    """The container's variables; a reference stands for the value of an earlier one."""
    fields = {"status.podIPs": ",".join(POD_IPS)}
    made = {}
    for variable in container["env"]:
        if "valueFrom" in variable:
            value = fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        else:
            value = re.sub(r"\$\((\w+)\)", lambda found: made.get(found[1], found[0]), variable["value"])
        made[variable["name"]] = value
    return made


def call(method, path, **headers):
    request = urllib.request.Request(f"http://127.0.0.1:8080{path}", method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            status, kind, body = answer.status, answer.headers.get("Content-Type", ""), answer.read()
    except urllib.error.HTTPError as error:
        status, kind, body = error.code, error.headers.get("Content-Type", ""), error.read()
    except OSError as error:
        return 0, {"error": str(error)}
    return status, json.loads(body) if "json" in kind else body or None


class Presets(unittest.TestCase):
    def serves(self, values, secrets, **headers):
        with Pod(values, secrets) as pod:
            pod.wait()
            (container,) = pod.spec["containers"]
            for probe in ("startupProbe", "livenessProbe"):
                self.assertEqual(call("GET", container[probe]["httpGet"]["path"])[0], 200)
            status, lease = call("POST", "/locks/my_lock", **headers)
            self.assertEqual((status, lease.get("key")), (201, "my_lock"))
            self.assertEqual(call("POST", "/locks/my_lock", **headers)[0], 423)
            self.assertEqual(call("DELETE", "/locks/my_lock", **headers, **{"Lease-Id": lease["lease_id"]})[0], 204)
            self.assertEqual(call("POST", "/locks/my_lock", **headers)[0], 201)
            return pod

    def test_there_are_surroundings_for_each_preset(self):
        self.assertEqual(helm.presets(), sorted(SURROUNDINGS))

    def test_each_preset_serves(self):
        for name, surround in SURROUNDINGS.items():
            with self.subTest(name), Hosts() as hosts:
                self.serves(helm.preset(name), surround(hosts))

    def test_the_defaults_are_the_first_preset(self):
        with Hosts() as hosts:
            self.serves({}, SURROUNDINGS["bitnami-redis-sentinel"](hosts))

    def test_what_a_preset_says_is_needed(self):
        wrong = {
            "bitnami-redis-sentinel": [
                ({"redis": {"existingSecretKey": "wrong"}}, "LEASEHOLD_REDIS_PASSWORD"),
                ({"redis": {"sentinel": {"existingSecret": ""}}}, "LEASEHOLD_SENTINEL_PASSWORD"),
                ({"redis": {"sentinel": {"master": "myprimary"}}}, "myprimary"),
                # With Sentinel on there is no such Service.
                (
                    {
                        "mode": "direct",
                        "redis": {"direct": {"node": "redis-sentinel-master.redis-sentinel.svc.cluster.local:6379"}},
                    },
                    "redis-sentinel-master",
                ),
            ],
            "dandydeveloper-redis-ha": [
                ({"redis": {"existingSecret": ""}}, "LEASEHOLD_REDIS_PASSWORD"),
            ],
            "ot-operator": [
                ({"redis": {"sentinel": {"master": "mymaster"}}}, "mymaster"),
            ],
            "managed-tls": [
                ({"redis": {"tls": False}, "tls": {"ca": {"existingSecret": ""}}}, "TLS"),
                ({"tls": {"ca": {"existingSecret": ""}}}, "LEASEHOLD_TLS_CA_FILE"),
                ({"redis": {"username": ""}}, "LEASEHOLD_REDIS_USERNAME"),
            ],
        }
        for name, cases in wrong.items():
            with Hosts() as hosts:
                secrets = SURROUNDINGS[name](hosts)
                for secret in secrets.values():
                    secret["wrong"] = "wrong"
                for change, reason in cases:
                    with self.subTest(name, change=change), Pod(merge(helm.preset(name), change), secrets) as pod:
                        self.assertIn(reason, pod.reason())

    def test_a_client_certificate(self):
        client = {"tls": {"client": {"existingSecret": "redis-client"}}}
        with Hosts() as hosts:
            secrets = managed_tls(hosts, client_certificate=True)
            self.serves(merge(helm.preset("managed-tls"), client), secrets)
            with Pod(helm.preset("managed-tls"), secrets) as pod:
                self.assertIn("LEASEHOLD_TLS_CERT_FILE", pod.reason())

    def test_tokens(self):
        values = {**helm.preset("memory"), "auth": {"existingSecret": "tokens", "breakTokenKey": "break"}}
        secrets = {"tokens": {"token": "one-of-sixteen-or-more\n", "break": "two-of-sixteen-or-more\n"}}
        self.serves(values, secrets, Authorization="Bearer one-of-sixteen-or-more")
        with Pod(values, secrets) as pod:
            pod.wait()
            self.assertEqual(call("POST", "/locks/my_lock")[0], 401)
            status, lease = call("POST", "/locks/my_lock", Authorization="Bearer one-of-sixteen-or-more")
            path = f"/locks/my_lock?force=true&fencing_token={lease['fencing_token']}"
            self.assertEqual(call("DELETE", path, Authorization="Bearer one-of-sixteen-or-more")[0], 403)
            self.assertEqual(call("DELETE", path, Authorization="Bearer two-of-sixteen-or-more")[0], 204)
        for name, variable in (("token", "LEASEHOLD_TOKEN"), ("break", "LEASEHOLD_BREAK_TOKEN")):
            short = {"tokens": {**secrets["tokens"], name: "fifteen-letters\n"}}
            with self.subTest(short=name), Pod(values, short) as pod:
                self.assertIn(f"{variable} has 15 characters, but must have at least 16", pod.reason())

    def test_principals(self):
        values = {**helm.preset("memory"), "auth": {"existingSecret": "tokens", "tokenKey": "", "authFileKey": "principals"}}
        made = subprocess.run(
            [PROGRAM, "token", "new", "--id", "ci", "--grant", "ci/:acquire"], capture_output=True, text=True, check=True,
        )
        secret, entry = made.stdout.split("\n\n", 1)
        bearer = f"Bearer {secret.removeprefix('secret: ')}"
        with Pod(values, {"tokens": {"principals": entry}}) as pod:
            pod.wait()
            self.assertEqual(call("POST", "/locks/ci%2Fa")[0], 401)
            self.assertEqual(call("POST", "/locks/a", Authorization=bearer)[0], 403)
            self.assertEqual(call("POST", "/locks/ci%2Fa", Authorization=bearer)[0], 201)

    def test_all_settings_are_taken(self):
        settings = {
            "maxTtlMs": 30000, "maxWaitMs": 0, "maxRecoveryMs": 5, "maxWaiters": 1, "maxConnections": 1,
            "headerTimeoutMs": 100, "idleTimeoutMs": 1000, "allowedHosts": ["locks.example.com", "[fd00::1]"],
            "allowedOrigins": ["https://pages.example.com", "http://[fd00::1]:8081"],
        }
        self.serves({**helm.preset("memory"), "settings": settings}, {})
        self.serves({**helm.preset("memory"), "settings": {**settings, "headerTimeoutMs": 600000}}, {})

    def test_any_host_is_served_until_one_is_listed(self):
        values = {
            **helm.preset("memory"),
            "ingress": {"enabled": True, "hosts": ["ingress.example.com"]},
            "httpRoute": {
                "enabled": True, "hostnames": ["route.example.com"], "parentRefs": [{"name": "gateway"}],
            },
        }
        service = ["leasehold", "leasehold.locks", "leasehold.locks.svc", "leasehold.locks.svc.cluster.local"]
        pod_addresses = [f"[{address}]" if ":" in address else address for address in POD_IPS]
        known = [*service, *pod_addresses, "ingress.example.com", "route.example.com", "127.0.0.1", "localhost"]
        others = ["other", "leasehold.elsewhere.svc", "192.0.2.8", "rebound.example.com"]

        def statuses(hosts):
            paths = ("/locks", "/metrics")
            return {(host, path): call("GET", path, Host=f"{host}:8080")[0] for host in hosts for path in paths}

        with Pod(values, {}) as pod:
            pod.wait()
            self.assertEqual(set(statuses([*known, *others]).values()), {200})
        with Pod({**values, "settings": {"allowedHosts": ["listed.example.com"]}}, {}) as pod:
            pod.wait()
            answers = statuses([*known, "listed.example.com"])
            self.assertEqual(answers, dict.fromkeys(answers, 200))
            answers = statuses(others)
            self.assertEqual(answers, dict.fromkeys(answers, 421))
            # The kubelet and load balancers probe by addresses that are not listed.
            (container,) = pod.spec["containers"]
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                self.assertEqual(call("GET", container[probe]["httpGet"]["path"], Host="192.0.2.8:8080")[0], 200)

    def test_pages_of_listed_origins_may_change_locks(self):
        settings = {"allowedOrigins": ["https://pages.example.com", "http://pages.example.com:8081"]}
        with Pod({**helm.preset("memory"), "settings": settings}, {}) as pod:
            pod.wait()
            for number, (origin, expected) in enumerate([
                ("https://pages.example.com", 201), ("http://pages.example.com:8081", 201),
                ("http://pages.example.com", 403), ("https://other.example.com", 403),
            ]):
                with self.subTest(origin):
                    headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
                    self.assertEqual(call("POST", f"/locks/{number}", **headers)[0], expected)

    def test_the_test_pod_tells_ready_from_not_ready(self):
        def asked(pod):
            (container,) = pod.test["spec"]["containers"]
            return pod.run(container["args"], {}, stderr=subprocess.DEVNULL).wait()

        with Hosts() as hosts:
            hosts.name("leasehold", "127.0.0.1")
            with Pod(helm.preset("memory"), {}) as pod:
                pod.wait()
                self.assertEqual(asked(pod), 0)
            with Pod(helm.preset("bitnami-redis"), {"redis-sentinel": {"redis-password": "a"}}) as pod:
                self.assertIn("redis-sentinel-master", pod.reason())
                self.assertEqual(asked(pod), 1)


def merge(values, change):
    return {
        **values,
        **{
            name: merge(values.get(name, {}), value) if isinstance(value, dict) else value
            for name, value in change.items()
        },
    }


if __name__ == "__main__":
    unittest.main()
