"""Where the replicas of a stage are: a list, a name in DNS, or the EndpointSlices of a Kubernetes service."""

import asyncio
import contextlib
import ipaddress
import random
import re
import socket
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from typing import Any

from kubernetes import client, config, watch

from acestep_rpc.settings import SettingsError
from acestep_rpc.telemetry import log

Endpoints = Mapping[str, bool]
"""From the target of a replica, as "10.0.0.7:50052", to whether it takes new work; one that only finishes what it has does not."""
Resolve = Callable[[str, int], Awaitable[Iterable[str]]]
"""From a name and a port to addresses. Raises OSError."""

RESOLVE_SECONDS = 5.0
AGAIN_SECONDS = 0.5
"""The least time between two questions, however many replicas fail."""
WATCH_SECONDS = 300
"""After so long a watch ends, and the list is read anew."""
_FIRST_RETRY_SECONDS, _MAX_RETRY_SECONDS = 0.5, 30.0
_GONE_SECONDS = 0.1
_REFUSED_SECONDS = 60.0
"""So long must an API server that has answered before refuse: one that starts does, until it knows its roles and APIs."""
_FORBIDDEN, _NOT_SERVED, _GONE = 403, 404, 410
_PORT = r":(\d{1,5})"
_LIST = re.compile(rf"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+){_PORT}")
_DNS = re.compile(rf"dns:///([A-Za-z0-9._-]+){_PORT}")
_CLUSTER = re.compile(rf"k8s:///([a-z0-9-]+)/([a-z0-9-]+){_PORT}")


def discover(address: str, again: asyncio.Event | None = None) -> AsyncGenerator[Endpoints]:
    """The replicas, at once and after every change.

    Args:
        address: "host:port,host:port"; "dns:///name:port", all addresses of the name, asked for again every 5 s; or
            "k8s:///namespace/service:port", watched, for programs in a cluster that may read EndpointSlices.
        again: Where it is set, DNS is asked soon.
    Raises:
        SettingsError: There is no cluster.
    """
    if name := _DNS.fullmatch(address):
        return resolved(name[1], int(name[2]), again=again)
    if service := cluster_service(address):
        return endpoint_slices(*service, client.DiscoveryV1Api(open_cluster()), again)
    return _listed(address)


def cluster_service(address: str) -> tuple[str, str, int] | None:
    """Namespace, name and port of a Kubernetes service; None: the address is something else."""
    service = _CLUSTER.fullmatch(address)
    return None if service is None else (service[1], service[2], int(service[3]))


async def _listed(address: str) -> AsyncGenerator[Endpoints]:
    yield dict.fromkeys(address.split(","), True)


def check_address(name: str, address: str) -> None:
    """Refuse what `discover` cannot read.

    Args:
        name: Of the setting, for the message.
        address: As for `discover`.
    Raises:
        SettingsError: It is none.
    """
    listed = all(_LIST.fullmatch(target) for target in address.split(","))
    if not (listed or _DNS.fullmatch(address) or _CLUSTER.fullmatch(address)):
        raise SettingsError(f'{name} {address!r} is none of "host:port,host:port", "dns:///name:port", "k8s:///namespace/service:port"')


async def look_up(name: str, port: int) -> list[str]:
    """Addresses of a name, by the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in found]


async def resolved(
    name: str, port: int, resolve: Resolve = look_up, seconds: float = RESOLVE_SECONDS, again: asyncio.Event | None = None
) -> AsyncGenerator[Endpoints]:
    """All addresses of a name, each time that they change; a name that nobody knows has none, an answer that fails changes nothing.

    Args:
        name: In DNS.
        port: Of every replica.
        resolve: Asked.
        seconds: Between two questions.
        again: Where it is set, the next question comes sooner, after AGAIN_SECONDS.
    """
    last: Endpoints | None = None
    again = asyncio.Event() if again is None else again
    while True:
        try:
            endpoints = dict.fromkeys(sorted(target_of(address, port) for address in await resolve(name, port)), True)
        except OSError as error:
            unknown = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
            log("name_not_resolved", name=name, reason=str(error))
            endpoints = {} if unknown or last is None else dict(last)
        if endpoints != last:
            yield endpoints
            last = endpoints
        pause = min(AGAIN_SECONDS, seconds)
        await asyncio.sleep(pause)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(again.wait(), seconds - pause)
        again.clear()


def target_of(address: str, port: int) -> str:
    """What a replica with this address is called."""
    return f"[{address}]:{port}" if ipaddress.ip_address(address.partition("%")[0]).version == 6 else f"{address}:{port}"


def open_cluster() -> client.ApiClient:
    """The API server of the cluster that this program runs in, or of the user's configuration.

    Raises:
        SettingsError: There is none.
    """
    try:
        config.load_incluster_config()  # type: ignore[no-untyped-call]  # the client has no types here
    except config.ConfigException:
        try:
            config.load_kube_config()  # type: ignore[no-untyped-call]
        except config.ConfigException as error:
            raise SettingsError(f"k8s:/// needs a cluster: {error}") from error
    return client.ApiClient()


async def endpoint_slices(
    namespace: str, service: str, port: int, api: client.DiscoveryV1Api, again: asyncio.Event | None = None
) -> AsyncGenerator[Endpoints]:
    """The endpoints of a service, each time that they change; those of DNS where EndpointSlices may not be read or are not there.

    Args:
        namespace: Of the service.
        service: A headless one.
        port: Of every replica.
        api: Of the cluster.
        again: As for `resolved`, where DNS is asked.
    """
    changes: asyncio.Queue[Endpoints | None] = asyncio.Queue()
    loop, stopped = asyncio.get_running_loop(), threading.Event()

    def tell(endpoints: Endpoints | None) -> None:
        if not stopped.is_set():
            loop.call_soon_threadsafe(changes.put_nowait, endpoints)

    watcher = _SliceWatcher(api, namespace, service, port, tell, stopped)
    threading.Thread(target=watcher.run, name=f"endpoints-{service}", daemon=True).start()  # it ends with the next answer after `stopped`
    last: Endpoints | None = None
    try:
        while (endpoints := await changes.get()) is not None:
            if endpoints != last:
                yield endpoints
                last = endpoints
    finally:
        stopped.set()
    async for endpoints in resolved(f"{service}.{namespace}.svc", port, again=again):
        yield endpoints


class _SliceWatcher:
    """Lists and watches in a thread of its own: the client knows no asyncio."""

    def __init__(
        self,
        api: client.DiscoveryV1Api,
        namespace: str,
        service: str,
        port: int,
        tell: Callable[[Endpoints | None], None],
        stopped: threading.Event,
    ) -> None:
        self._api: Any = api
        self._selection = {"namespace": namespace, "label_selector": f"kubernetes.io/service-name={service}"}
        self._port = port
        self._tell = tell
        self._stopped = stopped
        self._slices: dict[str, Any] = {}
        self._answered = False
        self._refused: float | None = None  # since when, time.monotonic()

    def run(self) -> None:
        """Tell the endpoints until stopped; None: they cannot be read here."""
        delay = _FIRST_RETRY_SECONDS
        while not self._stopped.is_set():
            try:
                self._follow()
                delay = _FIRST_RETRY_SECONDS
            except client.ApiException as error:
                if error.status in (_FORBIDDEN, _NOT_SERVED) and self._is_meant():  # not served: Kubernetes before 1.21
                    event = "endpoint_slices_forbidden" if error.status == _FORBIDDEN else "endpoint_slices_not_served"
                    log(event, instead="DNS", reason=error.reason)
                    self._tell(None)
                    return
                if error.status == _GONE:  # the list is read anew, and not over and over
                    self._stopped.wait(_GONE_SECONDS)
                else:
                    delay = self._pause(delay, error)
            except Exception as error:  # the client lets the errors of its HTTP library through
                delay = self._pause(delay, error)

    def _follow(self) -> None:
        """List once, then watch until the server ends it."""
        listed = self._api.list_namespaced_endpoint_slice(**self._selection, _request_timeout=(5, 30))
        self._answered, self._refused = True, None
        self._slices = {piece.metadata.name: piece for piece in listed.items}
        self._report()
        events: Any = watch.Watch().stream(  # type: ignore[no-untyped-call]  # the client has no types here
            self._api.list_namespaced_endpoint_slice,
            **self._selection,
            resource_version=listed.metadata.resource_version,
            timeout_seconds=WATCH_SECONDS,
            _request_timeout=(5, WATCH_SECONDS + 30),
        )
        for event in events:
            if self._stopped.is_set():
                return
            piece = event["object"]
            if event["type"] == "DELETED":
                self._slices.pop(piece.metadata.name, None)
            else:
                self._slices[piece.metadata.name] = piece
            self._report()

    def _report(self) -> None:
        endpoints: dict[str, bool] = {}
        for piece in self._slices.values():
            for endpoint in piece.endpoints or ():
                conditions = endpoint.conditions
                ready = conditions is None or conditions.ready is not False
                finishing = conditions is not None and conditions.terminating is True and conditions.serving is not False
                if ready or finishing:
                    endpoints |= {target_of(address, self._port): ready and not finishing for address in endpoint.addresses}
        self._tell(dict(sorted(endpoints.items())))

    def _is_meant(self) -> bool:
        """Whether a refusal is more than that of an API server that starts."""
        now = time.monotonic()
        self._refused = now if self._refused is None else self._refused
        return not self._answered or now - self._refused > _REFUSED_SECONDS

    def _pause(self, delay: float, error: Exception) -> float:
        log("endpoint_slices_away", reason=f"{type(error).__name__}: {error}", retry_seconds=round(delay, 1))
        self._stopped.wait(delay * random.uniform(0.5, 1.5))  # noqa: S311
        return min(2 * delay, _MAX_RETRY_SECONDS)
