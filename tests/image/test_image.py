"""The image: its contents, its labels, and that it serves from a read-only root file system without root."""

import contextlib
import os
import re
import signal
import stat
import subprocess
import tomllib
import unittest
from pathlib import Path

from container import WORK, Container, Image, call
from redis_hosts import PASSWORD, SURROUNDINGS, Authority, Hosts, stop, wait_for_port

TOP = Path(__file__).parents[2]
PROGRAM = "/leasehold"
ROOTS = "/etc/ssl/certs/ca-certificates.crt"
LIMIT_MIB = 25
NAME_SERVER = "127.0.0.53"
SENTINELS = {
    "LEASEHOLD_SENTINEL_MASTER": "mymaster",
    "LEASEHOLD_REDIS_PASSWORD": PASSWORD,
    "LEASEHOLD_SENTINEL_PASSWORD": PASSWORD,
}


def setUpModule():
    # A mount namespace of the tests' own, see run. Redis and Sentinel read these names too.
    (WORK / "hosts").touch()
    subprocess.run(["mount", "--bind", WORK / "hosts", "/etc/hosts"], check=True)


class OfImage(unittest.TestCase):
    image_name = "leasehold"

    @classmethod
    def setUpClass(cls):
        cls.image = Image(cls.image_name)
        cls.addClassCleanup(cls.image.remove)

    def takes_and_lets_go(self):
        status, lease = call("POST", "/locks/my_lock")
        self.assertEqual((status, lease.get("key")), (201, "my_lock"))
        self.assertEqual(call("POST", "/locks/my_lock")[0], 423)
        self.assertEqual(call("DELETE", "/locks/my_lock", **{"Lease-Id": lease["lease_id"]})[0], 204)


class Contents(OfImage):
    def test_the_program_and_the_roots_and_nothing_else(self):
        self.assertEqual(self.image.files(), [ROOTS, PROGRAM])
        folders = [path for path, _ in self.image.entries() if path not in (ROOTS, PROGRAM)]
        self.assertEqual(folders, ["/etc", "/etc/ssl", "/etc/ssl/certs"])

    def test_nobody_but_root_may_change_anything(self):
        for path, entry in self.image.entries():
            with self.subTest(path):
                self.assertEqual((entry.st_uid, entry.st_gid), (0, 0))
                mode = stat.S_IMODE(entry.st_mode)
                self.assertEqual(oct(mode), oct(0o644 if path == ROOTS else 0o755))

    def test_the_roots_are_the_builders(self):
        text = (self.image.root / ROOTS[1:]).read_text(encoding="utf-8")
        self.assertIn((WORK / "authority/ca.crt").read_text(encoding="utf-8").strip(), text)
        self.assertGreater(text.count("BEGIN CERTIFICATE"), 100)

    def test_its_size(self):
        sizes = {path: entry.st_size for path, entry in self.image.entries() if stat.S_ISREG(entry.st_mode)}
        total = sum(sizes.values())
        print("\nthe image:")
        for path, entry in self.image.entries():
            size = f"{entry.st_size:>10}" if path in sizes else " " * 10
            print(f"  {stat.filemode(entry.st_mode)} {entry.st_uid}:{entry.st_gid} {size} {path}")
        print(f"  {total / 2**20:.1f} MiB, {self.image.compressed() / 2**20:.1f} MiB compressed", flush=True)
        self.assertLess(total, LIMIT_MIB * 2**20)


class Configuration(OfImage):
    def test_the_user_is_a_number_and_the_charts(self):
        values = (TOP / "helm/leasehold/values.yaml").read_text(encoding="utf-8")
        numbers = [re.search(rf"^  {name}: (\d+)$", values, re.MULTILINE)[1] for name in ("runAsUser", "runAsGroup")]
        self.assertNotIn("0", numbers)
        self.assertEqual(self.image.config["User"], ":".join(numbers))

    def test_it_starts_the_program_with_no_shell(self):
        self.assertEqual(self.image.config["Entrypoint"], [PROGRAM])
        self.assertFalse(self.image.config["Cmd"])
        self.assertEqual(self.image.config["Healthcheck"]["Test"], ["CMD", PROGRAM, "healthcheck"])
        self.assertEqual(list(self.image.config["ExposedPorts"]), ["8080/tcp"])

    def test_its_variables(self):
        variables = [variable for variable in self.image.config["Env"] if not variable.startswith("PATH=")]
        self.assertEqual(variables, ["LEASEHOLD_LISTEN=0.0.0.0:8080"])

    def test_its_labels_are_the_crates_and_the_charts(self):
        package = tomllib.loads((TOP / "Cargo.toml").read_text(encoding="utf-8"))["package"]
        prefix = "org.opencontainers.image"
        labels = {name: text for name, text in self.image.config["Labels"].items() if name.startswith(prefix)}
        expected = {
            f"{prefix}.title": package["name"],
            f"{prefix}.description": package["description"],
            f"{prefix}.licenses": package["license"],
            f"{prefix}.version": package["version"],
        }
        self.assertEqual(labels, expected)
        chart = (TOP / "helm/leasehold/Chart.yaml").read_text(encoding="utf-8")
        self.assertIn(f'appVersion: "{package["version"]}"', chart)


class Serving(OfImage):
    def test_read_only_and_as_nobody_in_particular(self):
        with Container(self.image, {"LEASEHOLD_STORE": "memory"}) as container:
            container.wait()
            status = Path(f"/proc/{container.pid()}/status").read_text(encoding="utf-8")
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            user, group = self.image.config["User"].split(":")
            self.assertEqual(fields["Uid"].split(), [user] * 4)
            self.assertEqual(fields["Gid"].split(), [group] * 4)
            self.assertEqual(fields["Groups"].strip(), "")
            self.assertEqual(fields["NoNewPrivs"], "1")
            for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                self.assertEqual(int(fields[name], 16), 0, name)
            # Not even root could write there.
            for folder in ("", "etc"):
                with self.assertRaisesRegex(OSError, "Read-only"):
                    Path(f"/proc/{container.pid()}/root/{folder}/file").touch()
            self.takes_and_lets_go()

    def test_it_ends_when_it_is_told_to(self):
        with Container(self.image, {"LEASEHOLD_STORE": "memory"}) as container:
            container.wait()
            # As the first process of its namespace, it gets only the signals that it handles.
            os.kill(container.pid(), signal.SIGTERM)
            self.assertEqual(container.process.wait(timeout=15), 0, container.text())

    def test_tokens_must_be_set_or_declined(self):
        with Container(self.image, {"LEASEHOLD_STORE": "memory", "LEASEHOLD_INSECURE_OPEN": "false"}) as container:
            self.assertEqual(container.process.wait(timeout=15), 2)
            self.assertIn("LEASEHOLD_TOKEN", container.text())

    def test_memory_must_be_asked_for(self):
        with Container(self.image) as container:
            self.assertEqual(container.process.wait(timeout=15), 2)
            self.assertIn("LEASEHOLD_STORE", container.text())

    def test_the_health_check(self):
        with Container(self.image, {"LEASEHOLD_STORE": "memory"}) as container:
            container.wait()
            self.assertEqual(container.health(), (0, ""))
            # The chart's test pod.
            self.assertEqual(container.execute([PROGRAM, "healthcheck", "--url", "http://localhost:8080"]), (0, ""))
            # A server that hangs.
            os.kill(container.pid(), signal.SIGSTOP)
            status, text = container.health()
            self.assertEqual(status, 1)
            self.assertIn("nothing within 3.0 s", text)
            os.kill(container.pid(), signal.SIGCONT)
            self.assertEqual(container.health(), (0, ""))

    def test_the_health_check_where_nobody_serves(self):
        # A container that only asks, as the one that served is gone with its program.
        kind, program, *arguments = self.image.config["Healthcheck"]["Test"]
        self.assertEqual((kind, program), ("CMD", PROGRAM))
        with Container(self.image, command=arguments) as container:
            self.assertEqual(container.process.wait(timeout=15), 1)
            self.assertIn("does not answer", container.text())

    def test_the_health_check_of_a_server_that_is_not_ready(self):
        with Container(self.image, {"LEASEHOLD_REDIS_URL": "redis://127.0.0.1:1"}) as container:
            self.assertIn("127.0.0.1:1", container.reason())
            self.assertEqual(container.health(), (1, "leasehold: the server is not ready\n"))


class Names(OfImage):
    """Nothing in the image looks names up but the program itself."""

    def test_from_the_hosts_file(self):
        with Hosts() as hosts:
            SURROUNDINGS["bitnami-redis-sentinel"](hosts)
            variables = {"LEASEHOLD_SENTINELS": "redis-sentinel.redis-sentinel.svc.cluster.local:26379", **SENTINELS}
            with Container(self.image, variables, hosts=Path("/etc/hosts").read_text(encoding="utf-8")) as container:
                container.wait()
                self.takes_and_lets_go()

    def test_from_a_name_server(self):
        with Hosts() as hosts:
            SURROUNDINGS["bitnami-redis-sentinel"](hosts)
            with name_server() as log:
                # The middle one and the last are completed with what is searched.
                for name in ("redis-sentinel.redis-sentinel.svc.cluster.local", "redis-sentinel.redis-sentinel.svc", "redis-sentinel"):
                    with self.subTest(name):
                        variables = {"LEASEHOLD_SENTINELS": f"{name}:26379", **SENTINELS}
                        with Container(self.image, variables) as container:
                            container.wait()
                            self.takes_and_lets_go()
                asked = log.read_text(encoding="utf-8")
                # The master's name comes from Sentinel.
                for name in ("redis-sentinel", "redis-sentinel-node-0.redis-sentinel-headless"):
                    self.assertIn(f"query[A] {name}.redis-sentinel.svc.cluster.local", asked)

    def test_a_name_that_nobody_knows(self):
        with Hosts(), name_server():
            variables = {"LEASEHOLD_SENTINELS": "redis-sentinel.elsewhere.svc:26379", **SENTINELS}
            with Container(self.image, variables) as container:
                self.assertIn("redis-sentinel.elsewhere.svc", container.reason())


class Roots(OfImage):
    NAME = "primary.redis.example.com"

    def redis(self, hosts, authority):
        certificate, key = authority.sign("server", self.NAME)
        hosts.name(self.NAME, "127.4.0.1")
        hosts.redis(
            "127.4.0.1", "port 0", "tls-port 6380", f"tls-cert-file {certificate}", f"tls-key-file {key}",
            f"tls-ca-cert-file {authority.certificate}", "tls-auth-clients no", port=6380,
        )
        return Container(self.image, {"LEASEHOLD_REDIS_URL": f"rediss://{self.NAME}:6380"}, hosts=f"127.4.0.1 {self.NAME}\n")

    def test_they_are_trusted(self):
        with Hosts() as hosts, self.redis(hosts, OfBuilder()) as container:
            container.wait()
            self.takes_and_lets_go()

    def test_others_are_not(self):
        with Hosts() as hosts, self.redis(hosts, Authority(hosts.directory)) as container:
            self.assertIn("LEASEHOLD_TLS_CA_FILE", container.reason())


class OfBuilder(Authority):
    """The authority that the builder's roots include."""

    def __init__(self):
        self.directory = WORK / "authority"
        self.certificate, self.key = self.directory / "ca.crt", self.directory / "ca.key"


class Building(unittest.TestCase):
    def compiled(self, name):
        return re.findall(r"^ +Compiling ([\w-]+) v", self.log(name), re.MULTILINE)

    def log(self, name):
        return (WORK / f"{name}.log").read_text(encoding="utf-8")

    def test_a_change_in_src_compiles_no_dependency(self):
        first, again = self.compiled("leasehold"), self.compiled("changed")
        self.assertIn("tokio", first)
        self.assertEqual(again, ["leasehold"])
        # The step that builds them, and what its layer was taken from.
        step = re.search(r"STEP \d+/\d+: RUN mkdir src.*\n(.*)$", self.log("changed"), re.MULTILINE)
        self.assertIn("Using cache", step[1])

    def test_the_change_is_in_the_new_image(self):
        for name, about in (("leasehold", "A lock service over HTTP"), ("changed", "A changed lock service over HTTP")):
            with self.subTest(name):
                image = Image(name)
                self.addCleanup(image.remove)
                with Container(image, command=["--help"]) as container:
                    self.assertEqual(container.process.wait(timeout=15), 0)
                    self.assertTrue(container.text().startswith(about), container.text())

    def test_the_version_is_an_argument(self):
        image = Image("changed")
        self.addCleanup(image.remove)
        self.assertEqual(image.config["Labels"]["org.opencontainers.image.version"], "0.1.0-changed")

    def test_the_base_is_an_argument(self):
        image = Image("based")
        self.addCleanup(image.remove)
        files = image.files()
        self.assertIn("/etc/debian_version", files)
        self.assertIn(PROGRAM, files)

    def test_the_builder_sees_the_sources_and_nothing_else(self):
        image = Image("context")
        self.addCleanup(image.remove)
        sources = [f"/{path.relative_to(TOP)}" for path in TOP.joinpath("src").rglob("*") if path.is_file()]
        self.assertEqual(sorted(image.files()), sorted(["/Cargo.lock", "/Cargo.toml", *sources]))


@contextlib.contextmanager
def name_server():
    """dnsmasq, which knows the names in /etc/hosts, and that there are no others in the cluster; gives its log."""
    path = WORK / "dnsmasq.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv",
             "--bind-interfaces", f"--listen-address={NAME_SERVER}", "--local=/cluster.local/", "--log-queries",
             "--log-facility=-"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )
        try:
            wait_for_port(NAME_SERVER, 53, lambda: path.read_text(encoding="utf-8"))
            yield path
        finally:
            stop(process)


if __name__ == "__main__":
    unittest.main()
