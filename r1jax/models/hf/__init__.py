"""Hugging Face checkpoints in and out: `config` maps fields, `names` tensors, `files` bytes."""
