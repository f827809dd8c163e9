"""Real servers on free ports, embedded and as four processes, on a random tiny checkpoint."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestep_rpc.channels import connect
from acestep_rpc.v1 import music_pb2_grpc

START_SECONDS = 300.0
STAGES = ("encoder", "diffusion", "vae")


@dataclass
class Server:
    """A service in a process of its own."""

    name: str
    arguments: list[str]
    folder: Path
    port: int = 0
    metrics_port: int = 0
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, on the ports of the last start if there was one, and wait until it serves."""
        ready = self.folder / f"{self.name}.ready"
        ready.unlink(missing_ok=True)  # a killed process leaves its own behind
        command = [sys.executable, "-m", "clients.cli.main", "serve", *self.arguments, "--ready-file", str(ready)]
        command += ["--port", str(self.port), "--metrics-port", str(self.metrics_port)]
        with open(self.folder / f"{self.name}.log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | self.environment)
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            assert self.process.poll() is None, (self.folder / f"{self.name}.log").read_text()
            assert time.monotonic() < deadline, f"{self.name} did not start"
            time.sleep(0.05)
        ports = json.loads(ready.read_text())
        self.port, self.metrics_port = ports["port"], ports["metrics_port"]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples with these labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as response:
            lines = response.read().decode().splitlines()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.partition("{")[0].partition(" ")[0] == name and all(label in line for label in wanted)
        )

    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text()


@dataclass
class System:
    """All that it takes to make a song."""

    mode: str
    servers: dict[str, Server] = field(default_factory=dict)

    @property
    def front(self) -> Server:
        return self.servers["orchestrator"]

    def stage(self, name: str) -> Server:
        """The process that runs a stage."""
        return self.servers.get(name, self.front)

    @contextlib.asynccontextmanager
    async def music(self):
        """The generated stub, as any client has it."""
        async with connect(self.front.target) as channel:
            yield music_pb2_grpc.MusicServiceStub(channel)


def make_checkpoint(folder: Path) -> Path:
    """A tiny random checkpoint."""
    command = [sys.executable, "-m", "clients.cli.main", "init-checkpoint", "--size", "tiny", "--seed", "0", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


def make_adapters(checkpoint: Path, store: Path) -> Path:
    """A store with one random adapter for a layer of the lyric encoder and one of the transformer, and one that fits nothing."""
    generator = torch.Generator().manual_seed(0)
    weights = load_file(checkpoint / "ace_step_transformer" / "diffusion_pytorch_model.safetensors")
    tensors = {}
    for layer in ("lyric_encoder.encoders.0.self_attn.linear_q", "transformer_blocks.0.attn.to_q"):
        width = weights[f"{layer}.weight"].shape[0]
        tensors[f"{layer}.lora_A.weight"] = torch.randn(4, width, generator=generator)
        tensors[f"{layer}.lora_B.weight"] = torch.randn(width, 4, generator=generator)
    for name, content in (("loud", tensors), ("broken", {"transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(4, 3)})):
        (store / name).mkdir()
        header = {"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 8})}
        save_file(content, store / name / "pytorch_lora_weights.safetensors", header)
    return store


@pytest.fixture(scope="session")
def adapters(checkpoint, tmp_path_factory) -> Path:
    return make_adapters(checkpoint, tmp_path_factory.mktemp("adapters"))


@contextlib.contextmanager
def running(mode: str, checkpoint: Path, adapters: Path, folder: Path) -> Iterator[System]:
    """A system until the end of the block."""
    system = System(mode)
    model = ["--checkpoint", str(checkpoint), "--dtype", "float32", "--threads", "1"]
    try:
        if mode == "embedded":
            own = ["--adapters", str(adapters), "--warm-adapters", "loud"]
            system.servers["orchestrator"] = Server("orchestrator", ["--embedded", *model, *own], folder)
        else:
            targets: list[str] = []
            for name in STAGES:
                own = [] if name == "vae" else ["--adapters", str(adapters)]
                server = system.servers[name] = Server(name, [name, *model, *own], folder)
                server.start()
                targets += [f"--{name}", server.target]
            system.servers["orchestrator"] = Server("orchestrator", ["orchestrator", *targets], folder)
        system.front.start()
        yield system
    finally:
        for server in system.servers.values():
            if server.process is not None and server.process.poll() is None:
                server.stop(signal.SIGKILL)


@contextlib.contextmanager
def serving(checkpoint: Path, folder: Path, *arguments: str, **settings: str) -> Iterator[Server]:
    """One process with a data folder, whose jobs are taken up two seconds after it was killed."""
    own = [
        "--embedded",
        "--checkpoint",
        str(checkpoint),
        "--dtype",
        "float32",
        "--threads",
        "1",
        "--data",
        str(folder / "data"),
        *arguments,
    ]
    environment = {f"ACESTEP_ORCHESTRATOR_{name.upper()}": value for name, value in ({"job_lease_seconds": "2"} | settings).items()}
    one = Server("orchestrator", own, folder, environment=environment)
    one.start()
    try:
        yield one
    finally:
        one.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def song_server(checkpoint, tmp_path_factory) -> Iterator[Server]:
    """What tests of the client and its commands call, and leave running."""
    with serving(checkpoint, tmp_path_factory.mktemp("songs")) as one:
        yield one


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The servers under test share the machine with each other."""
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", params=["embedded", "remote"])
def system(request, checkpoint, adapters, tmp_path_factory) -> Iterator[System]:
    with running(request.param, checkpoint, adapters, tmp_path_factory.mktemp(request.param)) as running_system:
        yield running_system


@pytest.fixture
def remote(checkpoint, adapters, tmp_path) -> Iterator[System]:
    """A system of four processes for one test, which may break it."""
    with running("remote", checkpoint, adapters, tmp_path) as running_system:
        yield running_system


@pytest.fixture
async def music(system):
    async with system.music() as stub:
        yield stub
