import dataclasses
from pathlib import Path

import pytest
import yaml
from kubernetes import client

from clients.cli import cluster_state
from clients.cli.cluster import lines
from clients.cli.cluster_state import Autoscaler, Component, Release, Replica, explain, quantity, warnings_about
from clients.cli.failures import ExitCode
from clients.cli.main import main

SCALER = Autoscaler("diffusion", 1, 8, 2, 2, "acestep_stage_backlog_seconds", 12.5, 30.0, "")
MEASURED = "12.5 s of backlog a replica, target 30 s"


def condition(kind: str, status: str, reason: str, message: str = "") -> client.V2HorizontalPodAutoscalerCondition:
    return client.V2HorizontalPodAutoscalerCondition(type=kind, status=status, reason=reason, message=message)


def explained(*conditions: client.V2HorizontalPodAutoscalerCondition, **changes: int) -> str:
    return explain(dataclasses.replace(SCALER, **changes), {one.type: one for one in conditions})


def test_an_autoscaler_is_explained():
    able = condition("AbleToScale", "True", "ReadyForNewScale")
    assert explained() == "has not looked yet"
    assert explained(able) == f"has what it needs: {MEASURED}"
    assert explained(able, desired=5) == f"scales up from 2 to 5: {MEASURED}"
    assert explained(able, desired=1) == f"scales down from 2 to 1: {MEASURED}"
    waits = condition("AbleToScale", "True", "ScaleDownStabilized")
    assert explained(waits) == f"needs fewer but waits, as recent load was higher (scaleDown.stabilizationWindowSeconds): {MEASURED}"


def test_an_autoscaler_that_does_not_scale_says_why():
    missing = condition("ScalingActive", "False", "FailedGetExternalMetric", "no metrics returned from external metrics API")
    assert explained(missing) == (
        "cannot scale, the metric is missing (FailedGetExternalMetric): no metrics returned from external metrics API"
    )
    assert explained(condition("ScalingActive", "False", "ScalingDisabled")) == "switched off: the deployment has 0 replicas"
    assert explained(condition("AbleToScale", "False", "FailedGetScale", "not found")) == "cannot scale (FailedGetScale): not found"
    most = condition("ScalingLimited", "True", "TooManyReplicas")
    assert explained(most, current=8, desired=8) == f"wants more but is at its maximum of 8 (maxReplicas): {MEASURED}"
    assert explained(condition("ScalingLimited", "True", "TooFewReplicas")) == f"is at its minimum of 1: {MEASURED}"
    assert explained(condition("ScalingLimited", "True", "ScaleUpLimit")) == f"is held back by its policies (ScaleUpLimit): {MEASURED}"


@pytest.mark.parametrize(("text", "number"), [("1500m", 1.5), ("30", 30.0), ("2k", 2000.0), ("1Ki", 1024.0), (None, None), (0, 0.0)])
def test_quantities_are_read(text, number):
    assert quantity(text) == number


def test_a_release_is_shown_as_text():
    replicas = [
        Replica("d-1", "ready", in_service=True, backlog_seconds=3.04),
        Replica("d-2", "draining", "taken out of service", backlog_seconds=1.0),
        Replica("d-3", "failing", "CrashLoopBackOff: back-off\nrestarting", restarts=4),
    ]
    component = Component("diffusion", 3, "acestep-diffusion:1", 4.04, replicas, dataclasses.replace(SCALER, state="is at its minimum"))
    component.trouble.append("Pod d-3: BackOff: restarting failed container")
    assert list(lines(Release("music", "songs", [component], ["events cannot be read: 403 Forbidden"]))) == [
        "release music in namespace songs",
        "",
        "           READY  DRAINING  BACKLOG  AUTOSCALER",
        "diffusion  1/3    1         4.0 s    2 -> 2 of 1..8",
        "",
        "diffusion  acestep-diffusion:1",
        "  d-1  ready     3.0 s",
        "  d-2  draining  1.0 s              taken out of service",
        "  d-3  failing   ?      4 restarts  CrashLoopBackOff: back-off restarting",
        "  autoscaler is at its minimum",
        "  ! Pod d-3: BackOff: restarting failed container",
        "",
        "note: events cannot be read: 403 Forbidden",
    ]


def warning(kind: str, name: str, reason: str, message: str) -> client.CoreV1Event:
    about = client.V1ObjectReference(kind=kind, name=name)
    return client.CoreV1Event(metadata=client.V1ObjectMeta(), involved_object=about, reason=reason, message=message)


def test_warnings_are_those_about_what_is_wrong_now():
    component = Component("diffusion", 2, "image", None, [Replica("d-1", "ready"), Replica("d-2", "failing")], SCALER)
    events = [
        warning("Pod", "d-2", "BackOff", "the newest"),
        warning("Pod", "d-2", "BackOff", "one before"),
        warning("Pod", "d-1", "Unhealthy", "it is ready by now"),
        warning("Pod", "d-0", "BackOff", "it is gone"),
        warning("ReplicaSet", "song-diffusion-12345", "FailedCreate", "exceeded quota"),
        warning("HorizontalPodAutoscaler", "diffusion", "FailedGetExternalMetric", "no metrics"),
        warning("Endpoints", "song-diffusion", "FailedToUpdateEndpoint", "the object has been modified"),
        warning("Deployment", "song-vae", "Other", "of another"),
    ]
    assert warnings_about(events, "song-diffusion", component) == [
        "Pod d-2: BackOff: the newest",
        "ReplicaSet song-diffusion-12345: FailedCreate: exceeded quota",
        "HorizontalPodAutoscaler diffusion: FailedGetExternalMetric: no metrics",
    ]


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leads to a port where nobody listens."""
    path = tmp_path / "kubeconfig"
    content = {
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "songs"}}],
    }
    path.write_text(yaml.safe_dump(content))
    monkeypatch.setattr(cluster_state.config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    return path


def test_an_unknown_context_is_named(kubeconfig, capsys):
    assert main(["cluster", "status", "--context", "there"]) == ExitCode.USAGE
    assert "--context 'there' is not there: here" in capsys.readouterr().err


def test_without_a_kubeconfig_there_is_no_cluster(kubeconfig, capsys):
    kubeconfig.unlink()
    assert main(["cluster", "drain", "some-pod"]) == ExitCode.USAGE
    assert "there is no cluster to talk to" in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_unavailable(kubeconfig, capsys):
    assert main(["cluster", "status"]) == ExitCode.UNAVAILABLE
    assert "cannot read deployments and pods in namespace songs" in capsys.readouterr().err


def test_a_negative_timeout_is_refused(kubeconfig, capsys):
    assert main(["cluster", "drain", "some-pod", "--timeout", "-1"]) == ExitCode.USAGE
    assert "--timeout -1 is not allowed; allowed: 0 or more" in capsys.readouterr().err
