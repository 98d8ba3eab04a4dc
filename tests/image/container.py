"""Images as buildah has them, and containers as a runtime would make them.

A container gets namespaces of its own, but for the network, which is the tests' own: processes, mounts, IPC, host name. Its root is the
image's files with the mount points and devices that every runtime adds, and is read-only; it runs as the image's user, with no capability and no way
to gain one. That is done with unshare, mount, chroot and setpriv, as buildah itself (with chroot isolation) leaves the root writable.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

WORK = Path(os.environ["LEASEHOLD_TEST_IMAGE_WORK"])
READY_LIMIT_S = 30
END_LIMIT_S = 15
LOG_LIMIT = 5000
# As Kubernetes writes it for pods of this namespace, with a name server on loopback.
RESOLV_CONF = """search redis-sentinel.svc.cluster.local svc.cluster.local cluster.local
nameserver 127.0.0.53
options ndots:5
"""
START = """set -e
root=$1 hosts=$2 resolv=$3
shift 3
mount --bind "$root" "$root"
mount -t proc -o ro,nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o mode=755,nosuid,noexec tmpfs "$root/dev"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/zero" c 1 5
mknod -m 666 "$root/dev/full" c 1 7
mknod -m 666 "$root/dev/random" c 1 8
mknod -m 666 "$root/dev/urandom" c 1 9
mount --bind "$hosts" "$root/etc/hosts"
mount --bind "$resolv" "$root/etc/resolv.conf"
mount -o remount,bind,ro,nosuid,nodev "$root"
exec "$@"
"""


def buildah(*arguments):
    return subprocess.run(["buildah", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


class Image:
    """An image of the local store: its configuration, and a folder with its files."""

    def __init__(self, name):
        self.name = name
        inspected = json.loads(buildah("inspect", "--type", "image", f"localhost/{name}"))
        self.config = inspected["Docker"]["config"]
        self.container = buildah("from", "--pull-never", f"localhost/{name}")
        self.root = Path(buildah("mount", self.container))

    def remove(self):
        buildah("rm", self.container)

    def entries(self):
        """Everything in it: path and what lstat says."""
        for path in sorted(self.root.rglob("*")):
            yield f"/{path.relative_to(self.root)}", path.lstat()

    def files(self):
        return [path for path, _ in self.entries() if not (self.root / path[1:]).is_dir()]

    def compressed(self):
        """The size of its layers as a registry keeps them."""
        directory = WORK / f"{self.name}.oci"
        buildah("push", "--quiet", "--format", "v2s2", f"localhost/{self.name}", f"dir:{directory}")
        return sum(layer["size"] for layer in json.loads((directory / "manifest.json").read_text())["layers"])


class Container:
    """Runs the image's program; a context, at whose end it is gone."""

    count = 0

    def __init__(self, image, variables=(), hosts="127.0.0.1 localhost\n", command=()):
        self.image = image
        self.command = command
        image_variables = dict(variable.split("=", 1) for variable in image.config["Env"])
        self.variables = {**image_variables, "LEASEHOLD_INSECURE_OPEN": "true", **dict(variables)}
        Container.count += 1
        self.directory = WORK / f"container-{Container.count}"
        self.root = self.directory / "root"
        self.hosts = hosts

    def __enter__(self):
        self.directory.mkdir()
        subprocess.run(["cp", "--archive", self.image.root, self.root], check=True)
        for name in ("proc", "dev", "etc"):
            (self.root / name).mkdir(exist_ok=True)
        for name, text in (("hosts", self.hosts), ("resolv.conf", RESOLV_CONF)):
            (self.root / "etc" / name).touch()
            (self.directory / name).write_text(text, encoding="utf-8")
        self.stack = contextlib.ExitStack()
        self.log = self.stack.enter_context((self.directory / "log").open("wb"))
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-c", START, "sh",
             self.root, self.directory / "hosts", self.directory / "resolv.conf",
             *self.inside([*self.image.config["Entrypoint"], *(self.image.config["Cmd"] or []), *self.command])],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
        )
        self.stack.callback(self.end)
        return self

    def __exit__(self, *error):
        self.stack.close()

    def end(self):
        if self.process.poll() is None:
            os.kill(self.pid(), signal.SIGCONT)
            os.kill(self.pid(), signal.SIGTERM)
            try:
                self.process.wait(timeout=END_LIMIT_S)
            except subprocess.TimeoutExpired:
                # --kill-child ends the program with it.
                self.process.kill()
                self.process.wait()

    def inside(self, command):
        """The command as the image's user, in its root, with its variables and no others."""
        variables = [f"{name}={value}" for name, value in self.variables.items()]
        return [
            "env", "-i", *variables, shutil.which("setpriv"), "--no-new-privs",
            shutil.which("chroot"), f"--userspec={self.image.config['User']}", "--groups=", self.root, *command,
        ]

    def pid(self):
        """The program, which is the first process of its namespace."""
        limit = time.monotonic() + READY_LIMIT_S
        while time.monotonic() < limit:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            if children and Path(f"/proc/{children[0]}/comm").read_text().strip() == "leasehold":
                return int(children[0])
            time.sleep(0.02)
        raise AssertionError(f"it did not start\n{self.text()}")

    def execute(self, command):
        """What a runtime does for a health check: one more process in the container. Its status and its output."""
        done = subprocess.run(
            ["nsenter", f"--target={self.pid()}", "--mount", "--pid", "--ipc", "--uts", *self.inside(command)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )
        return done.returncode, done.stdout

    def health(self):
        kind, *command = self.image.config["Healthcheck"]["Test"]
        if kind != "CMD":
            raise AssertionError(f"{kind} needs a shell")
        return self.execute(command)

    def readiness(self):
        if self.process.poll() is not None:
            raise AssertionError(f"it ended with {self.process.returncode}\n{self.text()}")
        return call("GET", "/readyz")

    def wait(self):
        """Until it is ready."""
        limit = time.monotonic() + READY_LIMIT_S
        while True:
            status, body = self.readiness()
            if status == 200 and body["store"] == "ok":
                return
            if time.monotonic() > limit:
                raise AssertionError(f"{status} {body}\n{self.text()}")
            time.sleep(0.05)

    def reason(self):
        """Why it is not ready."""
        limit = time.monotonic() + READY_LIMIT_S
        while time.monotonic() < limit:
            status, body = self.readiness()
            if status == 503 and body["reason"] != "the server has not reached the store yet":
                return body["reason"]
            time.sleep(0.05)
        raise AssertionError(f"{status} {body}\n{self.text()}")

    def text(self):
        return (self.directory / "log").read_text(encoding="utf-8")[:LOG_LIMIT]


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
