"""Samples while a run goes on: the same songs from the same noise every time, so that progress can be seen and heard.

    <run>/eval_results/step_N/target_wav_KEY_I.wav       what the codec makes of the song's own latents
                              pred_wav_KEY_I.wav         what the network makes of its conditions
                              mel_KEY_I.png              both as log-mel pictures
                              key_prompt_lyric_KEY_I.txt

The same audio and pictures are in TensorBoard.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from tokenizers import Tokenizer
from torch import Tensor

from diffusion_svc.sampler import Sampler, SamplingRequest
from diffusion_svc.sampling.guidance import CfgType, GuidanceParams
from diffusion_svc.sampling.params import SamplingParams, SchedulerType
from diffusion_svc.tasks import ConditionStates, TextToMusic
from training.batches import Batch
from training.model import TrainableTransformer
from vae_svc.codec import Codec
from vae_svc.model.mel import LogMel, MelConfig
from vae_svc.weights import load_codec

SAMPLE_RATE = 44_100
FIRST_SEED = 1234
MAX_SONGS = 4


@dataclass(frozen=True)
class SampleSettings:
    """How samples are made. The defaults are the reference's.

    Attributes:
        infer_step: Euler steps.
        guidance_scale: Strength.
        cfg_type: "apg", "cfg" or "cfg_star".
        omega_scale: Mean shift of the steps.
    """

    infer_step: int = 60
    guidance_scale: float = 15.0
    cfg_type: str = "apg"
    omega_scale: float = 10.0

    def params(self) -> SamplingParams:
        """Parameters of the sampler."""
        guidance = GuidanceParams(self.guidance_scale, CfgType(self.cfg_type), 1.0, 0.0, 0.0, 0.0, 0.0)
        return SamplingParams(self.infer_step, SchedulerType.EULER, self.omega_scale, (), guidance, use_erg_diffusion=False)


class Samples(Callback):
    """Samples the songs of one batch at the start, and every so many steps.

    Args:
        folder: Of the run.
        checkpoint: Has the codec, which is loaded when it is first needed.
        every: Steps.
        settings: Of the sampler.
        batch: The songs; the first few are taken.
    """

    def __init__(self, folder: Path, checkpoint: Path, every: int, settings: SampleSettings, batch: Batch) -> None:
        self.folder = folder
        self.checkpoint = checkpoint
        self.every = every
        self.settings = settings
        self.batch = batch
        self._codec: Codec | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Samples of the weights that the run starts from."""
        if trainer.global_step == 0:
            self._sample(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Samples after the last micro-batch of a step that is due."""
        if trainer.global_step % self.every == 0 and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._sample(trainer, pl_module)

    def _sample(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        with pl_module.sampling_weights() as model:
            device = pl_module.device
            if self._codec is None:
                self._codec = load_codec(self.checkpoint, device, torch.float32).codec
            target = self.folder / "eval_results" / f"step_{trainer.global_step}"
            target.mkdir(parents=True, exist_ok=True)
            for index in range(min(MAX_SONGS, len(self.batch.keys))):
                truth = _unpadded(self.batch, index)
                latents = sample(model, self.batch.to(device), index, self.settings, FIRST_SEED + index)
                pair = {"target": self._decode(truth.to(device)), "pred": self._decode(latents.to(device))}
                self._write(target, index, pair, trainer, pl_module)

    @torch.inference_mode()
    def _decode(self, latents: Tensor) -> Tensor:
        assert self._codec is not None
        return torch.cat(list(self._codec.decode(latents, SAMPLE_RATE)), dim=-1).cpu()

    def _write(self, target: Path, index: int, pair: dict[str, Tensor], trainer: Trainer, pl_module: Any) -> None:
        name = f"{self.batch.keys[index]}_{index}"
        write_pair(target, name, pair, trainer, pl_module)
        lyrics = self._lyrics(index)
        sections = {"KEY": self.batch.keys[index], "PROMPT": self.batch.captions[index], "LYRIC": lyrics, "SEED": FIRST_SEED + index}
        text = "\n\n".join(f"# {title}\n{value}" for title, value in sections.items()) + "\n"
        (target / f"key_prompt_lyric_{name}.txt").write_text(text, encoding="utf-8")
        for logger in pl_module.loggers:
            logger.experiment.add_text(f"prompt/{name}", self.batch.captions[index], trainer.global_step)

    def _lyrics(self, index: int) -> str:
        """The ids of an item as text; shards keep no other."""
        conditions = self.batch.conditions
        ids = conditions.lyric_ids[index][conditions.lyric_mask[index] != 0].tolist()
        vocabulary = self.checkpoint / "lyric_vocab.json"
        return str(Tokenizer.from_file(str(vocabulary)).decode(ids)) if vocabulary.exists() else " ".join(map(str, ids))


def condition_states(model: TrainableTransformer, batch: Batch, index: int) -> ConditionStates:
    """What the encoder stage would say of an item; the null branch is what dropout trains: no text, no lyrics."""
    conditions = batch.conditions
    ids, mask = conditions.lyric_ids[index : index + 1], conditions.lyric_mask[index : index + 1] != 0
    null_mask = torch.zeros_like(mask)
    with torch.inference_mode():
        return ConditionStates(
            text=conditions.text[index][conditions.text_mask[index] != 0].to(model.dtype),
            lyrics=model.encode_lyrics(ids, mask)[0],
            lyric_mask=mask[0],
            null_lyrics=model.encode_lyrics(torch.zeros_like(ids), null_mask)[0],
            null_lyric_mask=null_mask[0],
        )


def sample(model: TrainableTransformer, batch: Batch, index: int, settings: SampleSettings, seed: int) -> Tensor:
    """Latents [8, 16, T] of a song under the conditions of an item and of its length.

    Args:
        model: In evaluation mode.
        batch: On its device.
        index: Of the item.
        settings: Of the sampler.
        seed: Of the noise.
    Raises:
        AcestepError: The song could not be sampled.
    """
    sampler = Sampler(model)
    task = TextToMusic(_unpadded(batch, index).shape[-1])
    (song,) = sampler.start(SamplingRequest(condition_states(model, batch, index), settings.params(), (seed,), task))
    while song.result is None:
        sampler.tick([song])
    if not isinstance(song.result, Tensor):
        raise song.result
    return song.result


def _unpadded(batch: Batch, index: int) -> Tensor:
    latents = batch.latents[index]
    return latents if batch.frame_mask is None else latents[..., : int(batch.frame_mask[index].sum())]


def write_pair(folder: Path, name: str, pair: dict[str, Tensor], trainer: Trainer, pl_module: Any) -> None:
    """Write waveforms [C, S] as files and their pictures as one, and put both into TensorBoard.

    Args:
        folder: Exists.
        name: Of the song.
        pair: By kind: `target` and `pred`.
        trainer: Says the step.
        pl_module: Has the loggers.
    """
    picture = mel_picture(pair)
    imsave(folder / f"mel_{name}.png", picture)
    for kind, waveform in pair.items():
        soundfile.write(folder / f"{kind}_wav_{name}.wav", waveform.T.numpy(), SAMPLE_RATE)
    for logger in pl_module.loggers:
        writer = logger.experiment
        writer.add_image(f"mel/{name}", picture, trainer.global_step, dataformats="HWC")
        for kind, waveform in pair.items():
            writer.add_audio(f"{kind}/{name}", waveform.mean(0).clamp(-1, 1), trainer.global_step, SAMPLE_RATE)


def mel_picture(pair: dict[str, Tensor]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Log-mel pictures of waveforms [C, S] under their titles, [H, W, 3]."""
    log_mel = LogMel(MelConfig(), torch.device("cpu"))
    figure = Figure(figsize=(10, 2.5 * len(pair)), layout="constrained")
    axes = figure.subplots(len(pair), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, waveform) in zip(axes, pair.items(), strict=True):
        mel = log_mel(waveform.mean(0, keepdim=True))[0]
        axis.imshow(mel.numpy(), origin="lower", aspect="auto", extent=(0, waveform.shape[-1] / SAMPLE_RATE, 0, len(mel)))
        axis.set(title=title, ylabel="mel band")
    axes[-1].set_xlabel("seconds")
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
