"""The `r1jax` command."""
