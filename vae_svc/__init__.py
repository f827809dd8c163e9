"""Audio to latents and latents to audio, with the vocoder."""
