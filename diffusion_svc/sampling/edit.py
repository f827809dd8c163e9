"""Another style or other words on the same song: flow edit.

Source: Kulikov et al., FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained Flow Models, 2024.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_svc.sampling.denoising import Evaluation, Task
from diffusion_svc.sampling.estimates import NO_ESTIMATES, Estimates
from diffusion_svc.sampling.guidance import Branch, MomentumBuffer, apg
from diffusion_svc.sampling.params import SamplingParams, SchedulerType
from diffusion_svc.sampling.schedule import Schedule
from diffusion_svc.sampling.solvers import Euler, NoiseSource, PingPong


@dataclass(frozen=True)
class EditWindow:
    """Which part of the schedule an edit follows the source in.

    Attributes:
        n_min: Share of the schedule to skip, 0 to 1.
        n_max: Share up to which the edit follows the source, n_min to 1; after it the target alone decides.
        n_avg: Draws of noise averaged a step, at least 1.
    """

    n_min: float
    n_max: float
    n_avg: int


def edit(
    params: SamplingParams,
    schedule: Schedule,
    source: Tensor,
    window: EditWindow,
    noise: NoiseSource,
    estimates: Estimates = NO_ESTIMATES,
) -> Task:
    """Carry a song from one prompt to another.

    Both prompts are guided by APG at every step, each against its own null condition. The source's velocity has momentum, the target's only
    after the window: kept for equal results.

    Args:
        params: Of the request; of its guidance only the scale counts. Ping-pong acts after the window only: in it, the latents have no
            noise that could be drawn afresh.
        schedule: Plain, whatever the solver.
        source: Latents of the song, [8, 16, T] float32.
        window: Where to follow the source.
        noise: The song's own noise.
        estimates: What to take on the way; as long as the source is followed, the result if it were followed to the end.
    """
    scale = params.guidance.guidance_scale
    guided = params.guidance.active
    source_branches = (Branch.FULL, Branch.NULL) if guided else (Branch.FULL,)
    target_branches = (Branch.TARGET, Branch.TARGET_NULL) if guided else (Branch.TARGET,)
    source_momentum, target_momentum = MomentumBuffer(), MomentumBuffer()
    num_steps = len(schedule.timesteps)
    first, switch = int(num_steps * window.n_min), int(num_steps * window.n_max)

    latents = source
    for index in range(first, switch):  # move by the difference of the two flows
        sigma = schedule.sigmas[index]
        evaluations: list[Evaluation] = []
        for _ in range(window.n_avg):
            noisy_source = (1 - sigma) * source + sigma * noise()
            noisy_target = noisy_source + (latents - source)
            evaluations += [Evaluation(noisy_source, index, branch) for branch in source_branches]
            evaluations += [Evaluation(noisy_target, index, branch) for branch in target_branches]
        answers = iter((yield evaluations))
        difference = torch.zeros_like(latents)
        for _ in range(window.n_avg):
            source_velocity = _guide([next(answers) for _ in source_branches], scale, source_momentum)
            target_velocity = _guide([next(answers) for _ in target_branches], scale, None)
            difference = difference + (target_velocity - source_velocity) / window.n_avg
        if estimates.wants(index):
            estimates.take(index, latents - sigma * difference)
        latents = latents + (schedule.sigmas[index + 1] - sigma) * difference

    if switch < num_steps:  # back up to the noise level of the switch, and down under the target alone
        sigma = schedule.sigmas[switch]
        latents = latents + sigma * (noise() - source)
        solver = PingPong(schedule, noise) if params.scheduler_type is SchedulerType.PINGPONG else Euler(schedule, omega_scale=0.0)
        for index in range(switch, num_steps):
            velocities = yield [Evaluation(latents, index, branch) for branch in target_branches]
            velocity = _guide(velocities, scale, target_momentum)
            if estimates.wants(index):
                estimates.take(index, solver.estimate(latents, velocity, index))
            latents = solver.step(latents, velocity, index)
    return latents


def _guide(velocities: Sequence[Tensor], scale: float, momentum: MomentumBuffer | None) -> Tensor:
    """One velocity is as it is; the second of two is that of the null condition."""
    full, *null = velocities
    return apg(full, null[0], scale, momentum) if null else full
