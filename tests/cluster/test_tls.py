"""Mutual TLS between the stages of a release, whose certificates come from secrets that are replaced under load."""

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from acestep_rpc.channels import RemoteStub, connect
from acestep_rpc.client_security import ClientSecurity
from acestep_rpc.errors import StageUnavailable
from acestep_rpc.tls import ClientTls
from acestep_rpc.v1 import stage_pb2, stage_pb2_grpc
from acestep_rpc.watched_files import CHECK_SECONDS
from benchmarks import load
from tests.certificates import Authority, Pair
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node_agent import NodeAgent
from tests.cluster.release import STAGES, Release, metric, song, soon, under_load, values

pytestmark = pytest.mark.cluster
STAGE_NAME, FRONT_NAME = "stage.acestep", "orchestrator.acestep"
PORTS = {"encoder": 50051, "diffusion": 50052, "vae": 50053}
TRAFFIC = load.Traffic(rate=1.0, requests=4, seconds=(1.0,), tasks=("text_to_music",), steps=(2,))


class Certificates:
    """The secrets of a release, one for each of its components."""

    def __init__(self, release: Release, folder: Path) -> None:
        self._release = release
        self.authority = Authority(folder, "inside")
        self._trusted = self.authority.ca.read_bytes()

    def issue(self) -> dict[str, Pair]:
        """New certificates of the authority."""
        pairs = {name: self.authority.sign(name, STAGE_NAME) for name in STAGES}
        return pairs | {"orchestrator": self.authority.sign("orchestrator", FRONT_NAME)}

    def write(self, pairs: dict[str, Pair]) -> None:
        """Put them into the secrets."""
        for name, pair in pairs.items():
            content = {"tls.crt": pair.cert.read_bytes(), "tls.key": pair.key.read_bytes(), "ca.crt": self._trusted}
            data = {key: base64.b64encode(value).decode() for key, value in content.items()}
            body = {"metadata": {"name": f"tls-{name}"}, "type": "kubernetes.io/tls", "data": data}
            namespace = self._release.namespace
            names = [one.metadata.name for one in self._release.core.list_namespaced_secret(namespace).items]
            if f"tls-{name}" in names:
                self._release.core.patch_namespaced_secret(f"tls-{name}", namespace, body)
            else:
                self._release.core.create_namespaced_secret(namespace, body)

    def trust_too(self, other: Authority) -> None:
        """Certificates of another authority are as good from the next `write` on; it issues the next ones."""
        self._trusted += other.ca.read_bytes()
        self.authority = other


@pytest.fixture(scope="module")
def release(cluster: ControlPlane, agent: NodeAgent, checkpoint: Path) -> Release:
    return Release(cluster, agent, "sealed", values(checkpoint))


@pytest.fixture(scope="module")
def certificates(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certificates]:
    release.core.create_namespace({"metadata": {"name": release.namespace}})
    made = Certificates(release, tmp_path_factory.mktemp("certificates"))
    made.write(made.issue())
    secrets = {name: f"tls-{name}" for name in (*STAGES, "orchestrator")}
    release.values_file({"tls": {"stages": {"enabled": True, "source": "secrets", "secrets": secrets}}})
    release.install()
    yield made
    release.uninstall()


async def described(target: str, security: ClientSecurity | None) -> stage_pb2.DescribeResponse:
    async with connect(target, security) as channel:
        answer: stage_pb2.DescribeResponse = await RemoteStub(stage_pb2_grpc.StageServiceStub, channel, target, 2.0).Describe(
            stage_pb2.DescribeRequest()
        )
        return answer


async def test_stages_refuse_who_has_no_certificate(release: Release, certificates: Certificates, tmp_path: Path) -> None:
    ca = certificates.authority.ca
    front = certificates.authority.sign("visitor", FRONT_NAME)
    stranger = Authority(tmp_path, "outside").sign("stranger", FRONT_NAME)
    for stage in STAGES:
        (pod,) = release.pods(stage)
        target = f"{pod.address}:{PORTS[stage]}"
        assert (await described(target, ClientSecurity(ClientTls(ca, front.cert, front.key, STAGE_NAME)))).stage == stage
        for refused in (
            None,
            ClientSecurity(ClientTls(ca, server_name=STAGE_NAME)),
            ClientSecurity(ClientTls(ca, stranger.cert, stranger.key, STAGE_NAME)),
        ):
            with pytest.raises(StageUnavailable):
                await described(target, refused)


async def test_certificates_and_their_authority_are_replaced_under_load(
    release: Release, certificates: Certificates, tmp_path: Path
) -> None:
    (front,) = release.pods("orchestrator")
    target = f"{front.address}:50050"
    expected = await song(target)
    pods = {pod.name for pod in release.pods()}
    old = certificates.authority
    async with under_load(target, TRAFFIC) as codes:
        await soon(lambda: codes["OK"] > 0)
        certificates.trust_too(Authority(tmp_path, "next"))
        certificates.write(
            {name: old.sign(name, FRONT_NAME if name == "orchestrator" else STAGE_NAME) for name in (*STAGES, "orchestrator")}
        )
        await asyncio.sleep(CHECK_SECONDS + 3)  # kubelets, and then services, look once a second
        certificates.write(certificates.issue())
        await asyncio.sleep(CHECK_SECONDS + 3)
        done = codes["OK"]
        await soon(lambda: codes["OK"] > done + 3)
    assert set(codes) == {"OK"}, codes
    assert await song(target) == expected
    assert pods == {pod.name for pod in release.pods()}
    assert not any(container.restarts for pod in release.pods() for container in pod.containers)
    (vae,) = release.pods("vae")
    fresh = certificates.authority.sign("visitor", FRONT_NAME)
    assert (
        await described(f"{vae.address}:50053", ClientSecurity(ClientTls(certificates.authority.ca, fresh.cert, fresh.key, STAGE_NAME)))
    ).stage


async def test_a_stage_without_a_certificate_gets_no_work(release: Release, certificates: Certificates) -> None:
    deployment = release.deployment("diffusion")
    spec = release.cluster.api.sanitize_for_serialization(deployment.spec.template.spec)
    container = spec["containers"][0]
    container["env"] = [one for one in container["env"] if "_TLS_" not in one["name"]]
    labels = deployment.spec.selector.match_labels
    release.core.create_namespaced_pod(release.namespace, {"metadata": {"name": "plain", "labels": labels}, "spec": spec})
    plain = await asyncio.to_thread(release.until, lambda: [pod for pod in release.pods() if pod.name == "plain"], "it is not there")
    (front,) = release.pods("orchestrator")
    await soon(lambda: plain[0].containers[0].ready)
    await soon(lambda: metric(front, "acestep_pool_replicas", stage="diffusion", state="ejected") == 1)
    for _ in range(3):
        assert await song(f"{front.address}:50050")
    assert metric(plain[0], "acestep_requests_total", method="Sample") == 0
    assert metric(front, "acestep_pool_replicas", stage="diffusion", state="ready") == 1
    release.core.delete_namespaced_pod("plain", release.namespace)
