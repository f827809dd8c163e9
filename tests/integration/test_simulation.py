"""The simulation against real stages under real load: the same calls, the same ends, device seconds of one order."""

import json
import time
from collections.abc import Sequence

import torch

from acestep_rpc.server import Registration, serve
from acestep_rpc.settings import ServerSettings
from acestep_rpc.v1 import music_pb2_grpc
from benchmarks.load import Traffic, draw_calls, run
from benchmarks.simulated import Simulation
from benchmarks.simulation import summarise
from orchestrator.assets import AssetStore
from orchestrator.embedded import load
from orchestrator.jobs.database import open_database
from orchestrator.jobs.service import Jobs
from orchestrator.servicer import MusicServicer
from orchestrator.settings import Settings

FACTOR = 4.0
"""Between predicted device seconds and processor seconds of the whole process, which holds clients, messages and file formats too."""
LENGTHS = (3.0, 6.0, 12.0)
TRAFFIC = Traffic(rate=8.0, requests=12, seconds=LENGTHS, steps=(5, 15))
SEED = 3


async def test_a_simulation_says_what_a_run_on_real_stages_takes(checkpoint, tmp_path):
    threads = torch.get_num_threads()
    stages = await load(checkpoint, "cpu", "float32", 1)
    try:
        database = await open_database(f"sqlite:///{tmp_path}/jobs.sqlite")
        jobs = Jobs(database, stages, AssetStore(str(tmp_path / "store")), Settings(embedded=True, checkpoint=checkpoint))

        async def build() -> Sequence[Registration]:
            return [
                Registration("acestep_rpc.v1.MusicService", MusicServicer(stages, jobs), music_pb2_grpc.add_MusicServiceServicer_to_server)
            ]

        server = await serve(ServerSettings(), build)
        target = f"127.0.0.1:{server.port}"
        descriptions = await stages.describe(None)  # prices of the start: of an idle device
        worked = time.process_time()
        measured = await run(target, TRAFFIC, SEED)
        worked = time.process_time() - worked
        await server.stop()
        await database.close()
    finally:
        torch.set_num_threads(threads)

    simulation = Simulation(descriptions)
    sources = dict.fromkeys(LENGTHS, f"assets/{0:064}")
    for call in draw_calls(TRAFFIC, sources, SEED):
        frames = round(call_seconds(call.request) * 44100 / 4096)
        simulation.add(call.arrival, call.request, source_frames=frames)
    simulation.run()
    predicted = summarise(simulation)
    print(json.dumps({"measured": measured, "processor_seconds": worked, "simulated": predicted}))
    assert measured["codes"] == {"OK": TRAFFIC.requests}
    assert predicted["outcomes"]["completed"] == TRAFFIC.requests
    assert 1 / FACTOR < predicted["device_seconds"] / worked < FACTOR


def call_seconds(request) -> float:
    """Length of the source of a drawn call, as its task tells it."""
    match request.WhichOneof("task"):
        case "repaint":
            return 4 * request.repaint.regions[0].start_seconds
        case "extend":
            return 2 * request.extend.right_seconds
        case _:
            return LENGTHS[1]
