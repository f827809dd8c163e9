"""`python -m benchmarks.endurance.malformed`: ten thousand malformed messages to every method of every server.

Methods are found by reflection, so a new one is in it at once. Messages are random bytes, valid ones with bytes changed or cut off, ones of
the right structure with hostile values (and tensors whose type, shape and bytes do not agree), and streams that are too long, never end or
break off. Allowed are typed errors, or an answer where the message happens to be good: never UNKNOWN, never INTERNAL, and no traceback in a
log. Afterwards the song that was made before comes out again, byte for byte. Draws come from a seed.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import random
import struct
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import descriptor, descriptor_pool, message, message_factory
from google.protobuf.descriptor import FieldDescriptor
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from acestep_rpc.server import MAX_MESSAGE_BYTES
from benchmarks.endurance import processes
from benchmarks.endurance.processes import Bound
from tests.integration.conftest import Server, System
from tests.integration.requests import generate, song_request

AT_A_TIME = 8
CALL_SECONDS = 1.0
MAX_DEPTH = 5
REPEATS = 5
HOSTILE_INTEGERS = (0, 1, -1, 2, 16, 255, 65_536, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1)
HOSTILE_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 30.0, 1e-45, 1e38, -1e38, 1e300, float("inf"), float("-inf"), float("nan"))
HOSTILE_TEXTS = (
    "", " ", "a", "loud", "broken", "funk, bass", "[verse]\nhello", "\x00", "../../etc/passwd", "assets/" + "0" * 64, "assets/../x",
    "operations/x", "operations/x/results/0", "operations/x/results/99999999999999999999", "operations/", "/", "x" * 5000, "夜の街\n",
    "\u202e\ufeff", "file:///etc/passwd", "http://127.0.0.1:1/", "http://[", "state = running", "state = '; drop table jobs", "e30=",
    "%s%n", "whsec_!", "{}", "\U0001f600" * 100,
)  # fmt: skip
LIBRARY_ERROR = "Internal error from Core"
"""What the client's own library says where a server ends a stream before its first message has left; no server of ours says it."""
FORBIDDEN = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNAVAILABLE)
ENDLESS = ("UploadAudio", "EncodeAudio", "ReadAudio")


@dataclass(frozen=True)
class Method:
    """One method of one server.

    Attributes:
        server: Its name.
        target: Where it listens.
        path: As "/acestep_rpc.v1.VaeService/DecodeLatents".
        request: Class of its requests.
        request_streams: Whether it takes many.
        response_streams: Whether it answers with many.
    """

    server: str
    target: str
    path: str
    request: type[message.Message]
    request_streams: bool
    response_streams: bool


@dataclass
class Findings:
    """What came of the messages."""

    codes: collections.Counter[str] = field(default_factory=collections.Counter)
    bad: list[dict[str, str]] = field(default_factory=list)
    by_method: collections.Counter[str] = field(default_factory=collections.Counter)


def methods_of(name: str, target: str) -> list[Method]:
    """All methods of a server, as it says itself."""
    with grpc.insecure_channel(target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = descriptor_pool.DescriptorPool(database)
        found = []
        for service in database.get_services():
            for method in pool.FindServiceByName(service).methods:
                request = message_factory.GetMessageClass(method.input_type)
                streams = method.client_streaming, method.server_streaming
                found.append(Method(name, target, f"/{service}/{method.name}", request, *streams))
        return found


class Draws:
    """Hostile messages from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def payloads(self, method: Method) -> tuple[str, list[bytes]]:
        """A kind and the messages of one call, one unless the method takes a stream."""
        kind = self.random.choice(("bytes", "structure", "structure", "structure", "changed", "cut off"))
        count = self.random.choice((0, 1, 1, 2, 5)) if method.request_streams else 1
        return kind, [self._payload(kind, method.request) for _ in range(count)]

    def _payload(self, kind: str, request: type[message.Message]) -> bytes:
        if kind == "bytes":
            return self.random.randbytes(self.random.choice((0, 1, 2, 7, 60, 1000, 50_000)))
        made = request()
        self.fill(made, 0)
        data = bytearray(made.SerializePartialToString())
        if kind == "cut off" and data:
            return bytes(data[: self.random.randrange(len(data))])
        if kind == "changed":
            for _ in range(self.random.randint(1, 8) if data else 0):
                data[self.random.randrange(len(data))] = self.random.randrange(256)
        return bytes(data)

    def fill(self, made: Any, depth: int) -> None:
        """Set some fields to hostile values."""
        if made.DESCRIPTOR.full_name == "acestep_rpc.v1.Tensor":
            self._fill_tensor(made)
            return
        fields: Sequence[descriptor.FieldDescriptor] = made.DESCRIPTOR.fields
        for one in fields:
            if self.random.random() < (0.35 if depth else 0.2):
                continue
            self._set(made, one, depth)

    def _set(self, made: Any, one: descriptor.FieldDescriptor, depth: int) -> None:
        if one.message_type is not None and one.message_type.GetOptions().map_entry:
            return
        if one.type in (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP):
            if depth < MAX_DEPTH:
                for part in [getattr(made, one.name).add() for _ in range(self._count())] if one.is_repeated else [getattr(made, one.name)]:
                    part.SetInParent()
                    self.fill(part, depth + 1)
            return
        if one.is_repeated:
            getattr(made, one.name).extend(self._scalar(one) for _ in range(self._count()))
        else:
            setattr(made, one.name, self._scalar(one))

    def _count(self) -> int:
        return self.random.choice((0, 1, 1, 2, 3, 20))

    def _scalar(self, one: descriptor.FieldDescriptor) -> Any:
        match one.cpp_type:
            case FieldDescriptor.CPPTYPE_BOOL:
                return self.random.random() < 0.5
            case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
                return self.random.choice(HOSTILE_FLOATS)
            case FieldDescriptor.CPPTYPE_ENUM:
                return self.random.choice((0, 1, 2, 3, 99, -1))
            case FieldDescriptor.CPPTYPE_STRING if one.type == FieldDescriptor.TYPE_BYTES:
                return self.random.randbytes(self.random.choice((0, 3, 500)))
            case FieldDescriptor.CPPTYPE_STRING:
                return self.random.choice(HOSTILE_TEXTS)
        low, high = {
            FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
            FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
            FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
            FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
        }[one.cpp_type]
        return min(max(self.random.choice(HOSTILE_INTEGERS), low), high)

    def _fill_tensor(self, made: Any) -> None:
        """A type, a shape and bytes that agree or do not; sometimes the shape of latents or of states."""
        made.data_type = self.random.choice((0, 1, 1, 1, 2, 3, 4, 5, 99))
        shapes = (
            [8, 16, 9],
            [8, 16, 0],
            [3, 12],
            [5],
            [5, 1024],
            [3, 768],
            [2, 20],
            [0],
            [],
            [-1, 4],
            [2**40, 2**40],
            [2**62, 0],
            [8, 16, 2**31],
        )
        made.shape.extend(self.random.choice(shapes))
        count = 1
        for size in made.shape:
            count *= max(size, 0)
        size = {0: 1, 1: 4, 2: 2, 3: 2, 4: 8}.get(made.data_type, 1)
        num_bytes = count * size if self.random.random() < 0.8 and count < 10_000 else self.random.choice((0, 1, 77))
        values = self.random.choice((0.1, 1e38, float("nan"), None))
        made.data = (
            (struct.pack("<f", values) * (num_bytes // 4 + 1))[:num_bytes] if values is not None else self.random.randbytes(num_bytes)
        )


async def call(
    channel: grpc.aio.Channel, method: Method, payloads: AsyncIterator[bytes] | Iterable[bytes], seconds: float
) -> grpc.StatusCode | str:
    """How one call ends: with a code, or with one that must not be and its words."""
    make = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[method.request_streams, method.response_streams]
    stub = make(method.path)
    request: Any = payloads if method.request_streams else next(iter(payloads))  # type: ignore[call-overload]
    made = stub(request, timeout=seconds)
    try:
        if method.response_streams:
            async for _ in made:
                pass
        else:
            await made
        return grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        return error.code() if error.code() not in FORBIDDEN else f"{error.code().name}: {error.details()}"
    except asyncio.CancelledError:
        return "CANCELLED by the library"


async def _endless(data: bytes) -> AsyncIterator[bytes]:
    while True:
        yield data


async def _silent() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def streams(channel: grpc.aio.Channel, method: Method) -> AsyncIterator[tuple[str, grpc.StatusCode | str]]:
    """What becomes of streams that never end, that say nothing, and of a message that is too large."""
    chunk = method.request(data=bytes(1 << 20)).SerializeToString() if method.path.rpartition("/")[2] in ENDLESS else b""
    if chunk:
        yield "endless", await call(channel, method, _endless(chunk), 120.0)
    if method.request_streams:
        yield "silent", await call(channel, method, _silent(), CALL_SECONDS)
    yield "oversized", await call(channel, method, [bytes(MAX_MESSAGE_BYTES + 1)], 60.0)


async def send(methods: Sequence[Method], count: int, seed: int, findings: Findings, at_a_time: int = AT_A_TIME) -> None:
    """So many calls, in turn to all methods."""
    draws, numbers = Draws(seed), iter(range(count))
    async with contextlib.AsyncExitStack() as stack:
        channels = {}
        for target in {method.target for method in methods}:
            channels[target] = await stack.enter_async_context(grpc.aio.insecure_channel(target))

        async def work() -> None:
            for number in numbers:
                method = methods[number % len(methods)]
                kind, payloads = draws.payloads(method)
                outcome = await call(channels[method.target], method, payloads, CALL_SECONDS)
                for _ in range(REPEATS):
                    if not str(outcome).endswith(LIBRARY_ERROR):
                        break
                    outcome = await call(channels[method.target], method, payloads, CALL_SECONDS)
                note(findings, method, kind, outcome, payloads)

        await asyncio.gather(*(work() for _ in range(at_a_time)))


def note(findings: Findings, method: Method, kind: str, outcome: grpc.StatusCode | str, payloads: Sequence[bytes] = ()) -> None:
    """Count an outcome; keep one that must not be, with the message that led to it."""
    findings.by_method[method.server + method.path] += 1
    if isinstance(outcome, grpc.StatusCode):
        findings.codes[outcome.name] += 1
        return
    findings.codes[outcome.partition(":")[0]] += 1
    findings.bad.append(
        {"method": method.path, "kind": kind, "outcome": outcome, "payloads": " ".join(one[:2000].hex() for one in payloads)}
    )


def tracebacks(servers: Iterable[Server]) -> list[str]:
    """Lines of logs that hold a traceback or an error that is nobody's doing, or that are no JSON."""
    found = []
    for server in servers:
        for line in server.log().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                found.append(f"{server.name}: {line}")
                continue
            if "traceback" in record or record["level"] == "error":
                found.append(f"{server.name}: {line}")
    return found


async def cancel_jobs(server: Server) -> None:
    """End what a good message may have begun."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        operations = operations_pb2_grpc.OperationsStub(channel)
        page = await operations.ListOperations(operations_pb2.ListOperationsRequest(page_size=1000, filter="done = false"))
        for operation in page.operations:
            await operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name))


async def digest(system: System) -> str:
    """Of a song."""
    async with system.music() as stub:
        return (await generate(stub, song_request())).result.songs[0].sha256


async def all_methods(system: System) -> list[Method]:
    """Of all servers."""
    found = [await asyncio.to_thread(methods_of, name, server.target) for name, server in system.servers.items()]
    return [method for many in found for method in many]


async def attack(system: System, messages: int, seed: int) -> Findings:
    """Send them all; the jobs that came of it are ended."""
    findings, methods = Findings(), await all_methods(system)
    await send(methods, messages, seed, findings)
    await cancel_jobs(system.front)
    return findings


async def run(messages: int, seed: int) -> dict[str, Any]:
    """Attack one system, then ask for the song again."""
    with processes.system() as system:
        before = await digest(system)
        findings = await attack(system, messages, seed)
        for method in await all_methods(system):
            async with grpc.aio.insecure_channel(method.target, options=[("grpc.max_send_message_length", -1)]) as channel:
                async for kind, outcome in streams(channel, method):
                    note(findings, method, kind, outcome)
        after = await digest(system)
        logged = tracebacks(system.servers.values())
    bounds = {
        "messages": Bound(sum(findings.by_method.values()), least=messages),
        "answers_that_must_not_be": Bound(len(findings.bad), most=0),
        "tracebacks_and_errors_logged": Bound(len(logged), most=0),
        "the_song_is_the_same_afterwards": Bound(before == after, least=1),
    }
    figures = {"codes": dict(findings.codes), "methods": len(findings.by_method), "bad": findings.bad[:20], "logged": logged[:20]}
    return processes.report(bounds, figures)


def main(arguments: list[str] | None = None) -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.malformed", description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    return processes.main(parser, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
