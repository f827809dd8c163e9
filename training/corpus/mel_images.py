"""Songs as the images that the closed-form codec sees, without the codec."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vae_svc.model.mel import LogMel, MelConfig

SAMPLES_PER_LATENT = 4096
MEL_MIN, MEL_MAX = -11.0, 3.0


class MelImages:
    """Waveforms [2, S] at 44.1 kHz to normalised log-mels [2, 128, F], as `closed_form_codec.normalised_log_mel`."""

    def __init__(self) -> None:
        self.log_mel = LogMel(MelConfig(), torch.device("cpu"))

    def __call__(self, waveform: Tensor) -> Tensor:
        """The images."""
        padded = F.pad(waveform, (0, -waveform.shape[-1] % SAMPLES_PER_LATENT))
        return (self.log_mel(padded) - MEL_MIN) * (2 / (MEL_MAX - MEL_MIN)) - 1
