"""A server in memory and one on a Redis with a replica, both busy and read by Prometheus."""

import json
import math
import re
import subprocess
import time
import unittest
from pathlib import Path

import yaml

import servers

FILES = Path(__file__).resolve().parents[2] / "helm" / "leasehold" / "files"
RULES = FILES / "rules.yaml"
DASHBOARD = FILES / "dashboards" / "leasehold.json"

# How far back rates look: some scrapes.
INTERVAL_S = 12

# What only a server on Redis shows stands behind this row of the dashboard.
REDIS_ROW = "Redis"


class Scrape(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        world = cls.enterClassContext(servers.World())
        master = world.redis()
        world.redis(replica_of=master)
        cls.jobs = {
            "memory": world.leasehold("memory", STORE="memory"),
            "redis": world.leasehold("redis", REDIS_URL=f"redis://127.0.0.1:{master}", REPLICA_ACKS="1"),
        }
        cls.prometheus = world.prometheus(cls.jobs, RULES)
        for address in cls.jobs.values():
            world.busy(address)
        time.sleep(INTERVAL_S)

    def test_promtool_has_nothing_to_say(self):
        for job, address in self.jobs.items():
            with self.subTest(job):
                status, text = servers.call(address, "GET", "/metrics")
                self.assertEqual(status, 200)
                run = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
                self.assertEqual((run.returncode, run.stdout + run.stderr), (0, ""))
                self.assertNotIn(servers.MARK, text)

    def test_every_query_of_the_dashboard_returns_data(self):
        of_redis = False
        asked = 0
        for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
            if panel["type"] == "row":
                of_redis = panel["title"] == REDIS_ROW
                continue
            self.assertTrue(panel["description"], panel["title"])
            for target in panel["targets"]:
                for job in ("redis",) if of_redis else ("memory", "redis"):
                    with self.subTest(panel["title"], expr=target["expr"], job=job):
                        asked += 1
                        self.returns_data(target, job)
        self.assertGreater(asked, 50)

    def returns_data(self, target, job):
        values = {"namespace": ".*", "job": job, "__rate_interval": f"{INTERVAL_S}s"}
        text = re.sub(r"\$(\w+)", lambda name: values[name[1]], target["expr"])
        named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        self.is_so(text, lambda labels, value: not math.isnan(value) and named <= labels.keys())

    def is_so(self, text, is_right):
        self.assertIsNone(servers.missing(self.prometheus, text, is_right))

    def test_load_is_seen(self):
        """What returns data may still be zero: these must not be."""
        for job in self.jobs:
            for text in (
                'rate(leasehold_acquires_total{outcome="granted", job="%s"}[12s])',
                'rate(leasehold_acquires_total{outcome="held", job="%s"}[12s])',
                'rate(leasehold_acquire_wait_seconds_count{result="granted", job="%s"}[12s])',
                'rate(leasehold_lease_hold_seconds_count{ended_by="break", job="%s"}[12s])',
                'rate(leasehold_renewals_total{outcome="not_held", job="%s"}[12s])',
                'leasehold_ready{job="%s"}',
            ):
                with self.subTest(text % job):
                    self.is_so(text % job, lambda _, value: value > 0)
        for text in (
            "rate(leasehold_replication_confirmations_total[12s])",
            "rate(leasehold_redis_batch_operations_sum[12s])",
            "leasehold_leases_expired_total",
        ):
            with self.subTest(text):
                self.is_so(text, lambda _, value: value > 0)

    def test_alerts_are_evaluated_and_none_fires(self):
        status, answer = servers.call(self.prometheus, "GET", "/api/v1/rules")
        self.assertEqual(status, 200)
        (group,) = json.loads(answer)["data"]["groups"]
        for rule in group["rules"]:
            with self.subTest(rule["name"]):
                self.assertEqual((rule["health"], rule.get("lastError", "")), ("ok", ""))
                self.assertNotEqual(rule["state"], "firing")

    def test_every_metric_that_alerts_name_is_there(self):
        (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
        names = {name for rule in group["rules"] for name in re.findall(r"leasehold_\w+", rule["expr"])}
        self.assertGreater(len(names), 15)
        for name in sorted(names):
            with self.subTest(name):
                self.is_so(f"count({name})", lambda _, value: value > 0)


if __name__ == "__main__":
    unittest.main()
