"""The codec's networks for training, and back into checkpoints in the official layout beside the other networks.

A vocoder trains with weight normalisation, as its checkpoint stores it; the stage that serves it folds it.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from training.codec_recipes import AudioRecipe
from training.init_checkpoint import ARCHITECTURES, write_dcae, write_vocoder
from vae_svc.model.mel import LogMel
from vae_svc.model.vocoder import Vocoder
from vae_svc.model.vocoder_config import MEL_KEYS
from vae_svc.weights import DCAE_FOLDER, VOCODER_FOLDER, WEIGHTS_FILE, CheckpointError, load_dcae, load_vocoder

NetworkT = TypeVar("NetworkT", AutoencoderDC, Vocoder)
CPU = torch.device("cpu")
NORMALISED = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
"""Torch's names of weight normalisation, to the checkpoint's."""


def trainable_dcae(recipe: AudioRecipe) -> AutoencoderDC:
    """The DCAE that a run starts from, in training mode.

    Raises:
        CheckpointError: It cannot be loaded, or there is no such size.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = recipe.checkpoint_dir / DCAE_FOLDER
        if recipe.from_scratch:
            folder = Path(scratch) / DCAE_FOLDER
            _draw(recipe, folder)
        return _trainable(load_dcae(folder, CPU, torch.float32, hashlib.sha256()))


def trainable_vocoder(recipe: AudioRecipe) -> Vocoder:
    """The vocoder that a run starts from, in training mode.

    Raises:
        CheckpointError: It cannot be loaded, has no weights to train, or there is no such size.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = recipe.checkpoint_dir / VOCODER_FOLDER
        if recipe.from_scratch:
            folder = Path(scratch) / VOCODER_FOLDER
            _draw(recipe, folder)
        vocoder = load_vocoder(folder, CPU, torch.float32, hashlib.sha256())
        if not isinstance(vocoder, Vocoder):
            raise CheckpointError(f"{folder}: {vocoder.class_name} has no weights to train: start with --from_scratch")
        vocoder = _trainable(vocoder)
    for module in vocoder.head.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            weight_norm(module, dim=0)
    return vocoder


def _trainable(network: NetworkT) -> NetworkT:
    for parameter in network.parameters():
        parameter.data = parameter.data.clone()  # training must not write into memory that is mapped from the file
    return network.requires_grad_(True).train()


def _draw(recipe: AudioRecipe, folder: Path) -> None:
    """Write random weights of the size or the config.json that the recipe names."""
    is_dcae = folder.name == DCAE_FOLDER
    try:
        if recipe.from_scratch in ARCHITECTURES:
            architecture = ARCHITECTURES[recipe.from_scratch]
            config = architecture.dcae if is_dcae else architecture.vocoder
        else:
            config = json.loads(Path(recipe.from_scratch).read_text(encoding="utf-8"))
        if is_dcae:
            write_dcae(folder, {name: value for name, value in config.items() if not name.startswith("_")}, recipe.seed)
        else:
            write_vocoder(folder, config, recipe.seed)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        sizes = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"from_scratch is {recipe.from_scratch!r}, neither {sizes} nor a usable config.json: {error!r}") from error


class CodecCheckpoints(Callback):
    """Writes `checkpoints/step=N` every so many steps and at the end, averaged if the run averages.

    Args:
        recipe: Of the run.
    """

    def __init__(self, recipe: AudioRecipe) -> None:
        self.recipe = recipe

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write after a step that is due."""
        step = trainer.global_step
        due = step % self.recipe.every_n_train_steps == 0 or step == trainer.max_steps
        target = self.recipe.folder / "checkpoints" / f"step={step}"
        if not (pl_module.step_ended and due and trainer.is_global_zero) or target.exists():
            return
        with pl_module.final_network() as network:
            export(network, self.recipe.checkpoint_dir, target)


def export(network: AutoencoderDC | Vocoder, source: Path, target: Path) -> None:
    """Write a checkpoint in the official layout, in float32.

    Args:
        network: From `trainable_dcae` or `trainable_vocoder`.
        source: Checkpoint with the other networks. Their weights are linked where the file system can, else copied.
        target: Must not exist; it appears when it is whole.
    """
    name = VOCODER_FOLDER if isinstance(network, Vocoder) else DCAE_FOLDER
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns(name), copy_function=_link_weights)
    folder = partial / name
    folder.mkdir()
    state = network.state_dict()
    if isinstance(network, Vocoder):
        (folder / "config.json").write_text(json.dumps(vocoder_config(network), indent=2) + "\n", encoding="utf-8")
        state = {_checkpoint_name(tensor_name): tensor for tensor_name, tensor in state.items()} | _mel_tables(network)
    else:
        network.save_config(folder)
    save_file(
        {key: tensor.detach().to(CPU, copy=True).contiguous() for key, tensor in state.items()}, folder / WEIGHTS_FILE, {"format": "pt"}
    )
    partial.rename(target)


def vocoder_config(vocoder: Vocoder) -> dict[str, Any]:
    """What its config.json says."""
    values = asdict(vocoder.config)
    mel = values.pop("mel")
    return {"_class_name": Vocoder.class_name} | values | {"use_template": False} | {key: mel[name] for key, name in MEL_KEYS.items()}


def _checkpoint_name(name: str) -> str:
    for ours, theirs in NORMALISED.items():
        if name.endswith("." + ours):
            return name.removesuffix(ours) + theirs
    return name


def _mel_tables(vocoder: Vocoder) -> dict[str, Tensor]:
    """Buffers that the official file has, as other programs may ask for them."""
    log_mel = LogMel(vocoder.config.mel, CPU)
    return {"mel_transform.spectrogram.window": log_mel.window, "mel_transform.mel_scale.fb": log_mel.filterbank}


def _link_weights(source: str, target: str) -> str:
    """Checkpoints of a run share gigabytes that nothing writes to."""
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
        except OSError:
            pass
        else:
            return target
    shutil.copy2(source, target)
    return target
