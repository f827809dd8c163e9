"""The chart as helm renders it, and what stands in it."""

import functools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "acestep"
HELM = Path(sys.executable).parent / "helm"
PROFILES = ("", *sorted(path.stem for path in (CHART / "profiles").glob("*.yaml")))
"""Without a name: values.yaml as it is."""
NAMESPACE = "music"

Manifest = dict[str, Any]


def helm(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run it."""
    assert HELM.exists(), "helm is not here: `make test-deploy` fetches it"
    done = subprocess.run([str(HELM), *words], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def render(profile: str = "", values: Mapping[str, Any] | None = None, kubernetes: str = "1.33.0") -> list[Manifest]:
    """All manifests of a release called song.

    Args:
        profile: One of PROFILES.
        values: Over those of the profile.
        kubernetes: Version that it is for.
    """
    return [yaml.load(text, yaml.CSafeLoader) for text in _rendered(profile, json.dumps(values or {}), kubernetes)]


@functools.cache
def _rendered(profile: str, values: str, kubernetes: str) -> Sequence[str]:
    done = helm(*_arguments(profile, values), "--kube-version", kubernetes)
    return [text for text in done.stdout.split("\n---\n") if yaml.load(text, yaml.CSafeLoader)]


def refused(profile: str = "", values: Mapping[str, Any] | None = None, kubernetes: str = "1.33.0") -> str:
    """What helm says when it does not render."""
    done = helm(*_arguments(profile, json.dumps(values or {})), "--kube-version", kubernetes, check=False)
    assert done.returncode != 0, "it was rendered"
    return done.stderr


def _arguments(profile: str, values: str) -> list[str]:
    files = ["--values", str(CHART / "profiles" / f"{profile}.yaml")] if profile else []
    own = [word for key, value in json.loads(values).items() for word in ("--set-json", f"{key}={json.dumps(value)}")]
    return ["template", "song", str(CHART), "--namespace", NAMESPACE, *files, *own]


def of_kind(manifests: Sequence[Manifest], kind: str) -> dict[str, Manifest]:
    """By component."""
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one for one in manifests if one["kind"] == kind}


def pod_specs(manifests: Sequence[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Component and spec of every pod that comes of them."""
    for one in manifests:
        name = one["metadata"]["labels"]["app.kubernetes.io/component"]
        if one["kind"] == "Pod":
            yield name, one["spec"]
        elif one["kind"] in ("Deployment", "Job"):
            yield name, one["spec"]["template"]["spec"]


def environment(spec: Manifest) -> dict[str, str]:
    """Variables of a pod's container; of those that come from elsewhere, where that is."""
    (container,) = spec["containers"]
    return {one["name"]: one.get("value", str(one.get("valueFrom"))) for one in container.get("env", ())}
