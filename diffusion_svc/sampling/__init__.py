"""Algorithms of sampling: schedules, solvers, guidance and tasks. They know latents and velocities, no batch and no network."""
