"""Taking one replica out of service without losing what it works on."""

import time
from collections.abc import Callable
from typing import Any

import urllib3
from kubernetes import client

from acestep_rpc.errors import DeadlineExceeded
from clients.cli.cluster_state import CHART, COMPONENT, COMPONENTS, DRAINING, NAME, RELEASE, Cluster, component_of, failure, is_ready
from clients.cli.failures import CommandFailed, ExitCode

_POLL_SECONDS = 1.0
_IDLE_POLLS = 3
"""So often in a row it must have no work: a call that was sent before its address went is there by then."""


def drain(cluster: Cluster, pod_name: str, timeout: float, keep: bool, force: bool, tell: Callable[[str], None]) -> None:
    """Mark a pod, wait until it is idle, delete it.

    Args:
        cluster: Where.
        pod_name: Of a replica; one that is marked already is waited for.
        timeout: Seconds to wait until it is idle.
        keep: Leave it there, out of service.
        force: Even if no other replica of its stage takes work.
        tell: Called with each step.
    Raises:
        CommandFailed: There is no such replica, or it is the only one, or the API server refuses.
        DeadlineExceeded: It is not idle in time; it stays marked.
    """
    try:
        pod = cluster.core.read_namespaced_pod(pod_name, cluster.namespace)
        component = component_of(pod)
        if pod.metadata.labels.get(NAME) != CHART or component not in COMPONENTS:
            raise CommandFailed(f"pod {pod_name} is no replica of this chart", ExitCode.USAGE)
        marked = pod.metadata.labels[COMPONENT].endswith(DRAINING)
        if not marked:
            others = _others(cluster, pod, component)
            if not others and not force:
                raise CommandFailed(
                    f"{pod_name} is the only replica of {component} that takes work: scale it up first"
                    f" (kubectl scale, or minReplicas of its autoscaler), or give --force"
                )
            _mark(cluster, pod, component)
            tell(f"{pod_name} is out of service and gets no new work; its deployment replaces it now ({others} others take work)")
        _wait_until_out(cluster, pod_name, component, time.monotonic() + timeout)
        if component == "orchestrator":
            tell("an orchestrator gives its jobs to others when it ends, and finishes the calls that it has")
        else:
            _wait_until_idle(cluster, pod_name, component, timeout, tell)
        if keep:
            tell(f"{pod_name} stays, out of service: kubectl delete pod {pod_name} when it is no longer needed")
            return
        cluster.core.delete_namespaced_pod(pod_name, cluster.namespace)
        tell(f"{pod_name} is told to end; what it may still have it finishes within its termination grace period")
    except client.ApiException as error:
        if error.status == 404:
            raise CommandFailed(f"there is no pod {pod_name} in namespace {cluster.namespace} (--namespace)") from error
        raise failure(error, f"cannot drain {pod_name}") from error
    except urllib3.exceptions.HTTPError as error:
        raise failure(error, f"cannot drain {pod_name}") from error


def _others(cluster: Cluster, pod: Any, component: str) -> int:
    """Replicas beside it that take work."""
    selector = f"{NAME}={CHART},{RELEASE}={pod.metadata.labels[RELEASE]},{COMPONENT}={component}"
    pods = cluster.core.list_namespaced_pod(cluster.namespace, label_selector=selector).items
    return sum(is_ready(one) and not one.metadata.deletion_timestamp and one.metadata.name != pod.metadata.name for one in pods)


def _mark(cluster: Cluster, pod: Any, component: str) -> None:
    """Take away the label that its service and its deployment know it by: the one lets go of it, the other makes a new one."""
    labels = {COMPONENT: component + DRAINING}
    version = pod.metadata.resource_version  # nobody changed it since it was looked at
    cluster.core.patch_namespaced_pod(pod.metadata.name, cluster.namespace, {"metadata": {"labels": labels, "resourceVersion": version}})


def _wait_until_out(cluster: Cluster, pod_name: str, component: str, deadline: float) -> None:
    """Until no service leads to it."""
    selector = f"{NAME}={CHART},{COMPONENT}={component}"
    while True:
        slices = cluster.discovery.list_namespaced_endpoint_slice(cluster.namespace, label_selector=selector).items
        named = {one.target_ref.name for piece in slices for one in piece.endpoints or () if one.target_ref is not None}
        if pod_name not in named:
            return
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"services still lead to {pod_name}: it stays marked, run the command again to go on")
        time.sleep(_POLL_SECONDS)


def _wait_until_idle(cluster: Cluster, pod_name: str, component: str, timeout: float, tell: Callable[[str], None]) -> None:
    """Until it says several times in a row that it has no work."""
    deadline, idle, told = time.monotonic() + timeout, 0, -1.0
    while idle < _IDLE_POLLS:
        try:
            backlog = cluster.metrics(cluster.core.read_namespaced_pod(pod_name, cluster.namespace)).get(
                ("acestep_backlog_seconds", component)
            )
        except client.ApiException as error:
            if error.status == 404:
                raise
            backlog = None
        if backlog is None:
            tell(f"{pod_name} does not say what work it has: it is left to its own draining")
            return
        idle = idle + 1 if backlog == 0 else 0
        if backlog and round(backlog, 1) != told:
            told = round(backlog, 1)
            tell(f"{pod_name} has {told:g} s of work left")
        if idle < _IDLE_POLLS:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"{pod_name} is not idle after {timeout:g} s: it stays out of service, run the command again to go on"
                )
            time.sleep(_POLL_SECONDS)
    tell(f"{pod_name} is idle")
