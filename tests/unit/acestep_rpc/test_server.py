import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from acestep_rpc import errors
from acestep_rpc.channels import RemoteStub, connect
from acestep_rpc.engine import Engine
from acestep_rpc.server import Registration, RunningServer, ServerError, serve
from acestep_rpc.settings import ServerSettings
from acestep_rpc.v1 import stage_pb2, stage_pb2_grpc

STAGE = "acestep_rpc.v1.StageService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Sleeping(stage_pb2_grpc.StageServiceServicer):
    """Describe answers after a while; WatchStatus sends one status and stays open."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.started = asyncio.Event()

    async def Describe(self, request: Any, context: Any) -> stage_pb2.DescribeResponse:
        self.started.set()
        await asyncio.sleep(self.seconds)
        return stage_pb2.DescribeResponse(stage="vae")

    async def WatchStatus(self, request: Any, context: Any) -> AsyncIterator[stage_pb2.WatchStatusResponse]:
        yield stage_pb2.WatchStatusResponse(draining=False)
        await asyncio.sleep(60)


def builder(servicer: Any) -> Callable[[], Any]:
    async def build() -> Sequence[Registration]:
        return [Registration(STAGE, servicer, stage_pb2_grpc.add_StageServiceServicer_to_server)]

    return build


@contextlib.asynccontextmanager
async def running(settings: ServerSettings | None = None, servicer: Any = None) -> AsyncIterator[tuple[RunningServer, grpc.aio.Channel]]:
    server = await serve(settings or ServerSettings(), builder(servicer or Sleeping()))
    async with connect(f"127.0.0.1:{server.port}") as channel:
        yield server, channel
    await server.stop()


@pytest.mark.parametrize("service", ["", STAGE])
async def test_health_is_serving_for_the_server_and_each_service(service: str) -> None:
    async with running() as (_, channel):
        response = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
        assert response.status == SERVING


async def test_health_of_an_unknown_service_is_not_found() -> None:
    async with running() as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nothing"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services() -> None:
    async with running() as (_, channel):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        names = {service.name for service in (await call.read()).list_services_response.service}
        assert {STAGE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= names


async def test_metrics_are_served_and_count_calls() -> None:
    async with running(ServerSettings(metrics_port=0)) as (server, channel):
        await stage_pb2_grpc.StageServiceStub(channel).Describe(stage_pb2.DescribeRequest())
        with await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{server.metrics_port}/metrics") as response:
            text = response.read().decode()
        assert f'acestep_requests_total{{code="OK",method="Describe",service="{STAGE}"}}' in text


async def test_the_ready_file_names_the_ports_while_the_server_admits(tmp_path: Path) -> None:
    ready_file = tmp_path / "ready.json"
    ready_file.write_text("stale")
    seen_while_loading: list[bool] = []

    async def build() -> Sequence[Registration]:
        seen_while_loading.append(ready_file.exists())
        return ()

    server = await serve(ServerSettings(metrics_port=0, ready_file=ready_file), build)
    assert seen_while_loading == [False]
    assert json.loads(ready_file.read_text()) == {"port": server.port, "metrics_port": server.metrics_port}
    await server.stop()
    assert not ready_file.exists()


async def test_a_taken_port_is_an_error_before_anything_is_built() -> None:
    async def build() -> Sequence[Registration]:
        raise AssertionError("built")

    async with running() as (server, _):
        with pytest.raises(ServerError, match=str(server.port)):
            await serve(ServerSettings(port=server.port), build)


async def test_a_taken_metrics_port_is_an_error() -> None:
    async with running(ServerSettings(metrics_port=0)) as (server, _):
        with pytest.raises(ServerError, match=str(server.metrics_port)):
            await serve(ServerSettings(metrics_port=server.metrics_port), builder(Sleeping()))


async def test_draining_lets_running_calls_end_and_refuses_new_ones() -> None:
    servicer = Sleeping(seconds=1.0)
    server = await serve(ServerSettings(), builder(servicer))
    target = f"127.0.0.1:{server.port}"
    async with connect(target) as channel:
        stub: Any = RemoteStub(stage_pb2_grpc.StageServiceStub, channel, target)
        health_stub = health_pb2_grpc.HealthStub(channel)
        watch = health_stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        call = stub.Describe(stage_pb2.DescribeRequest())
        await servicer.started.wait()
        start = time.monotonic()
        stopping = asyncio.create_task(server.stop(drain_seconds=20))
        assert (await watch.read()).status == NOT_SERVING
        with pytest.raises(errors.StageUnavailable, match="shutting down"):
            await stub.Describe(stage_pb2.DescribeRequest())
        assert (await call).stage == "vae"
        await stopping
        assert time.monotonic() - start < 5, "an open health watch must not hold the drain"


async def test_draining_cancels_what_does_not_end_in_time() -> None:
    server = await serve(ServerSettings(), builder(Sleeping()))
    target = f"127.0.0.1:{server.port}"
    async with connect(target) as channel:
        stub: Any = RemoteStub(stage_pb2_grpc.StageServiceStub, channel, target)
        responses = stub.WatchStatus(stage_pb2.WatchStatusRequest())
        await anext(responses)
        start = time.monotonic()
        await server.stop(drain_seconds=0.3)
        assert 0.3 <= time.monotonic() - start < 5
        with pytest.raises(errors.AcestepError):
            await anext(responses)


async def test_the_next_call_reaches_a_restarted_server() -> None:
    server = await serve(ServerSettings(), builder(Sleeping()))
    port, target = server.port, f"127.0.0.1:{server.port}"
    async with connect(target) as channel:
        stub: Any = RemoteStub(stage_pb2_grpc.StageServiceStub, channel, target)
        await stub.Describe(stage_pb2.DescribeRequest())
        await server.stop()
        waiting = stub.Describe(stage_pb2.DescribeRequest(), timeout=10)
        await asyncio.sleep(0.5)
        server = await serve(ServerSettings(port=port), builder(Sleeping()))
        assert (await waiting).stage == "vae"
    await server.stop()


async def test_a_call_that_nobody_answers_is_unavailable_after_the_ready_time() -> None:
    async with running() as (server, _):
        target = f"127.0.0.1:{server.port}"
    async with connect(target) as channel:
        stub: Any = RemoteStub(stage_pb2_grpc.StageServiceStub, channel, target, ready_seconds=0.3)
        start = time.monotonic()
        with pytest.raises(errors.StageUnavailable, match=target):
            await stub.Describe(stage_pb2.DescribeRequest())
        with pytest.raises(errors.StageUnavailable, match=target):
            await anext(stub.WatchStatus(stage_pb2.WatchStatusRequest()))
        with pytest.raises(errors.DeadlineExceeded):
            await stub.Describe(stage_pb2.DescribeRequest(), timeout=0.1)
        assert time.monotonic() - start < 3


PROGRAM = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from acestep_rpc.server import run
    from acestep_rpc.settings import ServerSettings

    async def build():
        return ()

    run("empty", ServerSettings(port=int(sys.argv[1]), ready_file=Path(sys.argv[2]), drain_seconds=1.0), build)
    """
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_program_in_order(number: signal.Signals, tmp_path: Path) -> None:
    ready_file = tmp_path / "ready.json"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, "0", str(ready_file)], stderr=subprocess.PIPE, text=True)
    try:
        while not ready_file.exists():
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, number)
        _, log = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert not ready_file.exists()
    assert [json.loads(line)["event"] for line in log.splitlines()] == ["serving", "draining", "stopped"]


async def test_a_program_whose_port_is_taken_says_so(tmp_path: Path) -> None:
    async with running() as (server, _):
        result = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", PROGRAM, str(server.port), str(tmp_path / "ready")],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert result.returncode == 1
    assert f"empty: cannot listen on 127.0.0.1:{server.port}" in result.stderr
    assert "Traceback" not in result.stderr


async def probe(server: RunningServer, path: str) -> int:
    def get() -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}{path}") as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    return await asyncio.to_thread(get)


async def test_a_server_that_loads_is_alive_and_not_ready() -> None:
    server = RunningServer(ServerSettings(metrics_port=0))
    assert (await probe(server, "/healthz"), await probe(server, "/readyz")) == (200, 503)
    await server.start([])
    assert (await probe(server, "/healthz"), await probe(server, "/readyz")) == (200, 200)
    await server.stop()


async def test_a_server_that_drains_is_alive_and_not_ready() -> None:
    servicer = Sleeping(1.0)
    async with running(ServerSettings(metrics_port=0), servicer) as (server, channel):
        call = asyncio.ensure_future(stage_pb2_grpc.StageServiceStub(channel).Describe(stage_pb2.DescribeRequest()))
        await servicer.started.wait()
        stopping = asyncio.create_task(server.stop(drain_seconds=30))
        health = health_pb2_grpc.HealthStub(channel)
        while (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING:
            await asyncio.sleep(0.01)
        assert (await health.Check(health_pb2.HealthCheckRequest(service="liveness"))).status == SERVING
        assert (await probe(server, "/healthz"), await probe(server, "/readyz")) == (200, 503)
        await call
        await stopping


async def test_a_device_that_stands_still_fails_liveness_until_it_gets_on() -> None:
    go_on = threading.Event()
    engine = Engine("stuck")
    async with running(ServerSettings(metrics_port=0, stuck_seconds=0.01)) as (server, channel):
        health = health_pb2_grpc.HealthStub(channel)

        async def alive() -> bool:
            return (await health.Check(health_pb2.HealthCheckRequest(service="liveness"))).status == SERVING

        try:
            assert await alive()
            engine.submit(go_on.wait, 60)
            waiting = engine.submit(int)  # the queue is nobody's fault
            while await alive():
                await asyncio.sleep(0.05)
            assert (await probe(server, "/healthz"), await probe(server, "/readyz")) == (503, 200)
        finally:
            go_on.set()
        await asyncio.wrap_future(waiting)
        while not await alive():
            await asyncio.sleep(0.05)
        assert await probe(server, "/healthz") == 200
