"""How well a checkpoint that was trained on the corpus makes music: figures beside real songs and wrong pairings. See docs/quality.md."""
