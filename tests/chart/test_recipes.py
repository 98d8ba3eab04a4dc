"""The recipes of `leasehold run` for Kubernetes and GitHub: objects that Kubernetes accepts, and commands that do what they say.

The commands run as they stand in the recipes, beside a server with the name and port that they call. Only the programs that a user
brings along are stand-ins, and `docker`, which does not run here.
"""

import contextlib
import json
import os
import re
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.request
from pathlib import Path

import kubernetes_validate
import yaml

import helm
from redis_hosts import stop
from test_presets import PROGRAM, setUpModule  # noqa: F401: makes /run/image and /etc/hosts

RECIPES = Path(__file__).parents[2] / "src/run/recipes"
KUBERNETES = (helm.OLDEST_KUBERNETES, kubernetes_validate.latest_version())
SERVER = "http://127.0.0.1:8080"
TOKEN = "token-of-a-test-of-recipes"
LIMIT_S = 30


def recipe(name):
    return yaml.safe_load((RECIPES / name).read_text(encoding="utf-8"))


def get(url):
    """Status and body; status 0 without an answer."""
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, None
    except OSError:
        return 0, None


def eventually(condition):
    limit = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > limit:
            raise AssertionError("it does not happen")
        time.sleep(0.05)


def environment(container):
    """The container's variables. The tests have no TLS in front of the server."""
    references = {
        "fieldRef": {"fieldPath": "metadata.name"}, "secretKeyRef": {"name": "leasehold-tokens", "key": "token"},
    }
    values = {"fieldRef": "scheduler-7d9f", "secretKeyRef": TOKEN}
    made = {}
    for variable in container.get("env", []):
        value = variable.get("value")
        for kind, reference in variable.get("valueFrom", {}).items():
            assert reference == references[kind], variable
            value = values[kind]
        made[variable["name"]] = value.replace("https://locks.example.com", "http://locks.example.com:8080")
    return made


class Recipes(unittest.TestCase):
    def setUp(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        names = ["leasehold.redis-sentinel.svc", "locks.example.com"]
        Path("/run/hosts").write_text(f"127.0.0.1 localhost {' '.join(names)}\n", encoding="ascii")
        variables = {
            "LEASEHOLD_STORE": "memory", "LEASEHOLD_LISTEN": "127.0.0.1:8080", "LEASEHOLD_TOKEN": TOKEN,
            "LEASEHOLD_ALLOWED_HOSTS": ",".join(names),
        }
        server = subprocess.Popen([PROGRAM], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.stack.callback(stop, server)
        eventually(lambda: get(f"{SERVER}/readyz")[0] == 200)
        self.app = self.folder("/srv")
        self.log = self.app / "log"

    def folder(self, path):
        """An empty folder that every user may write to."""
        Path(path).mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", path], check=True)
        self.stack.callback(subprocess.run, ["umount", "--lazy", path], check=True)
        return Path(path)

    def program(self, path, text):
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)

    def lines(self):
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []

    def start(self, pod, container):
        variables = environment(container)
        command = container.get("command", [PROGRAM]) + container.get("args", [])
        command = [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], word) for word in command]
        context = pod["securityContext"]
        process = subprocess.Popen(
            command, env=variables, user=context["runAsUser"], group=context["runAsGroup"], extra_groups=[],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/",
        )
        self.stack.callback(process.stderr.close)
        self.stack.callback(stop, process)
        return process

    def run_to_its_end(self, pod, container):
        process = self.start(pod, container)
        _, errors = process.communicate(timeout=LIMIT_S)
        self.assertEqual(process.returncode, 0, errors)

    def volumes(self, pod, app):
        for volume in pod.get("volumes", []):
            self.assertEqual(volume["emptyDir"], {})
            self.folder(f"/{volume['name']}")
        for name, text in app.items():
            self.program(self.folder("/app") / name, text)

    def test_kubernetes_accepts_the_manifests(self):
        for name in ("leader.yaml", "migration.yaml", "cronjob.yaml"):
            for version in KUBERNETES:
                kubernetes_validate.validate(recipe(name), version, strict=True)

    def test_leader(self):
        pod = recipe("leader.yaml")["spec"]["template"]["spec"]
        (elect,) = pod["initContainers"]
        self.assertEqual(elect["restartPolicy"], "Always")
        process = self.start(pod, elect)
        role = "http://127.0.0.1:9090/role"
        self.assertIn(role, (RECIPES / "leader.yaml").read_text(encoding="utf-8"))
        eventually(lambda: get(role)[0] == 200)
        lock = get(f"{SERVER}/locks/leaders/scheduler")[1]
        self.assertEqual(lock["holder"], "scheduler-7d9f")
        self.assertEqual(get(role)[1]["fencing_token"], lock["fencing_token"])
        stop(process)
        self.assertFalse(get(f"{SERVER}/locks/leaders/scheduler")[1]["held"])

    def test_migration(self):
        pod = recipe("migration.yaml")["spec"]["template"]["spec"]
        self.volumes(pod, {"migrate": f"echo begin >>{self.log}; sleep 0.3; echo end >>{self.log}"})
        install, migrate = pod["initContainers"]
        self.run_to_its_end(pod, install)
        pods = [threading.Thread(target=self.run_to_its_end, args=(pod, migrate)) for _ in range(3)]
        for thread in pods:
            thread.start()
        for thread in pods:
            thread.join()
        self.assertEqual(self.lines(), ["begin", "end"] * 3)

    def test_cronjob(self):
        pod = recipe("cronjob.yaml")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        self.volumes(pod, {"report": f"echo $LEASEHOLD_KEY >>{self.log}"})
        (install,), (report,) = pod["initContainers"], pod["containers"]
        for _cluster in range(2):
            self.run_to_its_end(pod, install)
            self.run_to_its_end(pod, report)
        self.assertEqual(self.lines(), ["jobs/report"])
        lock = get(f"{SERVER}/locks/jobs/report")[1]
        self.assertTrue(lock["held"] and lock["released"], lock)

    def test_workflow(self):
        job = recipe("github-actions.yaml")["jobs"]["deploy"]
        with tempfile.TemporaryDirectory() as directory:
            tools, work = Path(directory) / "tools", Path(directory) / "work"
            for folder in (tools, work):
                folder.mkdir()
            # Runs the program of the image with the folder of the runner.
            self.program(tools / "docker", f'folder=${{6%%:*}}; shift 7; exec {PROGRAM} "$1" "$folder"')
            self.program(tools / "terraform", f'echo "terraform $* under $LEASEHOLD_KEY" >>{self.log}')
            self.program(work / "deploy", f"echo deploy under $LEASEHOLD_KEY >>{self.log}")
            paths = Path(directory) / "path"
            variables = {
                "LEASEHOLD_SERVER": SERVER, "LEASEHOLD_TOKEN": TOKEN, "RUNNER_TEMP": directory, "GITHUB_PATH": str(paths), "HOME": directory,
                "GITHUB_REPOSITORY": "shop/shop", "GITHUB_RUN_ID": "1",
            }
            for step in job["steps"]:
                if "run" not in step:
                    continue
                added = paths.read_text(encoding="utf-8").split() if paths.exists() else []
                variables["PATH"] = ":".join([*added, str(tools), os.environ["PATH"]])
                done = subprocess.run(
                    ["bash", "-e", "-c", step["run"]], env=variables, cwd=work, capture_output=True, text=True, timeout=LIMIT_S,
                )
                self.assertEqual(done.returncode, 0, done.stderr)
            self.assertTrue((Path(directory) / "leasehold/leasehold").exists())
        self.assertEqual(self.lines(), [
            "deploy under deploy/production",
            "terraform apply -auto-approve -lock=false under tf/production",
        ])
