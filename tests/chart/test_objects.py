"""What the chart makes of values: objects that Kubernetes accepts, and what each switch does to them."""

import base64
import json
import re
import shutil
import tempfile
import unittest
from pathlib import Path

import jsonschema
import kubernetes_validate

import helm
from api_server import ApiServer
from helm import CHART, NAMESPACE, RELEASE

SCHEMAS = Path(__file__).parent / "schemas"

# The oldest version that the chart is for, and the newest whose schemas there are.
KUBERNETES = (helm.OLDEST_KUBERNETES, kubernetes_validate.latest_version())

# All that is off by default, and each list and map with something in it.
EVERYTHING = {
    "image": {"digest": "sha256:" + "0" * 64},
    "imagePullSecrets": [{"name": "registry"}],
    "redis": {
        "username": "leasehold", "existingSecret": "redis", "existingSecretKey": "password", "tls": True,
        "sentinel": {"username": "leasehold", "existingSecret": "sentinel", "existingSecretKey": "other", "tls": True},
    },
    "tls": {"ca": {"existingSecret": "redis-ca"}, "client": {"existingSecret": "redis-client"}},
    "auth": {"existingSecret": "tokens", "breakTokenKey": "break"},
    "settings": {"allowedHosts": ["locks.example.net"], "allowedOrigins": ["https://pages.example.com"]},
    "service": {"annotations": {"example.com/a": "1"}},
    "ingress": {
        "enabled": True, "className": "nginx", "annotations": {"example.com/a": "1"}, "hosts": ["locks.example.com"],
        "tls": [{"hosts": ["locks.example.com"], "secretName": "locks-tls"}],
    },
    "httpRoute": {
        "enabled": True, "annotations": {"example.com/a": "1"}, "hostnames": ["locks.example.com"],
        "parentRefs": [{"name": "gateway", "namespace": "gateways", "sectionName": "https"}],
    },
    "serviceAccount": {"annotations": {"example.com/a": "1"}},
    "autoscaling": {"enabled": True},
    "networkPolicy": {
        "redisPeers": [{"podSelector": {"matchLabels": {"app": "redis"}}}],
        "dnsPeers": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}],
        "ingressPeers": [{"namespaceSelector": {}}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "grafanaDashboard": {"enabled": True},
    "podLabels": {"redis-sentinel-client": "true"},
    "podAnnotations": {"example.com/a": "1"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "affinity": {"nodeAffinity": {}},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "priorityClassName": "high",
}

# Ways to install it.
VARIANTS = {
    "defaults": {},
    "everything": EVERYTHING,
    "as little as possible": {
        "serviceAccount": {"create": False}, "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False}, "topologySpreadConstraints": [],
    },
    **{name: helm.preset(name) for name in helm.presets()},
}


def kinds(documents):
    return sorted(document["kind"] for document in documents)


def one(documents, kind):
    found = [document for document in documents if document["kind"] == kind]
    if len(found) != 1:
        raise AssertionError(f"{len(found)} of kind {kind}")
    return found[0]


def rendered(kind, values=None, **options):
    return one(helm.render(values, **options), kind)


def pod(values=None):
    return rendered("Deployment", values)["spec"]["template"]


def container(values=None):
    return pod(values)["spec"]["containers"][0]


def environment(values=None):
    """The variables whose values the chart gives."""
    return {variable["name"]: variable["value"] for variable in container(values)["env"] if "value" in variable}


def secrets(values=None):
    """Where the mounted Secrets come from: file to (Secret, key)."""
    volumes = pod(values)["spec"].get("volumes", [])
    sources = [source["secret"] for volume in volumes for source in volume["projected"]["sources"]]
    return {item["path"]: (source["name"], item["key"]) for source in sources for item in source["items"]}


class Validity(unittest.TestCase):
    def test_lint_finds_nothing(self):
        for name, values in VARIANTS.items():
            with self.subTest(name):
                self.assertEqual(helm.lint(values), [])

    def test_lint_finds_something(self):
        with tempfile.TemporaryDirectory() as directory:
            copy = Path(directory) / "leasehold"
            shutil.copytree(CHART, copy)
            (copy / "templates" / "wrong.yaml").write_text("kind: ConfigMap\nmetadata: {name: -}: -\n")
            self.assertNotEqual(helm.lint({}, copy), [])

    def test_kubernetes_accepts_all_objects(self):
        for name, values in VARIANTS.items():
            for document in helm.render(values):
                own = SCHEMAS / f"{document['kind'].lower()}.json"
                with self.subTest(name, kind=document["kind"]):
                    if own.exists():
                        schema = json.loads(own.read_text(encoding="utf-8"))
                        jsonschema.Draft202012Validator(schema).validate(document)
                        continue
                    for version in KUBERNETES:
                        kubernetes_validate.validate(document, version, strict=True)

    def test_names_and_namespace_are_those_of_the_release(self):
        for release, values, expected in [
            (RELEASE, {}, "leasehold"),
            ("prod", {}, "prod-leasehold"),
            ("leasehold-prod", {}, "leasehold-prod"),
            ("prod", {"nameOverride": "locks"}, "prod-locks"),
            ("prod", {"fullnameOverride": "locks"}, "locks"),
            ("prod", {"fullnameOverride": "x" * 70}, "x" * 63),
        ]:
            documents = helm.render({**EVERYTHING, **values}, release=release, namespace="elsewhere")
            for document in documents:
                with self.subTest(release=release, values=values, kind=document["kind"]):
                    self.assertTrue(document["metadata"]["name"].startswith(expected[:53]))
                    self.assertLessEqual(len(document["metadata"]["name"]), 63)
                    self.assertEqual(document["metadata"]["namespace"], "elsewhere")
                    self.assertEqual(document["metadata"]["labels"]["app.kubernetes.io/instance"], release)


class Kinds(unittest.TestCase):
    DEFAULT = {"Deployment", "NetworkPolicy", "Pod", "PodDisruptionBudget", "Service", "ServiceAccount"}

    def test_what_is_made_by_default(self):
        self.assertEqual(set(kinds(helm.render())), self.DEFAULT)

    def test_each_switch_makes_or_leaves_out_one_object(self):
        switches = {
            "Ingress": {"ingress": {"enabled": True, "hosts": ["a"]}},
            "HTTPRoute": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "a"}]}},
            "HorizontalPodAutoscaler": {"autoscaling": {"enabled": True}},
            "ServiceMonitor": {"serviceMonitor": {"enabled": True}},
            "PrometheusRule": {"prometheusRule": {"enabled": True}},
            "PodDisruptionBudget": {"podDisruptionBudget": {"enabled": False}},
            "NetworkPolicy": {"networkPolicy": {"enabled": False}},
            "ServiceAccount": {"serviceAccount": {"create": False}},
        }
        for kind, values in switches.items():
            with self.subTest(kind):
                self.assertEqual(set(kinds(helm.render(values))) ^ self.DEFAULT, {kind})

    def test_dashboards_are_put_into_a_config_map(self):
        with tempfile.TemporaryDirectory() as directory:
            copy = Path(directory) / "leasehold"
            shutil.copytree(CHART, copy)
            (copy / "files" / "dashboards").mkdir(exist_ok=True)
            text = '{"title": "{{ not a template }}"}\n'
            (copy / "files" / "dashboards" / "one.json").write_text(text)
            on = rendered("ConfigMap", {"grafanaDashboard": {"enabled": True}}, chart=copy)
            self.assertEqual(on["data"]["one.json"], text)
            self.assertEqual(on["metadata"]["labels"]["grafana_dashboard"], "1")
            self.assertNotIn("ConfigMap", kinds(helm.render(chart=copy)))

    def test_rules_are_those_of_the_file(self):
        with tempfile.TemporaryDirectory() as directory:
            copy = Path(directory) / "leasehold"
            shutil.copytree(CHART, copy)
            group = {"name": "a", "rules": [{"alert": "A", "expr": "up", "annotations": {"summary": "{{ $value }}"}}]}
            (copy / "files" / "rules.yaml").write_text(json.dumps({"groups": [group]}))
            made = rendered("PrometheusRule", {"prometheusRule": {"enabled": True}}, chart=copy)
            self.assertEqual(made["spec"], {"groups": [group]})


class Security(unittest.TestCase):
    def test_pods_are_confined(self):
        for name, values in VARIANTS.items():
            documents = helm.render(values)
            for spec in (one(documents, "Deployment")["spec"]["template"]["spec"], one(documents, "Pod")["spec"]):
                with self.subTest(name):
                    self.assertIs(spec["automountServiceAccountToken"], False)
                    self.assertIs(spec["enableServiceLinks"], False)
                    self.assertEqual(spec["securityContext"], {
                        "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    })
                    self.assertEqual([container["securityContext"] for container in spec["containers"]], [{
                        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    }])
                    for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
                        self.assertNotIn(forbidden, spec)

    def test_the_service_account_mounts_no_token(self):
        self.assertIs(rendered("ServiceAccount")["automountServiceAccountToken"], False)
        self.assertEqual(pod({"serviceAccount": {"create": False}})["spec"]["serviceAccountName"], "default")
        self.assertEqual(pod({"serviceAccount": {"create": False, "name": "a"}})["spec"]["serviceAccountName"], "a")
        self.assertEqual(rendered("ServiceAccount", {"serviceAccount": {"name": "a"}})["metadata"]["name"], "a")

    def test_secrets_are_mounted_and_are_nowhere_else(self):
        self.assertEqual(secrets(EVERYTHING), {
            "redis-password": ("redis", "password"),
            "sentinel-password": ("sentinel", "other"),
            "ca.crt": ("redis-ca", "ca.crt"),
            "tls.crt": ("redis-client", "tls.crt"),
            "tls.key": ("redis-client", "tls.key"),
            "token": ("tokens", "token"),
            "break-token": ("tokens", "break"),
        })
        files = {name: value for name, value in environment(EVERYTHING).items() if name.endswith("_FILE")}
        self.assertEqual(files, {
            "LEASEHOLD_REDIS_PASSWORD_FILE": "/run/leasehold/redis-password",
            "LEASEHOLD_SENTINEL_PASSWORD_FILE": "/run/leasehold/sentinel-password",
            "LEASEHOLD_TLS_CA_FILE": "/run/leasehold/ca.crt",
            "LEASEHOLD_TLS_CERT_FILE": "/run/leasehold/tls.crt",
            "LEASEHOLD_TLS_KEY_FILE": "/run/leasehold/tls.key",
            "LEASEHOLD_TOKEN_FILE": "/run/leasehold/token",
            "LEASEHOLD_BREAK_TOKEN_FILE": "/run/leasehold/break-token",
        })
        (volume,) = pod(EVERYTHING)["spec"]["volumes"]
        self.assertEqual(volume["projected"]["defaultMode"], 0o440)
        (mount,) = container(EVERYTHING)["volumeMounts"]
        self.assertEqual(mount, {"name": volume["name"], "mountPath": "/run/leasehold", "readOnly": True})
        for name, values in VARIANTS.items():
            with self.subTest(name):
                self.assertNotIn("args", container(values))
                self.assertNotIn("envFrom", container(values))
                self.assertNotIn("Secret", kinds(helm.render(values)))
                referring = [variable for variable in container(values)["env"] if "value" not in variable]
                addresses = {"name": "POD_IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}}
                self.assertEqual(referring, [addresses] if name == "everything" else [])

    def test_secrets_that_a_mode_does_not_need_are_not_mounted(self):
        self.assertEqual(secrets(helm.preset("memory")), {})
        self.assertNotIn("volumes", pod(helm.preset("memory"))["spec"])
        self.assertNotIn("volumeMounts", container(helm.preset("memory")))
        self.assertEqual(set(secrets(helm.preset("bitnami-redis"))), {"redis-password"})
        self.assertEqual(set(secrets({"redis": {"existingSecret": ""}})), {"sentinel-password"})
        self.assertEqual(set(secrets({"redis": {"sentinel": {"existingSecret": ""}}})), {"redis-password"})

    def test_pods_start_anew_when_a_secret_has_changed(self):
        def checksum(values):
            # With the chart of the test, the error that ends the rendering is the Deployment.
            text = helm.BACKEND.refusal_by_cluster(copy, values, server.url, NAMESPACE)
            found = re.findall(r"checksum/secrets: (\S+)", text)
            self.assertLessEqual(len(found), 1)
            return found[0] if found else None

        with tempfile.TemporaryDirectory() as directory, ApiServer() as server:
            copy = Path(directory) / "leasehold"
            shutil.copytree(CHART, copy)
            show = '{{ fail (include (print .Template.BasePath "/deployment.yaml") .) }}\n'
            (copy / "templates" / "show.yaml").write_text(show)
            tokens = {"auth": {"existingSecret": "tokens"}}
            self.assertIsNone(checksum({}))
            server.versions = {"redis-sentinel": "1", "tokens": "1"}
            first, with_tokens = checksum({}), checksum(tokens)
            self.assertEqual(checksum({}), first)
            # The servers read tokens again by themselves.
            server.versions["tokens"] = "2"
            self.assertEqual(checksum(tokens), with_tokens)
            server.versions["redis-sentinel"] = "2"
            self.assertNotEqual(checksum({}), first)
            self.assertIsNone(checksum(helm.preset("memory")))

    def test_tokens_are_made_once(self):
        def made(values):
            # With the chart of the test, the error that ends the rendering is the Secret.
            text = helm.BACKEND.refusal_by_cluster(copy, values, server.url, NAMESPACE)
            return dict(re.findall(r'^ *(token|break-token): "(\S+)"$', text.replace("\\n", "\n").replace('\\"', '"'), re.MULTILINE))

        with tempfile.TemporaryDirectory() as directory, ApiServer() as server:
            copy = Path(directory) / "leasehold"
            shutil.copytree(CHART, copy)
            show = '{{ fail (include (print .Template.BasePath "/tokens.yaml") .) }}\n'
            (copy / "templates" / "show.yaml").write_text(show)
            first, second = made({}), made({})
            self.assertEqual(set(first), {"token", "break-token"})
            texts = [base64.b64decode(text).decode() for text in (*first.values(), *second.values())]
            self.assertEqual(len(set(texts)), 4)
            self.assertTrue(all(len(text) == 40 for text in texts), texts)
            # An upgrade keeps them.
            server.versions["leasehold-tokens"], server.data["leasehold-tokens"] = "1", first
            self.assertEqual(made({}), first)
            for values in ({"auth": {"open": True}}, {"auth": {"existingSecret": "tokens"}}):
                self.assertEqual(made(values), {})

    def test_without_a_cluster_tokens_must_be_named(self):
        with self.assertRaisesRegex(helm.Refused, "renders without a cluster.*auth.existingSecret, or auth.open"):
            helm.render({"auth": {}})
        for values in ({"auth": {"open": True}}, {"auth": {"existingSecret": "tokens"}}):
            self.assertNotIn("Secret", {document["kind"] for document in helm.render(values)})

    def test_nothing_is_open_by_accident(self):
        for values in (
            {"auth": {"existingSecret": "tokens"}},
            {"auth": {"existingSecret": "tokens", "breakTokenKey": "b"}},
            {"auth": {"existingSecret": "tokens", "tokenKey": "", "authFileKey": "f"}},
        ):
            self.assertNotIn("LEASEHOLD_INSECURE_OPEN", environment(values))
            self.assertTrue({"token", "auth.toml"} & set(secrets(values)))
        only_break = {"auth": {"open": True, "existingSecret": "tokens", "tokenKey": "", "breakTokenKey": "b"}}
        for values in ({"auth": {"open": True}}, only_break):
            self.assertEqual(environment(values)["LEASEHOLD_INSECURE_OPEN"], "true")
        self.assertEqual(secrets(only_break)["break-token"], ("tokens", "b"))


class Deployment(unittest.TestCase):
    def test_several_servers_that_are_replaced_one_after_another(self):
        spec = rendered("Deployment")["spec"]
        self.assertEqual(spec["replicas"], 3)
        rolling = {"maxSurge": 1, "maxUnavailable": 0}
        self.assertEqual(spec["strategy"], {"type": "RollingUpdate", "rollingUpdate": rolling})

    def test_memory_is_one_server_and_never_two(self):
        spec = rendered("Deployment", helm.preset("memory"))["spec"]
        self.assertEqual((spec["replicas"], spec["strategy"]), (1, {"type": "Recreate"}))
        self.assertEqual(environment(helm.preset("memory"))["LEASEHOLD_STORE"], "memory")

    def test_the_autoscaler_decides_how_many(self):
        documents = helm.render({"autoscaling": {"enabled": True, "targetCPUUtilizationPercentage": 50}})
        self.assertNotIn("replicas", one(documents, "Deployment")["spec"])
        spec = one(documents, "HorizontalPodAutoscaler")["spec"]
        self.assertEqual((spec["minReplicas"], spec["maxReplicas"]), (3, 10))
        self.assertEqual(spec["scaleTargetRef"]["name"], one(documents, "Deployment")["metadata"]["name"])
        target = {"type": "Utilization", "averageUtilization": 50}
        self.assertEqual(spec["metrics"], [{"type": "Resource", "resource": {"name": "cpu", "target": target}}])

    def test_probes_ask_what_they_mean(self):
        asked = {name: container()[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
        self.assertEqual({name: get["path"] for name, get in asked.items()},
                         {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"})
        self.assertEqual({get["port"] for get in asked.values()}, {"http"})
        changed = container({"probes": {"liveness": {"periodSeconds": 77}}})
        self.assertEqual(changed["livenessProbe"]["periodSeconds"], 77)
        self.assertEqual(changed["livenessProbe"]["failureThreshold"], 3)

    def test_pods_serve_on_before_they_end_and_have_the_time_to(self):
        self.assertEqual(container()["lifecycle"], {"preStop": {"sleep": {"seconds": 5}}})
        self.assertEqual(pod()["spec"]["terminationGracePeriodSeconds"], 30)
        # The longest end in order, as the server has it: the drain, and the threads' last second.
        source = (CHART.parents[1] / "src" / "server" / "mod.rs").read_text(encoding="utf-8")
        drain = int(re.search(r"DRAIN_DEADLINE: Duration = Duration::from_secs\((\d+)\)", source)[1])
        source = (CHART.parents[1] / "src" / "cli" / "mod.rs").read_text(encoding="utf-8")
        threads = int(re.search(r"SHUTDOWN_TIMEOUT: Duration = Duration::from_secs\((\d+)\)", source)[1])
        self.assertLess(drain + threads, 15)

    def test_pods_are_spread_over_hosts_and_zones(self):
        constraints = pod()["spec"]["topologySpreadConstraints"]
        self.assertEqual([constraint["topologyKey"] for constraint in constraints],
                         ["kubernetes.io/hostname", "topology.kubernetes.io/zone"])
        selector = rendered("Deployment")["spec"]["selector"]
        self.assertTrue(all(constraint["labelSelector"] == selector for constraint in constraints))
        own = {"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule",
               "labelSelector": {"matchLabels": {"a": "b"}}}
        self.assertEqual(pod({"topologySpreadConstraints": [own]})["spec"]["topologySpreadConstraints"], [own])

    def test_the_image_is_chosen(self):
        for image, expected in [
            ({}, "leasehold:0.1.0"),
            ({"repository": "registry.example.com/leasehold", "tag": "2"}, "registry.example.com/leasehold:2"),
            ({"tag": "2", "digest": "sha256:" + "1" * 64}, "leasehold@sha256:" + "1" * 64),
        ]:
            documents = helm.render({"image": image})
            for spec in (one(documents, "Deployment")["spec"]["template"]["spec"], one(documents, "Pod")["spec"]):
                self.assertEqual(spec["containers"][0]["image"], expected)
        self.assertEqual(container({"image": {"pullPolicy": "Always"}})["imagePullPolicy"], "Always")

    def test_the_version_is_the_program_s(self):
        manifest = (CHART.parents[1] / "Cargo.toml").read_text(encoding="utf-8")
        version = re.search(r'^version = "(.+)"$', manifest, re.MULTILINE)[1]
        self.assertEqual(rendered("Deployment")["metadata"]["labels"]["app.kubernetes.io/version"], version)

    def test_what_else_may_be_said_of_pods(self):
        spec, metadata = pod(EVERYTHING)["spec"], pod(EVERYTHING)["metadata"]
        for name in ("imagePullSecrets", "nodeSelector", "affinity", "tolerations", "priorityClassName"):
            self.assertEqual(spec[name], EVERYTHING[name])
            self.assertNotIn(name, pod()["spec"])
        self.assertEqual(metadata["annotations"], EVERYTHING["podAnnotations"])
        self.assertEqual(metadata["labels"]["redis-sentinel-client"], "true")
        # The chart's own labels win: else the Service would lead nowhere.
        labels = pod({"podLabels": {"app.kubernetes.io/name": "other"}})["metadata"]["labels"]
        self.assertEqual(labels["app.kubernetes.io/name"], "leasehold")
        limits = container({"resources": {"limits": {"memory": "1Gi"}}})["resources"]
        self.assertEqual(limits, {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}})
        self.assertNotIn("limits", container({"resources": None}).get("resources", {}))


class Redis(unittest.TestCase):
    def test_sentinel(self):
        sentinel = {"nodes": ["a:1", "b:2"], "master": "m", "username": "v"}
        variables = environment({"redis": {"database": 3, "username": "u", "sentinel": sentinel}})
        self.assertEqual(variables["LEASEHOLD_STORE"], "redis")
        self.assertEqual(variables["LEASEHOLD_SENTINELS"], "a:1,b:2")
        self.assertEqual(variables["LEASEHOLD_SENTINEL_MASTER"], "m")
        self.assertEqual(variables["LEASEHOLD_SENTINEL_USERNAME"], "v")
        self.assertEqual(variables["LEASEHOLD_REDIS_USERNAME"], "u")
        self.assertEqual(variables["LEASEHOLD_REDIS_DB"], "3")
        self.assertEqual((variables["LEASEHOLD_REDIS_TLS"], variables["LEASEHOLD_SENTINEL_TLS"]), ("false", "false"))
        self.assertNotIn("LEASEHOLD_REDIS_URL", variables)

    def test_tls_is_chosen_for_each(self):
        variables = environment({"redis": {"tls": True}})
        self.assertEqual((variables["LEASEHOLD_REDIS_TLS"], variables["LEASEHOLD_SENTINEL_TLS"]), ("true", "false"))
        variables = environment({"redis": {"sentinel": {"tls": True}}})
        self.assertEqual((variables["LEASEHOLD_REDIS_TLS"], variables["LEASEHOLD_SENTINEL_TLS"]), ("false", "true"))

    def test_direct(self):
        variables = environment({"mode": "direct", "redis": {"direct": {"node": "a:1"}}})
        self.assertEqual(variables["LEASEHOLD_REDIS_URL"], "redis://a:1")
        self.assertFalse([name for name in variables if "SENTINEL" in name])
        variables = environment({"mode": "direct", "redis": {"tls": True, "direct": {"node": "a:1"}}})
        self.assertEqual(variables["LEASEHOLD_REDIS_URL"], "rediss://a:1")

    def test_memory_names_no_redis(self):
        variables = environment(helm.preset("memory"))
        named = {"LEASEHOLD_REDIS_URL", "LEASEHOLD_SENTINELS", "LEASEHOLD_REDIS_DB", "LEASEHOLD_REDIS_TLS"}
        self.assertFalse(named & set(variables))


class Network(unittest.TestCase):
    def test_nothing_leaves_but_to_redis_sentinels_and_dns(self):
        for name, values in VARIANTS.items():
            if name == "as little as possible":
                continue
            spec = rendered("NetworkPolicy", values)["spec"]
            with self.subTest(name):
                self.assertEqual(spec["policyTypes"], ["Ingress", "Egress"])
                # A rule without ports would let everything through.
                self.assertTrue(all(rule["ports"] for rule in spec["egress"]))
                ports = {(port["port"], port["protocol"]) for rule in spec["egress"] for port in rule["ports"]}
                dns = {(53, "UDP"), (53, "TCP")}
                mode = values.get("mode", "sentinel")
                expected = {"memory": [], "direct": [6379], "sentinel": [6379, 26379]}[mode]
                if name == "managed-tls":
                    expected = [6380]
                self.assertEqual(ports, dns | {(port, "TCP") for port in expected})

    def test_peers_narrow_the_ways_out_and_in(self):
        spec = rendered("NetworkPolicy", EVERYTHING)["spec"]
        given = EVERYTHING["networkPolicy"]
        self.assertEqual([rule["to"] for rule in spec["egress"]], [given["dnsPeers"], given["redisPeers"]])
        peers = spec["ingress"][0]["from"]
        self.assertEqual(peers[:-1], given["ingressPeers"])
        # The pod of `helm test` is always let in.
        test = rendered("Pod", EVERYTHING)["metadata"]["labels"]
        self.assertLessEqual(peers[-1]["podSelector"]["matchLabels"].items(), test.items())
        self.assertTrue(all("to" not in rule for rule in rendered("NetworkPolicy")["spec"]["egress"]))
        self.assertNotIn("from", rendered("NetworkPolicy")["spec"]["ingress"][0])

    def test_other_ports(self):
        values = {"networkPolicy": {"redisPorts": [1], "sentinelPorts": [2], "dnsPorts": [5353]}}
        dns, redis = rendered("NetworkPolicy", values)["spec"]["egress"]
        self.assertEqual({port["port"] for port in dns["ports"]}, {5353})
        self.assertEqual({port["port"] for port in redis["ports"]}, {1, 2})

    def test_everything_leads_to_the_servers_and_only_to_them(self):
        documents = helm.render(EVERYTHING)
        labels = one(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
        test = one(documents, "Pod")["metadata"]["labels"]
        selectors = {
            "Deployment": one(documents, "Deployment")["spec"]["selector"]["matchLabels"],
            "Service": one(documents, "Service")["spec"]["selector"],
            "NetworkPolicy": one(documents, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
            "PodDisruptionBudget": one(documents, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        }
        for kind, selector in selectors.items():
            with self.subTest(kind):
                self.assertLessEqual(selector.items(), labels.items())
                self.assertFalse(selector.items() <= test.items())
        monitor = one(documents, "ServiceMonitor")["spec"]
        service = one(documents, "Service")["metadata"]["labels"]
        self.assertLessEqual(monitor["selector"]["matchLabels"].items(), service.items())
        self.assertEqual(monitor["endpoints"][0]["path"], "/metrics")
        names = {port["name"] for port in one(documents, "Service")["spec"]["ports"]}
        self.assertIn(monitor["endpoints"][0]["port"], names)
        for port in one(documents, "Service")["spec"]["ports"]:
            self.assertIn(port["targetPort"], [port["name"] for port in container()["ports"]])

    def test_the_service_is_what_was_asked_for(self):
        spec = rendered("Service", {"service": {"type": "NodePort", "port": 80}})["spec"]
        self.assertEqual((spec["type"], spec["ports"][0]["port"]), ("NodePort", 80))
        self.assertEqual(rendered("Service", EVERYTHING)["metadata"]["annotations"], {"example.com/a": "1"})

    def test_ingress_and_route_show_the_locks_and_nothing_else(self):
        documents = helm.render({**EVERYTHING, "service": {"port": 80}})
        ingress = one(documents, "Ingress")["spec"]
        self.assertEqual(ingress["ingressClassName"], "nginx")
        self.assertEqual(ingress["tls"], EVERYTHING["ingress"]["tls"])
        (rule,) = ingress["rules"]
        self.assertEqual(rule["host"], "locks.example.com")
        backend = {"service": {"name": "leasehold", "port": {"name": "http"}}}
        self.assertEqual(rule["http"]["paths"], [{"path": "/locks", "pathType": "Prefix", "backend": backend}])
        route = one(documents, "HTTPRoute")["spec"]
        self.assertEqual(route["parentRefs"], EVERYTHING["httpRoute"]["parentRefs"])
        self.assertEqual(route["hostnames"], ["locks.example.com"])
        self.assertEqual(route["rules"], [{
            "matches": [{"path": {"type": "PathPrefix", "value": "/locks"}}],
            "timeouts": {"request": "60s"},
            "backendRefs": [{"name": "leasehold", "port": 80}],
        }])
        bare = {"httpRoute": {"enabled": True, "parentRefs": [{"name": "a"}], "requestTimeoutSeconds": 0}}
        self.assertNotIn("timeouts", rendered("HTTPRoute", bare)["spec"]["rules"][0])

    def test_disruptions(self):
        spec = rendered("PodDisruptionBudget", {"podDisruptionBudget": {"maxUnavailable": "50%"}})["spec"]
        self.assertEqual(spec["maxUnavailable"], "50%")
        self.assertEqual(rendered("PodDisruptionBudget")["spec"]["maxUnavailable"], 1)

    def test_scrapes(self):
        values = {"enabled": True, "interval": "5s", "scrapeTimeout": "4s", "labels": {"release": "p"}}
        monitor = rendered("ServiceMonitor", {"serviceMonitor": values})
        self.assertEqual(monitor["metadata"]["labels"]["release"], "p")
        self.assertEqual(monitor["spec"]["endpoints"][0]["interval"], "5s")
        self.assertEqual(monitor["spec"]["endpoints"][0]["scrapeTimeout"], "4s")


class AllowedHosts(unittest.TestCase):
    def hosts(self, settings, values=None, **options):
        documents = helm.render({"settings": {"allowedHosts": settings}, **(values or {})}, **options)
        variables = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"]
        names = [variable["name"] for variable in variables]
        if "LEASEHOLD_ALLOWED_HOSTS" not in names:
            self.assertNotIn("POD_IPS", names)
            return None
        # Kubernetes replaces references to earlier variables only.
        self.assertLess(names.index("POD_IPS"), names.index("LEASEHOLD_ALLOWED_HOSTS"))
        return dict(zip(names, variables))["LEASEHOLD_ALLOWED_HOSTS"]["value"].split(",")

    def test_none_is_listed_unless_the_user_lists_one(self):
        self.assertIsNone(self.hosts([]))
        self.assertIsNone(self.hosts([], {"ingress": {"enabled": True, "hosts": ["a.example.com"]}}))

    def test_the_pod_and_the_service_are_added(self):
        hosts = self.hosts(["a.example.com"], release="prod", namespace="ns")
        service = ["prod-leasehold", "prod-leasehold.ns", "prod-leasehold.ns.svc", "prod-leasehold.ns.svc.cluster.local"]
        self.assertEqual(hosts, ["$(POD_IPS)", *service, "a.example.com"])
        self.assertIn("locks", self.hosts(["a.example.com"], {"fullnameOverride": "locks"}))

    def test_the_addresses_that_the_chart_names_are_added(self):
        values = {"settings": {"allowedHosts": ["a.example.com"]}}
        hosts = self.hosts(["a.example.com"])
        (url,) = re.findall(r"http://([^:]+):", " ".join(rendered("Pod", values)["spec"]["containers"][0]["args"]))
        (note,) = re.findall(r"In the cluster, the address is http://([^:]+):", helm.notes(values))
        self.assertLessEqual({url, note}, set(hosts))

    def test_names_of_ingress_and_route_are_added_if_they_are_enabled(self):
        ingress = {"hosts": ["b.example.com", "a.example.com", "*.example.com"]}
        route = {"hostnames": ["c.example.com", "*.example.org"], "parentRefs": [{"name": "gateway"}]}
        for enabled, expected in [
            ((False, False), ["a.example.com"]),
            ((True, False), ["b.example.com", "a.example.com"]),
            ((False, True), ["c.example.com", "a.example.com"]),
            ((True, True), ["b.example.com", "a.example.com", "c.example.com"]),
        ]:
            values = {"ingress": {**ingress, "enabled": enabled[0]}, "httpRoute": {**route, "enabled": enabled[1]}}
            with self.subTest(enabled=enabled):
                self.assertEqual(self.hosts(["a.example.com"], values)[5:], expected)
        gateways_own = {"httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]}}
        self.assertEqual(self.hosts(["a.example.com"], gateways_own)[5:], ["a.example.com"])


class HelmTest(unittest.TestCase):
    def test_it_asks_the_service_with_the_program_itself(self):
        documents = helm.render({"service": {"port": 80}}, release="prod")
        test = one(documents, "Pod")
        self.assertEqual(test["metadata"]["annotations"]["helm.sh/hook"], "test")
        self.assertEqual(test["spec"]["containers"][0]["args"], ["healthcheck", "--url", "http://prod-leasehold:80"])
        self.assertEqual(one(documents, "Service")["metadata"]["name"], "prod-leasehold")
        self.assertEqual(test["spec"]["restartPolicy"], "Never")


class Notes(unittest.TestCase):
    def test_they_name_the_next_commands(self):
        text = helm.notes({"service": {"port": 80}}, release="prod", namespace="ns")
        self.assertIn("kubectl -n ns rollout status deployment/prod-leasehold", text)
        self.assertIn("kubectl -n ns port-forward svc/prod-leasehold 8080:80 &", text)
        self.assertIn("curl -i -X POST http://127.0.0.1:8080/locks/my_lock\n", text)
        self.assertIn("kubectl -n ns port-forward deployment/prod-leasehold 8081:8080 &", text)
        self.assertIn("curl http://127.0.0.1:8081/readyz\n", text)
        (container,) = rendered("Deployment", release="prod")["spec"]["template"]["spec"]["containers"]
        self.assertEqual([port["containerPort"] for port in container["ports"]], [8080])

    def test_they_warn_of_what_is_open(self):
        self.assertIn("WARNING: auth.open is set: every client", helm.notes())
        self.assertIn("acquire locks and break leases", helm.notes())
        tokens = {"auth": {"existingSecret": "tokens", "tokenKey": "t"}}
        self.assertNotIn("WARNING", helm.notes(tokens))
        self.assertIn('get secret tokens -o go-template=\'{{index .data "t" | base64decode}}\' | head -n 1', helm.notes(tokens))
        self.assertIn('-H "Authorization: Bearer $TOKEN"', helm.notes(tokens))
        only_break = {"auth": {"open": True, "existingSecret": "tokens", "tokenKey": "", "breakTokenKey": "b"}}
        self.assertIn("Only breaking leases requires a token", helm.notes(only_break))
        self.assertIn("WARNING: no password for Redis", helm.notes({"redis": {"existingSecret": ""}}))
        self.assertIn("WARNING: mode is memory", helm.notes(helm.preset("memory")))
        closed = {"redis": {"sentinel": {"nodes": ["a:26379", "b:26380"]}}}
        self.assertIn("NetworkPolicy blocks port 26380 of b:26380", helm.notes(closed))
        self.assertNotIn("NetworkPolicy blocks", helm.notes({**closed, "networkPolicy": {"enabled": False}}))
        self.assertNotIn("NetworkPolicy blocks", helm.notes({**closed, "networkPolicy": {"sentinelPorts": [26379, 26380]}}))

    def test_no_preset_is_locked_out_by_its_own_policy(self):
        for name in helm.presets():
            self.assertNotIn("NetworkPolicy blocks", helm.notes(helm.preset(name)), name)


if __name__ == "__main__":
    unittest.main()
