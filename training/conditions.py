"""What a song is conditioned on, for a batch, and the dropout that makes guidance possible.

B batch, L text tokens, N lyric tokens.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

TEXT_DROPOUT = 0.15
SPEAKER_DROPOUT = 0.5
LYRIC_DROPOUT = 0.15


@dataclass(frozen=True)
class Conditions:
    """Conditions of a batch, padded on the right.

    Attributes:
        text: States of the text encoder, [B, L, W].
        text_mask: [B, L], nonzero = attend.
        speaker: Speaker vectors, [B, S]; zeros: none.
        lyric_ids: [B, N] int64.
        lyric_mask: [B, N], nonzero = attend.
    """

    text: Tensor
    text_mask: Tensor
    speaker: Tensor
    lyric_ids: Tensor
    lyric_mask: Tensor

    @property
    def mask(self) -> Tensor:
        """Mask over speaker, text and lyrics, [B, 1 + L + N] bool; the speaker token is always attended."""
        speaker = self.text_mask.new_ones(len(self.text_mask), 1)
        return torch.cat([speaker != 0, self.text_mask != 0, self.lyric_mask != 0], dim=1)

    def to(self, device: torch.device) -> "Conditions":
        """The same on a device."""
        return Conditions(*(getattr(self, field.name).to(device) for field in fields(self)))


def drop_conditions(
    conditions: Conditions,
    generator: torch.Generator,
    text: float = TEXT_DROPOUT,
    speaker: float = SPEAKER_DROPOUT,
    lyrics: float = LYRIC_DROPOUT,
) -> Conditions:
    """Leave out conditions, each of each item on its own: dropped text keeps its mask, dropped lyrics lose ids and mask.

    Args:
        conditions: Unchanged.
        generator: On the CPU. It gives three numbers an item, whatever the probabilities.
        text: Probability that an item's text states become zeros.
        speaker: The same for the speaker vector.
        lyrics: The same for the lyrics.
    """
    draws = torch.rand(len(conditions.text), 3, generator=generator).to(conditions.text.device)
    keep_text, keep_speaker, keep_lyrics = (draws >= draws.new_tensor([text, speaker, lyrics])).unbind(1)
    return replace(
        conditions,
        text=conditions.text * keep_text[:, None, None],
        speaker=conditions.speaker * keep_speaker[:, None],
        lyric_ids=conditions.lyric_ids * keep_lyrics[:, None],
        lyric_mask=conditions.lyric_mask * keep_lyrics[:, None],
    )
