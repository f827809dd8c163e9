"""Losses and optimiser of a run, in batches and without waiting for the device.

B crops, V tags, W text width.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_svc.model.transformer import timestep_features
from training.flow_matching import NUM_TRAIN_TIMESTEPS, add_noise, noise_levels
from training.model import TrainableTransformer
from training.optimizers import is_block_matrix, orthogonalized
from training.streamed.songs import Crops


class Learner(nn.Module):
    """Losses of a step without anything that waits for the device.

    Args:
        model: What is trained.
        tags: States of the tags, [V, W].
        seed: Of everything that is drawn.
    """

    def __init__(self, model: TrainableTransformer, tags: Tensor, seed: int) -> None:
        super().__init__()
        self.model = model
        self.device = model.device
        self.tags = tags.to(self.device).float()
        self.sigmas = noise_levels().to(self.device)
        self.seed = seed
        self.random_numbers = torch.Generator(self.device).manual_seed(seed)

    def forward(self, groups: Sequence[Crops], logit_mean: Tensor | float, score_weight: Tensor | float, phone_weight: float) -> Tensor:
        """Losses (total, velocity, score, phones) of crops; groups differ in the length of their lyrics."""
        model, draws, device = self.model, self.random_numbers, self.device
        latents, score, phones, captions = (
            torch.cat([getattr(group, name) for group in groups]) for name in ("latents", "score", "phones", "captions")
        )
        count = len(latents)
        kept = torch.rand(count, 2, generator=draws, device=device) >= 0.1
        text_mask = captions >= 0
        text = self.tags[captions.clamp_min(0)] * text_mask[..., None] * kept[:, :1, None]
        lyrics, lyric_masks = self._lyrics(groups, kept[:, 1])
        speaker = torch.zeros(count, model.config.speaker_embedding_dim, device=device)
        context = model.embed_conditions(text, lyrics, speaker)
        key_mask = torch.cat([torch.ones_like(text_mask[:, :1]), text_mask, lyric_masks], dim=1)[:, None, None]
        normal = torch.randn(count, generator=draws, device=device) + logit_mean
        sigmas = self.sigmas[(normal.sigmoid() * NUM_TRAIN_TIMESTEPS).long().clamp(0, NUM_TRAIN_TIMESTEPS - 1)]
        noise = torch.randn(latents.shape, generator=draws, device=device)
        embedded = model.timestep_embedder(timestep_features(NUM_TRAIN_TIMESTEPS * sigmas))
        modulation = model.t_block(embedded).unflatten(-1, (6, -1))
        x = model.proj_in(add_noise(latents, noise, sigmas))
        tables = model.rotary.tables(
            torch.arange(x.shape[1], device=device), torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
        )
        hidden = x
        depth = model.config.ssl_encoder_depths[0]
        for index, block in enumerate(model.transformer_blocks):
            x = block(x, modulation, (), model.rotary, tables, key_mask=key_mask, context=context)
            if index == depth:
                hidden = x
        velocity = (model.final_layer(x, embedded).float() - (noise - latents)).square().mean()
        to_score, to_phones = model.projectors
        score_loss = (1 - F.cosine_similarity(to_score(hidden).float(), score, dim=-1)).mean()
        said = F.normalize(to_phones(hidden).float(), dim=-1)
        phone_loss = (1 - said.gather(-1, phones[..., None])).mean()
        total = velocity + (score_weight * score_loss + phone_weight * phone_loss) / 2
        return torch.stack([total, velocity, score_loss, phone_loss])

    def _lyrics(self, groups: Sequence[Crops], kept: Tensor) -> tuple[Tensor, Tensor]:
        longest = max(group.lyric_ids.shape[1] for group in groups)
        states, masks = [], []
        for group, keep in zip(groups, torch.split(kept, [len(group.latents) for group in groups]), strict=True):
            mask = group.lyric_mask & keep[:, None]
            missing = longest - mask.shape[1]
            states.append(F.pad(self.model.encode_lyrics(group.lyric_ids * mask, mask), (0, 0, 0, missing)))
            masks.append(F.pad(mask, (0, missing)))
        return torch.cat(states), torch.cat(masks)


class Optimizer:
    """Muon on the matrices of the blocks, those of a shape together, and AdamW on the rest; nothing waits for the device.

    Args:
        model: What is trained.
        learning_rate: Of AdamW.
        muon_learning_rate: Of Muon.
    """

    def __init__(self, model: nn.Module, learning_rate: float, muon_learning_rate: float) -> None:
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.parameters = [parameter for _, parameter in trained]
        matrices = [parameter for name, parameter in trained if is_block_matrix(name, parameter)]
        others = [parameter for name, parameter in trained if not is_block_matrix(name, parameter)]
        matrices.sort(key=lambda parameter: tuple(parameter.shape))
        self.groups: list[list[Tensor]] = [
            list(group) for _, group in itertools.groupby(matrices, key=lambda parameter: tuple(parameter.shape))
        ]
        gpu = others[0].is_cuda
        self.rate = torch.zeros((), device=others[0].device)
        self.adamw = torch.optim.AdamW(others, self.rate, betas=(0.9, 0.95), weight_decay=0.01, fused=gpu, capturable=gpu)
        self.learning_rate, self.muon_learning_rate = learning_rate, muon_learning_rate
        self.momenta = [torch.zeros(len(group), *group[0].shape, device=group[0].device) for group in self.groups]

    def forget(self) -> None:
        """Lose all momentum, where it is: a recorded step goes on writing there."""
        for state in [*self.momenta, *(tensor for kept in self.adamw.state.values() for tensor in kept.values())]:
            state.zero_()

    @torch.no_grad()
    def step(self, multiplier: Tensor) -> Tensor:
        """A step under clipped gradients with learning rates times a multiplier; returns the gradients' norm before that."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        torch._foreach_mul_(gradients, (1 / (norm + 1e-6)).clamp_max(1.0))
        self.rate.copy_(self.learning_rate * multiplier)
        self.adamw.step()
        rate = self.muon_learning_rate * multiplier
        for group, momentum in zip(self.groups, self.momenta, strict=True):
            gradient = torch.stack([parameter.grad for parameter in group if parameter.grad is not None])
            momentum.lerp_(gradient, 0.05)
            update = gradient.lerp(momentum, 0.95).flatten(2)
            scale = max(1.0, update.shape[1] / update.shape[2]) ** 0.5
            torch._foreach_mul_(group, 1 - 0.01 * rate)
            torch._foreach_sub_(group, list((rate * scale * orthogonalized(update)).view_as(gradient).unbind()))
        for parameter in self.parameters:
            parameter.grad = None
        return norm


def recorded(step: Callable[[], object], generators: Sequence[torch.Generator]) -> Callable[[], None]:
    """A step as a CUDA graph: what it launched, launched again at once; it reads and writes the same tensors every time.

    Args:
        step: Waits for nothing and leaves nothing behind but in tensors that were there before; it is run three times first.
        generators: Those that it draws from, beside the device's own.
    """
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    return graph.replay


def compile_blocks(model: TrainableTransformer, backend: str) -> None:
    """Compile the blocks that are trained, once for all of a shape."""
    torch._dynamo.config.cache_size_limit = 64
    for block in model.transformer_blocks:
        if any(parameter.requires_grad for parameter in block.parameters()):
            block.compile(dynamic=False, backend=backend)
