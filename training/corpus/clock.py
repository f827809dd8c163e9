"""`python -m training.corpus.clock --checkpoint IN --songs SHARDS --output OUT`: two blocks that count beats, in closed form.

A transformer learns when notes fall only once it can count: which frame is how far into a beat. Nothing but the tempo tag says so, by way
of the position code, whose 32 fixed frequencies match no tempo; learning which of them to combine takes most of a training. It can be
written down instead. To a query that never changes, one tag's key gives a score that is any sum of sines of those frequencies. A carrier
turns at a frequency near the wanted one, a modulator at the difference, and the product of both turns exactly as beats do:

    cos(a + b) = cos a cos b - sin a sin b        sin(a + b) = sin a cos b + cos a sin b

Four heads of a cross-attention say cos a, sin a, cos b, sin b of the tempo at hand; the feed-forward behind it multiplies, with random
features and a regression. Two blocks in front of the others do this for two beats and for a bar. What they say is written where the other
blocks have the least to say, so that a trained transformer goes on as before and can learn to look at its clock.

D width, d head width, T latent frames, N samples.
"""

import argparse
import copy
import math
import random
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from diffusion_svc.model.transformer import CrossAttention, Rotary, SelfAttention, timestep_features
from diffusion_svc.weights import FOLDER
from encoder_svc import weights as encoder_weights
from encoder_svc.text_tokenizer import TextTokenizer
from training.batches import Batch, Bucket, MicroBatches
from training.checkpoint import load_trainable, save_transformer
from training.conditions import Conditions
from training.corpus.genres import BEAT_FRAMES, bpm_of
from training.corpus.labels import BEATS_PER_BAR
from training.embedded import known_tags
from training.flow_matching import NUM_TRAIN_TIMESTEPS, add_noise, draw_timestep_indices, noise_levels
from training.model import TrainableBlock, TrainableTransformer
from training.shards import ShardedDataset

HEADS = 4
COUNTED_BEATS = (2, BEATS_PER_BAR)
"""What the first and the second block count: beats of 4 frames are too fast for the position code, two of them are not."""
NUM_FRAMES = 332
"""30 s and a little: as far as the clock goes."""
SPEAKER_PLACE, TEMPO_PLACE = 0, 2
"""Positions among the conditions: speaker, genre, tempo."""
LOUD = 9.0
"""Score of the speaker's token, which the tempo's competes with; all other tags and lyrics have 0."""
SWING = 1.5
"""How far the tempo's score goes up and down from there."""
RIDGE = 1e-3
SHARE = 0.25
"""Of a clock's number in a token, by their root mean squares."""
EXACT = 30.0
"""Weight of tags in the fit of keys and values; lyrics have 1."""
TOLD_APART = 0.5
"""Largest error of a tag's key or value."""
LISTENED, LISTENED_BATCHES = (Bucket(128, 8),), 3
PROMPTS_PER_TEMPO = 4
OTHER_TAGS = 4


@dataclass(frozen=True)
class Hand:
    """How a tempo's phase is put together: `carrier` and `modulator` are keys of a cosine and a sine, [2, d]."""

    carrier: Tensor
    modulator: Tensor


def phase(period_frames: float, num_frames: int = NUM_FRAMES) -> Tensor:
    """Angle at each frame, [T] float64."""
    return 2 * math.pi / period_frames * torch.arange(num_frames, dtype=torch.float64)


def constant_query(head_dim: int) -> Tensor:
    """A query [d] that the position code turns into every sine and cosine it has."""
    query = torch.zeros(head_dim, dtype=torch.float64)
    query[0 : head_dim // 2 : 2] = 1
    query[head_dim // 2 + 1 :: 2] = 1
    return query


def turned(rotary: Rotary, vectors: Tensor, positions: Tensor) -> Tensor:
    """Vectors [..., P, d] at positions [P] under the position code, float64."""
    at_positions: Tensor = rotary(vectors, *rotary.tables(positions, torch.float32))
    return at_positions.double()


def tempo_hand(waves: Tensor, frequencies: Tensor, period_frames: float) -> Hand:
    """The carrier with which the remaining modulator can be expressed best.

    Args:
        waves: What a turned query says at each frame, [T, d].
        frequencies: Of the position code.
        period_frames: Of what is counted.
    """
    best: tuple[float, Hand] | None = None
    for frequency in frequencies.tolist():
        carrier = frequency * torch.arange(len(waves), dtype=torch.float64)
        modulator = phase(period_frames, len(waves)) - carrier
        wanted = torch.stack([angle for part in (carrier, modulator) for angle in (part.cos(), part.sin())], dim=1)  # [T, 4]
        keys = ridge_fit(waves, wanted)
        error = float((waves @ keys - wanted).square().mean(0).max())
        if best is None or error < best[0]:
            best = error, Hand(keys[:, :2].T, keys[:, 2:].T)
    assert best is not None
    return best[1]


def ridge_fit(inputs: Tensor, outputs: Tensor, ridge: float = RIDGE) -> Tensor:
    """Weights [I, O] from inputs [N, I] to outputs [N, O]."""
    inputs, outputs = inputs.double(), outputs.double()
    gram = inputs.T @ inputs + ridge * torch.eye(inputs.shape[1], dtype=torch.float64)
    weights: Tensor = torch.linalg.solve(gram, inputs.T @ outputs)
    return weights


def output_layer(attention: SelfAttention | CrossAttention) -> nn.Linear:
    """Behind the heads."""
    layer = attention.to_out[0]
    assert isinstance(layer, nn.Linear)
    return layer


@dataclass(frozen=True)
class Prompts:
    """States of the text encoder.

    Attributes:
        tags: Of every tag, [K, W]; those of the tempi first, in the order of `BEAT_FRAMES`, the end of a prompt last.
        batch: Prompts with each tempo in turn, none of them in a song.
        tempi: Index of the tempo of each prompt of the batch; None: a prompt left out.
    """

    tags: Tensor
    batch: Conditions
    tempi: tuple[int | None, ...]


def read_prompts(checkpoint: Path, speaker_width: int, seed: int, per_tempo: int = PROMPTS_PER_TEMPO) -> Prompts:
    """Draw prompts: a genre, the tempo, a few other tags."""
    encoder = encoder_weights.load_text_encoder(checkpoint, torch.device("cpu"), torch.float32)
    tokenizer = TextTokenizer(checkpoint, encoder.umt5.config.vocab_size)
    rng = random.Random(seed)  # noqa: S311 - no secrets here
    tempo_tags = [f"{bpm_of(frames)} bpm" for frames in BEAT_FRAMES]
    others = [tag for tag in known_tags() if tag not in tempo_tags]

    @torch.no_grad()
    def states(prompt: str) -> Tensor:
        ids = torch.tensor([tokenizer.encode(prompt)])
        alone: Tensor = encoder(ids, torch.ones_like(ids))[0]
        return alone

    tempi: list[int | None] = [index for index in range(len(tempo_tags)) for _ in range(per_tempo)]
    texts = []
    for index in tempi:
        genre, *rest = rng.sample(others, 1 + rng.randint(1, OTHER_TAGS))
        texts.append(states(", ".join([genre, tempo_tags[index or 0], *rest])))
    for _ in range(per_tempo):
        texts.append(torch.zeros_like(texts[0]))
        tempi.append(None)
    count = len(texts)
    batch = Conditions(
        text=pad_sequence(texts, batch_first=True),
        text_mask=pad_sequence([torch.ones(len(text)) for text in texts], batch_first=True),
        speaker=torch.zeros(count, speaker_width),
        lyric_ids=torch.zeros(count, 1, dtype=torch.int64),
        lyric_mask=torch.zeros(count, 1),
    )
    alone = [states(tag) for tag in (*tempo_tags, *others)]
    return Prompts(torch.stack([tag[0] for tag in alone] + [alone[0][-1]]), batch, tuple(tempi))


class Clockmaker:
    """Builds the two blocks for one transformer.

    Args:
        model: Whose widths, tags and residual stream they fit; unchanged.
        prompts: From its text encoder.
        songs: Prepared for it: what its tokens look like.
        seed: Of everything that is drawn.
    """

    def __init__(self, model: TrainableTransformer, prompts: Prompts, songs: Sequence[Batch], seed: int) -> None:
        if model.config.num_attention_heads != HEADS:
            raise ValueError(f"a clock needs {HEADS} heads, this transformer has {model.config.num_attention_heads}")
        self.model, self.prompts = model, prompts
        self.generator = torch.Generator().manual_seed(seed)
        positions = torch.arange(NUM_FRAMES)
        query = constant_query(model.config.attention_head_dim)
        self.waves = turned(model.rotary, query.expand(NUM_FRAMES, -1), positions)
        half = model.config.attention_head_dim // 2
        self.frequencies = model.rotary.theta ** (-torch.arange(half, dtype=torch.float64) / half)
        self.loud_key = ridge_fit(self.waves, torch.full((NUM_FRAMES, 1), LOUD, dtype=torch.float64))[:, 0]
        self._fit_contexts(self._listen(songs))

    @torch.no_grad()
    def _listen(self, songs: Sequence[Batch]) -> Tensor:
        """Find the directions that the blocks use least, and how large a token is; returns contexts [N, D] of lyrics."""
        width = self.model.config.inner_dim
        covariance = torch.zeros(width, width, dtype=torch.float64)
        lyrics, self.token_rms = [], 0.0

        def see(block: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            nonlocal covariance
            tokens = arguments[0].flatten(0, 1).double()
            covariance += tokens.T @ tokens / tokens.square().sum()

        hooks = [block.register_forward_pre_hook(see) for block in self.model.transformer_blocks]
        for batch in songs:
            sigmas = noise_levels()[draw_timestep_indices(len(batch.latents), self.generator)]
            noise = torch.randn(batch.latents.shape, generator=self.generator)
            noisy = add_noise(batch.latents, noise, sigmas)
            self.token_rms += float(self.model.proj_in(noisy).square().mean().sqrt()) / len(songs)
            self.model.predict(noisy, NUM_TRAIN_TIMESTEPS * sigmas, batch.conditions, batch.frame_mask)
            states = self.model.lyric_proj(self.model.encode_lyrics(batch.conditions.lyric_ids, batch.conditions.lyric_mask))
            lyrics.append(states[batch.conditions.lyric_mask != 0])
        for hook in hooks:
            hook.remove()
        self.directions = torch.linalg.eigh(covariance).eigenvectors.T.float()  # [D, D], the least used first
        return torch.cat(lyrics)

    @torch.no_grad()
    def _fit_contexts(self, lyrics: Tensor) -> None:
        """What keys and values are fitted to: contexts [N, D + 1] with a one behind, and their weights."""
        model = self.model
        speaker = model.speaker_embedder(torch.zeros(1, model.config.speaker_embedding_dim))
        nothing = model.genre_embedder(torch.zeros(1, model.config.text_embedding_dim))
        contexts = torch.cat([model.genre_embedder(self.prompts.tags), speaker, nothing, lyrics]).double()
        self.contexts = torch.cat([contexts, torch.ones(len(contexts), 1, dtype=torch.float64)], dim=1)
        self.weights = torch.ones(len(contexts), 1, dtype=torch.float64)
        self.weights[: len(contexts) - len(lyrics)] = EXACT
        self.num_tags = len(self.prompts.tags)

    def _affine(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias of a linear layer that gives outputs [N, O] for the contexts."""
        weights = ridge_fit(self.weights * self.contexts, self.weights * outputs)
        return weights[:-1].T.float(), weights[-1].float()

    def _key_at(self, position: int, wanted: Tensor) -> Tensor:
        """Keys [..., d] that the position code turns into the wanted ones at a position."""
        d = wanted.shape[-1]
        rows = turned(self.model.rotary, torch.eye(d, dtype=torch.float64)[:, None], torch.tensor([position]))[:, 0]  # e_i turned
        keys: Tensor = torch.linalg.solve(rows.T, wanted.reshape(-1, d).T).T
        return keys.reshape(wanted.shape)

    @torch.no_grad()
    def block(self, beats: int, places: Sequence[int], like: TrainableBlock) -> TrainableBlock:
        """A block whose cross-attention says the four numbers of `beats` beats; its feed-forward still says nothing.

        Args:
            beats: That are counted.
            places: Of the four numbers among the directions.
            like: Where its self-attention starts from, silent.
        """
        block = copy.deepcopy(like)
        d, heads = self.model.config.attention_head_dim, HEADS
        silent, attention = output_layer(block.attn), block.cross_attn
        silent.weight.zero_()
        silent.bias.zero_()
        attention.to_q.weight.zero_()
        attention.to_q.bias.copy_(math.sqrt(d) * constant_query(d).repeat(heads))  # the attention divides by that root
        keys = torch.zeros(len(self.contexts), heads, d, dtype=torch.float64)
        values = torch.zeros(len(self.contexts), heads, d, dtype=torch.float64)
        for index, frames in enumerate(BEAT_FRAMES):
            hand = tempo_hand(self.waves, self.frequencies, beats * frames)
            keys[index] = self._key_at(TEMPO_PLACE, self.loud_key + SWING * torch.cat([hand.carrier, hand.modulator]))
            values[index, :, 0] = 1
        keys[self.num_tags] = self._key_at(SPEAKER_PLACE, self.loud_key)
        # Without tags the clock stands at zero, halfway: a token that says half is heard above the speaker's.
        keys[self.num_tags + 1] = self._key_at(TEMPO_PLACE, 2 * self.loud_key)
        values[self.num_tags + 1, :, 0] = 0.5
        for layer, outputs in ((attention.to_k, keys), (attention.to_v, values)):
            weight, bias = self._affine(outputs.flatten(1))
            told = self.contexts[: self.num_tags + 2, :-1].float() @ weight.T + bias
            if float((told - outputs[: self.num_tags + 2].flatten(1)).abs().max()) > TOLD_APART:
                raise ValueError("this transformer embeds tags, an absent speaker and absent tags too much alike: train it first")
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        written = SHARE * self.token_rms * math.sqrt(self.model.config.inner_dim) * self.directions[list(places)]  # [4, D]
        saying = output_layer(attention)
        saying.weight.zero_()
        saying.weight[:, ::d] = 2 * written.T
        saying.bias.copy_(-written.sum(0))
        self._open_feed_forward(block)
        return block

    def _open_feed_forward(self, block: TrainableBlock) -> None:
        """Modulate by 1 in the mean over timesteps, and draw random features of the directions that clocks use."""
        model = self.model
        timesteps = torch.linspace(0, NUM_TRAIN_TIMESTEPS, 21)
        modulation = model.t_block(model.timestep_embedder(timestep_features(timesteps))).unflatten(-1, (6, -1)).mean(0)
        block.scale_shift_table.copy_(-modulation)
        block.scale_shift_table[[2, 5]] += 1
        inverted, depth, point = block.ff.inverted_conv.conv, block.ff.depth_conv.conv, block.ff.point_conv.conv
        used = self.directions[: 4 * len(COUNTED_BEATS) + 2]
        mixing = torch.randn(len(inverted.weight), len(used), generator=self.generator)
        scale = 1 / (SHARE * math.sqrt(model.config.inner_dim) * math.sqrt(0.5))  # of a clock's number in a normalised token
        inverted.weight.copy_((scale / 2 * mixing @ used)[..., None])
        assert inverted.bias is not None
        assert depth.bias is not None
        inverted.bias.copy_(torch.randn(inverted.bias.shape, generator=self.generator) / 2)
        depth.weight.zero_()
        depth.weight[:, 0, 1] = 1
        depth.bias.zero_()
        point.weight.zero_()

    @torch.no_grad()
    def answer(self, blocks: Sequence[TrainableBlock], periods: Sequence[float], places: Sequence[int]) -> float:
        """Fit the last block's feed-forward: cosine and sine of phases, of so many beats each, are written in two directions each.

        Returns:
            The part of the answers' variance that is explained.
        """
        features, targets = self._features(blocks, periods)
        weights = ridge_fit(features, targets, ridge=1.0)
        written = SHARE * self.token_rms * math.sqrt(self.model.config.inner_dim) * self.directions[list(places)]
        blocks[-1].ff.point_conv.conv.weight.copy_((written.T @ weights.T.float())[..., None])
        return 1 - float((features @ weights - targets).square().sum() / targets.square().sum())

    def _features(self, blocks: Sequence[TrainableBlock], periods: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Gated features of the last block [N, F] for the prompts over pure and less pure noise, and the phases [N, 2 P]."""
        model, batch, count = self.model, self.prompts.batch, len(self.prompts.tempi)
        seen: list[Tensor] = []
        hook = blocks[-1].ff.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
        sigmas = 1 - torch.rand(count, generator=self.generator) ** 2
        x = model.proj_in(torch.randn(count, 8, 16, NUM_FRAMES, generator=self.generator))
        lyrics = model.encode_lyrics(batch.lyric_ids, batch.lyric_mask)
        context = model.embed_conditions(batch.text, lyrics, batch.speaker)
        modulation = model.t_block(model.timestep_embedder(timestep_features(NUM_TRAIN_TIMESTEPS * sigmas))).unflatten(-1, (6, -1))
        tables = model.rotary.tables(torch.arange(NUM_FRAMES), torch.float32)
        for block in blocks:
            x = block(x, modulation, (), model.rotary, tables, key_mask=batch.mask[:, None, None], context=context)
        hook.remove()
        feed_forward = copy.deepcopy(blocks[-1].ff)
        hidden = feed_forward.point_conv.conv.weight.shape[1]
        feed_forward.point_conv.conv.weight = nn.Parameter(torch.eye(hidden)[..., None])
        gated = feed_forward(seen[0])
        targets = torch.zeros(count, NUM_FRAMES, 2 * len(periods), dtype=torch.float64)
        for row, tempo in enumerate(self.prompts.tempi):
            if tempo is not None:
                angles = [phase(beats * BEAT_FRAMES[tempo]) for beats in periods]
                targets[row] = torch.stack([wave for angle in angles for wave in (angle.cos(), angle.sin())], dim=1)
        return gated.flatten(0, 1).double(), targets.flatten(0, 1)


def with_clock(model: TrainableTransformer, maker: Clockmaker) -> tuple[TrainableTransformer, list[float]]:
    """A transformer with the two blocks in front, and how well each says its phases (1: exactly)."""
    like = model.transformer_blocks[0]
    assert isinstance(like, TrainableBlock)
    two_beats = maker.block(COUNTED_BEATS[0], range(4), like)
    right = [maker.answer([two_beats], (2.0,), range(8, 10))]
    bar = maker.block(COUNTED_BEATS[1], range(4, 8), like)
    right.append(maker.answer([two_beats, bar], (1.0, 4.0), range(10, 14)))
    config = dict(model.checkpoint_config)
    config["num_layers"] += len(COUNTED_BEATS)
    config["ssl_encoder_depths"] = [depth + len(COUNTED_BEATS) for depth in config["ssl_encoder_depths"]]
    clocked = TrainableTransformer(config)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("transformer_blocks.")}
    blocks = nn.ModuleList([two_beats, bar, *model.transformer_blocks])
    state |= {f"transformer_blocks.{name}": tensor for name, tensor in blocks.state_dict().items()}
    clocked.load_state_dict(state)
    return clocked, right


def main(arguments: list[str] | None = None) -> int:
    """Write a checkpoint with a clock."""
    parser = argparse.ArgumentParser(prog="python -m training.corpus.clock", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="of the corpus, in the official layout")
    parser.add_argument("--songs", type=Path, required=True, help="dataset that training.corpus.prepare wrote for it")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint folder, must not exist")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.output.exists():
        print(f"training.corpus.clock: {options.output} exists", file=sys.stderr)
        return 1
    model = load_trainable(options.checkpoint).eval()
    prompts = read_prompts(options.checkpoint, model.config.speaker_embedding_dim, options.seed)
    batches = MicroBatches(ShardedDataset(options.songs), LISTENED, options.seed)
    songs = [batches[number] for number in range(LISTENED_BATCHES)]
    clocked, right = with_clock(model, Clockmaker(model, prompts, songs, options.seed))
    shutil.copytree(options.checkpoint, options.output, ignore=shutil.ignore_patterns(FOLDER))
    save_transformer(clocked, options.output, torch.float16, with_dead=False)
    print("phases explained: " + ", ".join(f"{value:.3f}" for value in right))
    return 0


if __name__ == "__main__":
    sys.exit(main())
