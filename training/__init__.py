"""Makes checkpoints."""
