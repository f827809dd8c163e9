"""Four processes that call each other over mutual TLS, clients with keys and tokens, and certificates that are replaced meanwhile."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from acestep_rpc.api_keys import key_digest, new_key
from acestep_rpc.channels import RemoteStub, connect
from acestep_rpc.client_security import ClientSecurity
from acestep_rpc.errors import PermissionDenied, StageUnavailable, Unauthenticated
from acestep_rpc.tls import ClientTls
from acestep_rpc.v1 import music_pb2, music_pb2_grpc, stage_pb2, stage_pb2_grpc
from acestep_rpc.watched_files import CHECK_SECONDS
from tests.certificates import Authority, Pair
from tests.integration.conftest import STAGES, Server
from tests.integration.requests import generate, song_request

STAGE_NAME, FRONT_NAME = "stage.acestep.internal", "orchestrator.acestep.internal"
ISSUER, AUDIENCE = "https://issuer.example", "acestep"


@dataclass
class Secured:
    """The system and what it takes to call it."""

    servers: dict[str, Server]
    inside: Authority
    outside: Authority
    inside_ca: Path
    stage: Pair
    front: Pair
    key: str
    issuer_key: ec.EllipticCurvePrivateKey

    def token(self, **claims: object) -> str:
        body = {"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60, "sub": "erin"} | claims
        return jwt.encode(body, self.issuer_key, "ES256", {"kid": "1"})

    def client(self, bearer: str):
        return connect(self.servers["orchestrator"].target, ClientSecurity(ClientTls(self.outside.ca), lambda: bearer))


@pytest.fixture(scope="module")
def secured(checkpoint, tmp_path_factory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    inside, outside = Authority(folder, "inside"), Authority(folder, "outside")
    inside_ca = folder / "inside-authorities.pem"
    inside_ca.write_bytes(inside.ca.read_bytes())
    stage, front, public = inside.sign("stage", STAGE_NAME), inside.sign("front", FRONT_NAME), outside.sign("public", "127.0.0.1")
    key, issuer_key = new_key(), ec.generate_private_key(ec.SECP256R1())
    (folder / "tenants.toml").write_text(f'alice.keys = ["sha256:{key_digest(key)}"]')
    published = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(issuer_key.public_key()))
    (folder / "jwks.json").write_text(json.dumps({"keys": [{"kid": "1"} | published]}))
    servers: dict[str, Server] = {}
    try:
        arguments = ["orchestrator"]
        for name in STAGES:
            own = ["--checkpoint", str(checkpoint), "--dtype", "float32", "--threads", "1"]
            own += ["--tls-cert", str(stage.cert), "--tls-key", str(stage.key), "--tls-client-ca", str(inside_ca)]
            servers[name] = Server(name, [name, *own, "--tls-allowed-clients", FRONT_NAME], folder)
            servers[name].start()
            arguments += [f"--{name}", servers[name].target]
        arguments += ["--stage-tls-ca", str(inside_ca), "--stage-tls-cert", str(front.cert), "--stage-tls-key", str(front.key)]
        arguments += ["--stage-tls-server-name", STAGE_NAME, "--tls-cert", str(public.cert), "--tls-key", str(public.key)]
        arguments += ["--authentication", "keys,jwt", "--tenants", str(folder / "tenants.toml")]
        tokens = {"JWT_ISSUER": ISSUER, "JWT_AUDIENCE": AUDIENCE, "JWT_KEYS": str(folder / "jwks.json")}
        environment = {f"ACESTEP_ORCHESTRATOR_{name}": value for name, value in tokens.items()}
        servers["orchestrator"] = Server("orchestrator", arguments, folder, environment=environment)
        servers["orchestrator"].start()
        yield Secured(servers, inside, outside, inside_ca, stage, front, key, issuer_key)
    finally:
        for server in servers.values():
            if server.process is not None and server.process.poll() is None:
                server.stop(signal.SIGKILL)


async def test_a_song_is_made_for_a_key_and_for_a_token(secured):
    for bearer in (secured.key, secured.token()):
        async with secured.client(bearer) as channel:
            assert (await generate(music_pb2_grpc.MusicServiceStub(channel), song_request(steps=2))).file()
    async with secured.client(secured.token(exp=time.time() - 3600)) as channel:
        with pytest.raises(Unauthenticated):
            await RemoteStub(music_pb2_grpc.MusicServiceStub, channel, "").GetCapabilities(music_pb2.GetCapabilitiesRequest())
    assert secured.servers["orchestrator"].metric("acestep_tenant_audio_seconds_total", tenant="erin") > 1


@pytest.mark.parametrize("name", STAGES)
async def test_a_stage_refuses_whoever_is_not_the_orchestrator(secured, name):
    target, ca = secured.servers[name].target, secured.inside.ca
    stranger = secured.outside.sign("stranger", FRONT_NAME)
    for security in (
        None,
        ClientSecurity(ClientTls(ca, server_name=STAGE_NAME)),
        ClientSecurity(ClientTls(ca, stranger.cert, stranger.key, STAGE_NAME)),
    ):
        async with connect(target, security) as channel:
            with pytest.raises(StageUnavailable):
                await RemoteStub(stage_pb2_grpc.StageServiceStub, channel, target, 1.0).Describe(stage_pb2.DescribeRequest())
    async with connect(target, ClientSecurity(ClientTls(ca, secured.stage.cert, secured.stage.key, STAGE_NAME))) as channel:
        with pytest.raises(PermissionDenied):
            await RemoteStub(stage_pb2_grpc.StageServiceStub, channel, target).Describe(stage_pb2.DescribeRequest())


async def test_the_command_line_calls_over_tls_with_a_key(secured, tmp_path):
    command = [sys.executable, "-m", "clients.cli.main", "generate", "--server", secured.servers["orchestrator"].target, "--tags", "funk"]
    command += ["--duration", "1", "--steps", "1", "--quiet", "-o", str(tmp_path / "song.wav"), "--tls-ca", str(secured.outside.ca)]
    environment = {name: value for name, value in os.environ.items() if name != "ACESTEP_API_KEY"}

    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment | variables, capture_output=True, text=True, check=False)

    refused = await asyncio.to_thread(run)
    assert (refused.returncode, "credentials are missing" in refused.stderr) == (6, True), refused.stderr
    done = await asyncio.to_thread(run, ACESTEP_API_KEY=secured.key)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "song.wav").exists()


async def test_every_inner_certificate_is_replaced_while_songs_are_made(secured):
    new = Authority(secured.inside_ca.parent, "new-inside")
    async with secured.client(secured.key) as channel:
        music = music_pb2_grpc.MusicServiceStub(channel)
        before = (await generate(music, song_request(steps=2))).file()
        running = [asyncio.create_task(generate(music, song_request(seconds=4.0, steps=40, seeds=(seed,)))) for seed in range(3)]
        await asyncio.sleep(0.3)
        secured.inside_ca.write_bytes(new.ca.read_bytes())
        new.sign("stage", STAGE_NAME)
        new.sign("front", FRONT_NAME)
        await asyncio.sleep(CHECK_SECONDS + 0.1)
        assert (await generate(music, song_request(steps=2))).file() == before
        for answer in await asyncio.gather(*running):
            assert answer.file()
    for name in STAGES:
        assert '"files_reloaded"' in secured.servers[name].log()
