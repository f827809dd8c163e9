"""Which pods of a stage Kubernetes should take first when it scales down: those with the least work. For clusters that let us say so.

The ReplicaSet controller reads an annotation. It is written for each pod of a stage when the magnitude of its work changed, no oftener than
every INTERVAL_SECONDS: the API server is not a metrics store.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kubernetes import client

from acestep_rpc.telemetry import log
from orchestrator.discovery import cluster_service, open_cluster, target_of

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
INTERVAL_SECONDS = 10.0
_FORBIDDEN = 403
_NOT_FOUND = 404
_TIMEOUT = (5, 30)

Loads = Callable[[str], Mapping[str, float]]
"""From a stage to the predicted seconds of work of its replicas, by target."""


def cost(seconds: float) -> int:
    """0 for a replica without work, one more with each doubling of its seconds."""
    return 0 if seconds <= 0 else 1 + round(seconds).bit_length()


class DeletionCosts:
    """Writes the annotation for all stages that are Kubernetes services, until it is cancelled.

    Args:
        addresses: Of the stages, as in the settings.
        loads: What their replicas have to do.
        api: Of the cluster; None: the one that this program runs in.
    """

    def __init__(self, addresses: Mapping[str, str], loads: Loads, api: client.ApiClient | None = None) -> None:
        self._services = {stage: service for stage, address in addresses.items() if (service := cluster_service(address)) is not None}
        self._loads = loads
        api = open_cluster() if api is None else api
        self._slices: Any = client.DiscoveryV1Api(api)
        self._pods: Any = client.CoreV1Api(api)
        self._written: dict[tuple[str, str], int] = {}

    async def run(self) -> None:
        """Go round again and again; ends where writing is forbidden."""
        while True:
            for stage in self._services:
                try:
                    await self._write(stage)
                except client.ApiException as error:
                    if error.status == _FORBIDDEN:
                        log("deletion_costs_forbidden", level=logging.WARNING, reason=error.reason)
                        return
                    log("deletion_costs_not_written", stage=stage, reason=f"{error.status} {error.reason}")
                except Exception as error:  # the client lets the errors of its HTTP library through
                    log("deletion_costs_not_written", stage=stage, reason=f"{type(error).__name__}: {error}")
            await asyncio.sleep(INTERVAL_SECONDS)

    async def _write(self, stage: str) -> None:
        namespace, service, port = self._services[stage]
        selector = f"kubernetes.io/service-name={service}"
        listed = await asyncio.to_thread(
            self._slices.list_namespaced_endpoint_slice, namespace, label_selector=selector, _request_timeout=_TIMEOUT
        )
        loads = self._loads(stage)
        for target, pod in _pods(listed.items, port):
            worth = cost(loads.get(target, 0.0))
            if self._written.get((namespace, pod), 0) == worth:
                continue
            body = {"metadata": {"annotations": {ANNOTATION: str(worth)}}}
            with contextlib.suppress(_Gone):
                await asyncio.to_thread(self._patch, namespace, pod, body)
            self._written[namespace, pod] = worth

    def _patch(self, namespace: str, pod: str, body: Mapping[str, Any]) -> None:
        try:
            self._pods.patch_namespaced_pod(pod, namespace, body, _request_timeout=_TIMEOUT)
        except client.ApiException as error:
            if error.status == _NOT_FOUND:
                raise _Gone from error
            raise


class _Gone(Exception):
    """The pod is not there any more."""


def _pods(slices: Iterable[Any], port: int) -> Iterable[tuple[str, str]]:
    """Target and name of each pod behind a service."""
    for piece in slices:
        for endpoint in piece.endpoints or ():
            if endpoint.target_ref is not None and endpoint.target_ref.kind == "Pod":
                for address in endpoint.addresses:
                    yield target_of(address, port), endpoint.target_ref.name
