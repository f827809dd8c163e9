"""Runs of the codec's trainers that are known to make sense; the command line may override every field."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from training.runs import Run


@dataclass(frozen=True, kw_only=True)
class AudioRecipe(Run):
    """A run of the codec's or the vocoder's trainer.

    Attributes:
        dataset_path: Songs, as `convert` writes them.
        checkpoint_dir: In the official layout: weights to start from, and the other networks of the checkpoints that are written.
        from_scratch: Start from random weights of this size (official, tiny) or of this config.json. Empty: from the checkpoint's.
        crop_frames: Length of a crop in latent frames, 93 ms each.
        batch_size: Crops of a micro-batch.
        quieter_db: Each crop is made quieter by 0 to so many decibels.
        learning_rate: Of AdamW, at its peak; the discriminators' too.
        beta1: Of AdamW.
        beta2: Of AdamW.
        weight_decay: Of AdamW.
        warmup_steps: Until the peak.
        decay_from: Share of the run after which the learning rate falls, linearly to 0; 0: after the warm-up.
        ema_decay: Of the averaged weights; 0: none are kept.
        adversarial_from: Step from which discriminators take part; -1: never.
        adversarial_loss: hinge or lsgan.
        adversarial_weight: Of the discriminators' verdict.
        feature_matching_weight: Of the difference in what discriminators see.
        discriminator_width: Channels of their first layers.
        every_plot_step: Steps between samples, which are pictures and audio for TensorBoard and files; 0: none.
        sample_seconds: Length of a sample.
    """

    dataset_path: Path
    checkpoint_dir: Path
    from_scratch: str = ""
    crop_frames: int
    batch_size: int
    quieter_db: float = 0.0
    learning_rate: float
    beta1: float
    beta2: float
    weight_decay: float = 0.01
    warmup_steps: int = 1000
    decay_from: float = 0.5
    ema_decay: float = 0.999
    adversarial_from: int
    adversarial_loss: str = "hinge"
    adversarial_weight: float = 1.0
    feature_matching_weight: float = 0.0
    discriminator_width: int
    every_plot_step: int = 2000
    sample_seconds: float = 8.0

    def __post_init__(self) -> None:
        """Check values that nothing else checks."""
        super().__post_init__()
        for name in ("crop_frames", "batch_size", "discriminator_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        names = ("quieter_db", "learning_rate", "weight_decay", "warmup_steps", "adversarial_weight", "feature_matching_weight")
        for name in (*names, "every_plot_step"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        for name in ("beta1", "beta2", "decay_from", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more and below 1")
        if self.adversarial_from < -1:
            raise ValueError(f"adversarial_from is {self.adversarial_from}; it must be -1 or a step")
        if self.adversarial_loss not in ("hinge", "lsgan"):
            raise ValueError(f"adversarial_loss is {self.adversarial_loss!r}; there are hinge, lsgan")
        if self.strategy != "ddp":
            raise ValueError("two optimisers step by hand: the codec's trainers need strategy ddp")
        if self.sample_seconds <= 0:
            raise ValueError(f"sample_seconds is {self.sample_seconds}; it must be more than 0")


@dataclass(frozen=True, kw_only=True)
class CodecRecipe(AudioRecipe):
    """A run of the DCAE's trainer. Images are log-mels from -1 (-11) to 1 (3).

    Attributes:
        l1_weight: Of the mean absolute error of the image.
        l2_weight: Of its mean squared error.
        latent_weight: Keeps the encoder's output, under the layout's shift and scale, at mean 0 and deviation 1 in every channel.
        discriminator_layers: That halve the image; 3 judge patches of 70 x 70 values.
    """

    precision: str = "32"
    exp_name: str = "codec"
    crop_frames: int = 128
    batch_size: int = 4
    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    gradient_clip_val: float = 1.0
    adversarial_from: int = 28_000
    adversarial_weight: float = 0.05
    discriminator_width: int = 64
    l1_weight: float = 1.0
    l2_weight: float = 1.0
    latent_weight: float = 0.1
    discriminator_layers: int = 3

    def __post_init__(self) -> None:
        """Check values that nothing else checks."""
        super().__post_init__()
        for name in ("l1_weight", "l2_weight", "latent_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if not 1 <= self.discriminator_layers <= 5:
            raise ValueError(f"discriminator_layers is {self.discriminator_layers}; it must be 1 to 5")


@dataclass(frozen=True, kw_only=True)
class VocoderRecipe(AudioRecipe):
    """A run of the vocoder's trainer.

    Attributes:
        mel_weight: Of the mean absolute error of the log-mel.
        stft_weight: Of the spectral errors at several resolutions.
        stft_sizes: Windows of those resolutions in samples.
        periods: Of the period discriminators, in samples.
        resolutions: Windows of the resolution discriminators, in samples.
    """

    precision: str = "32"
    exp_name: str = "vocoder"
    crop_frames: int = 8
    batch_size: int = 16
    quieter_db: float = 6.0
    learning_rate: float = 1e-4
    beta1: float = 0.8
    beta2: float = 0.99
    gradient_clip_val: float = 1000.0
    adversarial_from: int = 0
    adversarial_loss: str = "lsgan"
    feature_matching_weight: float = 2.0
    discriminator_width: int = 32
    mel_weight: float = 45.0
    stft_weight: float = 1.0
    stft_sizes: tuple[int, ...] = (512, 1024, 2048, 4096)
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    resolutions: tuple[int, ...] = (512, 1024, 2048)

    def __post_init__(self) -> None:
        """Check values that nothing else checks."""
        super().__post_init__()
        for name in ("mel_weight", "stft_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.adversarial_from >= 0 and not (self.periods or self.resolutions):
            raise ValueError("adversarial_from asks for discriminators, and there are neither periods nor resolutions")


def codec(dataset_path: Path, checkpoint_dir: Path) -> CodecRecipe:
    """The official training in outline: a fifth of 140,000 steps to reconstruct, then the encoder stays and the decoder has an opponent.

    Source: "ACE-Step: A Step Towards Music Generation Foundation Model", 2025: 140,000 steps, batch 480 on 120 devices, one day of five
    for the mean squared error alone, then the decoder against patch discriminators. Weights are not published; these are ours. The opponent
    is pix2pix's. DC-AE (Chen et al., 2025), whose architecture this is, brings its own in last too, with most of the network frozen.
    """
    return CodecRecipe(dataset_path=dataset_path, checkpoint_dir=checkpoint_dir, max_steps=140_000)


def codec_decoder(dataset_path: Path, checkpoint_dir: Path) -> CodecRecipe:
    """The second phase alone, from a codec that reconstructs: its latents stay what they are, so transformers trained on them go on."""
    return dataclasses.replace(codec(dataset_path, checkpoint_dir), adversarial_from=0, exp_name="codec_decoder")


def vocoder(dataset_path: Path, checkpoint_dir: Path) -> VocoderRecipe:
    """Period and resolution discriminators, weights 1, 2 (features) and 45 (log-mel), AdamW with 0.8 and 0.99.

    Source: HiFi-GAN (Kong et al., 2020) for losses, weights, optimiser and periods; UnivNet (Jang et al., 2021) for resolutions;
    BigVGAN (Lee et al., 2023) for both together, learning rate, clipping at 1000 and about a million steps.
    """
    return VocoderRecipe(dataset_path=dataset_path, checkpoint_dir=checkpoint_dir, max_steps=1_000_000)


def vocoder_spectral(dataset_path: Path, checkpoint_dir: Path) -> VocoderRecipe:
    """Without discriminators, for a start or for little hardware: log-mel and spectra alone leave partials smeared."""
    return dataclasses.replace(
        vocoder(dataset_path, checkpoint_dir),
        adversarial_from=-1,
        mel_weight=0.5,
        learning_rate=1e-3,
        gradient_clip_val=5.0,
        max_steps=100_000,
        exp_name="vocoder_spectral",
    )


CODEC_RECIPES = {recipe.__name__: recipe for recipe in (codec, codec_decoder)}
VOCODER_RECIPES = {recipe.__name__: recipe for recipe in (vocoder, vocoder_spectral)}
