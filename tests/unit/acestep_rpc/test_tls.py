"""Servers and clients with real certificates on real ports."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from acestep_rpc import errors
from acestep_rpc.channels import RemoteStub, connect
from acestep_rpc.client_security import ClientSecurity
from acestep_rpc.server import Registration, RunningServer, ServerError, serve
from acestep_rpc.settings import ServerSettings, SettingsError
from acestep_rpc.tls import ClientTls
from acestep_rpc.v1 import stage_pb2, stage_pb2_grpc
from acestep_rpc.watched_files import CHECK_SECONDS
from tests.certificates import Authority

HOST = "127.0.0.1"


class Ticking(stage_pb2_grpc.StageServiceServicer):
    """Describe says who asks; WatchStatus sends a status every 50 ms, 100 times."""

    async def Describe(self, request: Any, context: Any) -> stage_pb2.DescribeResponse:
        names = context.auth_context().get("x509_subject_alternative_name", ())
        return stage_pb2.DescribeResponse(stage=",".join(name.decode() for name in names))

    async def WatchStatus(self, request: Any, context: Any) -> AsyncIterator[stage_pb2.WatchStatusResponse]:
        for number in range(100):
            yield stage_pb2.WatchStatusResponse(running_rows=number)
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[RunningServer]:
    async def build() -> Sequence[Registration]:
        return [Registration("acestep_rpc.v1.StageService", Ticking(), stage_pb2_grpc.add_StageServiceServicer_to_server)]

    server = await serve(ServerSettings(**settings), build)
    try:
        yield server
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def client(server: RunningServer, tls: ClientTls | None, host: str = HOST) -> AsyncIterator[Any]:
    target = f"{host}:{server.port}"
    async with connect(target, None if tls is None else ClientSecurity(tls)) as channel:
        yield RemoteStub(stage_pb2_grpc.StageServiceStub, channel, target, ready_seconds=1.0)


async def ask(server: RunningServer, tls: ClientTls | None) -> str:
    async with client(server, tls) as stub:
        stage: str = (await stub.Describe(stage_pb2.DescribeRequest())).stage
        return stage


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_a_client_that_trusts_the_authority_is_served(authority: Authority) -> None:
    pair = authority.sign("server", HOST)
    async with running(tls_cert=pair.cert, tls_key=pair.key) as server:
        assert await ask(server, ClientTls(authority.ca)) == ""


async def test_a_server_of_another_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    pair = authority.sign("server", HOST)
    other = Authority(tmp_path, "other")
    async with running(tls_cert=pair.cert, tls_key=pair.key) as server:
        with pytest.raises(errors.StageUnavailable):
            await ask(server, ClientTls(other.ca))


async def test_a_server_of_another_name_or_whose_certificate_expired_is_refused(authority: Authority) -> None:
    for pair in (authority.sign("wrong", "elsewhere.example"), authority.sign("expired", HOST, days=-0.5)):
        async with running(tls_cert=pair.cert, tls_key=pair.key) as server:
            with pytest.raises(errors.StageUnavailable):
                await ask(server, ClientTls(authority.ca))


async def test_a_server_name_of_its_own_is_checked_in_the_place_of_the_target(authority: Authority) -> None:
    pair = authority.sign("server", "stage.acestep.internal")
    async with running(tls_cert=pair.cert, tls_key=pair.key) as server:
        assert await ask(server, ClientTls(authority.ca, server_name="stage.acestep.internal")) == ""


async def test_with_mutual_tls_plain_callers_and_those_without_a_good_certificate_are_refused(authority: Authority, tmp_path: Path) -> None:
    pair, mine = authority.sign("server", HOST), authority.sign("client", "orchestrator.acestep")
    expired = authority.sign("expired", "orchestrator.acestep", days=-0.5)
    stranger = Authority(tmp_path, "other").sign("stranger", "orchestrator.acestep")
    async with running(tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=authority.ca) as server:
        assert await ask(server, ClientTls(authority.ca, mine.cert, mine.key)) == "orchestrator.acestep"
        for tls in (
            None,
            ClientTls(authority.ca),
            ClientTls(authority.ca, expired.cert, expired.key),
            ClientTls(authority.ca, stranger.cert, stranger.key),
        ):
            with pytest.raises(errors.StageUnavailable):
                await ask(server, tls)


async def test_only_clients_with_an_allowed_name_may_call_but_health_checks_are_free(authority: Authority) -> None:
    pair = authority.sign("server", HOST)
    settings: dict[str, Any] = {"tls_cert": pair.cert, "tls_key": pair.key, "tls_client_ca": authority.ca}
    good, bad = authority.sign("good", "a.example", "orchestrator.acestep"), authority.sign("bad", "vae.acestep")
    async with running(**settings, tls_allowed_clients=("orchestrator.acestep",)) as server:
        assert "orchestrator.acestep" in await ask(server, ClientTls(authority.ca, good.cert, good.key))
        tls = ClientTls(authority.ca, bad.cert, bad.key)
        with pytest.raises(errors.PermissionDenied):
            await ask(server, tls)
        async with client(server, tls) as stub:
            with pytest.raises(errors.PermissionDenied):
                await anext(stub.WatchStatus(stage_pb2.WatchStatusRequest()))
        async with connect(f"{HOST}:{server.port}", ClientSecurity(tls)) as channel:
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING


async def test_all_certificates_are_replaced_while_a_call_runs_and_nothing_breaks(tmp_path: Path) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    authorities = tmp_path / "authorities.pem"
    authorities.write_bytes(old.ca.read_bytes())
    pair, mine = old.sign("server", HOST), old.sign("client", "first.example")
    async with running(tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=authorities) as server:
        async with client(server, ClientTls(authorities, mine.cert, mine.key)) as stub:
            statuses = stub.WatchStatus(stage_pb2.WatchStatusRequest())
            assert (await anext(statuses)).running_rows == 0
            assert (await stub.Describe(stage_pb2.DescribeRequest())).stage == "first.example"
            authorities.write_bytes(new.ca.read_bytes())
            new.sign("server", HOST)
            new.sign("client", "second.example")
            await asyncio.sleep(CHECK_SECONDS + 0.1)
            assert (await stub.Describe(stage_pb2.DescribeRequest())).stage == "second.example"
            rest = [status.running_rows async for status in statuses]
            assert rest == list(range(1, 100))
        with pytest.raises(errors.StageUnavailable):
            await ask(server, ClientTls(old.ca, mine.cert, mine.key))


async def test_a_certificate_without_its_key_is_not_taken_up(authority: Authority, tmp_path: Path) -> None:
    pair = authority.sign("server", HOST)
    async with running(tls_cert=pair.cert, tls_key=pair.key) as server:
        pair.cert.write_bytes(authority.sign("another", HOST).cert.read_bytes())
        await asyncio.sleep(CHECK_SECONDS + 0.1)
        assert await ask(server, ClientTls(authority.ca)) == ""
        pair.key.write_bytes((tmp_path / "another.key").read_bytes())
        await asyncio.sleep(CHECK_SECONDS + 0.1)
        assert await ask(server, ClientTls(authority.ca)) == ""


async def test_bad_files_and_settings_stop_the_start(authority: Authority, tmp_path: Path) -> None:
    pair, other = authority.sign("server", HOST), authority.sign("other", HOST)
    for settings, error in (
        ({"tls_cert": pair.cert}, SettingsError),
        ({"tls_client_ca": authority.ca}, SettingsError),
        ({"tls_cert": pair.cert, "tls_key": pair.key, "tls_allowed_clients": ("a",)}, SettingsError),
        ({"tls_cert": pair.cert, "tls_key": other.key}, ValueError),
        ({"tls_cert": pair.cert, "tls_key": tmp_path / "none"}, ServerError),
    ):
        with pytest.raises(error):
            async with running(**settings):
                pass


async def test_too_many_calls_are_refused_with_a_typed_error() -> None:
    async with running(max_concurrent_calls=2) as server, client(server, None) as stub:
        streams = [stub.WatchStatus(stage_pb2.WatchStatusRequest()) for _ in range(2)]
        for stream in streams:
            await anext(stream)
        with pytest.raises(errors.Overloaded):
            await stub.Describe(stage_pb2.DescribeRequest())
        for stream in streams:
            await stream.aclose()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(errors.Overloaded):
                await stub.Describe(stage_pb2.DescribeRequest())
                return
        pytest.fail("the calls that ended still count")


async def test_headers_above_the_limit_are_refused() -> None:
    async with running() as server, client(server, None) as stub:
        await stub.Describe(stage_pb2.DescribeRequest(), metadata=[("x-long", "a" * 8192)])
        with pytest.raises(errors.AcestepError):
            await stub.Describe(stage_pb2.DescribeRequest(), metadata=[("x-long", "a" * 40_000)])


async def test_an_old_connection_is_replaced_and_its_calls_end_in_peace() -> None:
    async with running(max_connection_age_seconds=0.5) as server, client(server, None) as stub:
        statuses = stub.WatchStatus(stage_pb2.WatchStatusRequest())
        await anext(statuses)
        await asyncio.sleep(1.0)
        await stub.Describe(stage_pb2.DescribeRequest())
        assert len([status async for status in statuses]) == 99
