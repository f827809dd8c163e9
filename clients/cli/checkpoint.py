"""The checkpoint that comes with the package: small, of the official architecture, trained by this project's trainer."""

from pathlib import Path

EMBEDDED_CHECKPOINT = Path(__file__).resolve().parents[1] / "checkpoint"
"""Folder in the official layout; its README.md is the model card, its sampling.json says what it is best sampled with."""
