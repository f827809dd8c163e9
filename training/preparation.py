"""One loaded song to everything that a training step needs of it: latents, text states, lyric ids, projection targets.

S samples at 48 kHz, T latent frames.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from encoder_svc.known_tags import KnownTags
from encoder_svc.text_tokenizer import TextTokenizer
from encoder_svc.weights import load_text_encoder
from training.records import Record
from training.report import Outcome, Problem
from training.shards import PreparedSong
from training.songs import Limits, LoadedSong, load_song
from training.ssl_extractors import load_extractor
from training.ssl_features import MERT, MHUBERT, SOURCE_RATE, ssl_features
from training.validate import lyric_tokenizer
from vae_svc.model.resample import resample
from vae_svc.weights import load_codec

SSL_INPUTS = {"mert": MERT, "m-hubert": MHUBERT}
"""By the official checkpoint's names."""
PADDED_SECONDS = 3
CAPTION_CHARACTERS = 256
PROMPT_WITHOUT_TAGS = "music"


@dataclass(frozen=True)
class Settings:
    """What decides the content of a dataset.

    Attributes:
        checkpoint: Folder in the official layout: codec, text encoder, tokenizers, widths.
        limits: What a song may be.
        tag_shuffles: Orders of the tags that are offered as captions.
        extractors: Folders of audio encoders by the names of `SSL_INPUTS`.
        device: Where networks run.
        threads: Of torch in each process; another number may round differently.
    """

    checkpoint: Path
    limits: Limits = field(default_factory=Limits)
    tag_shuffles: int = 1
    extractors: Mapping[str, Path] = field(default_factory=dict)
    device: str = "cpu"
    threads: int = 1


class Preparer:
    """The frozen networks of one process.

    Raises:
        ValueError: The checkpoint or an extractor cannot be loaded; each loader has its own kind.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.device = torch.device(settings.device)
        self.codec = load_codec(settings.checkpoint, self.device, torch.float32).codec
        self.text_encoder = load_text_encoder(settings.checkpoint, self.device, torch.float32)
        self.text_tokenizer = TextTokenizer(settings.checkpoint, self.text_encoder.umt5.config.vocab_size)
        self.lyric_tokenizer = lyric_tokenizer(settings.checkpoint)
        self.known_tags = KnownTags.load(settings.checkpoint)
        self.extractors = {name: load_extractor(folder, self.device) for name, folder in settings.extractors.items()}

    def prepare(self, record: Record) -> tuple[PreparedSong | None, list[Problem]]:
        """Prepare a song.

        Returns:
            The song, None if it cannot be used, and everything that is wrong with it.
        """
        song, problems = load_song(record, self.settings.limits, self.lyric_tokenizer)
        if song is None:
            return None, problems
        captions, changes = self._captions(record)
        problems += changes
        prepared = self._prepare(song, captions)
        tensors = {"latents": prepared.latents, **prepared.features}
        tensors |= {f"caption {caption!r}": text for caption, text in zip(prepared.captions, prepared.texts, strict=True)}
        overflown = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
        if overflown:
            return None, [*problems, Problem(record.key, "networks", "a state is not finite in 16 bits", ", ".join(overflown))]
        return prepared, problems

    @torch.inference_mode()
    def _prepare(self, song: LoadedSong, captions: tuple[str, ...]) -> PreparedSong:
        waveform = training_waveform(song.audio.waveform, song.audio.sample_rate, self.settings.limits.max_seconds)
        features = {
            name: ssl_features([waveform], SSL_INPUTS[name], extractor)[0].half() for name, extractor in sorted(self.extractors.items())
        }
        return PreparedSong(
            key=song.record.key,
            latents=self.codec.encode(waveform, SOURCE_RATE).half().cpu(),
            texts=tuple(self._text_states(caption) for caption in captions),
            captions=captions,
            lyric_ids=torch.tensor(song.lyric_ids),
            speaker=song.speaker,
            features=features,
        )

    def _captions(self, record: Record) -> tuple[tuple[str, ...], list[Problem]]:
        """The candidates, in the words of a checkpoint that knows only some: a request's prompt is read the same way."""
        candidates = caption_candidates(record, self.settings.tag_shuffles)
        if self.known_tags is None:
            return candidates, []
        read = [self.known_tags.read(candidate) for candidate in candidates]
        changes = dict.fromkeys(warning for tags in read for warning in tags.warnings)
        problems = [Problem(record.key, "captions", "put into the checkpoint's words", change, Outcome.IGNORED) for change in changes]
        texts = dict.fromkeys(tags.text for tags in read if tags.text)
        return tuple(texts) or ("",), problems

    def _text_states(self, caption: str) -> Tensor:
        ids = torch.tensor([self.text_tokenizer.encode_beginning(caption)], device=self.device)
        states: Tensor = self.text_encoder(ids, torch.ones_like(ids))
        return states[0].half().cpu()


def training_waveform(waveform: Tensor, sample_rate: int, max_seconds: float) -> Tensor:
    """A waveform [1 or 2, N] as training hears it: stereo at 48 kHz, within -1 to 1, from 3 s to max_seconds, [2, S]."""
    stereo = resample(waveform, sample_rate, SOURCE_RATE).clamp(-1, 1).expand(2, -1)[:, : int(max_seconds * SOURCE_RATE)]
    return F.pad(stereo, (0, max(0, PADDED_SECONDS * SOURCE_RATE - stereo.shape[-1])))


def caption_candidates(record: Record, tag_shuffles: int) -> tuple[str, ...]:
    """Prompts of which a training step draws one, each once and cut to 256 characters: the tags, then the other captions.

    The reference shuffles the tags anew at each use. Here the first order is the record's, as a model that knows one order learns faster
    from few songs; more orders are drawn from the key and share the draw with the other captions, so they count more together.
    """
    tags = list(record.tags) or [PROMPT_WITHOUT_TAGS]
    orders = [tags]
    for number in range(1, tag_shuffles):
        orders.append(random.Random(f"{record.key}/{number}").sample(tags, len(tags)))  # noqa: S311 - no secrets here
    candidates = [", ".join(order) for order in orders] + list(record.recaption.values())
    return tuple(dict.fromkeys(candidate[:CAPTION_CHARACTERS] for candidate in candidates))
