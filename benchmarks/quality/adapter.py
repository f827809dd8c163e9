"""`python -m benchmarks.quality.adapter --checkpoint DIR`: an adapter from 20 clips, end to end, by the commands that users have.

The band plays clips of an instrument that the checkpoint never heard; they are converted, preprocessed and trained on; a server takes the
adapter and plays prompts of held-out songs that ask for the instrument, without it, with it, and with it at scale 0. The listener says how
likely the instrument plays there, and in the band's own playing of those songs, which is the most that can be expected.
"""

import argparse
import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from acestep_rpc.channels import RemoteStub, connect
from acestep_rpc.v1 import music_pb2, music_pb2_grpc
from benchmarks.quality.clips import Band, Sounds, load_mel
from benchmarks.quality.evaluation import listener_songs
from benchmarks.quality.listener import Listener
from benchmarks.quality.statistics import estimate
from clients.cli.embedded_server import embedded_server
from training.corpus.arrangement import compose
from training.corpus.band import Wishes
from training.corpus.song import Song

CLIPS = 20
CLIPS_SEED = 77
INSTRUMENT = "sitar"
"""Of no genre of the band: a checkpoint trained on its songs has not heard it."""
SECONDS = 10.0
LISTENER_SONGS = 400
INSTRUMENT_SONGS = 100
LISTENER_SEED = 2_000_000
NAME = "adapter"
VARIANTS: dict[str, float | None] = {"base": None, "adapter": 1.0, "adapter at scale 0": 0.0}


def command(*arguments: object) -> None:
    """Run a module with its arguments; raises where it fails."""
    subprocess.run([sys.executable, "-m", *map(str, arguments)], check=True)


def train_adapter(checkpoint: Path, folder: Path, steps: int) -> Path:
    """Clips, dataset, shards, adapter.

    Returns:
        Store of the adapter.
    """
    store = folder / "runs" / NAME / "checkpoints" / f"step={steps}"
    if store.exists():
        return store
    wishes = ("--instrument", INSTRUMENT, "--stem", "lead", "--seconds", SECONDS)
    command("training.corpus", "--songs", CLIPS, "--seed", CLIPS_SEED, "--output", folder / "clips", *wishes)
    command("training", "convert", "--data_dir", folder / "clips", "--output_name", folder / "dataset")
    command(
        "training", "preprocess", "--dataset_path", folder / "dataset", "--checkpoint_dir", checkpoint, "--output_dir", folder / "shards"
    )
    where = ("--dataset_path", folder / "shards", "--checkpoint_dir", checkpoint, "--logger_dir", folder / "runs", "--exp_name", NAME)
    sizes = ("--max_steps", steps, "--every_n_train_steps", steps, "--every_plot_step", steps)
    command("training", "train", "--recipe", "embedded_lora", *where, *sizes)
    return store


def instrument_songs() -> list[Song]:
    """More songs with the instrument for the listener to learn from: the general ones have it now and then."""
    return [compose(LISTENER_SEED, index, Wishes(instrument=INSTRUMENT, seconds=SECONDS)) for index in range(INSTRUMENT_SONGS)]


async def generate(checkpoint: Path, store: Path, prompts: Sequence[str]) -> dict[str, list[bytes]]:
    """Songs of every variant, as WAV files in float32; each prompt has a seed of its own."""
    songs: dict[str, list[bytes]] = {name: [] for name in VARIANTS}
    async with embedded_server({"checkpoint": str(checkpoint), "adapters": str(store)}) as target, connect(target) as channel:
        stub: Any = RemoteStub(music_pb2_grpc.MusicServiceStub, channel, target)
        for name, scale in VARIANTS.items():
            for seed, tags in enumerate(prompts):
                request = music_pb2.GenerateRequest(
                    prompt={"tags": tags, "lyrics": "[inst]"},
                    text_to_music={"duration_seconds": SECONDS},
                    seeds=[seed],
                    output={"format": music_pb2.AUDIO_FORMAT_WAV_FLOAT32, "sample_rate": 44_100},
                    adapters=[] if scale is None else [{"name": NAME, "scale": scale}],
                )
                songs[name].append(b"".join([event.audio_chunk.data async for event in stub.Generate(request)]))
    return songs


def probabilities(listener: Listener, sounds: Sounds, folder: Path, songs: Sequence[bytes]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """How likely the instrument plays in each song, which is taken through the codec as real ones are."""
    found = []
    for number, song in enumerate(songs):
        path = folder / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(song)
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        mel = sounds.decoded(sounds.codec.encode(torch.from_numpy(np.ascontiguousarray(samples.T)), rate))
        found.append(listener.judge(mel).sounds[INSTRUMENT])
    return np.array(found)


def same_samples(one: bytes, other: bytes) -> bool:
    """Whether two files sound the same, to the bit; what they say of themselves differs."""
    return np.array_equal(*(soundfile.read(io.BytesIO(song), dtype="float32")[0] for song in (one, other)))


def main(arguments: list[str] | None = None) -> int:
    """Train, serve, listen; print what was heard, and write OUTPUT/adapter.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.adapter", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder in the official layout, trained on the corpus")
    parser.add_argument("--output", type=Path, default=Path("outputs/adapter"), help="default: %(default)s")
    parser.add_argument("--prompts", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=300, help="of training, default: %(default)s")
    parser.add_argument("--voice-cache", type=Path, help="folder for analyses of spoken lines; default: OUTPUT/voices")
    options = parser.parse_args(arguments)
    folder = options.output
    sounds = Sounds(options.checkpoint, folder / "real")
    band = Band(sounds, options.voice_cache or folder / "voices")
    store = train_adapter(options.checkpoint, folder, options.steps)
    wishes = Wishes(split="held_out", stem="lead", instrument=INSTRUMENT, seconds=SECONDS)
    wanted = [compose(0, index, wishes) for index in range(options.prompts)]
    songs = asyncio.run(generate(options.checkpoint, store, [", ".join(song.tags) for song in wanted]))
    learnt = [*listener_songs(LISTENER_SONGS, 0), *instrument_songs()]
    listener = Listener([load_mel(band.play(song)) for song in learnt], learnt)
    heard = {name: probabilities(listener, sounds, folder / name.replace(" ", "_"), files) for name, files in songs.items()}
    heard["real"] = np.array([listener.judge(load_mel(band.play(song))).sounds[INSTRUMENT] for song in wanted])
    gain = heard["adapter"] - heard["base"]
    estimated = estimate(gain[:, None].tolist())
    assert estimated is not None
    result = {
        "instrument": INSTRUMENT,
        **{name: float(values.mean()) for name, values in heard.items()},
        "gain": estimated.mean,
        "gain_95": [estimated.low, estimated.high],
        "scale_0_equals_base": all(map(same_samples, songs["adapter at scale 0"], songs["base"])),
    }
    (folder / "adapter.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
