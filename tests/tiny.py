"""Tiny random networks for tests. Seeded, so that a failure repeats."""

import torch

from diffusion_svc.model.config import TransformerConfig
from diffusion_svc.model.transformer import Transformer
from diffusion_svc.sampler import Sampler, SamplingRequest
from diffusion_svc.sampling.guidance import CfgType, GuidanceParams
from diffusion_svc.sampling.params import SamplingParams, SchedulerType
from diffusion_svc.tasks import ConditionStates, TaskSpec, TextToMusic

TEXT_WIDTH, LYRIC_WIDTH = 12, 20


def transformer(num_layers: int = 2, seed: int = 0, heads: int = 2) -> Transformer:
    config = TransformerConfig(
        num_layers=num_layers,
        attention_head_dim=8,
        num_attention_heads=heads,
        mlp_ratio=2.5,
        max_position=4096,
        text_embedding_dim=TEXT_WIDTH,
        lyric_hidden_size=LYRIC_WIDTH,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Transformer(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.requires_grad_(False).eval()


def conditions(seed: int = 0, text_tokens: int = 3, lyric_tokens: int = 5) -> ConditionStates:
    generator = torch.Generator().manual_seed(seed)

    def draw(tokens: int, width: int) -> torch.Tensor:
        return torch.randn(tokens, width, generator=generator)

    return ConditionStates(
        text=draw(text_tokens, TEXT_WIDTH),
        lyrics=draw(lyric_tokens, LYRIC_WIDTH),
        lyric_mask=torch.ones(lyric_tokens, dtype=torch.bool),
        null_text=draw(text_tokens, TEXT_WIDTH),
        null_lyrics=draw(lyric_tokens, LYRIC_WIDTH),
    )


def guidance_params(
    guidance_scale: float = 4.0,
    cfg_type: CfgType = CfgType.APG,
    guidance_interval: float = 0.5,
    guidance_interval_decay: float = 0.0,
    min_guidance_scale: float = 3.0,
    guidance_scale_text: float = 0.0,
    guidance_scale_lyric: float = 0.0,
) -> GuidanceParams:
    return GuidanceParams(
        guidance_scale, cfg_type, guidance_interval, guidance_interval_decay, min_guidance_scale, guidance_scale_text, guidance_scale_lyric
    )


def sampling_params(
    infer_step: int = 4,
    scheduler_type: SchedulerType = SchedulerType.EULER,
    guidance: GuidanceParams | None = None,
    oss_steps: tuple[int, ...] = (),
) -> SamplingParams:
    return SamplingParams(infer_step, scheduler_type, 10.0, oss_steps, guidance or guidance_params(), use_erg_diffusion=True)


def sampling_request(
    seeds: tuple[int, ...] = (1,),
    num_frames: int = 9,
    params: SamplingParams | None = None,
    states: ConditionStates | None = None,
    task: TaskSpec | None = None,
) -> SamplingRequest:
    return SamplingRequest(states or conditions(), params or sampling_params(), seeds, task or TextToMusic(num_frames))


def latents(num_frames: int = 9, seed: int = 100) -> torch.Tensor:
    return torch.randn(8, 16, num_frames, generator=torch.Generator().manual_seed(seed))


def sample(request: SamplingRequest, sampler: Sampler | None = None) -> list[torch.Tensor]:
    """Run a request to its end."""
    sampler = sampler or Sampler(transformer())
    songs = sampler.start(request)
    while waiting := [song for song in songs if song.pending]:
        sampler.tick(waiting)
    return [song.result for song in songs]
