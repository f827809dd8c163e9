"""What a Kubernetes cluster knows of a release of the chart, read at one moment. Knows no terminal.

The API server tells of deployments, pods, endpoints and autoscalers; through its proxy the pods tell their own metrics.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import urllib3
from kubernetes import client, config
from prometheus_client.parser import text_string_to_metric_families

from clients.cli.failures import CommandFailed, ExitCode

COMPONENTS = ("orchestrator", "encoder", "diffusion", "vae")
NAME, RELEASE, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"
CHART = "acestep"
DRAINING = "-draining"
"""At the end of the component of a pod that `acestep cluster drain` took out of service."""
_METRICS_SECONDS = 5.0
_SECONDS = (5, 30)
_EVENTS = 200
_MENDED = ("Endpoints", "EndpointSlice")
"""Their controllers warn of every conflict between two writers, and write again."""


@dataclass
class Replica:
    """A pod.

    Attributes:
        name: Of the pod.
        state: ready, draining (it ends, or is taken out of service), starting, or failing.
        reason: Why it is not ready; empty: it is, or nothing is known.
        restarts: Of its containers.
        in_service: Its service leads to it.
        backlog_seconds: Predicted seconds of work that it has; None: it does not say.
    """

    name: str
    state: str
    reason: str = ""
    restarts: int = 0
    in_service: bool = False
    backlog_seconds: float | None = None


@dataclass
class Autoscaler:
    """A HorizontalPodAutoscaler, one of KEDA's too.

    Attributes:
        name: Of the object.
        lowest: Replicas.
        highest: Replicas.
        current: Replicas that it counts.
        desired: Replicas that it wants.
        metric: What it goes by.
        value: Of the metric, for each replica; None: there is none.
        target: For each replica.
        state: Why it scales, or does not.
    """

    name: str
    lowest: int
    highest: int
    current: int
    desired: int
    metric: str
    value: float | None
    target: float | None
    state: str


@dataclass
class Component:
    """A deployment and all that belongs to it.

    Attributes:
        name: orchestrator, encoder, diffusion or vae.
        wanted: Replicas.
        image: Of its pods.
        backlog_seconds: Predicted seconds of its work, as orchestrators see it; None: they do not say.
        replicas: Its pods.
        autoscaler: If it has one.
        trouble: What stands in its way, of the deployment and of recent events.
    """

    name: str
    wanted: int
    image: str
    backlog_seconds: float | None = None
    replicas: list[Replica] = field(default_factory=list)
    autoscaler: Autoscaler | None = None
    trouble: list[str] = field(default_factory=list)

    def count(self, state: str) -> int:
        """Pods in a state."""
        return sum(one.state == state for one in self.replicas)


@dataclass
class Release:
    """All of it.

    Attributes:
        name: Of the release.
        namespace: Where it is.
        components: In the order of COMPONENTS.
        notes: What could not be read, and why.
    """

    name: str
    namespace: str
    components: list[Component]
    notes: list[str] = field(default_factory=list)


class Cluster:
    """The API server of a context.

    Args:
        context: In the user's configuration; None: the current one, or that of the pod that this runs in.
        namespace: None: that of the context.
    Raises:
        CommandFailed: There is no such context.
    """

    def __init__(self, context: str | None, namespace: str | None) -> None:
        try:
            configured, current = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]  # the client has no types here
            chosen = current if context is None else next((one for one in configured if one["name"] == context), None)
            if chosen is None:
                raise CommandFailed(f"--context {context!r} is not there: {', '.join(one['name'] for one in configured)}", ExitCode.USAGE)
            self.api: Any = config.new_client_from_config(context=chosen["name"])  # type: ignore[no-untyped-call]
            self.namespace: str = namespace or chosen["context"].get("namespace") or "default"
        except config.ConfigException as error:
            if context is not None:
                raise CommandFailed(f"--context {context!r}: {error}", ExitCode.USAGE) from error
            try:
                config.load_incluster_config()  # type: ignore[no-untyped-call]
            except config.ConfigException:
                raise CommandFailed(f"there is no cluster to talk to: {error} (KUBECONFIG, ~/.kube/config)", ExitCode.USAGE) from error
            self.api = client.ApiClient()
            with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace", encoding="utf-8") as file:
                self.namespace = namespace or file.read().strip()
        self.core: Any = client.CoreV1Api(self.api)
        self.apps: Any = client.AppsV1Api(self.api)
        self.discovery: Any = client.DiscoveryV1Api(self.api)
        self.autoscaling: Any = client.AutoscalingV2Api(self.api)

    def metrics(self, pod: Any) -> dict[tuple[str, str], float]:
        """Samples of a pod by name and stage, other labels apart. Raises ApiException or HTTPError: it does not say."""
        ports = [port for container in pod.spec.containers for port in container.ports or () if port.name == "metrics"]
        if not ports:
            return {}
        name = f"{pod.metadata.name}:{ports[0].container_port}"
        answer = self.core.connect_get_namespaced_pod_proxy_with_path(
            name, self.namespace, "metrics", _preload_content=False, _request_timeout=_METRICS_SECONDS
        )
        samples: dict[tuple[str, str], float] = {}
        for family in text_string_to_metric_families(answer.data.decode()):
            for sample in family.samples:
                key = (sample.name, sample.labels.get("stage", ""))
                samples[key] = samples.get(key, 0.0) + sample.value
        return samples


def failure(error: Exception, doing: str) -> CommandFailed:
    """What to tell of an API server that refuses or does not answer."""
    if isinstance(error, client.ApiException):
        code = {401: ExitCode.DENIED, 403: ExitCode.DENIED}.get(error.status or 0, ExitCode.FAILED)
        return CommandFailed(f"{doing}: the API server answered {error.status} {error.reason}", code)
    return CommandFailed(f"{doing}: the API server does not answer: {error}", ExitCode.UNAVAILABLE)


def read_release(cluster: Cluster, name: str | None) -> Release:
    """Read everything.

    Args:
        cluster: Where.
        name: Of the release; None: the only one in the namespace.
    Raises:
        CommandFailed: There is none, or several; or the API server does not tell.
    """
    selector = f"{NAME}={CHART}" + (f",{RELEASE}={name}" if name else "")
    try:
        deployments = cluster.apps.list_namespaced_deployment(cluster.namespace, label_selector=selector, _request_timeout=_SECONDS).items
        names = sorted({one.metadata.labels[RELEASE] for one in deployments})
        if not names:
            raise CommandFailed(f"no release{f' {name}' if name else ''} of the chart in namespace {cluster.namespace} (--namespace)")
        if len(names) > 1:
            raise CommandFailed(f"several releases in namespace {cluster.namespace}: choose by --release {'|'.join(names)}", ExitCode.USAGE)
        selector = f"{NAME}={CHART},{RELEASE}={names[0]}"
        pods = cluster.core.list_namespaced_pod(cluster.namespace, label_selector=selector, _request_timeout=_SECONDS).items
    except (client.ApiException, urllib3.exceptions.HTTPError) as error:
        raise failure(error, f"cannot read deployments and pods in namespace {cluster.namespace}") from error
    release = Release(names[0], cluster.namespace, [])
    in_service = _optional(release, "endpointslices", lambda: _in_service(cluster, selector))
    autoscalers = _optional(release, "horizontalpodautoscalers", lambda: _autoscalers(cluster)) or {}
    events = _optional(release, "events", lambda: _events(cluster)) or []
    metrics = _metrics(release, cluster, pods)
    for deployment in sorted(deployments, key=_rank):
        component = _component(deployment, pods, in_service, metrics)
        component.autoscaler = autoscalers.get(deployment.metadata.name)
        component.trouble += warnings_about(events, deployment.metadata.name, component)
        release.components.append(component)
    return release


def component_of(pod: Any) -> str:
    """Of which component a pod is, in service or not."""
    return str(pod.metadata.labels.get(COMPONENT, "")).removesuffix(DRAINING)


def is_ready(pod: Any) -> bool:
    """Whether its probes say so."""
    return any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions or ())


def _optional(release: Release, what: str, read: Any) -> Any:
    """What read() gives; a note if that is not allowed."""
    try:
        return read()
    except (client.ApiException, urllib3.exceptions.HTTPError) as error:
        reason = f"{error.status} {error.reason}" if isinstance(error, client.ApiException) else str(error)
        release.notes.append(f"{what} cannot be read: {reason}")
        return None


def _rank(deployment: Any) -> int:
    component = deployment.metadata.labels.get(COMPONENT, "")
    return COMPONENTS.index(component) if component in COMPONENTS else len(COMPONENTS)


def _in_service(cluster: Cluster, selector: str) -> set[str]:
    """Names of pods that services lead to."""
    slices = cluster.discovery.list_namespaced_endpoint_slice(cluster.namespace, label_selector=selector, _request_timeout=_SECONDS).items
    return {
        endpoint.target_ref.name
        for piece in slices
        for endpoint in piece.endpoints or ()
        if endpoint.target_ref is not None and endpoint.conditions.ready is not False
    }


def _autoscalers(cluster: Cluster) -> dict[str, Autoscaler]:
    """By name of the deployment that they scale."""
    found = cluster.autoscaling.list_namespaced_horizontal_pod_autoscaler(cluster.namespace, _request_timeout=_SECONDS).items
    return {one.spec.scale_target_ref.name: _autoscaler(one) for one in found if one.spec.scale_target_ref.kind == "Deployment"}


def _autoscaler(item: Any) -> Autoscaler:
    status = item.status
    current, desired = status.current_replicas or 0, status.desired_replicas or 0
    name, target = _metric(item.spec.metrics or ())
    name, value = next(((metric, value) for metric, value in map(_current, status.current_metrics or ()) if metric), (name, None))
    autoscaler = Autoscaler(
        item.metadata.name, item.spec.min_replicas or 1, item.spec.max_replicas, current, desired, name, value, target, ""
    )
    autoscaler.state = explain(autoscaler, {one.type: one for one in status.conditions or ()})
    return autoscaler


def _metric(metrics: Iterable[Any]) -> tuple[str, float | None]:
    """Name and target of the first metric that is not the device's."""
    for metric in metrics:
        for source in (metric.external, metric.object, metric.pods):
            if source is not None:
                return source.metric.name, quantity(source.target.average_value or source.target.value)
    return "", None


def _current(metric: Any) -> tuple[str, float | None]:
    for source in (metric.external, metric.object, metric.pods):
        if source is not None:
            return source.metric.name, quantity(source.current.average_value or source.current.value)
    return "", None


def quantity(text: Any) -> float | None:
    """A number as Kubernetes writes it, "1500m" or "2k"; None: none."""
    if text is None:
        return None
    scales = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
    number = str(text)
    scale = next((suffix for suffix in sorted(scales, key=len, reverse=True) if number.endswith(suffix)), "")
    return float(number.removesuffix(scale)) * scales.get(scale, 1.0)


def explain(autoscaler: Autoscaler, conditions: Mapping[str, Any]) -> str:
    """Why an autoscaler scales or does not, in words.

    Args:
        autoscaler: With all but its state.
        conditions: Of its status, by type.
    """

    def is_set(kind: str, status: str) -> Any:
        condition = conditions.get(kind)
        return condition if condition is not None and condition.status == status else None

    measured = ""
    if autoscaler.value is not None and autoscaler.target is not None:
        measured = f"{autoscaler.value:.3g} s of backlog a replica, target {autoscaler.target:.3g} s"
    if broken := is_set("ScalingActive", "False"):
        if broken.reason == "ScalingDisabled":
            return "switched off: the deployment has 0 replicas"
        return f"cannot scale, the metric is missing ({broken.reason}): {broken.message}"
    if broken := is_set("AbleToScale", "False"):
        return f"cannot scale ({broken.reason}): {broken.message}"
    if not conditions:
        return "has not looked yet"
    if autoscaler.desired > autoscaler.current:
        return f"scales up from {autoscaler.current} to {autoscaler.desired}: {measured}"
    if autoscaler.desired < autoscaler.current:
        return f"scales down from {autoscaler.current} to {autoscaler.desired}: {measured}"
    limited = is_set("ScalingLimited", "True")
    if limited and limited.reason == "TooManyReplicas":
        return f"wants more but is at its maximum of {autoscaler.highest} (maxReplicas): {measured}"
    if limited and limited.reason == "TooFewReplicas":
        return f"is at its minimum of {autoscaler.lowest}: {measured}"
    if limited and limited.reason.endswith("Limit"):
        return f"is held back by its policies ({limited.reason}): {measured}"
    if (able := is_set("AbleToScale", "True")) and able.reason == "ScaleDownStabilized":
        return f"needs fewer but waits, as recent load was higher (scaleDown.stabilizationWindowSeconds): {measured}"
    return f"has what it needs: {measured}"


def _events(cluster: Cluster) -> list[Any]:
    """Warnings, the newest first."""
    found = cluster.core.list_namespaced_event(
        cluster.namespace, field_selector="type=Warning", limit=_EVENTS, _request_timeout=_SECONDS
    ).items
    return sorted(found, key=lambda one: str(one.last_timestamp or one.event_time or ""), reverse=True)


def warnings_about(events: Iterable[Any], deployment: str, component: Component) -> list[str]:
    """Of each kind of warning about what is there now, the newest."""
    unready = {one.name for one in component.replicas if one.state != "ready"}
    names = {deployment, *unready} | ({component.autoscaler.name} if component.autoscaler else set())
    told: dict[tuple[str, str], str] = {}
    for event in events:
        about = event.involved_object
        if about.kind in _MENDED:
            continue
        if about.name in names or (about.kind == "ReplicaSet" and about.name.startswith(f"{deployment}-") and unready):
            told.setdefault((about.kind, event.reason), f"{about.kind} {about.name}: {event.reason}: {event.message}")
    return list(told.values())


def _metrics(release: Release, cluster: Cluster, pods: Iterable[Any]) -> dict[str, dict[tuple[str, str], float]]:
    """What each running pod says, by its name."""
    found = {}
    for pod in pods:
        if pod.status.phase != "Running" or not component_of(pod):
            continue
        try:
            found[pod.metadata.name] = cluster.metrics(pod)
        except client.ApiException as error:
            if error.status in (401, 403):
                release.notes.append(f"backlogs cannot be read: {error.status} {error.reason} (get on pods/proxy)")
                return found
        except (urllib3.exceptions.HTTPError, ValueError):
            continue  # it starts, ends or hangs: its state says so
    return found


def _component(
    deployment: Any, pods: Sequence[Any], in_service: set[str] | None, metrics: Mapping[str, Mapping[tuple[str, str], float]]
) -> Component:
    name = deployment.metadata.labels.get(COMPONENT, "")
    image = deployment.spec.template.spec.containers[0].image
    component = Component(name, 1 if deployment.spec.replicas is None else deployment.spec.replicas, image)
    for pod in sorted((one for one in pods if component_of(one) == name), key=lambda one: str(one.metadata.name)):
        replica = _replica(pod, in_service)
        if replica.name in metrics:  # a metric that is not there yet had nothing to count
            replica.backlog_seconds = metrics[replica.name].get(("acestep_backlog_seconds", name), 0.0)
        component.replicas.append(replica)
    if name == "orchestrator":
        told = [one.backlog_seconds for one in component.replicas if one.backlog_seconds is not None]
        component.backlog_seconds = sum(told) if told else None
    else:  # each orchestrator sees all replicas, and of what was sent lately only its own
        fronts = [metrics[pod.metadata.name] for pod in pods if component_of(pod) == "orchestrator" and pod.metadata.name in metrics]
        component.backlog_seconds = max((one.get(("acestep_pool_backlog_seconds", name), 0.0) for one in fronts), default=None)
    for condition in deployment.status.conditions or ():
        failed = {"Progressing": "False", "ReplicaFailure": "True"}.get(condition.type)
        if condition.status == failed:
            component.trouble.append(f"Deployment {deployment.metadata.name}: {condition.reason}: {condition.message}")
    return component


def _replica(pod: Any, in_service: set[str] | None) -> Replica:
    statuses = [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]
    replica = Replica(
        pod.metadata.name, "ready", restarts=sum(one.restart_count for one in statuses), in_service=pod.metadata.name in (in_service or ())
    )
    taken_out = pod.metadata.labels.get(COMPONENT, "").endswith(DRAINING)
    if pod.metadata.deletion_timestamp is not None or taken_out:
        replica.state, replica.reason = "draining", "taken out of service" if taken_out else "told to end"
    elif not is_ready(pod):
        replica.state, replica.reason = "starting", _reason(pod, statuses)
        if pod.status.phase == "Failed" or any(one.restart_count for one in statuses) or "Err" in replica.reason:
            replica.state = "failing"
    elif in_service is not None and not replica.in_service:
        replica.reason = "ready, but its service does not lead to it yet"
    return replica


def _reason(pod: Any, statuses: Iterable[Any]) -> str:
    for status in statuses:
        for state in (status.state.waiting, status.state.terminated):
            if state is not None and state.reason:
                ended = f", exit code {state.exit_code}" if state is status.state.terminated else ""
                return ": ".join(part for part in (f"{state.reason}{ended}", state.message) if part)
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{condition.reason}: {condition.message}"
    return "" if pod.status.phase == "Pending" else "it does not take work yet"
