"""Real and generated songs as the log-mels and sounds that the figures are taken from, each made once and kept in a folder.

Figures are taken from the log-mel that leaves the codec's decoder, for real songs after a round trip through the codec, so that music is
judged and not the vocoder; the key is judged from the vocoder's sound. Both channels are one here: their mean.

F mel frames, S samples at 44.1 kHz.
"""

import dataclasses
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_svc.sampler import Sampler, SamplingRequest
from diffusion_svc.sampling.guidance import CfgType, GuidanceParams
from diffusion_svc.sampling.params import SamplingParams, SchedulerType
from diffusion_svc.task_fields import num_frames
from diffusion_svc.tasks import ConditionStates, TextToMusic
from diffusion_svc.weights import load_transformer
from encoder_svc.encoder import NullCondition, PromptEncoder
from encoder_svc.known_tags import KnownTags
from encoder_svc.lyrics.lyric_tokenizer import LyricTokenizer
from encoder_svc.weights import TEXT_FOLDER, TRANSFORMER_FOLDER, model_digest
from training.corpus.render import Renderer, mix
from training.corpus.singer import Singer
from training.corpus.song import SAMPLE_RATE, Phone, Song
from vae_svc.weights import load_codec

CPU = torch.device("cpu")
CPU_BATCH_SONGS, GPU_BATCH_SONGS = 8, 64
"""Songs of one length that are sampled together."""
KEPT_PEAK = 0.99

Mel = NDArray[np.float32]


class Sounds:
    """The codec of a checkpoint, and the folder in which what it decoded is kept.

    Args:
        checkpoint: Folder in the official layout.
        folder: Made if needed. A clip's files are named by all it was made from.
    """

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        loaded = load_codec(checkpoint, CPU, torch.float32)
        self.codec, self.digest, self.folder = loaded.codec, loaded.model_digest, folder

    def path(self, name: str, made_from: object) -> Path:
        """Where the files of a clip lie, without their endings."""
        digest = hashlib.sha256(json.dumps([self.digest, made_from]).encode()).hexdigest()[:12]
        return self.folder / f"{name}-{digest}"

    def decoded(self, latents: Tensor) -> Mel:
        """Latents [8, 16, T] -> log-mel [128, F]."""
        return np.asarray(self.codec.decode_mel(latents).mean(dim=0).numpy())

    @torch.inference_mode()
    def waveform(self, path: Path) -> NDArray[np.float32]:
        """The sound [S] of a clip whose log-mel is there, and PATH.wav of it."""
        wav = path.with_name(path.name + ".wav")
        if not wav.exists():
            mel = torch.from_numpy(load_mel(path))[None]
            pieces = self.codec.vocoder.stream(lambda start, stop: mel[..., start:stop], [(0, mel.shape[-1])])
            samples = torch.cat([piece.clone() for piece in pieces], dim=-1)[0]
            samples = samples * min(1.0, KEPT_PEAK / float(samples.abs().max().clamp_min(1e-6)))
            part = wav.with_suffix(".part")
            soundfile.write(part, samples.numpy(), SAMPLE_RATE, subtype="PCM_16", format="wav")
            part.replace(wav)
        return np.asarray(soundfile.read(wav, dtype="float32")[0])


def load_mel(path: Path) -> Mel:
    """The log-mel of a clip, [128, F]."""
    return np.asarray(np.load(path.with_name(path.name + ".npy")), np.float32)


def _kept(path: Path, make: Callable[[], NDArray[np.float32]]) -> Path:
    file = path.with_name(path.name + ".npy")
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        with part.open("wb") as opened:
            np.save(opened, make().astype(np.float16))
        part.replace(file)
    return path


class Band:
    """Real songs, played and sung by the corpus's instruments and taken through the codec.

    Args:
        sounds: Of the checkpoint.
        voice_cache: Of the singer.
    Raises:
        RuntimeError: The corpus's tools or its soundfont are missing; says what to install.
    """

    def __init__(self, sounds: Sounds, voice_cache: Path) -> None:
        self.renderer, self.singer, self.sounds = Renderer(), Singer(voice_cache), sounds

    def play(self, song: Song) -> Path:
        """The clip of a song after the round trip."""
        path = self.sounds.path(f"real/{round(song.seconds)}s/{song.key}", song.to_json())
        return _kept(path, lambda: self._round_trip(song, path))

    def phones(self, path: Path) -> tuple[Phone, ...]:
        """What is sung in a clip that was played."""
        return tuple(Phone(**phone) for phone in json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8")))

    def _perform(self, song: Song) -> tuple[Song, Tensor]:
        """The song with its phones, and its sound [2, S]."""
        sung, voice = self.singer.sing(song)
        return sung, torch.from_numpy(mix(self.renderer.render(sung), voice))

    def _round_trip(self, song: Song, path: Path) -> Mel:
        sung, waveform = self._perform(song)
        path.parent.mkdir(parents=True, exist_ok=True)
        phones = [dataclasses.asdict(phone) for phone in sung.phones]
        path.with_name(path.name + ".json").write_text(json.dumps(phones), encoding="utf-8")
        return self.sounds.decoded(self.sounds.codec.encode(waveform, SAMPLE_RATE))

    def codec_error(self, song: Song) -> float:
        """Mean absolute difference in nats between the log-mel of a song and what the codec gives back."""
        codec = self.sounds.codec
        _, waveform = self._perform(song)
        decoded = codec.decode_mel(codec.encode(waveform, SAMPLE_RATE))
        missing = decoded.shape[-1] * codec.log_mel.config.hop_length - waveform.shape[-1]
        original = codec.log_mel(torch.nn.functional.pad(waveform, (0, missing)))
        return float((decoded - original).abs().mean())


@dataclass(frozen=True)
class Prompt:
    """What is asked for."""

    tags: str
    lyrics: str


def prompt_of(song: Song, bpm: int | None = None) -> Prompt:
    """The prompt of a song, with another tempo if one is given."""
    tags = [f"{bpm} bpm" if bpm is not None and tag == f"{song.bpm} bpm" else tag for tag in song.tags]
    return Prompt(", ".join(tags), song.lyrics)


@dataclass(frozen=True)
class SamplingOptions:
    """How songs are sampled: euler steps and the scale of plain classifier-free guidance."""

    num_inference_steps: int = 30
    guidance_scale: float = 1.5

    def params(self) -> SamplingParams:
        """As the diffusion stage takes them."""
        guidance = GuidanceParams(self.guidance_scale, CfgType.CFG, 1.0, 0.0, 3.0, 0.0, 0.0)
        return SamplingParams(self.num_inference_steps, SchedulerType.EULER, 0.0, (), guidance, use_erg_diffusion=False)


class Generator:
    """Prompts to clips, through the stages' own conditioning and sampling.

    Args:
        checkpoint: Folder in the official layout.
        sounds: Of the same checkpoint.
        options: Of the sampling.
        device: Where songs are sampled; prompts are encoded and songs decoded on the CPU.
    """

    def __init__(self, checkpoint: Path, sounds: Sounds, options: SamplingOptions, device: torch.device = CPU) -> None:
        self.batch_songs = CPU_BATCH_SONGS if device.type == "cpu" else GPU_BATCH_SONGS
        self.encoder = PromptEncoder.load(checkpoint, CPU, torch.float32)
        self.known_tags = KnownTags.load(checkpoint)
        self.lyric_tokenizer = LyricTokenizer(checkpoint / "lyric_vocab.json", self.encoder.lyric_encoder.config.vocab_size)
        model = load_transformer(checkpoint, device, torch.float32)
        networks = {TEXT_FOLDER: self.encoder.text_encoder.umt5, TRANSFORMER_FOLDER: self.encoder.lyric_encoder, "transformer": model}
        self.digest = model_digest(networks)
        self.sampler, self.sounds, self.options = Sampler(model), sounds, options

    def path(self, name: str, prompt: Prompt, seconds: float, seed: int) -> Path:
        """Where a clip lies."""
        made_from = [self.digest, prompt.tags, prompt.lyrics, seconds, seed, str(self.options)]
        return self.sounds.path(f"generated/{round(seconds)}s/{name}-seed{seed}", made_from)

    def generate(self, wanted: Sequence[tuple[str, Prompt]], seconds: float, seed: int) -> list[Path]:
        """Clips for named prompts; each song's noise comes from the seed and its name."""
        paths = [self.path(name, prompt, seconds, seed) for name, prompt in wanted]
        clips = [(path, name, prompt) for path, (name, prompt) in zip(paths, wanted, strict=True)]
        missing = [clip for clip in clips if not clip[0].with_name(clip[0].name + ".npy").exists()]
        for first in range(0, len(missing), self.batch_songs):
            batch = missing[first : first + self.batch_songs]
            songs = [
                song for _, name, prompt in batch for song in self.sampler.start(self._request(prompt, seconds, noise_seed(name, seed)))
            ]
            while pending := [song for song in songs if song.pending]:
                self.sampler.tick(pending)
            for (path, _, _), song in zip(batch, songs, strict=True):
                if not isinstance(song.result, Tensor):
                    raise RuntimeError(f"{path.name}: {song.result}")
                mel = self.sounds.decoded(song.result.cpu())
                _kept(path, lambda mel=mel: mel)  # type: ignore[misc]
        return paths

    def _request(self, prompt: Prompt, seconds: float, seed: int) -> SamplingRequest:
        tags = prompt.tags if self.known_tags is None else self.known_tags.read(prompt.tags).text
        lyrics = self.lyric_tokenizer.encode(prompt.lyrics)
        encoded = self.encoder.encode(tags, lyrics.ids, NullCondition.ZEROS)
        states = ConditionStates(
            text=encoded.text_hidden_states,
            lyrics=encoded.lyric_hidden_states,
            lyric_mask=encoded.lyric_attention_mask,
            null_text=encoded.null_text_hidden_states,
            null_lyrics=encoded.null_lyric_hidden_states,
            null_lyric_mask=encoded.null_lyric_attention_mask,
        )
        return SamplingRequest(states, self.options.params(), (seed,), TextToMusic(num_frames(seconds)))


def noise_seed(name: str, seed: int) -> int:
    """A seed of 32 bits for a named prompt."""
    return random.Random(f"{name}/{seed}").getrandbits(32)
