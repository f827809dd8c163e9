"""Training of the small checkpoint on one GPU, on songs that are played meanwhile."""
