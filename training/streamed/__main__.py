"""`python -m training.streamed`: train the small checkpoint on one GPU while the processor's other cores play new songs for it.

A GPU goes through a corpus of hundreds of songs in a second and soon knows them by heart. So songs are composed and played as the run
goes on, from seeds, and stay on the GPU as latents; steps draw from all that are there. Songs that are sung come from a dataset, as singing
takes longer. The schedule follows the clock: the learning rate is 0 when the time is up.

    python -m training.streamed pack --dataset_path SHARDS --checkpoint_dir CHECKPOINT --output PACK
    python -m training.streamed train --pack PACK --checkpoint_dir CHECKPOINT --output RUN --max_seconds 430
    python -m training.streamed join --run RUN --checkpoint_dir CHECKPOINT --output CHECKPOINT

`train` needs neither the text encoder nor the codec: the pack has what they come to, as the small checkpoint's are closed forms.

B crops, T latent frames of a crop, L tags, N lyric tokens, W text width.
"""

import argparse
import csv
import functools
import itertools
import json
import math
import multiprocessing
import random
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusion_svc.weights import FOLDER
from training.checkpoint import load_trainable, save_transformer
from training.corpus.arrangement import compose
from training.corpus.render import SOUNDFONT
from training.learning_rate import plateau_multiplier
from training.streamed.learning import compile_blocks, recorded
from training.streamed.pack import write_pack
from training.streamed.run import PARTS, Run, write_weights
from training.streamed.songs import HELD_OUT_SONGS, LATENT_STEP, Player, Prepared, play_songs, read_pack

SECONDS_OF_A_SONG = 120
"""More than any takes to be played."""
BUCKETS = ((64, 0.25), (128, 0.4), (324, 0.35))
"""Frames of a crop and share of the steps."""
ROWS_EVERY = 50
NORMAL_STEPS = 1000


def _too_late(number: int, frame: Any) -> None:
    raise TimeoutError("the compiler takes too long")


def train(options: argparse.Namespace) -> None:
    """Train until the time is up."""
    started = time.monotonic()
    device = torch.device(options.device)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    pack, tags = read_pack(options.pack)
    probe = next(song for number in itertools.count(HELD_OUT_SONGS) if (song := compose(options.seed, number)).voice is None)
    first = Player(pack, tags, options.soundfont).play(probe)
    _tell(started, f"a song is played: latents {first.latents.std() * LATENT_STEP:.3f}")
    context = multiprocessing.get_context("spawn")
    work, done = context.Queue(), context.Queue()
    for number in range(options.songs):
        work.put(number)
    players = [
        context.Process(target=play_songs, args=(work, done, options.pack, options.soundfont, options.seed), daemon=True)
        for _ in range(options.players)
    ]
    for player in players:
        player.start()
    try:
        _train(options, device, pack, done, started)
    finally:
        for player in players:
            player.terminate()
        work.cancel_join_thread()  # songs are left that nobody will play


def _tell(started: float, what: str) -> None:
    print(f"{time.monotonic() - started:6.1f} s  {what}", flush=True)


def _arrivals(done: Any, songs: deque[tuple[bool, Prepared]]) -> None:
    """A thread that takes what the players have finished: their pipe holds one song at a time."""
    while True:
        songs.append(done.get())


def _keep(arrived: deque[tuple[bool, Prepared]], run: Run) -> None:
    songs: dict[bool, list[Prepared]] = {True: [], False: []}
    while arrived:
        held_out, song = arrived.popleft()
        songs[held_out].append(song)
    run.played.add(songs[False])
    run.held_out.add(songs[True])


def _buckets(seed: int) -> Iterator[int]:
    rng = random.Random(seed)  # noqa: S311 - no secrets here
    while True:
        yield rng.choices([length for length, _ in BUCKETS], [share for _, share in BUCKETS])[0]


def _compile(run: Run, options: argparse.Namespace, started: float) -> None:
    """Compile the blocks if that makes steps faster; without a GPU's graphs the time of launching counts too."""
    lengths = [length for length, _ in BUCKETS]
    run.seconds_of_steps(lengths)
    eager = run.seconds_of_steps(lengths)
    _tell(started, f"a step: {eager:.4f} s")
    if not options.compile:
        return
    compiled = math.inf
    signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(options.compile_seconds)
    try:
        compile_blocks(run.model, options.backend)
        run.seconds_of_steps(lengths)
        signal.alarm(0)
        compiled = run.seconds_of_steps(lengths)
        _tell(started, f"compiled: {compiled:.4f} s")
    except Exception as error:  # whatever a compiler says, the run goes on without it
        _tell(started, f"not compiled: {str(error)[:500]}")
    signal.alarm(0)
    if compiled > eager:
        torch.compiler.set_stance("force_eager")
        _tell(started, "going on without the compiler")


def _steps(run: Run, options: argparse.Namespace, started: float) -> dict[int, Callable[[], object]]:
    """Steps of each length, recorded if they can be."""
    steps: dict[int, Callable[[], object]] = {length: functools.partial(run.step, length) for length, _ in BUCKETS}
    if options.record and run.device.type == "cuda":
        try:
            steps = {length: recorded(step, run.generators) for length, step in steps.items()}
            _tell(started, f"recorded: {run.seconds_of_steps(list(steps), steps):.4f} s")
        except RuntimeError as error:
            _tell(started, f"not recorded: {str(error)[:500]}")
    return steps


def _train(options: argparse.Namespace, device: torch.device, pack: Mapping[str, Tensor], done: Any, started: float) -> None:
    run = Run(options, device, pack)
    arrived: deque[tuple[bool, Prepared]] = deque()
    threading.Thread(target=_arrivals, args=(done, arrived), daemon=True).start()
    while run.played.count < min(options.first_songs, options.songs // 2):
        waited_since = time.monotonic()
        while not arrived:
            if time.monotonic() - waited_since > SECONDS_OF_A_SONG:
                raise RuntimeError("no songs arrive from the players")
            time.sleep(0.1)
        _keep(arrived, run)
    _tell(started, f"{run.played.count} songs have arrived")
    _compile(run, options, started)
    steps = _steps(run, options, started)
    run.begin()

    log = (options.output / "log.csv").open("w", newline="", encoding="utf-8")
    writer = csv.writer(log)
    writer.writerow(
        ["step", "seconds", "songs", "loss", "velocity", "score", "phones", "gradient_norm", "held_out_velocity", "held_out_score"]
    )
    begun = time.monotonic()
    total = max(1.0, options.max_seconds - (begun - started))
    good, good_step, half = run.copy(), 0, False
    step = 0
    for length in _buckets(options.seed):
        share = (time.monotonic() - begun) / total
        if share >= 1 or step >= options.max_steps:
            break
        warm = min(1.0, (step + 1) / 100)
        multiplier = warm * plateau_multiplier(int(share * NORMAL_STEPS), NORMAL_STEPS, 0, options.decay_from)
        run.control(share, multiplier, max(1 - options.ema_decay, 9 / (step + 11)))
        steps[length]()
        step += 1
        if step % 10 == 0:
            _keep(arrived, run)
        if step % ROWS_EVERY == 0:
            means = (run.sums / ROWS_EVERY).tolist()
            run.sums.zero_()
            row = [step, f"{time.monotonic() - started:.1f}", run.played.count, *(f"{value:.4f}" for value in means)]
            if not all(math.isfinite(value) for value in means):
                _tell(started, f"not finite before step {step}: back to the averages of step {good_step}")
                run.restore(good)
            elif step % (4 * ROWS_EVERY) == 0:
                good, good_step = run.copy(), step
                if run.held_out.count:
                    row += run.validate()
                _tell(started, " ".join(str(value) for value in row))
            writer.writerow(row)
            log.flush()
        if not half and share >= 0.5:
            half = True
            write_weights(options.output, "half", run.names, run.averaged)
            _tell(started, f"half is written at step {step}")
    write_weights(options.output, "final", run.names, run.averaged)
    log.close()
    about = {
        "steps": step,
        "songs": run.played.count,
        "held_out": run.held_out.count,
        "frames": options.frames,
        "seconds": time.monotonic() - started,
    }
    about |= {"torch": torch.__version__, "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    if device.type == "cuda":
        about["gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
    (options.output / "about.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    _tell(started, json.dumps(about))


def pack_songs(options: argparse.Namespace) -> None:
    """Write the pack: states of the tags, the codec's matrix, and the songs of a dataset that are sung."""
    write_pack(options.dataset_path, options.songs_path, options.checkpoint_dir, options.output)


def join(options: argparse.Namespace) -> None:
    """Write a checkpoint from a run's weights, beside the other networks of the one that it started from."""
    model = load_trainable(options.checkpoint_dir)
    state: dict[str, Tensor] = {}
    for number in range(PARTS):
        state |= load_file(options.run / f"{options.name}.{number}.safetensors")
    expected = dict(model.named_parameters())
    if state.keys() != expected.keys():
        raise SystemExit(f"{options.run} is of another transformer: {sorted(state.keys() ^ expected.keys())[:3]}")
    shutil.copytree(options.checkpoint_dir, options.output, ignore=shutil.ignore_patterns(FOLDER))
    save_transformer(model, options.output, torch.float16, with_dead=False, weights=state)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.streamed", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    pack = commands.add_parser("pack", help="what a run needs beside the transformer")
    pack.add_argument("--dataset_path", type=Path, required=True, nargs="+", help="that training.corpus.prepare wrote")
    pack.add_argument("--songs_path", type=Path, required=True, nargs="+", help="folders of their songs")
    pack.set_defaults(run_command=pack_songs)
    run = commands.add_parser("train", help="train")
    run.add_argument("--pack", type=Path, required=True)
    run.add_argument("--max_seconds", type=float, required=True, help="from the start of the program to the end of the last step")
    run.add_argument("--max_steps", type=int, default=10**9)
    run.add_argument("--players", type=int, default=14, help="processes that play")
    run.add_argument("--songs", type=int, default=20000, help="at most")
    run.add_argument("--first_songs", type=int, default=256, help="before the first step")
    run.add_argument("--frames", type=int, default=20736, help="latent frames of a step")
    run.add_argument("--soundfont", type=Path, default=SOUNDFONT)
    run.add_argument("--seed", type=int, default=4)
    run.add_argument("--learning_rate", type=float, default=1e-3)
    run.add_argument("--muon_learning_rate", type=float, default=0.02)
    run.add_argument("--decay_from", type=float, default=0.4, help="share of the time")
    run.add_argument("--ema_decay", type=float, default=0.998)
    run.add_argument("--device", default="cuda")
    run.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    run.add_argument("--compile_seconds", type=int, default=150, help="then the run goes on without the compiler")
    run.add_argument("--record", action=argparse.BooleanOptionalAction, default=True, help="steps as CUDA graphs, on a GPU")
    run.add_argument("--backend", default="inductor", help="of torch.compile")
    run.set_defaults(run_command=train)
    joined = commands.add_parser("join", help="make a checkpoint of a run's weights")
    joined.add_argument("--run", type=Path, required=True)
    joined.add_argument("--name", default="final", choices=("half", "final"))
    joined.set_defaults(run_command=join)
    for command in (pack, run, joined):
        command.add_argument("--checkpoint_dir", type=Path, required=True)
        command.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    options.run_command(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
