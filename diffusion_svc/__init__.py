"""Conditioning and seeds to latents: what runs once per step."""
