"""The network of the diffusion stage: torch and this folder only."""
