"""A real OTLP collector gets the spans of four processes as one trace."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from acestep_rpc.v1 import music_pb2, music_pb2_grpc
from tests.integration.conftest import Server

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, trace_pb2.Span]] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            (service,) = (pair.value.string_value for pair in resource.resource.attributes if pair.key == "service.name")
            self.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def close(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def test_a_request_through_four_processes_is_one_trace(collector: Collector, checkpoint: Path, tmp_path: Path) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    model = ["--checkpoint", str(checkpoint), "--threads", "1"]
    stages = {name: Server(name, [name, *model], tmp_path, environment=environment) for name in ("encoder", "diffusion", "vae")}
    servers = list(stages.values())
    try:
        for stage in servers:
            stage.start()
        targets = [word for name, stage in stages.items() for word in (f"--{name}", stage.target)]
        servers.append(Server("orchestrator", ["orchestrator", *targets], tmp_path, environment=environment))
        servers[-1].start()
        request = music_pb2.GenerateRequest(
            request_id="traced", prompt=music_pb2.Prompt(tags="pop"), text_to_music=music_pb2.TextToMusic(duration_seconds=2)
        )
        request.sampling.infer_step = 2
        with grpc.insecure_channel(servers[-1].target) as channel:
            list(music_pb2_grpc.MusicServiceStub(channel).Generate(request, metadata=[("traceparent", CALLER)]))
    finally:
        for server in servers:
            if server.process is not None and server.process.poll() is None:
                server.stop()  # which sends what is left
    deadline = time.monotonic() + 20
    wanted = {"Generate", "EncodePrompt", "Sample", "DecodeLatents"}

    def found() -> dict[str, tuple[str, trace_pb2.Span]]:
        mine = [(service, span) for service, span in collector.spans if span.trace_id.hex() == CALLER.split("-")[1]]
        return {span.name.rpartition("/")[2]: (service, span) for service, span in mine}

    while not wanted <= found().keys() and time.monotonic() < deadline:
        time.sleep(0.05)
    spans = found()
    root = spans["Generate"][1]
    assert root.parent_span_id.hex() == CALLER.split("-")[2]
    for name, service in (("EncodePrompt", "acestep-encoder"), ("Sample", "acestep-diffusion"), ("DecodeLatents", "acestep-vae")):
        assert spans[name][0] == service
        assert spans[name][1].parent_span_id == root.span_id
        assert {pair.key: pair.value.string_value for pair in spans[name][1].attributes}["acestep.request_id"] == "traced"
    log = servers[-1].log()
    assert f'"trace_id": "{CALLER.split("-")[1]}"' in log
