"""A node without containers: what the scheduler binds to it runs as processes of this machine, as a kubelet would run it.

A pod has an address of its own on the loopback device (`PODS`), each of its containers a root file system of its own: this machine's, with
the pod's volumes in their places, and changes that nobody else sees. Users, capabilities and read-only roots are as the pod says. There are
no images: `images` says what an image's name means here. Pods share this machine's network: they have to listen on their own address,
not on all of them. Names of services are in each pod's /etc/hosts. Resource limits are not enforced. Needs root and Linux.
"""

import base64
import contextlib
import ipaddress
import os
import random
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubernetes import client, watch

from tests.cluster.control_plane import ControlPlane

PODS = ipaddress.ip_network("198.18.0.0/15")
"""Addresses of pods. Kubernetes refuses 127.0.0.0/8 in endpoints; this range is for tests of networks (RFC 2544) and routed nowhere."""
_USER = 10001
_TICK_SECONDS = 0.1
_VOLUME_SECONDS = 1.0
_HEARTBEAT_SECONDS = 10.0
_ROOT = Path(__file__).parents[2]
SOURCE, PYTHON = Path("/opt/source"), Path("/opt/python")
"""Where a container has this source tree and this Python, whatever its volumes hide."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Image:
    """What an image would bring: how a container of it starts."""

    entrypoint: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def now() -> str:
    """As Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class NodeAgent:
    """One Ready node.

    Args:
        cluster: Whose pods it runs.
        images: From the name of an image to what it is; None: there is no such image.
    """

    def __init__(self, cluster: ControlPlane, images: Callable[[str], Image | None]) -> None:
        self.cluster, self.images = cluster, images
        self.folder = cluster.folder / "node"
        self.core: Any = client.CoreV1Api(cluster.api)
        self._name, self._stopped = "node", threading.Event()
        self._pods: dict[str, Pod] = {}
        self._addresses = random.choice(list(PODS.subnets(new_prefix=24))).hosts()  # others may run beside this one
        self._hosts: dict[str, str] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "NodeAgent":
        # A route, not an address for each pod: everything in the range is this machine.
        subprocess.run(["ip", "route", "replace", "local", str(PODS), "dev", "lo"], check=True)
        self.core.create_node(
            {"metadata": {"name": self._name, "labels": {"kubernetes.io/hostname": self._name, "kubernetes.io/os": "linux"}}}
        )
        room = {"cpu": "64", "memory": "256Gi", "pods": "110", "ephemeral-storage": "512Gi"}
        self.core.patch_node_status(self._name, {"status": {"capacity": room, "allocatable": room}})
        for work in (self._beat, self._watch, self._follow_services):
            threading.Thread(target=self._again, args=(work,), name=work.__name__, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        for pod in list(self._pods.values()):
            pod.kill()
        for pod in list(self._pods.values()):
            pod.join(10)

    def pod(self, name: str) -> "Pod":
        """The one that runs under this name."""
        with self._lock:
            (found,) = [pod for pod in self._pods.values() if pod.name == name]
        return found

    def pods(self) -> list["Pod"]:
        """All of them."""
        with self._lock:
            return list(self._pods.values())

    def hosts(self, namespace: str) -> str:
        """/etc/hosts of the pods of a namespace."""
        return "127.0.0.1 localhost\n" + self._hosts.get(namespace, "")

    def _again(self, work: Callable[[], None]) -> None:
        while not self._stopped.is_set():
            try:
                work()
            except Exception as error:
                if not self._stopped.wait(0.3) and not isinstance(error, OSError | client.ApiException):
                    print(f"node agent: {work.__name__}: {type(error).__name__}: {error}", file=sys.stderr)

    def _beat(self) -> None:
        condition = {"type": "Ready", "status": "True", "reason": "Agent", "message": "", "lastHeartbeatTime": now()}
        self.core.patch_node_status(self._name, {"status": {"conditions": [condition]}})
        self._stopped.wait(_HEARTBEAT_SECONDS)

    def _watch(self) -> None:
        selection = {"field_selector": f"spec.nodeName={self._name}"}
        listed = self.core.list_pod_for_all_namespaces(**selection)
        items = [self.cluster.api.sanitize_for_serialization(item) for item in listed.items]
        for gone in self._pods.keys() - {item["metadata"]["uid"] for item in items}:
            self._forget(gone)
        for item in items:
            self._show(item)
        version = listed.metadata.resource_version
        for event in watch.Watch().stream(self.core.list_pod_for_all_namespaces, **selection, resource_version=version, timeout_seconds=60):
            if self._stopped.is_set():
                return
            if event["type"] == "DELETED":
                self._forget(event["raw_object"]["metadata"]["uid"])
            else:
                self._show(event["raw_object"])

    def _show(self, item: Json) -> None:
        uid = item["metadata"]["uid"]
        with self._lock:
            pod = self._pods.get(uid)
            if pod is None and item.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                pod = self._pods[uid] = Pod(self, item, str(next(self._addresses)))
                pod.start()
        if pod is not None:
            pod.item = item

    def _forget(self, uid: str) -> None:
        with self._lock:
            pod = self._pods.pop(uid, None)
        if pod is not None:
            pod.kill()

    def _follow_services(self) -> None:
        slices = client.CustomObjectsApi(self.cluster.api)
        hosts: dict[str, str] = {}
        for piece in slices.list_cluster_custom_object("discovery.k8s.io", "v1beta1", "endpointslices")["items"]:
            namespace, service = piece["metadata"]["namespace"], piece["metadata"]["labels"].get("kubernetes.io/service-name")
            names = [f"{service}{suffix}" for suffix in ("", f".{namespace}", f".{namespace}.svc", f".{namespace}.svc.cluster.local")]
            for endpoint in piece["endpoints"] or ():
                if endpoint["conditions"].get("ready") is not False:
                    hosts[namespace] = hosts.get(namespace, "") + f"{endpoint['addresses'][0]} {' '.join(names)}\n"
        self._hosts = hosts
        self._stopped.wait(_VOLUME_SECONDS)


class Probe:
    """A probe of a container and what came of it."""

    def __init__(self, definition: Json) -> None:
        self._definition = definition
        self._due = 0.0
        self._started: float | None = None
        self._row = 0  # successes in a row, below 0: failures

    def look(self, started: float, check: Callable[[Json, float], bool]) -> bool | None:
        """True or False once it has succeeded or failed often enough; None: that stands out."""
        if self._started != started:
            self._started, self._row = started, 0
            self._due = started + self._definition.get("initialDelaySeconds", 0)
        if time.monotonic() >= self._due:
            good = check(self._definition, self._definition.get("timeoutSeconds", 1))
            self._row = max(self._row, 0) + 1 if good else min(self._row, 0) - 1
            self._due = time.monotonic() + self._definition.get("periodSeconds", 10)
        if self._row >= self._definition.get("successThreshold", 1):
            return True
        return False if -self._row >= self._definition.get("failureThreshold", 3) else None


class Container:
    """One container of a pod, and its process."""

    def __init__(self, pod: "Pod", spec: Json) -> None:
        self.pod, self.spec, self.name = pod, spec, spec["name"]
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}
        self.started = 0.0
        self.started_at = ""
        self.restarts = -1
        self.exit_code: int | None = None
        self.waiting = "ContainerCreating"
        self.ready = self.begun = False
        self._due = 0.0
        self._probes = {kind: Probe(spec[kind]) for kind in ("startupProbe", "readinessProbe", "livenessProbe") if kind in spec}

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it, unless it is too early or its image is none."""
        if time.monotonic() < self._due:
            return
        image = self.pod.agent.images(self.spec["image"])
        if image is None:
            self.waiting = "ErrImagePull"
            return
        try:
            self.environment = dict(image.environment) | self.pod.environment(self.spec)
        except LookupError as error:
            self.waiting, self._due = f"CreateContainerConfigError: {error}", time.monotonic() + 1
            return
        command = self.spec.get("command") or image.entrypoint
        words = [_expand(word, self.environment) for word in [*command, *self.spec.get("args", ())]]
        script = self.pod.enter(self.spec, words, self.restarts + 1)
        with open(self.pod.folder / f"{self.name}.log", "ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.restarts += 1
        self.started, self.started_at, self.waiting, self.exit_code = time.monotonic(), now(), "", None
        self.begun = "startupProbe" not in self._probes

    def tend(self, again: bool) -> None:
        """Look after it: its end, its probes.

        Args:
            again: It is started once more when it ends.
        """
        if self.process is None:
            self.start()
            return
        if self.process.poll() is not None:
            if self.exit_code is None:
                self.exit_code, self.ready = self.process.returncode, False
                # As a kubelet: at once the first time, then after 10 s, 20 s, ... of one that does not last.
                lasted = time.monotonic() - self.started > 600
                self._due = time.monotonic() + (0 if self.restarts == 0 or lasted else min(10 * 2 ** (self.restarts - 1), 300))
            if again:
                self.waiting = "CrashLoopBackOff"
                self.start()
            return
        verdicts = {}
        for kind, probe in self._probes.items():
            if kind == "startupProbe" and self.begun:
                continue
            verdicts[kind] = probe.look(self.started, self.act)
            if kind == "startupProbe" and not verdicts[kind]:
                break
        self.begun = self.begun or verdicts.get("startupProbe") is True
        self.ready = self.begun and ("readinessProbe" not in self._probes or _followed(verdicts.get("readinessProbe"), self.ready))
        if verdicts.get("livenessProbe") is False or verdicts.get("startupProbe") is False:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(self.pod.item["spec"].get("terminationGracePeriodSeconds", 30))
            self.signal(signal.SIGKILL)

    def look_whether_ready(self) -> None:
        """Probe it."""
        if probe := self._probes.get("readinessProbe"):
            self.ready = _followed(probe.look(self.started, self.act), self.ready)

    def signal(self, number: signal.Signals) -> None:
        """To all that it started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number) if number == signal.SIGKILL else os.kill(self.process.pid, number)

    def run(self, command: list[str], seconds: float) -> bool:
        """Run a command in it; whether it ended well."""
        assert self.process is not None
        inside = ["nsenter", "--target", str(self.process.pid), "--mount", "--root", "--wd", *self.pod.as_user(self.spec), *command]
        try:
            done = subprocess.run(inside, env=self.environment, timeout=seconds, capture_output=True, check=False)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def port(self, name: int | str) -> int:
        """The number of a port."""
        if isinstance(name, int):
            return name
        return int(next(port["containerPort"] for port in self.spec["ports"] if port.get("name") == name))

    def act(self, definition: Json, seconds: float) -> bool:
        """Do what a probe or a hook says."""
        if action := definition.get("exec"):
            return self.run(action["command"], seconds)
        if action := definition.get("httpGet"):
            url = f"{action.get('scheme', 'HTTP').lower()}://{self.pod.address}:{self.port(action['port'])}{action.get('path', '/')}"
            request = urllib.request.Request(url, headers={one["name"]: one["value"] for one in action.get("httpHeaders", ())})
            try:
                with urllib.request.urlopen(request, timeout=seconds, context=ssl._create_unverified_context()) as answer:
                    return 200 <= answer.status < 400
            except OSError:
                return False
        if action := definition.get("tcpSocket"):
            return _listens(self.pod.address, self.port(action["port"]), seconds)
        if action := definition.get("sleep"):
            time.sleep(action["seconds"])
        return True

    def status(self) -> Json:
        """As in the pod's status."""
        if self.running:
            state: Json = {"running": {"startedAt": self.started_at}}
        elif self.exit_code is not None and not (self.waiting and self.pod.restarts(self)):
            reason = "Completed" if self.exit_code == 0 else "Error"
            state = {"terminated": {"exitCode": abs(self.exit_code), "reason": reason, "startedAt": self.started_at}}
        else:
            reason, _, message = self.waiting.partition(": ")
            state = {"waiting": {"reason": reason, "message": message}}
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": "",
            "ready": self.ready and self.running,
            "started": self.running and self.begun,
            "restartCount": max(self.restarts, 0),
            "state": state,
        }


class Pod(threading.Thread):
    """One pod, looked after in a thread of its own."""

    def __init__(self, agent: NodeAgent, item: Json, address: str) -> None:
        self.agent, self.item, self.address = agent, item, address
        self.namespace: str = item["metadata"]["namespace"]
        self._stopped = threading.Event()
        self._status: Json = {}
        self._started_at = now()
        self._volumes: dict[str, Path] = {}
        self._refreshed = 0.0
        self._terms = ""
        self.folder = agent.folder / item["metadata"]["uid"]
        spec = item["spec"]
        self.init = [Container(self, one) for one in spec.get("initContainers", ())]
        self.containers = [Container(self, one) for one in spec["containers"]]
        super().__init__(name=item["metadata"]["name"], daemon=True)

    def log(self) -> str:
        """What its containers wrote."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def kill(self) -> None:
        """End its processes at once and look after it no more."""
        self._stopped.set()
        for container in (*self.init, *self.containers):
            container.signal(signal.SIGKILL)

    def run(self) -> None:
        """Look after it until it is gone."""
        self.folder.mkdir(parents=True)
        try:
            while not self._stopped.is_set():
                try:
                    if self._tend():
                        return
                except (OSError, client.ApiException, LookupError) as error:
                    if not (isinstance(error, client.ApiException) and error.status in (404, 409)):
                        print(f"node agent: {self.name}: {type(error).__name__}: {error}", file=sys.stderr)
                    time.sleep(0.5)
                self._stopped.wait(_TICK_SECONDS)
        finally:
            for container in (*self.init, *self.containers):
                container.signal(signal.SIGKILL)
                if container.process is not None:
                    container.process.wait()
                    shutil.rmtree(self.folder / "roots", ignore_errors=True)

    def _tend(self) -> bool:
        """One round; True: it is over."""
        if self.item["metadata"].get("deletionTimestamp"):
            self._terminate()
            return True
        if time.monotonic() - self._refreshed > _VOLUME_SECONDS:
            self._fill_volumes()
            self._refreshed = time.monotonic()
        unfinished = next((one for one in self.init if one.exit_code != 0), None)
        if unfinished is not None:
            unfinished.tend(self.restarts(unfinished))
        else:
            for container in self.containers:
                container.tend(self.restarts(container))
        self._tell()
        return self._status.get("phase") in ("Succeeded", "Failed")

    def restarts(self, container: Container) -> bool:
        """Whether a container is started again when it ends."""
        policy = self.item["spec"].get("restartPolicy", "Always")
        return (policy == "Always" and container not in self.init) or (policy != "Never" and container.exit_code != 0)

    def _terminate(self) -> None:
        metadata = self.item["metadata"]
        deadline = time.monotonic() + metadata.get("deletionGracePeriodSeconds", 30)
        running = [one for one in self.containers if one.running]
        for container in running:
            if hook := container.spec.get("lifecycle", {}).get("preStop"):
                container.act(hook, max(deadline - time.monotonic(), 1))
        for container in running:
            container.signal(signal.SIGTERM)
        while any(one.running for one in running) and time.monotonic() < deadline:
            for container in running:
                if container.running:
                    container.look_whether_ready()
            self._tell()
            time.sleep(_TICK_SECONDS)
        for container in (*self.init, *self.containers):
            container.signal(signal.SIGKILL)
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        self.agent.core.delete_namespaced_pod(self.name, self.namespace, body=body)

    def _tell(self) -> None:
        containers = [one.status() for one in self.containers]
        ended = all("terminated" in one["state"] for one in containers)
        failed = any(one["state"].get("terminated", {}).get("exitCode") for one in containers)
        begun = all(one.exit_code == 0 for one in self.init)
        ready = all(one["ready"] for one in containers)
        broken = next((one for one in self.init if one.exit_code and not self.restarts(one)), None)
        phase = "Failed" if broken or (ended and failed) else "Succeeded" if ended else "Running" if begun else "Pending"
        gates = {"Initialized": begun, "ContainersReady": ready, "Ready": ready, "PodScheduled": True}
        before = {one["type"]: one for one in self._status.get("conditions", ())}
        conditions = []
        for kind, holds in gates.items():
            told = {"type": kind, "status": str(holds), "lastTransitionTime": now()}
            conditions.append(before[kind] if before.get(kind, {}).get("status") == str(holds) else told)
        status = {
            "phase": phase,
            "startTime": self._started_at,
            "hostIP": "127.0.0.1",
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "conditions": conditions,
            "containerStatuses": containers,
            "initContainerStatuses": [one.status() for one in self.init],
        }
        if status != self._status:
            self.agent.core.patch_namespaced_pod_status(self.name, self.namespace, {"status": status})
            self._status = status

    # Files

    def enter(self, spec: Json, words: list[str], number: int) -> str:
        """The shell script that puts a container together and becomes its process."""
        place = self.folder / "roots" / f"{spec['name']}-{number}"
        root = place / "root"
        for name in ("root", "upper", "work"):
            (place / name).mkdir(parents=True)
        lines = [f"mount -t overlay overlay -o lowerdir=/,upperdir={place}/upper,workdir={place}/work {root}"]
        for folder in set(Path(sys.base_prefix).parents) - {Path("/")}:
            lines.append(f"chmod a+x {root}{folder}")
        places = {f"/{name}": f"/{name}" for name in ("proc", "dev", "sys")} | {_ROOT: SOURCE, sys.prefix: PYTHON}
        lines += [f"mkdir -p {root}{target}; mount --rbind {source} {root}{target}" for source, target in places.items()]
        lines += [f"rm -f {root}/etc/hosts", f"ln -s /run/pod/hosts {root}/etc/hosts", f"mkdir -p {root}/run/pod"]
        lines += [f"mount --bind {self.folder}/hosts {root}/run/pod"]
        mounts = sorted(spec.get("volumeMounts", ()), key=lambda mount: len(mount["mountPath"]))
        scratch = "".join(f"{mount['mountPath']}:" for mount in mounts)
        if "/tmp:" not in scratch and not spec.get("securityContext", {}).get("readOnlyRootFilesystem"):
            lines.append(f"chmod 1777 {root}/tmp")
        for mount in mounts:
            source = self._volumes[mount["name"]] / _expand(mount.get("subPathExpr") or mount.get("subPath") or "", self.environment(spec))
            target = shlex.quote(f"{root}{os.path.realpath(mount['mountPath'])}")  # links as /var/run lead out of the root
            if source.is_dir():
                lines.append(f"mkdir -p {target}")
            else:
                lines.append(f"mkdir -p $(dirname {target}); touch {target}")
            lines.append(f"mount --bind {shlex.quote(str(source))} {target}")
            if mount.get("readOnly"):
                lines.append(f"mount -o remount,bind,ro {target}")
        if spec.get("securityContext", {}).get("readOnlyRootFilesystem"):
            lines.append(f"mount -o remount,ro {root}")
        folder = spec.get("workingDir") or "/"
        become = shlex.join(["exec", "chroot", str(root), *self.as_user(spec), "env", "-C", folder, *words])
        return "\n".join([*lines, f"cd {root}", become])

    def as_user(self, spec: Json) -> list[str]:
        """The command that takes away what the container must not have."""
        security = self.item["spec"].get("securityContext", {}) | spec.get("securityContext", {})
        user = security.get("runAsUser", _USER)
        words = ["setpriv", f"--reuid={user}", f"--regid={security.get('runAsGroup', user)}"]
        groups = [str(group) for group in [security.get("fsGroup"), *security.get("supplementalGroups", ())] if group is not None]
        words += [f"--groups={','.join(groups)}"] if groups else ["--clear-groups"]
        if security.get("allowPrivilegeEscalation") is False:
            words.append("--no-new-privs")
        if "ALL" in security.get("capabilities", {}).get("drop", ()):
            words += ["--bounding-set=-all", "--inh-caps=-all"]
        return words

    def environment(self, spec: Json) -> dict[str, str]:
        """Variables of a container. Raises LookupError: a secret or a config map is not there."""
        host, _, port = self.agent.cluster.url.removeprefix("https://").rpartition(":")
        found = {
            "PATH": f"{PYTHON}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": f"{SOURCE}:{SOURCE}/clients/python",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": "/tmp",
            "HOSTNAME": self.name,
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
        }
        for source in spec.get("envFrom", ()):
            kind, reference = next((kind, source[kind]) for kind in ("secretRef", "configMapRef") if kind in source)
            content = self._content(kind.removesuffix("Ref"), reference["name"], reference.get("optional", False))
            found |= {source.get("prefix", "") + name: value.decode() for name, value in content.items()}
        for variable in spec.get("env", ()):
            value = variable.get("value", "")
            if source := variable.get("valueFrom"):
                value = self._value(source, spec)
            if value is not None:
                found[variable["name"]] = _expand(value, found)
        return found

    def _value(self, source: Json, spec: Json) -> str | None:
        if reference := source.get("fieldRef"):
            return self._field(reference["fieldPath"])
        if reference := source.get("resourceFieldRef"):
            kind, _, name = reference["resource"].partition(".")
            return str(spec.get("resources", {}).get(kind, {}).get(name, "0"))
        kind, reference = next((kind, source[kind]) for kind in ("secretKeyRef", "configMapKeyRef") if kind in source)
        content = self._content(kind.removesuffix("KeyRef"), reference["name"], reference.get("optional", False))
        if reference["key"] not in content and reference.get("optional"):
            return None
        return content[reference["key"]].decode()

    def _field(self, path: str) -> str:
        if path in ("status.podIP", "status.podIPs", "status.hostIP"):
            return self.address if "pod" in path else "127.0.0.1"
        value: Any = self.item
        if path.endswith("']"):
            path, _, key = path.removesuffix("']").partition("['")
            return str(self.item["metadata"].get(path.removeprefix("metadata."), {}).get(key, ""))
        for name in path.split("."):
            value = value[name]
        return str(value)

    def _content(self, kind: str, name: str, optional: bool) -> dict[str, bytes]:
        read = self.agent.core.read_namespaced_secret if kind == "secret" else self.agent.core.read_namespaced_config_map
        try:
            found = read(name, self.namespace)
        except client.ApiException as error:
            if error.status == 404 and optional:
                return {}
            raise LookupError(f"{kind} {name}: {error.reason}") from error
        binary = found.data if kind == "secret" else found.binary_data
        texts = {} if kind == "secret" else {key: value.encode() for key, value in (found.data or {}).items()}
        return texts | {key: base64.b64decode(value) for key, value in (binary or {}).items()}

    def _fill_volumes(self) -> None:
        """Make volumes, and bring those up to date that show objects of the API."""
        _write_files(self.folder / "hosts", {"hosts": self.agent.hosts(self.namespace).encode()})
        for volume in self.item["spec"].get("volumes", ()):
            name = volume["name"]
            folder = self.folder / "volumes" / name
            if "hostPath" in volume:
                self._volumes[name] = Path(volume["hostPath"]["path"])
                continue
            if claim := volume.get("persistentVolumeClaim"):
                folder = self.agent.folder / "claims" / self.namespace / claim["claimName"]
            if name not in self._volumes:
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o777)
                self._volumes[name] = folder
            files = dict(self._files(volume))
            if files or "secret" in volume or "configMap" in volume:
                _write_files(folder, files)

    def _files(self, volume: Json) -> Iterator[tuple[str, bytes]]:
        for kind, source in volume.items():
            match kind:
                case "secret" | "configMap":
                    name = source.get("secretName") or source.get("name")
                    content = self._content(kind, name, source.get("optional", False))
                    chosen = {one["key"]: one["path"] for one in source.get("items", ())} or {key: key for key in content}
                    yield from ((path, content[key]) for key, path in chosen.items() if key in content)
                case "projected":
                    for piece in source["sources"]:
                        yield from self._files(piece)
                case "serviceAccountToken":
                    yield source["path"], self._token(source).encode()
                case "downwardAPI":
                    yield from ((one["path"], self._field(one["fieldRef"]["fieldPath"]).encode()) for one in source["items"])

    def _token(self, source: Json) -> str:
        seconds = source.get("expirationSeconds", 3600)
        if not self._terms:
            body = {"spec": {"audiences": [source["audience"]] if "audience" in source else [], "expirationSeconds": seconds}}
            account = self.item["spec"].get("serviceAccountName", "default")
            answer = self.agent.core.create_namespaced_service_account_token(account, self.namespace, body)
            self._terms = answer.status.token
        return self._terms


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Show these files in a folder, all of them at once, as a kubelet does: names lead through one link that is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "..data"
    if (
        link.is_symlink()
        and {str(path.relative_to(link)): path.read_bytes() for path in sorted(link.rglob("*")) if path.is_file()} == files
    ):
        return
    fresh = folder / f"..{time.monotonic_ns()}"
    fresh.mkdir()
    for name, content in files.items():
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).write_bytes(content)
    (folder / "..new").symlink_to(fresh.name)
    os.replace(folder / "..new", link)
    for top in {Path(name).parts[0] for name in files}:
        if not (folder / top).is_symlink():
            (folder / top).symlink_to(Path("..data") / top)
    for old in folder.glob("..[0-9]*"):
        if old != fresh:
            shutil.rmtree(old)


def _expand(text: str, variables: Mapping[str, str]) -> str:
    for name, value in variables.items():
        text = text.replace(f"$({name})", value)
    return text


def _followed(verdict: bool | None, before: bool) -> bool:
    return before if verdict is None else verdict


def _listens(address: str, port: int, seconds: float) -> bool:
    try:
        with socket.create_connection((address, port), seconds):
            return True
    except OSError:
        return False
