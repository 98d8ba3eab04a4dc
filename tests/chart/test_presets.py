"""Each preset makes a server that works beside what it is for.

What the chart renders is run as Kubernetes would run it: the program with exactly these variables, as that user and
those groups, with the Secrets' keys as files. What it meets has the names, ports and passwords of the Redis chart in
question.
"""

import contextlib
import json
import os
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
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        self.process = self.run([], environment, stderr=self.log)
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
            if status == 503 and body["reason"] != "the store was not reached yet":
                return body["reason"]
            time.sleep(0.05)
        raise AssertionError(f"{status} {body}")

    def text(self):
        return Path("/run/log").read_text(encoding="utf-8")


def call(method, path, **headers):
    request = urllib.request.Request(f"http://127.0.0.1:8080{path}", method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            status, body = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    except OSError as error:
        return 0, {"error": str(error)}
    return status, json.loads(body) if body else None


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
        secrets = {"tokens": {"token": "one\n", "break": "two\n"}}
        self.serves(values, secrets, Authorization="Bearer one")
        with Pod(values, secrets) as pod:
            pod.wait()
            self.assertEqual(call("POST", "/locks/my_lock")[0], 401)
            status, lease = call("POST", "/locks/my_lock", Authorization="Bearer one")
            path = f"/locks/my_lock?force=true&fencing_token={lease['fencing_token']}"
            self.assertEqual(call("DELETE", path, Authorization="Bearer one")[0], 403)
            self.assertEqual(call("DELETE", path, Authorization="Bearer two")[0], 204)

    def test_all_settings_are_taken(self):
        settings = {"maxTtlMs": 30000, "maxWaitMs": 0, "maxRecoveryMs": 5, "maxWaiters": 1}
        self.serves({**helm.preset("memory"), "settings": settings}, {})

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
