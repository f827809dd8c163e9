"""The text encoder: UMT5's encoder, with the weakened variant that entropy-rectified guidance wants.

It runs the blocks of the transformers class itself, so that the plain and the weakened variant share the layers before the first
weakened one. It knows no tokenizer.

B batch, L tokens, D width.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import UMT5Config, UMT5EncoderModel
from transformers.masking_utils import create_bidirectional_mask

WEAKENED_LAYERS = range(8, 10)
"""Layers whose queries the weakened variant shrinks. A smaller model has fewer of them, or none."""
WEAKENED_QUERY_FACTOR = 0.01
QUERY_WEIGHT = "layer.0.SelfAttention.q.weight"


class TextEncoder(nn.Module):
    """UMT5EncoderModel under the name `umt5`.

    Args:
        config: The checkpoint's.
    """

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.umt5 = UMT5EncoderModel(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, weakened: bool = False) -> Tensor:
        """Encode prompts.

        Args:
            input_ids: [B, L] int64.
            attention_mask: [B, L], nonzero = attend.
            weakened: Shrink the queries of some layers; position biases keep their strength.
        Returns:
            Last hidden states after the final norm [B, L, D].
        """
        (states,) = self._run(input_ids, attention_mask, (weakened,))
        return states

    def plain_and_weakened(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Both variants of `forward`; the layers before the first weakened one run once."""
        plain, weakened = self._run(input_ids, attention_mask, (False, True))
        return plain, weakened

    def _run(self, input_ids: Tensor, attention_mask: Tensor, variants: tuple[bool, ...]) -> list[Tensor]:
        stack = self.umt5.encoder
        embedded = stack.embed_tokens(input_ids)
        mask = create_bidirectional_mask(config=stack.config, inputs_embeds=embedded, attention_mask=attention_mask)
        x = stack.dropout(embedded)
        for block in stack.block[: WEAKENED_LAYERS.start]:
            x = block(x, mask)
        results = []
        for weakened in variants:
            y = x
            for index, block in enumerate(stack.block[WEAKENED_LAYERS.start :], start=WEAKENED_LAYERS.start):
                y = _weakened_block(block, y, mask) if weakened and index in WEAKENED_LAYERS else block(y, mask)
            results.append(stack.dropout(stack.final_layer_norm(y)))
        return results


def _weakened_block(block: nn.Module, x: Tensor, mask: object) -> Tensor:
    """The block with its queries shrunk. UMT5's q has no bias, so scaling its weight scales its output."""
    weight = block.get_parameter(QUERY_WEIGHT) * WEAKENED_QUERY_FACTOR
    out = functional_call(block, {QUERY_WEIGHT: weight}, (x, mask))
    assert isinstance(out, torch.Tensor)
    return out
