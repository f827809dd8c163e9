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
import itertools
import json
import math
import multiprocessing
import os
import queue
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_svc.model.transformer import timestep_features
from diffusion_svc.weights import FOLDER
from training.checkpoint import load_trainable, save_transformer
from training.corpus.arrangement import compose
from training.corpus.band import Wishes
from training.corpus.captions import caption_variants
from training.corpus.labels import BEATS_PER_BAR, CLOCK_COLUMNS, SCORE_COLUMNS, score_features
from training.corpus.render import SOUNDFONT, Renderer, mix
from training.corpus.song import SONG_FRAMES, Song
from training.flow_matching import NUM_TRAIN_TIMESTEPS, add_noise, noise_levels
from training.learning_rate import plateau_multiplier
from training.model import TrainableTransformer
from training.optimizers import NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS, is_block_matrix

NUM_CAPTIONS, MAX_TAGS = 4, 12
CLOCK_WEIGHT, RARE = 2.0, 0.1
"""As in training/corpus/prepare.py."""
LATENT_STEP = 1 / 14
"""Of latents in 8 bits: the error is 34 dB below them."""
FROZEN = (
    *("transformer_blocks.0.", "transformer_blocks.1."),
    *("genre_embedder.", "speaker_embedder.", "timestep_embedder.", "t_block.", "proj_in."),
)
"""The clock of training/corpus/clock.py, and what it was fitted to."""
SUNG_SHARE = 1 / 16
BUCKETS = ((64, 0.25), (128, 0.4), (324, 0.35))
"""Frames of a crop and share of the steps."""
HELD_OUT_SONGS = 64
ROWS_EVERY = 50
NORMAL_STEPS = 1000
PATCH_LEVELS = 3
PARTS = 2
"""Files of a set of weights, each small enough for places that limit the size of one."""


def latent_matrix(pack: Mapping[str, Tensor], image: Tensor) -> Tensor:
    """What the closed-form codec encodes, log-mel images [2, 128, 8 T] -> [T, 8 * 16]."""
    patches = image[None]
    for _ in range(PATCH_LEVELS):
        patches = F.pixel_unshuffle(patches, 2)
    raw = F.conv2d(patches, pack["codec.weight"][..., None, None], pack["codec.bias"])[0]
    return ((raw - pack["codec.shift"]) * pack["codec.scale"]).flatten(0, 1).T


@dataclass(frozen=True)
class Prepared:
    """A song as arrays: latents [F, 128] and score [F, C] in 8 bits, tags of each caption [4, L] with -1 behind, frames of a beat."""

    latents: np.ndarray[Any, Any]
    score: np.ndarray[Any, Any]
    captions: np.ndarray[Any, Any]
    beat_frames: float


def eight_bits(latents: Tensor) -> np.ndarray[Any, Any]:
    """Latents as multiples of LATENT_STEP."""
    return (latents / LATENT_STEP).round().clamp(-127, 127).to(torch.int8).numpy()


def caption_rows(song: Song, tags: Mapping[str, int]) -> np.ndarray[Any, Any]:
    """Numbers of the tags of each caption, the end's behind them."""
    rows = np.full((NUM_CAPTIONS, MAX_TAGS), -1, np.int64)
    for row, caption in zip(rows, caption_variants(song, random.Random(song.key), NUM_CAPTIONS), strict=True):  # noqa: S311
        numbers = [*(tags[tag] for tag in caption.split(", ")), tags[""]]
        row[: len(numbers)] = numbers
    return rows


def score_row(song: Song) -> np.ndarray[Any, Any]:
    """The score in 8 bits."""
    return np.round(255 * score_features(song, SONG_FRAMES)).astype(np.uint8)


class Player:
    """Plays songs that nobody sings.

    Args:
        pack: Of `read_pack`.
        tags: Numbers of the tags.
        soundfont: Of the band.
    """

    def __init__(self, pack: Mapping[str, Tensor], tags: Mapping[str, int], soundfont: Path) -> None:
        from training.corpus import mel_images

        self.pack, self.tags, self.renderer = pack, tags, Renderer(soundfont)
        self.kept = self.renderer._tune()  # while one synthesiser holds the soundfont, others need not read it
        self.images = mel_images.MelImages()

    @torch.inference_mode()
    def play(self, song: Song) -> Prepared:
        """A song."""
        latents = latent_matrix(self.pack, self.images(torch.from_numpy(mix(self.renderer.render(song), None))))
        return Prepared(eight_bits(latents[:SONG_FRAMES]), score_row(song), caption_rows(song, self.tags), song.beat_frames)


def play_songs(work: Any, done: Any, pack_path: Path, soundfont: Path, seed: int) -> None:
    """A process that plays songs by number until there is no more work; the first ones are held out."""
    torch.set_num_threads(1)
    os.nice(5)
    pack, tags = read_pack(pack_path)
    player = Player(pack, tags, soundfont)
    while (number := work.get()) is not None:
        held_out = number < HELD_OUT_SONGS
        song = compose(seed, number, Wishes(split="held_out" if held_out else "train"))
        if song.voice is None:
            done.put((held_out, player.play(song)))


def read_pack(path: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Tensors, and numbers of the tags, whose end is called ''."""
    tags = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return load_file(path), {tag: number for number, tag in enumerate(tags)}


class Store:
    """Songs on the device.

    Args:
        capacity: Songs.
        lyric_tokens: Of the longest lyrics.
        statistics: Of the score, [2, C].
        device: Where they stay.
    """

    def __init__(self, capacity: int, lyric_tokens: int, statistics: Tensor, device: torch.device) -> None:
        def empty(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(capacity, *shape, dtype=dtype, device=device)

        self.count, self.device = 0, device
        self.latents = empty(SONG_FRAMES, 128, dtype=torch.int8)
        self.score = empty(SONG_FRAMES, len(SCORE_COLUMNS), dtype=torch.uint8)
        self.phones = empty(SONG_FRAMES, dtype=torch.uint8)
        self.captions = empty(NUM_CAPTIONS, MAX_TAGS, dtype=torch.int64)
        self.bar_frames = empty(dtype=torch.float32)
        self.lyric_ids = empty(lyric_tokens, dtype=torch.int64)
        self.lyric_from = torch.full_like(self.lyric_ids, 2**20)  # frames in which a token's line sounds
        self.lyric_to = torch.full_like(self.lyric_ids, -1)
        self.statistics = statistics.to(device)
        self._longest: dict[int, int] = {}

    @property
    def full(self) -> bool:
        """No more room."""
        return self.count == len(self.latents)

    def add(self, songs: Sequence[Prepared]) -> int:
        """Keep songs while there is room; returns where they begin."""
        first, songs = self.count, songs[: len(self.latents) - self.count]
        if not songs:
            return first
        rows = slice(first, first + len(songs))
        for name in ("latents", "score", "captions"):
            getattr(self, name)[rows] = torch.from_numpy(np.stack([getattr(song, name) for song in songs])).to(self.device)
        self.bar_frames[rows] = torch.tensor([BEATS_PER_BAR * song.beat_frames for song in songs], device=self.device)
        self.count += len(songs)
        return first

    def longest(self, length: int) -> int:
        """Most lyric tokens that a crop of a length has in the first songs; asked for once the lyrics are there."""
        if length not in self._longest:
            starts = torch.arange(SONG_FRAMES - length + 1, device=self.device)[:, None, None]
            heard = (self.lyric_from[:256] < starts + length) & (self.lyric_to[:256] > starts)
            self._longest[length] = int(heard.sum(-1).max())
        return self._longest[length]

    def draw(self, count: int, length: int, random_numbers: torch.Generator) -> "Crops":
        """Crops that begin with a bar."""
        uniform = torch.rand(count, 3, generator=random_numbers, device=self.device)
        songs = (uniform[:, 0] * self.count).long().clamp_max(self.count - 1)
        bars = ((SONG_FRAMES - length) / self.bar_frames[songs]).floor() + 1
        starts = ((uniform[:, 1] * bars).floor() * self.bar_frames[songs]).ceil().long().clamp_max(SONG_FRAMES - length)
        frames = starts[:, None] + torch.arange(length, device=self.device)
        mean, spread = self.statistics
        score = (self.score[songs[:, None], frames].float() / 255 - mean) / (spread + RARE)
        score[..., CLOCK_COLUMNS] *= CLOCK_WEIGHT
        captions = self.captions[songs, (uniform[:, 2] * NUM_CAPTIONS).long().clamp_max(NUM_CAPTIONS - 1)]
        # Lines that sound outside the crop are left out, and what is left moves together.
        heard = (self.lyric_from[songs] < starts[:, None] + length) & (self.lyric_to[songs] > starts[:, None])
        order = (~heard).long().argsort(dim=1, stable=True)
        latents = self.latents[songs[:, None], frames].float() * LATENT_STEP  # [B, T, 128]
        return Crops(
            torch.unflatten(latents.transpose(1, 2), 1, (8, 16)),
            score,
            self.phones[songs[:, None], frames].long(),
            captions,
            (self.lyric_ids[songs].gather(1, order) * heard.gather(1, order))[:, : self.longest(length)],
            heard.gather(1, order)[:, : self.longest(length)],
        )


@dataclass(frozen=True)
class Crops:
    """Latents [B, 8, 16, T], standardised score [B, T, C], phones [B, T], tags [B, L], lyric ids and their mask [B, N]."""

    latents: Tensor
    score: Tensor
    phones: Tensor
    captions: Tensor
    lyric_ids: Tensor
    lyric_mask: Tensor


def sung_store(pack: Mapping[str, Tensor], device: torch.device) -> Store:
    """The songs of the pack."""
    store = Store(len(pack["latents"]), pack["lyric_ids"].shape[1], pack["statistics"], device)
    for name in ("latents", "score", "phones", "captions", "bar_frames", "lyric_ids", "lyric_from", "lyric_to"):
        getattr(store, name).copy_(pack[name])
    store.count = len(pack["latents"])
    return store


def played_store(pack: Mapping[str, Tensor], capacity: int, device: torch.device) -> Store:
    """Room for songs without lyrics, whose lyric ids are all the same."""
    inst = pack["instrumental_ids"]
    store = Store(capacity, len(inst), pack["statistics"], device)
    store.lyric_ids[:] = inst.to(device)
    store.lyric_from[:], store.lyric_to[:] = -1, 2**20
    return store


class Learner(nn.Module):
    """Losses of a step without anything that waits for the device.

    Args:
        model: What is trained.
        tags: States of the tags, [V, W].
        seed: Of everything that is drawn.
    """

    def __init__(self, model: TrainableTransformer, tags: Tensor, seed: int) -> None:
        super().__init__()
        self.model = model
        self.device = model.device
        self.tags = tags.to(self.device).float()
        self.sigmas = noise_levels().to(self.device)
        self.seed = seed
        self.random_numbers = torch.Generator(self.device).manual_seed(seed)

    def forward(self, groups: Sequence[Crops], logit_mean: float, score_weight: float, phone_weight: float) -> Tensor:
        """Losses (total, velocity, score, phones) of crops; groups differ in the length of their lyrics."""
        model, draws, device = self.model, self.random_numbers, self.device
        latents, score, phones, captions = (
            torch.cat([getattr(group, name) for group in groups]) for name in ("latents", "score", "phones", "captions")
        )
        count = len(latents)
        kept = torch.rand(count, 2, generator=draws, device=device) >= 0.1
        text_mask = captions >= 0
        text = self.tags[captions.clamp_min(0)] * text_mask[..., None] * kept[:, :1, None]
        lyrics, lyric_masks = self._lyrics(groups, kept[:, 1])
        speaker = torch.zeros(count, model.config.speaker_embedding_dim, device=device)
        context = model.embed_conditions(text, lyrics, speaker)
        key_mask = torch.cat([torch.ones_like(text_mask[:, :1]), text_mask, lyric_masks], dim=1)[:, None, None]
        normal = torch.randn(count, generator=draws, device=device) + logit_mean
        sigmas = self.sigmas[(normal.sigmoid() * NUM_TRAIN_TIMESTEPS).long().clamp(0, NUM_TRAIN_TIMESTEPS - 1)]
        noise = torch.randn(latents.shape, generator=draws, device=device)
        embedded = model.timestep_embedder(timestep_features(NUM_TRAIN_TIMESTEPS * sigmas))
        modulation = model.t_block(embedded).unflatten(-1, (6, -1))
        x = model.proj_in(add_noise(latents, noise, sigmas))
        tables = model.rotary.tables(
            torch.arange(x.shape[1], device=device), torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
        )
        hidden = x
        depth = model.config.ssl_encoder_depths[0]
        for index, block in enumerate(model.transformer_blocks):
            x = block(x, modulation, (), model.rotary, tables, key_mask=key_mask, context=context)
            if index == depth:
                hidden = x
        velocity = (model.final_layer(x, embedded).float() - (noise - latents)).square().mean()
        to_score, to_phones = model.projectors
        score_loss = (1 - F.cosine_similarity(to_score(hidden).float(), score, dim=-1)).mean()
        said = F.normalize(to_phones(hidden).float(), dim=-1)
        phone_loss = (1 - said.gather(-1, phones[..., None])).mean()
        total = velocity + (score_weight * score_loss + phone_weight * phone_loss) / 2
        return torch.stack([total, velocity, score_loss, phone_loss])

    def _lyrics(self, groups: Sequence[Crops], kept: Tensor) -> tuple[Tensor, Tensor]:
        longest = max(group.lyric_ids.shape[1] for group in groups)
        states, masks = [], []
        for group, keep in zip(groups, torch.split(kept, [len(group.latents) for group in groups]), strict=True):
            mask = group.lyric_mask & keep[:, None]
            missing = longest - mask.shape[1]
            states.append(F.pad(self.model.encode_lyrics(group.lyric_ids * mask, mask), (0, 0, 0, missing)))
            masks.append(F.pad(mask, (0, missing)))
        return torch.cat(states), torch.cat(masks)


class Optimizer:
    """Muon on the matrices of the blocks, those of a shape together, and AdamW on the rest.

    Args:
        model: What is trained.
        learning_rate: Of AdamW.
        muon_learning_rate: Of Muon.
    """

    def __init__(self, model: nn.Module, learning_rate: float, muon_learning_rate: float) -> None:
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.parameters = [parameter for _, parameter in trained]
        matrices = [parameter for name, parameter in trained if is_block_matrix(name, parameter)]
        others = [parameter for name, parameter in trained if not is_block_matrix(name, parameter)]
        matrices.sort(key=lambda parameter: tuple(parameter.shape))
        self.groups: list[list[Tensor]] = [
            list(group) for _, group in itertools.groupby(matrices, key=lambda parameter: tuple(parameter.shape))
        ]
        self.adamw = torch.optim.AdamW(others, learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=others[0].is_cuda)
        self.learning_rate, self.muon_learning_rate = learning_rate, muon_learning_rate
        self.forget()

    def forget(self) -> None:
        """Lose all momentum."""
        self.adamw.state.clear()
        self.momenta = [torch.zeros(len(group), *group[0].shape, device=group[0].device) for group in self.groups]

    @torch.no_grad()
    def step(self, multiplier: float) -> Tensor:
        """A step under clipped gradients; returns their norm before that."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        torch._foreach_mul_(gradients, (1 / (norm + 1e-6)).clamp_max(1.0))
        self.adamw.param_groups[0]["lr"] = self.learning_rate * multiplier
        self.adamw.step()
        rate = self.muon_learning_rate * multiplier
        for group, momentum in zip(self.groups, self.momenta, strict=True):
            gradient = torch.stack([parameter.grad for parameter in group if parameter.grad is not None])
            momentum.lerp_(gradient, 0.05)
            update = gradient.lerp(momentum, 0.95).flatten(2)
            scale = max(1.0, update.shape[1] / update.shape[2]) ** 0.5
            torch._foreach_mul_(group, 1 - 0.01 * rate)
            torch._foreach_add_(group, list(orthogonalized(update).view_as(gradient).unbind()), alpha=-rate * scale)
        for parameter in self.parameters:
            parameter.grad = None
        return norm


def orthogonalized(matrices: Tensor) -> Tensor:
    """`training.optimizers.orthogonalized` of many matrices [M, R, C] at once."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return torch.Tensor.to(x.mT if tall else x, matrices.dtype)


def write_weights(folder: Path, name: str, names: Sequence[str], tensors: Sequence[Tensor]) -> None:
    """Write weights as float16 in a few files NAME.K.safetensors."""
    state = {key: tensor.detach().half().cpu().contiguous() for key, tensor in zip(names, tensors, strict=True)}
    parts: list[dict[str, Tensor]] = [{} for _ in range(PARTS)]
    for key, tensor in sorted(state.items(), key=lambda item: -item[1].numel()):
        min(parts, key=lambda part: sum(value.numel() for value in part.values()))[key] = tensor
    for number, part in enumerate(parts):
        save_file(part, folder / f"{name}.{number}.safetensors")


def compile_blocks(model: TrainableTransformer, backend: str) -> None:
    """Compile the blocks that are trained, once for all of a shape."""
    torch._dynamo.config.cache_size_limit = 64
    for block in model.transformer_blocks:
        if any(parameter.requires_grad for parameter in block.parameters()):
            block.compile(dynamic=False, backend=backend)


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


def _arrived(done: Any, played: Store, held_out: Store, wait: bool = False) -> None:
    """Take what the players have finished."""
    songs: dict[bool, list[Prepared]] = {True: [], False: []}
    for _ in range(256):
        try:
            kind, song = done.get(timeout=120) if wait and not any(songs.values()) else done.get_nowait()
        except queue.Empty:
            break
        songs[kind].append(song)
    played.add(songs[False])
    held_out.add(songs[True])


def _buckets(seed: int) -> Iterator[int]:
    rng = random.Random(seed)  # noqa: S311 - no secrets here
    while True:
        yield rng.choices([length for length, _ in BUCKETS], [share for _, share in BUCKETS])[0]


def _train(options: argparse.Namespace, device: torch.device, pack: Mapping[str, Tensor], done: Any, started: float) -> None:
    model = load_trainable(options.checkpoint_dir, device)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN))
    sung, played = sung_store(pack, device), played_store(pack, options.songs, device)
    held_out = played_store(pack, HELD_OUT_SONGS, device)
    learner = Learner(model, pack["tags"], options.seed)
    names = [name for name, _ in model.named_parameters()]
    parameters = [parameter for _, parameter in model.named_parameters()]
    averaged = [parameter.detach().clone() for parameter in parameters]
    optimizer = Optimizer(model, options.learning_rate, options.muon_learning_rate)
    random_numbers = torch.Generator(device).manual_seed(options.seed)

    def crops(length: int) -> list[Crops]:
        count = max(2, options.frames // length)
        few = max(1, round(count * SUNG_SHARE))
        return [sung.draw(few, length, random_numbers), played.draw(count - few, length, random_numbers)]

    def losses(groups: Sequence[Crops], share: float) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            result: Tensor = learner(groups, 0.5 * (1 - share), 2.0 - 1.4 * share, 0.3)
        return result

    while played.count < min(options.first_songs, options.songs // 2):
        before = played.count + held_out.count
        _arrived(done, played, held_out, wait=True)
        if played.count + held_out.count == before:
            raise RuntimeError("no songs arrive from the players")
    _tell(started, f"{played.count} songs have arrived")
    lengths = [length for length, _ in BUCKETS]

    def seconds_of_steps() -> float:
        begun = time.monotonic()
        for length in lengths * 2:
            torch.autograd.backward(losses(crops(length), 0.0)[0])
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.monotonic() - begun) / (2 * len(lengths))

    seconds_of_steps()
    eager = seconds_of_steps()
    _tell(started, f"forward and backward: {eager:.4f} s")
    if options.compile:
        compiled = math.inf
        signal.signal(signal.SIGALRM, _too_late)
        signal.alarm(options.compile_seconds)
        try:
            compile_blocks(model, options.backend)
            seconds_of_steps()
            signal.alarm(0)
            compiled = seconds_of_steps()
            _tell(started, f"compiled: {compiled:.4f} s")
        except Exception as error:  # whatever a compiler says, the run goes on without it
            _tell(started, f"not compiled: {str(error)[:500]}")
        signal.alarm(0)
        if compiled > eager:
            torch.compiler.set_stance("force_eager")
            _tell(started, "going on without the compiler")
    for parameter in parameters:
        parameter.grad = None

    log = (options.output / "log.csv").open("w", newline="", encoding="utf-8")
    writer = csv.writer(log)
    writer.writerow(
        ["step", "seconds", "songs", "loss", "velocity", "score", "phones", "gradient_norm", "held_out_velocity", "held_out_score"]
    )
    begun = time.monotonic()
    total = max(1.0, options.max_seconds - (begun - started))
    sums, good, good_step, half = torch.zeros(5, device=device), [tensor.clone() for tensor in averaged], 0, False
    step = 0
    for length in _buckets(options.seed):
        share = (time.monotonic() - begun) / total
        if share >= 1 or step >= options.max_steps:
            break
        warm = min(1.0, (step + 1) / 100)
        multiplier = warm * plateau_multiplier(int(share * NORMAL_STEPS), NORMAL_STEPS, 0, options.decay_from)
        loss = losses(crops(length), share)
        torch.autograd.backward(loss[0])
        norm = optimizer.step(multiplier)
        step += 1
        decay = min(options.ema_decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(averaged, [parameter.detach() for parameter in parameters], 1 - decay)
        sums += torch.cat([loss.detach(), norm.detach()[None]])
        if step % 10 == 0:
            _arrived(done, played, held_out)
        if step % ROWS_EVERY == 0:
            means = (sums / ROWS_EVERY).tolist()
            sums.zero_()
            row = [step, f"{time.monotonic() - started:.1f}", played.count, *(f"{value:.4f}" for value in means)]
            if not all(math.isfinite(value) for value in means):
                _tell(started, f"not finite before step {step}: back to the averages of step {good_step}")
                for tensor, kept, parameter in zip(averaged, good, parameters, strict=True):
                    tensor.copy_(kept)
                    parameter.data.copy_(kept)
                optimizer.forget()
            elif step % (4 * ROWS_EVERY) == 0:
                good, good_step = [tensor.clone() for tensor in averaged], step
                if held_out.count:
                    row += _validate(learner, held_out, device)
                _tell(started, " ".join(str(value) for value in row))
            writer.writerow(row)
            log.flush()
        if not half and share >= 0.5:
            half = True
            write_weights(options.output, "half", names, averaged)
            _tell(started, f"half is written at step {step}")
    write_weights(options.output, "final", names, averaged)
    log.close()
    about = {
        "steps": step,
        "songs": played.count,
        "held_out": held_out.count,
        "frames": options.frames,
        "seconds": time.monotonic() - started,
    }
    about |= {"torch": torch.__version__, "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    if device.type == "cuda":
        about["gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
    (options.output / "about.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    _tell(started, json.dumps(about))


@torch.no_grad()
def _validate(learner: Learner, held_out: Store, device: torch.device) -> list[str]:
    """Losses of songs of held-out pairs of genre and tempo, with the same crops and noise every time."""
    fixed = torch.Generator(device).manual_seed(1)
    learner.random_numbers, kept = torch.Generator(device).manual_seed(2), learner.random_numbers
    learner.model.eval()
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"), torch.compiler.set_stance("force_eager"):
            losses = learner([held_out.draw(128, 128, fixed)], 0.0, 1.0, 0.0).tolist()
    finally:
        learner.random_numbers = kept
        learner.model.train()
    return [f"{losses[1]:.4f}", f"{losses[2]:.4f}"]


def pack_songs(options: argparse.Namespace) -> None:
    """Write the pack: states of the tags, the codec's matrix, and the songs of a dataset that are sung."""
    from training.streamed_pack import write_pack

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
