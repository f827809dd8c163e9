"""Architecture of the transformer, as the checkpoint's config.json gives it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LATENT_CHANNELS = 8  # in and out; the checkpoint's in_channels never reaches the patch embedding
LATENT_HEIGHT = 16
PATCH_WIDTH = LATENT_CHANNELS * 256  # 2048 for every configuration
TIMESTEP_WIDTH = 256


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the transformer. The defaults are those of the released code, not of the released weights."""

    num_layers: int = 28
    attention_head_dim: int = 64
    num_attention_heads: int = 24
    mlp_ratio: float = 4.0
    max_position: int = 32768
    rope_theta: float = 1_000_000.0
    speaker_embedding_dim: int = 512
    text_embedding_dim: int = 768
    lyric_hidden_size: int = 1024
    ssl_encoder_depths: tuple[int, ...] = (9, 9)
    ssl_names: tuple[str, ...] = ("mert", "m-hubert")
    ssl_latent_dims: tuple[int, ...] = (1024, 768)

    @property
    def inner_dim(self) -> int:
        """Width D. The file's inner_dim is ignored, as the reference ignores it."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def mlp_dim(self) -> int:
        """Width of the gated half of the feed-forward."""
        return int(self.inner_dim * self.mlp_ratio)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TransformerConfig":
        """Take the known keys of a config.json; absent ones keep their defaults.

        Raises:
            ValueError: The patch size or the number of latent channels is not the one that this network is built for.
        """
        for name, expected in (("patch_size", [LATENT_HEIGHT, 1]), ("out_channels", LATENT_CHANNELS)):
            if name in values and values[name] != expected:
                raise ValueError(f"{name} is {values[name]}, but this transformer is built for {expected}")
        fields: dict[str, Any] = {}
        for name in cls.__dataclass_fields__.keys() & values.keys():
            fields[name] = tuple(values[name]) if isinstance(values[name], list) else values[name]
        return cls(**fields)
