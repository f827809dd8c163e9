"""Adapters (LoRA) of this stage: named folders of low-rank updates, read on first use and kept while they are in use.

    <store>/<name>/pytorch_lora_weights.safetensors
    <store>/<name>/adapter.json        whatever its owner wants to say; not read

A file is shared with the encoder stage: what is known to be that stage's is left alone, anything else must fit a layer of this stage. The
factor of an update is the request's scale, as in the reference; alpha, rank-stabilisation and the header's metadata count on request only.
The base weights are never touched.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from acestep_rpc.errors import NotFound, ShapeTooLarge
from diffusion_svc.model.low_rank import LowRankUpdate, Updates
from diffusion_svc.model.transformer import Transformer
from diffusion_svc.trained_scale import trained_scales
from diffusion_svc.weights import is_skipped

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
PREFIXES = ("base_model.model.", "transformer.")  # what PEFT and diffusers write before the module path
FLOAT_TYPES = (torch.float32, torch.bfloat16, torch.float16)
DOWN, UP, ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"


class AdapterError(ValueError):
    """An adapter cannot be read or does not fit the network; the message names file and key."""


@dataclass(frozen=True)
class Adapter:
    """This stage's part of one file.

    Attributes:
        digest: SHA-256 over names, types, shapes and bytes.
        factors: A [r, in] and B [out, r] of each adapted layer.
        trained_scales: Scale that each layer was trained with, or why the file does not tell.
    """

    digest: str
    factors: Mapping[nn.Module, tuple[Tensor, Tensor]]
    trained_scales: Mapping[nn.Module, float] | str


@dataclass(frozen=True)
class Adaptation:
    """The adapters of one request, ready to be applied.

    Attributes:
        key: Digest, with the kind of scale, and scale of each adapter: equal keys, equal updates.
        updates: Of every layer that an adapter changes.
    """

    key: tuple[tuple[str, float], ...]
    updates: Updates


class AdapterStore:
    """Adapters in a folder. `select` is for the stage's worker thread; `names` only lists.

    Args:
        folder: The store; None: no adapters.
        model: Network that the adapters are for.
        max_loaded: Adapters that are kept in memory; the least recently used goes first.
    Raises:
        AdapterError: The folder does not exist.
    """

    def __init__(self, folder: Path | None, model: Transformer, max_loaded: int) -> None:
        if folder is not None and not folder.is_dir():
            raise AdapterError(f"the adapter store {folder} is no folder")
        self._folder = folder
        self._model = model
        self._max_loaded = max_loaded
        self._loaded: OrderedDict[str, tuple[tuple[int, int], Adapter]] = OrderedDict()

    def names(self) -> list[str]:
        """Names that can be asked for now, sorted."""
        if self._folder is None:
            return []
        names = (path.parent.name for path in self._folder.glob(f"*/{WEIGHTS_NAME}") if self._holds(path))
        return sorted(name for name in names if NAME.fullmatch(name))

    def loaded(self) -> dict[str, bool]:
        """Adapters in memory, and whether their files state the scale they were trained with."""
        return {name: not isinstance(adapter.trained_scales, str) for name, (_, adapter) in self._loaded.items()}

    def load(self, name: str) -> None:
        """Hold an adapter in memory, as `select` does.

        Raises:
            NotFound: No adapter has that name.
            AdapterError: It does not fit, or no adapter may be held.
            ShapeTooLarge: The device has no memory for it.
        """
        if self._max_loaded == 0:
            raise AdapterError(f"{name} cannot be held: this stage holds no adapter, by its setting MAX_LOADED_ADAPTERS")
        self._load(name)

    def unload(self, name: str) -> None:
        """Hold an adapter no longer; fine if it was not.

        Raises:
            NotFound: No adapter has that name, in the store or in memory.
        """
        if self._loaded.pop(name, None) is None:
            self._path(name)

    def select(self, selections: Iterable[tuple[str, float]], use_trained_scale: Collection[str] = ()) -> Adaptation | None:
        """Load what is not loaded, or has changed on disk since, and combine it.

        Args:
            selections: Name and scale of each adapter.
            use_trained_scale: Names of those whose scale is multiplied by the one they were trained with.
        Returns:
            None where nothing changes this stage: no adapter, a scale of 0, an adapter of the other stage only.
        Raises:
            NotFound: No adapter has that name.
            AdapterError: An adapter does not fit, or does not state the scale it was trained with and is asked for it.
            ShapeTooLarge: The device has no memory for it.
        """
        key: list[tuple[str, float]] = []
        updates: dict[nn.Module, list[LowRankUpdate]] = {}
        for name, scale in selections:
            adapter = self._load(name)
            trained = _trained_scales(name, adapter) if name in use_trained_scale else {}
            if scale and adapter.factors:
                key.append((f"{adapter.digest} {sorted(trained.values())}" if trained else adapter.digest, scale))
                for layer, (down, up) in adapter.factors.items():
                    updates.setdefault(layer, []).append(LowRankUpdate(down, up, scale * trained.get(layer, 1.0)))
        return Adaptation(tuple(key), updates) if updates else None

    def _load(self, name: str) -> Adapter:
        path = self._path(name)
        stat = path.stat()
        version = (stat.st_mtime_ns, stat.st_size)
        held_version, adapter = self._loaded.pop(name, (None, None))
        if adapter is None or held_version != version:
            try:
                adapter = read_adapter(path, self._model)
            except torch.OutOfMemoryError as error:
                raise ShapeTooLarge(f"adapter {name} does not fit: {error}", device=str(self._model.device)) from error
        self._loaded[name] = (version, adapter)
        while len(self._loaded) > self._max_loaded:
            self._loaded.popitem(last=False)
        return adapter

    def _path(self, name: str) -> Path:
        if self._folder is None or not NAME.fullmatch(name) or not (self._folder / name).exists():
            raise NotFound("adapter", name)
        path = self._folder / name / WEIGHTS_NAME
        if not self._holds(path):
            raise AdapterError(f"{name} leads out of the store")
        if not path.is_file():
            raise AdapterError(f"{name}/{WEIGHTS_NAME} is missing; only safetensors are read")
        return path

    def _holds(self, path: Path) -> bool:
        assert self._folder is not None
        return path.resolve().is_relative_to(self._folder.resolve())


def read_adapter(path: Path, model: Transformer) -> Adapter:
    """Read this stage's part of a file strictly, in the model's type and onto its device.

    Raises:
        AdapterError: The file is unreadable; a key is unknown, alone, or belongs to no layer that can be adapted; a tensor has a wrong
            shape or type, or values that are not finite.
    """
    shown = f"{path.parent.name}/{path.name}"
    layers = dict(model.named_modules())
    digest = hashlib.sha256()
    factors: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    paths: dict[str, nn.Module] = {}
    alphas: dict[str, list[float]] = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for module, keys in sorted(_keys_by_module(shown, file.keys()).items()):
                if is_skipped(f"{module}."):
                    continue
                layer = layers.get(module)
                if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) or getattr(layer, "groups", 1) != 1:
                    raise AdapterError(f"{shown}: {next(iter(keys.values()))} is for {module}, which is no linear layer of the network")
                if DOWN not in keys:
                    continue  # an alpha alone
                if ALPHA in keys:
                    alphas[module] = file.get_tensor(keys[ALPHA]).flatten().tolist()
                paths[module] = layer
                _check_shapes(shown, file, keys, layer.weight.shape)
                pair = []
                for key in (keys[DOWN], keys[UP]):
                    tensor = file.get_tensor(key)
                    if tensor.dtype not in FLOAT_TYPES or not bool(tensor.isfinite().all()):
                        raise AdapterError(f"{shown}: {key} holds {tensor.dtype} values; allowed: finite float32, bfloat16, float16")
                    digest.update(f"{module} {tensor.dtype} {list(tensor.shape)}\n".encode())
                    digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
                    pair.append(tensor.flatten(1).to(model.device, model.dtype))
                factors[layer] = (pair[0], pair[1])
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{shown} cannot be read: {error}") from error
    ranks = {module: len(factors[layer][0]) for module, layer in paths.items()}
    scales: Mapping[nn.Module, float] | str
    try:
        scales = {paths[module]: scale for module, scale in trained_scales(header, ranks, alphas).items()}
    except ValueError as error:  # matters only to those who ask for it
        scales = str(error)
    return Adapter(digest.hexdigest(), factors, scales)


def _trained_scales(name: str, adapter: Adapter) -> Mapping[nn.Module, float]:
    if isinstance(adapter.trained_scales, str):
        raise AdapterError(f"{name}/{WEIGHTS_NAME} does not state the scale it was trained with: {adapter.trained_scales}")
    return adapter.trained_scales


def _keys_by_module(shown: str, keys: Sequence[str]) -> dict[str, dict[str, str]]:
    """The file's keys by module path without prefixes, then by suffix; both factors or none of each module."""
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        path = key
        for prefix in PREFIXES:
            path = path.removeprefix(prefix)
        suffix = next((suffix for suffix in (DOWN, UP, ALPHA) if path.endswith(suffix)), None)
        if suffix is None:
            raise AdapterError(f"{shown}: {key} ends in none of {DOWN}, {UP}, {ALPHA}")
        of_module = found.setdefault(path.removesuffix(suffix), {})
        if suffix in of_module:
            raise AdapterError(f"{shown}: {key} and {of_module[suffix]} are for the same layer")
        of_module[suffix] = key
    for of_module in found.values():
        for suffix, other in ((DOWN, UP), (UP, DOWN)):
            if suffix in of_module and other not in of_module:
                raise AdapterError(f"{shown}: {of_module[suffix]} has no {other[1:]} beside it")
    if not any(DOWN in of_module for of_module in found.values()):
        raise AdapterError(f"{shown} holds no adapter")
    return found


def _check_shapes(shown: str, file: Any, keys: Mapping[str, str], weight: torch.Size) -> None:
    """A [r, in (and kernel)] and B [out, r (and 1 for each axis of the kernel)] of one rank."""
    down, up = (list(file.get_slice(keys[suffix]).get_shape()) for suffix in (DOWN, UP))
    rank = down[0] if down else 0
    if rank < 1 or down != [rank, *weight[1:]]:
        raise AdapterError(f"{shown}: {keys[DOWN]} has shape {down}, the layer asks for {['rank', *weight[1:]]}")
    expected = [weight[0], rank, *[1] * (len(weight) - 2)]
    if up != expected:
        raise AdapterError(f"{shown}: {keys[UP]} has shape {up}, the layer and rank {rank} ask for {expected}")
