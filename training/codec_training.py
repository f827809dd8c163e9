"""`acestep-train codec`: train the DCAE on songs' log-mels.

Until the step `adversarial_from` encoder and decoder learn to reconstruct, and the encoder to give latents as the layout's shift and scale
want them. From then on the encoder stays as it is, and with it every latent, and the decoder learns against a patch discriminator too.

Checkpoints, samples and resumes are those of every trainer of the codec (`training/audio_run.py`).
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from torch import Tensor, nn

from training.adversarial import AdversarialTraining, Reconstruction
from training.audio_run import run_command, train_audio
from training.codec_checkpoint import trainable_dcae
from training.codec_recipes import CODEC_RECIPES, CodecRecipe
from training.discriminators import PatchDiscriminator
from vae_svc.codec import LATENT_SCALE, LATENT_SHIFT, MEL_MAX, MEL_MIN, NUM_MELS, SAMPLE_RATE, Codec
from vae_svc.model.dcae import IMAGE_CHANNELS
from vae_svc.model.mel import LogMel
from vae_svc.weights import VOCODER_FOLDER, load_vocoder, read_vocoder_config


class CodecTraining(AdversarialTraining):
    """The DCAE's trainer.

    Args:
        dcae: From `trainable_dcae`.
        recipe: Of the run.
    """

    def __init__(self, dcae: AutoencoderDC, recipe: CodecRecipe) -> None:
        opponents = nn.ModuleList()
        if recipe.adversarial_from >= 0:
            opponents.append(PatchDiscriminator(IMAGE_CHANNELS, recipe.discriminator_width, recipe.discriminator_layers))
        weights = {"l1": recipe.l1_weight, "l2": recipe.l2_weight, "latent": recipe.latent_weight}
        super().__init__(dcae, opponents, recipe, weights)
        self._mel_config = read_vocoder_config(recipe.checkpoint_dir / VOCODER_FOLDER).mel
        self._codec: Codec | None = None

    def reconstruct(self, waveforms: Tensor) -> Reconstruction:
        """Losses of log-mels."""
        dcae: Any = self.network
        with torch.autocast(waveforms.device.type, enabled=False):
            log_mel = LogMel(self._mel_config, waveforms.device)
            mel = log_mel(waveforms.flatten(0, 1)).reshape(*waveforms.shape[:2], NUM_MELS, -1)
            images = (mel - MEL_MIN) * (2 / (MEL_MAX - MEL_MIN)) - 1
        with torch.set_grad_enabled(not self.adversarial):
            raw = dcae.encoder(images)
        generated = dcae.decoder(raw).float()
        losses = {"l1": (generated - images).abs().mean(), "l2": (generated - images).square().mean()}
        if not self.adversarial:
            losses["latent"] = latent_loss((raw.float() - LATENT_SHIFT) * LATENT_SCALE)
        return Reconstruction(images, generated, losses)

    def resynthesise(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Through the codec and the checkpoint's vocoder, as they are served; the log-mel is the vocoder's input."""
        if self._codec is None:
            vocoder = load_vocoder(self.recipe.checkpoint_dir / VOCODER_FOLDER, self.device, torch.float32, hashlib.sha256())
            dcae: Any = self.network
            self._codec = Codec(dcae, vocoder)
        latents = self._codec.encode(waveform, SAMPLE_RATE)
        return torch.cat(list(self._codec.decode(latents, SAMPLE_RATE)), dim=-1), self._codec.decode_mel(latents).cpu()


def latent_loss(latents: Tensor) -> Tensor:
    """How far each channel of [B, 8, 16, T] is from mean 0 and deviation 1, averaged over channels."""
    channels = latents.transpose(0, 1).flatten(1)
    return (channels.mean(dim=1).square() + (channels.std(dim=1) - 1).square()).mean()


def train_codec(recipe: CodecRecipe, ckpt_path: Path | None = None, max_time: float | None = None) -> Path:
    """Run a recipe; arguments and errors as of `train_audio`."""
    return train_audio(recipe, lambda: CodecTraining(trainable_dcae(recipe), recipe), False, ckpt_path, max_time)


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for."""
    return run_command("codec", __doc__ or "", CodecRecipe, CODEC_RECIPES, train_codec, arguments)


if __name__ == "__main__":
    sys.exit(main())
