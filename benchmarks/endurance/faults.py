"""`python -m benchmarks.endurance.faults`: jobs while everything under them dies: none is lost, none completes twice, each song is right.

Two orchestrators on one PostgreSQL, two replicas of each stage. Every 20 seconds a random replica gets SIGKILL and is started again, as a
supervisor would; at a third and at two thirds of the time it is the first orchestrator, and in the middle PostgreSQL restarts. Meanwhile
jobs arrive, drawn from a few requests whose songs were made before anything died. A caller whose SubmitGeneration fails tries again under
the same request id, at either orchestrator: once it has an answer the job is accepted. Each accepted job must end in the song with the
digest of the undisturbed run, or in a typed error that its watcher is told too; its events must hold one completion, or one error.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.longrunning import operations_pb2, operations_pb2_grpc

from acestep_rpc.channels import connect
from acestep_rpc.v1 import music_pb2, music_pb2_grpc
from benchmarks.endurance import processes
from benchmarks.endurance.processes import Bound
from tests.integration.conftest import STAGES, Server
from tests.integration.requests import Answer, generate, song_request
from tests.postgresql import PostgreSQL, running_postgresql

KILL_SECONDS = 20.0
RESTART_SECONDS = 1.0
"""From a kill until the supervisor starts a server again."""
ARRIVAL_SECONDS = 2.0
"""Mean time between two jobs."""
END_SECONDS = 240.0
"""For jobs that are left when nothing dies any more."""
LEASE_SECONDS = 5
ATTEMPTS = 10
"""Of a job: what kills its servers here is not the job."""
TYPED = ("UNAVAILABLE", "ABORTED", "RESOURCE_EXHAUSTED", "CANCELLED")
"""Errors that a job may end with."""
KINDS = tuple(
    {"seconds": seconds, "steps": steps, "seeds": seeds}
    for seconds, steps, seeds in ((2.0, 4, (1,)), (5.0, 40, (2,)), (10.0, 20, (3, 4)), (20.0, 60, (5,)), (30.0, 30, (6,)))
)


@dataclass
class Deployment:
    """All servers, and what has been done to them."""

    database: PostgreSQL
    replicas: list[Server]
    orchestrators: list[Server]
    kills: Counter[str] = field(default_factory=Counter)
    busy: dict[str, asyncio.Lock] = field(default_factory=dict)

    async def kill(self, server: Server) -> None:
        """SIGKILL, and start again."""
        async with self.busy.setdefault(server.name, asyncio.Lock()):
            self.kills[server.name] += 1
            await asyncio.to_thread(server.stop, signal.SIGKILL)
            await asyncio.sleep(RESTART_SECONDS)
            await asyncio.to_thread(server.start)

    async def restart_database(self) -> None:
        """Break all its connections, and start it again."""
        self.kills["postgresql"] += 1
        await asyncio.to_thread(self.database.stop)
        await asyncio.sleep(RESTART_SECONDS)
        await asyncio.to_thread(self.database.start)


@contextlib.asynccontextmanager
async def deployment(stack: contextlib.ExitStack) -> Any:
    """Two of everything."""
    database = stack.enter_context(running_postgresql())
    checkpoint, adapters, folder = stack.enter_context(processes.model())
    model = ["--checkpoint", str(checkpoint), "--dtype", "float32", "--threads", "1"]
    replicas = []
    for stage in STAGES:
        own = [] if stage == "vae" else ["--adapters", str(adapters)]
        replicas += [Server(f"{stage}-{number}", [stage, *model, *own], folder) for number in (1, 2)]
    made = Deployment(database, replicas, [])
    try:
        for server in replicas:
            await asyncio.to_thread(server.start)
        targets = [
            word for stage in STAGES for word in (f"--{stage}", ",".join(one.target for one in replicas if one.name.startswith(stage)))
        ]
        settings = {
            "database_url": database.database(),
            "data": str(folder / "data"),
            "job_lease_seconds": str(LEASE_SECONDS),
            "job_attempts": str(ATTEMPTS),
        }
        environment = {f"ACESTEP_ORCHESTRATOR_{name.upper()}": value for name, value in settings.items()}
        for number in (1, 2):
            server = Server(f"orchestrator-{number}", ["orchestrator", *targets], folder, environment=environment)
            made.orchestrators.append(server)
            await asyncio.to_thread(server.start)
        yield made
    finally:
        for server in (*made.orchestrators, *replicas):
            if server.process is not None and server.process.poll() is None:
                server.stop(signal.SIGKILL)


async def undisturbed(front: Server) -> list[list[str]]:
    """Digests of the songs of each kind."""
    found = []
    async with connect(front.target) as channel:
        for kind in KINDS:
            answer = await generate(music_pb2_grpc.MusicServiceStub(channel), song_request(**kind))
            found.append([song.sha256 for song in answer.result.songs])
    return found


@dataclass
class Caller:
    """One job, as its caller sees it.

    Attributes:
        name: Its request id.
        kind: Which of KINDS.
        accepted: The server has answered.
        tries: Of submitting it.
    """

    name: str
    kind: int
    accepted: bool = False
    tries: int = 0

    async def submit(self, made: Deployment, rng: random.Random) -> None:
        """Until a server has answered."""
        generation = song_request(**KINDS[self.kind], request_id=self.name)
        while not self.accepted:
            self.tries += 1
            front = rng.choice(made.orchestrators)
            with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError):
                async with connect(front.target) as channel:
                    stub = music_pb2_grpc.MusicServiceStub(channel)
                    await stub.SubmitGeneration(music_pb2.SubmitGenerationRequest(generation=generation), timeout=15)
                    self.accepted = True
                    return
            await asyncio.sleep(0.5)

    async def finish(self, made: Deployment, seconds: float) -> operations_pb2.Operation | None:
        """The operation when it has ended; None: it has not in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for front in made.orchestrators:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    async with connect(front.target) as channel:
                        request = operations_pb2.WaitOperationRequest(name=f"operations/{self.name}")
                        operation = await operations_pb2_grpc.OperationsStub(channel).WaitOperation(request, timeout=10)
                        if operation.done:
                            return operation
            await asyncio.sleep(0.2)
        return None

    async def watch(self, made: Deployment) -> tuple[Answer, str]:
        """All events, and the code that they end with."""
        answer = Answer()
        async with connect(made.orchestrators[-1].target) as channel:
            try:
                request = music_pb2.WatchGenerationRequest(name=f"operations/{self.name}")
                async for response in music_pb2_grpc.MusicServiceStub(channel).WatchGeneration(request):
                    answer.events.append(response.event)
            except grpc.aio.AioRpcError as error:
                return answer, error.code().name
        return answer, "OK"


async def arrive(made: Deployment, seconds: float, rng: random.Random) -> list[Caller]:
    """Jobs for so many seconds; every one of them accepted."""
    callers: list[Caller] = []
    async with asyncio.TaskGroup() as group:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            callers.append(Caller(f"job-{len(callers)}", rng.randrange(len(KINDS))))
            group.create_task(callers[-1].submit(made, rng))
            await asyncio.sleep(rng.expovariate(1 / ARRIVAL_SECONDS))
    return callers


async def disturb(made: Deployment, seconds: float, rng: random.Random) -> None:
    """Kill one thing after another."""
    async with asyncio.TaskGroup() as group:

        async def at(share: float, deed: Any) -> None:
            await asyncio.sleep(share * seconds)
            await deed()

        group.create_task(at(1 / 3, lambda: made.kill(made.orchestrators[0])))
        group.create_task(at(2 / 3, lambda: made.kill(made.orchestrators[0])))
        group.create_task(at(1 / 2, made.restart_database))
        end = time.monotonic() + seconds
        while time.monotonic() + KILL_SECONDS <= end + 1:
            await asyncio.sleep(KILL_SECONDS)
            running = [one for one in made.replicas if not made.busy.setdefault(one.name, asyncio.Lock()).locked()]
            group.create_task(made.kill(rng.choice(running)))


async def judge(made: Deployment, caller: Caller, expected: list[list[str]]) -> str:
    """What came of an accepted job: "the song", the code of a typed error, or what is wrong with it."""
    operation = await caller.finish(made, END_SECONDS)
    if operation is None:
        return "LOST: it never ended"
    answer, code = await caller.watch(made)
    if [event.sequence for event in answer.events] != list(range(1, len(answer.events) + 1)):
        return "WRONG: events are missing or come twice"
    completions = answer.kinds.count("completed")
    if operation.HasField("error"):
        name = next(one.name for one in grpc.StatusCode if one.value[0] == operation.error.code)
        if completions or code != name or name not in TYPED:
            return f"WRONG: it failed with {name}, its watcher was told {code} after {completions} completions"
        return name
    result = music_pb2.GenerateResult()
    operation.response.Unpack(result)
    if completions != 1 or code != "OK" or answer.result != result:
        return f"TWICE: {completions} completions, {code}"
    for index, song in enumerate(result.songs):
        if song.sha256 != expected[caller.kind][index]:
            return "WRONG: another song"
        answer.file(index)  # its bytes have that digest
    return "the song"


def completions_logged(servers: list[Server]) -> Counter[str]:
    """How often servers said that they completed a job."""
    found: Counter[str] = Counter()
    for server in servers:
        for line in server.log().splitlines():
            record = json.loads(line) if line.startswith("{") else {}
            if record.get("event") == "job_ended" and record.get("outcome") == "succeeded":
                found[record["request_id"]] += 1
    return found


def results_kept(folder: Path) -> Counter[str]:
    """Attempts of each job that left songs in the store."""
    return Counter(path.parents[1].name for path in folder.rglob("attempts/*") if any(one.is_file() for one in path.rglob("*")))


async def run(seconds: float, seed: int) -> dict[str, Any]:
    """One deployment, its jobs and its accidents."""
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:
        async with deployment(stack) as made:
            expected = await undisturbed(made.orchestrators[-1])
            callers, _ = await asyncio.gather(arrive(made, seconds, rng), disturb(made, seconds, random.Random(seed + 1)))
            verdicts = Counter([await judge(made, caller, expected) for caller in callers])
            twice = [name for name, count in completions_logged(made.orchestrators).items() if count > 1]
            several = [name for name, count in results_kept(made.replicas[0].folder / "data" / "store").items() if count > 1]
    right = verdicts["the song"]
    typed = sum(count for verdict, count in verdicts.items() if verdict in TYPED)
    bounds = {
        "jobs_that_ended_in_their_song_or_a_typed_error": Bound(right + typed, least=len(callers)),
        "jobs_that_ended_in_their_song": Bound(right, least=1),
        "jobs_completed_twice": Bound(len(twice) + len(several), most=0),
        "stages_killed": Bound(sum(count for name, count in made.kills.items() if name.partition("-")[0] in STAGES), least=1),
        "orchestrators_killed": Bound(made.kills["orchestrator-1"], least=2),
        "database_restarts": Bound(made.kills["postgresql"], least=1),
    }
    figures = {
        "jobs": len(callers),
        "tries_of_submitting": sum(caller.tries for caller in callers),
        "verdicts": dict(verdicts),
        "kills": dict(made.kills),
    }
    return processes.report(bounds, figures)


def main(arguments: list[str] | None = None) -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of accidents (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    return processes.main(parser, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
