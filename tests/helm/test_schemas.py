"""Every profile is what Kubernetes, KEDA, cert-manager and the Gateway API take; values with typos are not taken."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.helm.chart import CHART, PROFILES, Manifest, helm, refused, render

VERSIONS = ("1.25.0", "1.29.0", "1.33.0", "1.37.0")
CLOSED: dict[str, Any] = json.loads((Path(__file__).parent / "custom_kinds.json").read_text())
"""Schemas of kinds that operators define, in which no field may be unknown; see custom_kinds.py."""
EVERYTHING: dict[str, Any] = {
    "tls.stages.enabled": True,
    "tls.public": {"enabled": True, "issuer": {"name": "letsencrypt"}, "dnsNames": ["songs.example.com"]},
    "gateway": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["songs.example.com"]},
    "ingress": {"enabled": True, "host": "songs.example.com", "tlsSecret": "songs"},
    "adapters.existingClaim": "adapters",
    "podDeletionCost.enabled": True,
    "orchestrator.database.secret": "database",
    "orchestrator.store": "s3://bucket/songs",
    "orchestrator.tenants.secret": "tenants",
    "orchestrator.webhook.secret": "webhook",
    "orchestrator.settings": {"authentication": ["keys"]},
    "stages.diffusion.gpu.products": ["NVIDIA-H100-80GB-HBM3"],
    "stages.diffusion.nodeSelector": {"pool": "gpu"},
    "tests.apiKey.secret": "key",
    "image.pullSecrets": ["registry"],
    "monitoring.podMonitor.enabled": True,
    "monitoring.rules.enabled": True,
    "monitoring.dashboards.enabled": True,
}
"""Whatever can be switched on at once."""


def complain(manifest: Manifest, version: str) -> list[str]:
    """What is wrong with a manifest."""
    kind = f"{manifest['apiVersion']} {manifest['kind']}"
    if kind in CLOSED:
        return [f"{kind}: {error.json_path}: {error.message}" for error in jsonschema.Draft7Validator(CLOSED[kind]).iter_errors(manifest)]
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{kind} {manifest['metadata']['name']}: {error.message}"]
    return []


def test_the_chart_has_nothing_to_complain_of() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART)).stdout


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid(profile: str, version: str) -> None:
    manifests = render(profile, kubernetes=version)
    assert len(manifests) > 5
    assert [problem for one in manifests for problem in complain(one, version)] == []


@pytest.mark.parametrize("version", ["1.25.0", "1.37.0"])
@pytest.mark.parametrize("engine", ["hpa", "keda"])
def test_everything_at_once_is_valid(engine: str, version: str) -> None:
    manifests = render("", EVERYTHING | {"autoscaling.engine": engine}, version)
    assert {"ScaledObject" if engine == "keda" else "HorizontalPodAutoscaler", "GRPCRoute", "Ingress", "Certificate"} <= {
        one["kind"] for one in manifests
    }
    assert [problem for one in manifests for problem in complain(one, version)] == []


def test_a_field_that_a_kind_does_not_have_is_noticed() -> None:
    (scaled, *_) = [one for one in render("gpu-cluster") if one["kind"] == "ScaledObject"]
    scaled["spec"]["maxReplicaCnt"] = 3
    assert "maxReplicaCnt" in str(complain(scaled, "1.33.0"))


@pytest.mark.parametrize("profile", PROFILES)
def test_ports_name_their_protocol(profile: str) -> None:
    """Server-side apply of older API servers needs it."""

    def ports(node: Any) -> list[Any]:
        if isinstance(node, dict):
            here = [port for name in ("ports",) for port in node.get(name, ()) if isinstance(port, dict)]
            return here + [port for inner in node.values() for port in ports(inner)]
        return [port for inner in node for port in ports(inner)] if isinstance(node, list) else []

    found = [port for one in render(profile) for port in ports(one)]
    assert found
    assert all(port["protocol"] in ("TCP", "UDP") for port in found)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"stages.diffusion.settings": {"stepSecond": 1}}, "stepSecond"),
        ({"stages.diffusion.settings": {"stepSeconds": "fast"}}, "stepSeconds"),
        ({"stages.sampler": {}}, "sampler"),
        ({"orchestrator.replica": 2}, "replica"),
        ({"orchestrator.settings": {"embedded": True}}, "embedded"),
        ({"mode": "single"}, "mode"),
        ({"weights.image": "weights:latest"}, "weights/image"),
        ({"stages.vae.autoscaling": {"maxReplicas": 0}}, "maxReplicas"),
        ({"listn": "::"}, "listn"),
    ],
)
def test_values_with_typos_are_refused(values: dict[str, Any], field: str) -> None:
    assert field in refused("", values)


@pytest.mark.parametrize(
    ("profile", "values", "reason"),
    [
        ("", {"orchestrator.replicas": 2}, "orchestrator.database.secret"),
        ("single-gpu", {"orchestrator.replicas": 2}, "several need mode stages"),
        ("", {"orchestrator.database.secret": "pg"}, "orchestrator.store must be set"),
        ("", {"stages.vae.autoscaling.minReplicas": 0}, "needs autoscaling.engine keda"),
        ("", {"weights.source": "hostPath"}, "weights.hostPath must be set"),
        ("", {"weights.source": "image"}, "weights.image must be set"),
        ("", {"tls.stages": {"enabled": True, "source": "secrets"}}, "tls.stages.secrets."),
        ("", {"tls.public.enabled": True}, "tls.public.dnsNames must be set"),
        ("", {"gateway.enabled": True}, "gateway.parentRefs"),
        ("", {"ingress.enabled": True}, "ingress.host"),
        ("", {"podDeletionCost.enabled": True, "orchestrator.discovery": "dns"}, "discovery kubernetes"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(profile: str, values: dict[str, Any], reason: str) -> None:
    assert reason in refused(profile, values)


def test_an_image_volume_needs_a_cluster_that_has_them() -> None:
    values = {"weights": {"source": "image", "image": "registry/weights@sha256:" + "0" * 64}}
    assert "needs Kubernetes 1.33" in refused("", values, "1.29.0")
    manifests = render("", values)
    assert [problem for one in manifests for problem in complain(one, "1.33.0")] == []
