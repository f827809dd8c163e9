"""The encoder stage: tags and lyric token ids to conditioning, with the null branch that guidance asks for. Tensors in, tensors out.

L_t text tokens, L_l lyric tokens, W_t and W_l the widths of the two encoders.
"""

import dataclasses
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from acestep_rpc.errors import StageError
from acestep_rpc.telemetry import CACHE_LOOKUPS, STAGE_FAULTS
from encoder_svc import weights
from encoder_svc.adapters import Adaptation
from encoder_svc.cache import BoundedCache
from encoder_svc.model.low_rank import Updates
from encoder_svc.model.lyric_encoder import LyricEncoder
from encoder_svc.model.text_encoder import TextEncoder
from encoder_svc.text_tokenizer import TextTokenizer


class NullCondition(enum.Enum):
    """What the null branch of guidance attends to. Its tags are zeros unless stated."""

    NONE = "no null branch"
    ZEROS = "lyric ids 0, masks unchanged"
    WEAKENED_LYRICS = "the real lyrics through weakened attention"
    WEAKENED = "the real tags and lyrics through weakened attention"
    MASKED = "lyric ids 0, lyric mask 0"


@dataclass(frozen=True)
class Conditioning:
    """States before the transformer's input projections, on the CPU."""

    text_hidden_states: Tensor
    """[L_t, W_t]. Nothing is padded."""
    lyric_hidden_states: Tensor
    """[L_l, W_l]."""
    lyric_attention_mask: Tensor
    """[L_l] bool, true = attend. No lyrics are one masked token."""
    null_text_hidden_states: Tensor | None
    """[L_t, W_t], under negative tags of their own length; None stands for zeros."""
    null_lyric_hidden_states: Tensor | None
    """[L_l, W_l]; None without a null branch."""
    null_lyric_attention_mask: Tensor | None
    """[L_l] bool; None stands for lyric_attention_mask."""

    def tensors(self) -> list[Tensor]:
        """Those that are there."""
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return [value for value in values if value is not None]


class PromptEncoder:
    """Both encoders of one checkpoint, and the tokenizer of the tags. `encode` is for one thread.

    Args:
        text_encoder: In evaluation mode.
        lyric_encoder: In evaluation mode, on the same device.
        text_tokenizer: Of the same checkpoint.
        cache_bytes: Memory for recent results.
    """

    def __init__(self, text_encoder: TextEncoder, lyric_encoder: LyricEncoder, text_tokenizer: TextTokenizer, cache_bytes: int = 0) -> None:
        self.text_encoder = text_encoder
        self.lyric_encoder = lyric_encoder
        self.text_tokenizer = text_tokenizer
        self.device = lyric_encoder.lyric_embs.weight.device
        self.dtype = lyric_encoder.lyric_embs.weight.dtype
        self._cache: BoundedCache[Conditioning] = BoundedCache(cache_bytes)
        self.num_encoded = 0
        """Prompts that were not found in the cache."""

    @classmethod
    def load(cls, checkpoint: Path, device: torch.device, dtype: torch.dtype, cache_bytes: int = 0) -> "PromptEncoder":
        """Load from a checkpoint folder.

        Raises:
            CheckpointError: A file is missing or is not what its config says.
        """
        lyric_encoder = weights.load_lyric_encoder(checkpoint, device, dtype)
        text_encoder = weights.load_text_encoder(checkpoint, device, dtype)
        text_tokenizer = TextTokenizer(checkpoint, text_encoder.umt5.config.vocab_size)
        return cls(text_encoder, lyric_encoder, text_tokenizer, cache_bytes)

    def encode(
        self,
        tags: str,
        lyric_ids: Sequence[int],
        null_condition: NullCondition,
        adaptation: Adaptation | None = None,
        negative_tags: str | None = None,
    ) -> Conditioning:
        """Encode one prompt.

        Args:
            tags: Description of the music; may be empty.
            lyric_ids: As LyricTokenizer gives them; none means no lyrics.
            null_condition: Null branch to encode beside the full condition.
            adaptation: Adapters of the lyric encoder, for both branches.
            negative_tags: Tags of the null branch in the place of zeros; for every null condition but NONE and WEAKENED, which has its own.
        Raises:
            InvalidRequest: The tags are too long.
            StageError: A state is not finite.
        """
        text_ids = self.text_tokenizer.encode(tags)
        negative_ids = None
        if negative_tags is not None:
            assert null_condition not in (NullCondition.NONE, NullCondition.WEAKENED), f"negative tags with {null_condition}"
            negative_ids = tuple(self.text_tokenizer.encode(negative_tags, "prompt.negative_tags"))
        key = (tuple(text_ids), tuple(lyric_ids), null_condition, adaptation.key if adaptation else (), negative_ids)
        known = self._cache.get(key)
        CACHE_LOOKUPS.labels("conditioning", "miss" if known is None else "hit").inc()
        if known is not None:
            return known
        conditioning = self._encode(text_ids, lyric_ids, null_condition, adaptation.updates if adaptation else None, negative_ids)
        self.num_encoded += 1
        if not all(bool(tensor.isfinite().all()) for tensor in conditioning.tensors()):
            STAGE_FAULTS.labels("encoder", "not_finite").inc()
            raise StageError("the encoder produced states that are not finite")
        self._cache.put(key, conditioning, sum(tensor.nbytes for tensor in conditioning.tensors()))
        return conditioning

    def encode_afresh(self, tags: str, lyric_ids: Sequence[int], null_condition: NullCondition) -> Conditioning:
        """Encode one prompt as `encode` does, past the cache."""
        return self._encode(self.text_tokenizer.encode(tags), lyric_ids, null_condition, None, None)

    @torch.inference_mode()
    def _encode(
        self,
        text_ids: list[int],
        lyric_ids: Sequence[int],
        null_condition: NullCondition,
        updates: Updates | None,
        negative_ids: Sequence[int] | None,
    ) -> Conditioning:
        text = torch.tensor([text_ids], device=self.device)
        text_mask = torch.ones_like(text)
        lyrics = torch.tensor([list(lyric_ids) or [0]], device=self.device)
        lyric_mask = torch.full_like(lyrics, bool(lyric_ids), dtype=torch.bool)

        null_text = null_lyrics = null_mask = None
        if null_condition is NullCondition.WEAKENED:
            text_states, null_text = self.text_encoder.plain_and_weakened(text, text_mask)
        else:
            text_states = self.text_encoder(text, text_mask)
        if negative_ids is not None:
            negative = torch.tensor([list(negative_ids)], device=self.device)
            null_text = self.text_encoder(negative, torch.ones_like(negative))
        if null_condition in (NullCondition.WEAKENED, NullCondition.WEAKENED_LYRICS):
            lyric_states, null_lyrics = self.lyric_encoder.plain_and_weakened(lyrics, lyric_mask, updates)
        else:
            lyric_states = self.lyric_encoder(lyrics, lyric_mask, updates=updates)
        if null_condition is NullCondition.ZEROS:
            null_lyrics = self._zero_lyrics(lyric_mask, updates)
        elif null_condition is NullCondition.MASKED:
            null_mask = torch.zeros_like(lyric_mask)
            null_lyrics = self._zero_lyrics(null_mask, updates)

        def finished(states: Tensor | None) -> Tensor | None:
            return None if states is None else states[0].cpu()

        return Conditioning(
            text_hidden_states=text_states[0].cpu(),
            lyric_hidden_states=lyric_states[0].cpu(),
            lyric_attention_mask=lyric_mask[0].cpu(),
            null_text_hidden_states=finished(null_text),
            null_lyric_hidden_states=finished(null_lyrics),
            null_lyric_attention_mask=finished(null_mask),
        )

    def _zero_lyrics(self, mask: Tensor, updates: Updates | None) -> Tensor:
        """States of lyrics whose ids are all 0, under a mask that is all true or all false: [1, L_l].

        Equal tokens have equal values, and attention averages values (or, without any key, gives the same bias everywhere). So every
        position has the state of a single such token, whatever the length: one token is encoded and repeated.
        """
        one_token: Tensor = self.lyric_encoder(torch.zeros_like(mask[:, :1], dtype=torch.int64), mask[:, :1], updates=updates)
        return one_token.expand(-1, mask.shape[1], -1).contiguous()
