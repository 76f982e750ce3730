"""Updates, loops, checkpoints."""
