"""What users may set: every value is documented, checked by the schema, and does what it says or is refused."""

import copy
import json
import os
import re
import subprocess
import unittest

import yaml

import helm
from helm import CHART, Refused

# What tells users of the chart: the front page, and the chart's own.
DOCUMENTS = [CHART.parents[1] / "README.md", CHART / "README.md"]


def schema():
    return json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


def defaults():
    return yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


def objects(part, path=()):
    """All objects of the schema that name their keys, with the path of each."""
    if "properties" in part:
        yield path, part
        for name, inner in part["properties"].items():
            yield from objects(inner, (*path, name))
    if "items" in part:
        yield from objects(part["items"], (*path, 0))


def nested(path, value):
    for name in reversed(path):
        value = [value] if name == 0 else {name: value}
    return value


class Documentation(unittest.TestCase):
    def test_each_value_is_explained(self):
        text = (CHART / "values.yaml").read_text(encoding="utf-8")
        lines = text.splitlines()

        def check(node, part):
            for key, value in node.value:
                inner = part["properties"][key.value]
                if "properties" in inner:
                    # A group is explained by its keys.
                    check(value, inner)
                    continue
                line = key.start_mark.line
                with self.subTest(f"values.yaml:{line + 1}: {key.value}"):
                    self.assertTrue(lines[line - 1].lstrip().startswith("# "), "no comment above")

        check(yaml.compose(text), schema())

    def test_the_documents_name_each_preset(self):
        for document in DOCUMENTS:
            named = set(re.findall(r"`([a-z-]+)-values\.yaml`", document.read_text(encoding="utf-8")))
            self.assertEqual(sorted(named), helm.presets(), document)

    def test_the_documents_show_values_that_exist(self):
        shown = 0
        for document in DOCUMENTS:
            text = document.read_text(encoding="utf-8")
            commands = [line for line in text.replace("\\\n", " ").splitlines() if line.startswith("helm ")]
            for command in commands:
                values = {}
                for name, value in re.findall(r"--set ([a-zA-Z.]+)=(\S+)", command):
                    group, key = name.split(".")
                    values.setdefault(group, {})[key] = value
                    shown += 1
                helm.render(values)
        self.assertEqual(shown, 4)

    def test_the_schema_knows_the_values_and_no_others(self):
        def compare(values, part, path):
            known = set(part["properties"]) - ({"global"} if path == () else set())
            self.assertEqual(known, set(values), f"at {path}")
            for name, value in values.items():
                if "properties" in part["properties"][name]:
                    compare(value, part["properties"][name], (*path, name))

        compare(defaults(), schema(), ())


class Schema(unittest.TestCase):
    def test_unknown_keys_are_refused_everywhere(self):
        paths = list(objects(schema()))
        self.assertGreater(len(paths), 25)
        for path, part in paths:
            with self.subTest(path=path):
                self.assertIs(part.get("additionalProperties"), False)
                with self.assertRaisesRegex(Refused, "misspelt"):
                    helm.render(nested(path, {"misspelt": 1}))

    def test_values_of_a_wrong_kind_are_refused(self):
        def leaves(part, path=()):
            for name, inner in part["properties"].items():
                if "properties" in inner:
                    yield from leaves(inner, (*path, name))
                elif inner.get("type") != "object":
                    yield (*path, name)

        for path in leaves(schema()):
            with self.subTest(path=path):
                with self.assertRaisesRegex(Refused, f"at '/{'/'.join(path)}"):
                    helm.render(nested(path, ["wrong", ["wrong"]]))

    def test_the_chart_can_be_a_dependency(self):
        helm.render({"global": {"imageRegistry": "registry.example.com"}})


# Values that make no sense, and what must be said of them.
REFUSED = {
    "memory with several replicas": ({"mode": "memory"}, "/replicaCount': value must be 1"),
    "memory with an autoscaler": (
        {"mode": "memory", "replicaCount": 1, "autoscaling": {"enabled": True}},
        "/autoscaling/enabled': value must be false",
    ),
    "unknown mode": ({"mode": "cluster"}, "/mode': value must be one of 'sentinel', 'direct', 'memory'"),
    "direct without an address": ({"mode": "direct"}, "redis.direct.node .* must be host:port of the master"),
    "direct with a URL": (
        {"mode": "direct", "redis": {"direct": {"node": "redis://:password@redis:6379"}}},
        "redis.direct.node .* passwords belong in redis.existingSecret",
    ),
    "direct without a port": (
        {"mode": "direct", "redis": {"direct": {"node": "redis"}}}, "redis.direct.node .* host:port",
    ),
    "no Sentinel": ({"redis": {"sentinel": {"nodes": []}}}, "redis.sentinel.nodes must name a Sentinel"),
    "a Sentinel without a port": (
        {"redis": {"sentinel": {"nodes": ["a:1", "redis-sentinel"]}}},
        r"redis.sentinel.nodes \(\"redis-sentinel\"\) must be host:port",
    ),
    "no master set": ({"redis": {"sentinel": {"master": ""}}}, "/redis/sentinel/master'"),
    "a user of Redis without a password": (
        {"redis": {"username": "leasehold", "existingSecret": ""}},
        "redis.username is set, but redis.existingSecret is not",
    ),
    "a user of the Sentinels without a password": (
        {"redis": {"sentinel": {"username": "leasehold", "existingSecret": ""}}},
        "redis.sentinel.username is set, but redis.sentinel.existingSecret is not",
    ),
    "an authority without TLS": ({"tls": {"ca": {"existingSecret": "ca"}}}, "tls names a Secret, but TLS is off"),
    "a client certificate without TLS": (
        {"tls": {"client": {"existingSecret": "client"}}}, "tls names a Secret, but TLS is off",
    ),
    "TLS of the Sentinels without Sentinels": (
        {
            "mode": "direct",
            "redis": {"direct": {"node": "redis:6379"}, "sentinel": {"tls": True}},
            "tls": {"ca": {"existingSecret": "ca"}},
        },
        "tls names a Secret, but TLS is off",
    ),
    "a token for breaking without a Secret": (
        {"auth": {"breakTokenKey": "break"}}, "auth.breakTokenKey or auth.authFileKey is set, but auth.existingSecret is not",
    ),
    "one token for all": (
        {"auth": {"existingSecret": "tokens", "breakTokenKey": "token"}},
        "auth.tokenKey and auth.breakTokenKey are equal",
    ),
    "a Secret without a token": (
        {"auth": {"existingSecret": "tokens", "tokenKey": "", "breakTokenKey": "break"}},
        "auth.tokenKey and auth.authFileKey are empty, so every client could acquire locks",
    ),
    "a file of principals without a Secret": (
        {"auth": {"authFileKey": "auth.toml"}}, "auth.breakTokenKey or auth.authFileKey is set, but auth.existingSecret is not",
    ),
    "open, and closed": (
        {"auth": {"open": True, "existingSecret": "tokens"}}, "auth.open lets every client acquire locks, but auth.tokenKey or",
    ),
    "tokens without a cluster": ({"auth": {}}, "Helm renders without a cluster"),
    "killed before the end": (
        {"preStopSleepSeconds": 16},
        r"terminationGracePeriodSeconds \(30\) must be at least preStopSleepSeconds \+ 15 \(31\)",
    ),
    "no sleep before the end": ({"preStopSleepSeconds": 0}, "/preStopSleepSeconds': minimum: got 0, want 1"),
    "fewest above most": (
        {"autoscaling": {"enabled": True, "minReplicas": 11}},
        "autoscaling.minReplicas must not be greater than autoscaling.maxReplicas",
    ),
    "a gateway that gives up early": (
        {"httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}], "requestTimeoutSeconds": 50}},
        "httpRoute.requestTimeoutSeconds must be longer than settings.maxWaitMs",
    ),
    "an Ingress without a host": ({"ingress": {"enabled": True}}, "/ingress/hosts': minItems: got 0, want 1"),
    "a route without a gateway": ({"httpRoute": {"enabled": True}}, "/httpRoute/parentRefs': minItems: got 0, want 1"),
    "no replicas": ({"replicaCount": 0}, "/replicaCount': minimum: got 0, want 1"),
    "a budget that stops every drain": (
        {"podDisruptionBudget": {"maxUnavailable": 0}}, "/podDisruptionBudget/maxUnavailable'",
    ),
    "a wrong digest": ({"image": {"digest": "sha256:1"}}, "/image/digest'"),
    "too many confirmations": ({"settings": {"replicaAcks": 17}}, "/settings/replicaAcks': maximum: got 17, want 16"),
    "a prefix with a space": ({"settings": {"keyPrefix": "a b"}}, "/settings/keyPrefix'"),
    "too short a TTL": ({"settings": {"maxTtlMs": 999}}, "/settings/maxTtlMs': minimum: got 999"),
    "no connections": ({"settings": {"maxConnections": 0}}, "/settings/maxConnections': minimum: got 0, want 1"),
    "more waiters than connections": (
        {"settings": {"maxWaiters": 101, "maxConnections": 100}},
        r"settings.maxWaiters \(101\) is greater than settings.maxConnections \(100\)",
    ),
    "more waiters than connections by default": (
        {"settings": {"maxWaiters": 100000}}, r"settings.maxWaiters \(100000\) is greater than .* \(8800\)",
    ),
    "too little time for a head": (
        {"settings": {"headerTimeoutMs": 99}}, "/settings/headerTimeoutMs': minimum: got 99, want 100",
    ),
    "too much time for a head": (
        {"settings": {"headerTimeoutMs": 600001}}, "/settings/headerTimeoutMs': maximum: got .*, want ",
    ),
    "too little time for an idle connection": (
        {"settings": {"idleTimeoutMs": 999}}, "/settings/idleTimeoutMs': minimum: got 999, want ",
    ),
    "too much time for an idle connection": (
        {"settings": {"idleTimeoutMs": 86400001}}, "/settings/idleTimeoutMs': maximum: got .*, want ",
    ),
    **{
        f"an allowed host {host!r}": ({"settings": {"allowedHosts": ["a", host]}}, "/settings/allowedHosts/1'")
        for host in ("", "a:80", "https://a", "*.example.com", "a,b", "fd00::1", "$(HOME)")
    },
    **{
        f"an allowed origin {origin!r}": (
            {"settings": {"allowedOrigins": ["https://a", origin]}}, "/settings/allowedOrigins/1'",
        )
        for origin in (
            "", "a", "*", "null", "https://", "https://a/", "https://*.example.com", "https://a,https://b", "ftp://a",
            "https://a:", "https://a:0", "https://a:b", "https://a:65536", "https://u@a",
        )
    },
}


class Refusals(unittest.TestCase):
    def test_values_that_make_no_sense_are_refused_with_the_reason(self):
        for name, (values, reason) in REFUSED.items():
            with self.subTest(name):
                with self.assertRaisesRegex(Refused, reason):
                    helm.render(values)

    def test_their_neighbours_are_accepted(self):
        accepted = [
            {"mode": "memory", "replicaCount": 1},
            {"preStopSleepSeconds": 15},
            {"preStopSleepSeconds": 16, "terminationGracePeriodSeconds": 31},
            {"mode": "direct", "redis": {"direct": {"node": "[fd00::1]:6379"}}},
            {"autoscaling": {"enabled": True, "minReplicas": 10}},
            {"httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}], "requestTimeoutSeconds": 51}},
            {"auth": {"open": True, "existingSecret": "tokens", "tokenKey": "", "breakTokenKey": "break"}},
            {"auth": {"existingSecret": "tokens", "tokenKey": "", "authFileKey": "auth.toml"}},
            {"redis": {"sentinel": {"tls": True}}, "tls": {"ca": {"existingSecret": "ca"}}},
            {"podDisruptionBudget": {"maxUnavailable": "50%"}},
            {"image": {"digest": "sha256:" + "0" * 64}},
            {"settings": {"maxWaiters": 100, "maxConnections": 100}},
            {"settings": {"headerTimeoutMs": 100}},
            {"settings": {"headerTimeoutMs": 600000}},
            {"settings": {"idleTimeoutMs": 1000}},
            {"settings": {"idleTimeoutMs": 86400000}},
            {"settings": {"allowedHosts": ["localhost", "a.example.com", "10.1.2.3", "[fd00::1]"]}},
            {"settings": {"allowedOrigins": ["http://a", "https://a.example.com:1", "https://[fd00::1]:65535"]}},
        ]
        for values in accepted:
            with self.subTest(values=values):
                helm.render(values)


def program_settings():
    """Names of the program's variables and their defaults, as `--help` prints them."""
    binary = os.environ["LEASEHOLD_TEST_BINARY"]
    text = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True).stdout
    text = " ".join(text.split())
    found = re.findall(r"\[env: (LEASEHOLD_\w+)=?\](?: \[default: ([^\]]*)\])?", text)
    return dict(found)


# Settings of which the chart has defaults of its own: the port is open to the cluster, and waiters fit into the memory.
OWN_DEFAULTS = {"LEASEHOLD_LISTEN": "0.0.0.0:8080", "LEASEHOLD_MAX_WAITERS": "7040"}

# Settings that the chart gives in another way.
IN_FILES = {
    "LEASEHOLD_REDIS_PASSWORD", "LEASEHOLD_SENTINEL_PASSWORD", "LEASEHOLD_TOKEN", "LEASEHOLD_BREAK_TOKEN",
}


def server(values):
    """The server's container."""
    return next(
        document["spec"]["template"]["spec"]["containers"][0]
        for document in helm.render(values) if document["kind"] == "Deployment"
    )


def variables(container):
    """Those whose values the chart gives."""
    return {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}


class Settings(unittest.TestCase):
    def rendered(self, values):
        return variables(server(values))

    def test_defaults_are_those_of_the_program(self):
        program = program_settings()
        rendered = self.rendered({})
        compared = 0
        for name, default in program.items():
            if default:
                self.assertEqual(rendered[name], OWN_DEFAULTS.get(name, default), name)
                compared += 1
        self.assertGreaterEqual(compared, 9)

    def test_every_setting_of_the_program_can_be_set(self):
        everything = {
            "redis": {"username": "u", "tls": True, "sentinel": {"username": "u", "tls": True}},
            "tls": {"ca": {"existingSecret": "a"}, "client": {"existingSecret": "b"}},
            "auth": {"existingSecret": "c", "breakTokenKey": "break", "authFileKey": "auth.toml"},
            "settings": {"maxRecoveryMs": 1, "allowedHosts": ["a"], "allowedOrigins": ["https://a"]},
        }
        direct = copy.deepcopy(everything) | {"mode": "direct"}
        direct["redis"]["direct"] = {"node": "redis:6379"}
        direct["auth"] = {"open": True}
        rendered = set(self.rendered(everything)) | set(self.rendered(direct))
        self.assertEqual(rendered - {"RUST_LOG"}, set(program_settings()) - IN_FILES)

    def test_each_value_reaches_its_variable(self):
        values = {
            "listenAddress": ("[::]", "LEASEHOLD_LISTEN", "[::]:8080"),
            "replicaAcks": (2, "LEASEHOLD_REPLICA_ACKS", "2"),
            "keyPrefix": ("other:", "LEASEHOLD_KEY_PREFIX", "other:"),
            "redisPoolSize": (8, "LEASEHOLD_REDIS_POOL_SIZE", "8"),
            "redisConnectTimeoutMs": (2000, "LEASEHOLD_REDIS_CONNECT_TIMEOUT_MS", "2000"),
            "redisResponseTimeoutMs": (1500, "LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS", "1500"),
            # Numbers that YAML's readers like to print as 6.048e+08.
            "maxTtlMs": (604800000, "LEASEHOLD_MAX_TTL_MS", "604800000"),
            "maxWaitMs": (10000000, "LEASEHOLD_MAX_WAIT_MS", "10000000"),
            "maxClockSkewMs": (250, "LEASEHOLD_MAX_CLOCK_SKEW_MS", "250"),
            "maxRecoveryMs": (10000000, "LEASEHOLD_MAX_RECOVERY_MS", "10000000"),
            "maxConnections": (10000000, "LEASEHOLD_MAX_CONNECTIONS", "10000000"),
            "headerTimeoutMs": (250, "LEASEHOLD_HEADER_TIMEOUT_MS", "250"),
            "idleTimeoutMs": (10000000, "LEASEHOLD_IDLE_TIMEOUT_MS", "10000000"),
            "maxWaiters": (10000000, "LEASEHOLD_MAX_WAITERS", "10000000"),
            "maxWaitersPerKey": (10000000, "LEASEHOLD_MAX_WAITERS_PER_KEY", "10000000"),
            "allowedHosts": (
                ["a.example.com", "[fd00::1]"],
                "LEASEHOLD_ALLOWED_HOSTS",
                "$(POD_IPS),leasehold,leasehold.locks,leasehold.locks.svc,leasehold.locks.svc.cluster.local,"
                "a.example.com,[fd00::1]",
            ),
            "allowedOrigins": (
                ["https://a.example.com", "http://b:81"], "LEASEHOLD_ALLOWED_ORIGINS", "https://a.example.com,http://b:81",
            ),
            "logLevel": ("warn", "RUST_LOG", "warn"),
        }
        self.assertEqual(set(values), set(defaults()["settings"]))
        rendered = self.rendered({"settings": {name: value for name, (value, _, _) in values.items()}})
        for _, variable, expected in values.values():
            self.assertEqual(rendered[variable], expected)


# What a server needs at most, by measurements of the release build, in KiB.
KIB_BESIDES_CONNECTIONS, KIB_OF_CONNECTION = 128 * 1024, 44

# The waiters to a hundred connections: the others are for renewals and releases.
WAITERS_PERCENT = 80


def kib(quantity):
    """A quantity of memory as Kubernetes writes it; one that is not in binary units is an error."""
    number, unit = re.fullmatch(r"(\d+)(Ki|Mi|Gi)", quantity).groups()
    return int(number) * {"Ki": 1, "Mi": 1024, "Gi": 1024 * 1024}[unit]


class Memory(unittest.TestCase):
    def check(self, values):
        container = server(values)
        made = variables(container)
        connections, waiters = (int(made[f"LEASEHOLD_MAX_{name}"]) for name in ("CONNECTIONS", "WAITERS"))
        needed = KIB_BESIDES_CONNECTIONS + connections * KIB_OF_CONNECTION
        self.assertGreaterEqual(kib(container["resources"]["limits"]["memory"]), needed)
        self.assertLessEqual(100 * waiters, WAITERS_PERCENT * connections)

    def test_the_limit_allows_for_all_connections_and_some_are_left_by_waiters(self):
        self.assertGreater(len(helm.presets()), 5)
        for name, values in {"defaults": {}, **{name: helm.preset(name) for name in helm.presets()}}.items():
            with self.subTest(name):
                self.check(values)

    def test_values_beyond_the_rules_are_found(self):
        for values in (
            {"resources": {"limits": {"memory": "502Mi"}}},
            {"settings": {"maxConnections": 8937}},
            {"settings": {"maxWaiters": 7041}},
        ):
            with self.subTest(values=values), self.assertRaises(AssertionError):
                self.check(values)
        self.check({"settings": {"maxConnections": 8936}, "resources": {"limits": {"memory": "512Mi"}}})

    def test_the_comment_has_these_rules_and_an_example_that_fits(self):
        lines = (CHART / "values.yaml").read_text(encoding="utf-8").splitlines()
        end = lines.index("resources:")
        comment = " ".join(line.removeprefix("#").strip() for line in lines[end - 8:end])
        fixed = KIB_BESIDES_CONNECTIONS // 1024
        self.assertIn(f"memory >= {fixed} MiB + settings.maxConnections x {KIB_OF_CONNECTION} KiB", comment)
        self.assertIn(f"maxWaiters <= {WAITERS_PERCENT / 100:.1f} x settings.maxConnections", comment)
        waiters, connections, limit = re.search(r"The (\d+) waiters .* maxConnections (\d+) and (\d+Gi)\.", comment).groups()
        self.assertEqual(waiters, program_settings()["LEASEHOLD_MAX_WAITERS"])
        self.check({
            "settings": {"maxWaiters": int(waiters), "maxConnections": int(connections)},
            "resources": {"limits": {"memory": limit}},
        })

    def test_the_alerts_say_the_same(self):
        rules = (CHART / "files" / "rules.yaml").read_text(encoding="utf-8")
        self.assertEqual(set(re.findall(r"(\d+) KiB", rules)), {str(KIB_OF_CONNECTION)})
        self.assertIn(f"{WAITERS_PERCENT / 100:.1f} of LEASEHOLD_MAX_CONNECTIONS", rules)


if __name__ == "__main__":
    unittest.main()
