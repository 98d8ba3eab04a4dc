"""The alerts: each fires on what it is for, with its summary, and not beside it."""

import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml

RULES = Path(__file__).resolve().parents[2] / "helm" / "leasehold" / "files" / "rules.yaml"

# Of an installation, and of its servers.
JOB = {"namespace": "locks", "job": "leasehold"}
SERVERS = ("a", "b", "c")

# A sample every 15 seconds for 30 minutes.
INTERVAL, SAMPLES = "15s", 120


def series(name, server="a", **labels):
    labels = {**JOB, "instance": server, **labels}
    pairs = ", ".join(f'{key}="{value}"' for key, value in labels.items())
    return f"leasehold_{name}{{{pairs}}}"


def always(value):
    return f"{value}+0x{SAMPLES}"


def rising(by):
    """A counter that grows by so much with each sample."""
    return f"0+{by}x{SAMPLES}"


def once(by=1):
    """A counter that grew once, after 5 minutes."""
    return f"0+0x19 {by}+0x{SAMPLES - 20}"


def brief(value):
    """A gauge that has the value for one sample."""
    return f"0+0x18 {value} 0+0x{SAMPLES - 20}"


def ready(*values):
    return {series("ready", server): always(value) for server, value in zip(SERVERS, values)}


def store(*values):
    return {series("store_condition", server, condition="ready"): always(value) for server, value in zip(SERVERS, values)}


def requests(method, status, by, route="/locks/{key}"):
    labels = {"method": method, "status": status, "route": route}
    return {series("http_request_duration_seconds_count", **labels): rising(by)}


def latency(fast, slow, method="PUT"):
    """So many calls below and above a quarter of a second with each sample."""
    labels = {"method": method, "status": "200", "route": "/locks/{key}/lease"}
    bounds = {"0.1": fast, "0.25": fast, "1": fast + slow, "+Inf": fast + slow}
    return {series("http_request_duration_seconds_bucket", le=le, **labels): rising(by) for le, by in bounds.items()}


def counter(name, value, **labels):
    return {series(name, **labels): value}


def recovering(values):
    return counter("acquires_total", values, outcome="recovering")


def failovers(total, quick):
    return {series("failover_seconds_count"): total, series("failover_seconds_bucket", le="30"): quick}


# For each alert what makes it fire, after how long, its labels and summary; then what must not make it fire.
CASES = {
    "LeaseholdNoServerReady": (
        ready(0, 0, 0), "2m", {**JOB, "severity": "critical"}, "No Leasehold server takes requests.",
        [ready(0, 1, 0), {series("ready"): brief(0).replace("0+0", "1+0")}],
    ),
    "LeaseholdStoreDegraded": (
        {**ready(1, 1, 1), **store(0, 1, 0)}, "2m", {**JOB, "severity": "warning"}, "2 Leasehold servers have a degraded store.",
        [{**ready(1, 1), **store(1, 1)}, {**ready(1, 0), **store(1, 0)}],
    ),
    "LeaseholdStoreFails": (
        {**ready(1, 1, 1), **store(0, 1, 0)}, "4m", {**JOB, "severity": "critical"},
        "2 Leasehold servers have had a degraded store for longer than a failover takes.",
        [
            {**ready(1, 1), **store(1, 1)}, {**ready(1, 0), **store(1, 0)},
            {**ready(1), **store(0), **counter("grant_pause_seconds", always(42))},
        ],
    ),
    "LeaseholdGrantsUnconfirmed": (
        counter("replication_shortfalls_total", rising(1), reason="offline"), "9m", {**JOB, "severity": "critical"},
        "Leasehold rejects grants because too few replicas confirm them.",
        [
            counter("replication_shortfalls_total", once(), reason="unconfirmed"),
            counter("replication_shortfalls_total", rising(1), reason="superseded"),
        ],
    ),
    "LeaseholdFailoverSlow": (
        failovers(once(), always(0)), "6m", {**JOB, "severity": "warning"}, "A failover left Leasehold without a healthy Redis master for more than 30 s.",
        [failovers(once(), once()), failovers(rising(1), rising(1))],
    ),
    "LeaseholdLeasesLost": (
        counter("losses_total", once()), "6m", {**JOB, "severity": "warning"}, "A new Redis master may lack leases on which clients still count.",
        [counter("losses_total", always(1))],
    ),
    "LeaseholdGrantsPaused": (
        counter("grant_pause_seconds", always(42)), "2m", {**JOB, "severity": "warning"}, "Leasehold grants no new lease for another 42s.",
        [counter("grant_pause_seconds", always(0)), counter("grant_pause_seconds", brief(1))],
    ),
    "LeaseholdPauseStays": (
        counter("grant_pause_seconds", "42+0x200 0 42+0x200"), "80m", {**JOB, "severity": "critical"},
        "Leasehold has granted no new lease for more than an hour.",
        [counter("grant_pause_seconds", "3600-15x240 0+0x160")],
    ),
    "LeaseholdErrors": (
        {**requests("POST", "201", 9), **requests("POST", "503", 1), **recovering(always(0))}, "15m", {**JOB, "severity": "critical"},
        "10% of the requests for locks get a 5xx answer.",
        [
            {**requests("POST", "201", 99), **requests("POST", "503", 1), **recovering(always(0))},
            {**requests("POST", "201", 9), **requests("POST", "423", 90), **recovering(always(0))},
            {**requests("POST", "201", 9), **requests("GET", "503", 90, route="/readyz"), **recovering(always(0))},
            {**requests("POST", "201", 9), **requests("POST", "503", 90), **recovering(rising(90))},
        ],
    ),
    "LeaseholdSlow": (
        latency(90, 10), "20m", {**JOB, "severity": "warning"}, "The 99th percentile of renewals and releases takes 925ms.",
        [latency(1000, 1), latency(90, 10, method="POST")],
    ),
    "LeaseholdRenewalsLost": (
        {**counter("renewals_total", rising(9), outcome="renewed"), **counter("renewals_total", rising(1), outcome="held_by_other")}, "25m",
        {**JOB, "severity": "warning"}, "10% of the renewals find their lease lost.",
        [{**counter("renewals_total", rising(99), outcome="renewed"), **counter("renewals_total", rising(1), outcome="not_held")}],
    ),
    "LeaseholdLeasesExpire": (
        {
            **counter("leases_expired_total", rising(1)), series("leases_expired_total", "b"): rising(1),
            **counter("acquires_total", rising(2), outcome="granted"),
        },
        "28m", {**JOB, "severity": "warning"}, "120 leases expired without a release within 15 minutes.",
        [
            {**counter("leases_expired_total", rising(1)), **counter("acquires_total", rising(10), outcome="granted")},
            {**counter("leases_expired_total", once(5)), **counter("acquires_total", once(5), outcome="granted")},
        ],
    ),
    "LeaseholdWaitersNearLimit": (
        {series("waiters", "b"): always(900), series("waiters_limit", "b"): always(1000)}, "5m", {**JOB, "severity": "warning"},
        "A Leasehold server has 90% of its limit of waiters.",
        [{series("waiters"): always(700), series("waiters_limit"): always(1000)}],
    ),
    "LeaseholdLimitHit": (
        counter("limits_hit_total", once(), limit="key_waiters"), "7m", {**JOB, "limit": "key_waiters", "severity": "warning"},
        "Leasehold reached the limit key_waiters.",
        [
            counter("limits_hit_total", rising(1), limit="body_bytes"), counter("limits_hit_total", rising(1), limit="head_bytes"),
            counter("limits_hit_total", always(7), limit="redis_queue"),
        ],
    ),
    "LeaseholdClockStepped": (
        counter("clock_steps_total", once(), size="large"), "6m", {**JOB, "severity": "warning"},
        "The clock of the Redis master stepped by more than LEASEHOLD_MAX_CLOCK_SKEW_MS.",
        [counter("clock_steps_total", rising(1), size="small")],
    ),
}


# The samples of five quiet minutes, and those after them.
QUIET, AFTER = 20, SAMPLES - 20


def course(samples, before, during, after):
    """Quiet minutes, a number of samples of something else, and the rest."""
    return f"{before}+0x{QUIET - 1} {during}+0x{samples - 1} {after}+0x{AFTER - samples}"


def rises_meanwhile(samples, by):
    """A counter that grows only during a course."""
    return f"0+0x{QUIET - 1} {by}+{by}x{samples - 1} {by * samples}+0x{AFTER - samples}"


def failover(samples):
    """A set of one master and two replicas: no call succeeds until Sentinel has replaced the master."""
    return {
        **ready(1), series("store_condition", condition="ready"): course(samples, 1, 0, 1),
        **counter("grant_pause_seconds", always(0)), **recovering(always(0)), **counter("losses_total", always(0)),
        **counter("replication_shortfalls_total", rises_meanwhile(samples, 30), reason="unconfirmed"),
        series("http_request_duration_seconds_count", method="POST", status="503", route="/locks/{key}"): rises_meanwhile(samples, 30),
        **requests("POST", "201", 30), **failovers(course(samples, 0, 0, 1), always(0)),
    }


def pause(samples):
    """A loss of leases, and no new grant until the last lost lease is over."""
    seconds = samples * 15
    return {
        **ready(1), series("store_condition", condition="ready"): course(samples, 1, 0, 1),
        **counter("grant_pause_seconds", f"0+0x{QUIET - 1} {seconds}-15x{samples - 1} 0+0x{AFTER - samples}"),
        **recovering(rises_meanwhile(samples, 30)), **counter("losses_total", course(samples, 0, 1, 1)),
        series("http_request_duration_seconds_count", method="POST", status="503", route="/locks/{key}"): rises_meanwhile(samples, 30),
        **requests("PUT", "200", 30),
    }


def alerts():
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def scene(of, *expectations):
    """One test of promtool: these series, and which alerts they make fire."""
    return {
        "interval": INTERVAL,
        "input_series": [{"series": name, "values": values} for name, values in of.items()],
        "alert_rule_test": [
            {"eval_time": at, "alertname": alert, "exp_alerts": expected} for alert, at, expected in expectations
        ],
    }


def promtool(*tests):
    """Runs tests; returns what promtool has to say against them."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "tests.yaml"
        path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": INTERVAL, "tests": list(tests)}))
        run = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True)
    return "" if run.returncode == 0 else run.stdout + run.stderr


class Rules(unittest.TestCase):
    maxDiff = None

    def test_promtool_takes_the_file(self):
        run = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)

    def test_every_alert_has_a_case(self):
        self.assertEqual(sorted(CASES), sorted(alerts()))

    def test_every_alert_says_what_to_do(self):
        for name, rule in alerts().items():
            with self.subTest(name):
                self.assertIn(rule["labels"]["severity"], ("critical", "warning"))
                self.assertEqual(set(rule["annotations"]), {"summary", "runbook"})
                self.assertGreater(len(rule["annotations"]["runbook"]), 250)
                # What it refers to is there.
                for other in re.findall(r"Leasehold[A-Z]\w+", rule["annotations"]["runbook"]):
                    self.assertIn(other, alerts())

    def test_each_fires_on_what_it_is_for(self):
        scenes = []
        for name, (of, at, labels, summary, _) in CASES.items():
            annotations = {**alerts()[name]["annotations"], "summary": summary}
            expected = {"exp_labels": labels, "exp_annotations": annotations}
            scenes.append(scene(of, (name, at, [expected])))
        self.assertEqual(promtool(*scenes), "")

    def test_each_is_silent_beside_it(self):
        scenes = []
        for name, (_, at, _, _, quiet) in CASES.items():
            times = ("4m45s", at, "7m", "29m")
            scenes += [scene(of, *((name, time, []) for time in times)) for of in quiet]
        self.assertEqual(promtool(*scenes), "")

    def fire(self, of, severity):
        """The alerts of this severity that fire at some moment of a course."""
        names = [name for name, rule in alerts().items() if rule["labels"]["severity"] == severity]
        moments = [f"{minute}m{second}s" for minute in range(30) for second in (0, 30)]
        return {name for name in names if promtool(scene(of, *((name, moment, []) for moment in moments)))}

    def test_what_heals_by_itself_is_a_warning(self):
        # A down-after of 60 s, and what the vote and the reconnections take.
        self.assertEqual(self.fire(failover(samples=5), "critical"), set())
        self.assertEqual(self.fire(failover(samples=5), "warning"), {"LeaseholdStoreDegraded", "LeaseholdFailoverSlow"})
        self.assertEqual(self.fire(pause(samples=60), "critical"), set())
        self.assertEqual(
            self.fire(pause(samples=60), "warning"), {"LeaseholdStoreDegraded", "LeaseholdGrantsPaused", "LeaseholdLeasesLost"}
        )

    def test_what_stays_is_critical(self):
        self.assertEqual(
            self.fire(failover(samples=60), "critical"), {"LeaseholdStoreFails", "LeaseholdGrantsUnconfirmed", "LeaseholdErrors"}
        )

    def test_servers_that_nobody_scrapes_are_not_ready(self):
        annotations = alerts()["LeaseholdNoServerReady"]["annotations"]
        expected = {"exp_labels": {"severity": "critical"}, "exp_annotations": annotations}
        other = {'up{job="other"}': always(1)}
        self.assertEqual(promtool(scene(other, ("LeaseholdNoServerReady", "2m", [expected]))), "")

    def test_one_installation_does_not_hide_another(self):
        other = {name.replace('"locks"', '"jobs"'): value for name, value in ready(1, 1).items()}
        annotations = alerts()["LeaseholdNoServerReady"]["annotations"]
        expected = {"exp_labels": {**JOB, "severity": "critical"}, "exp_annotations": annotations}
        both = {**ready(0, 0), **other}
        self.assertEqual(promtool(scene(both, ("LeaseholdNoServerReady", "2m", [expected]))), "")


if __name__ == "__main__":
    unittest.main()
