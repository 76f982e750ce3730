"""`python -m r1jax` is the `r1jax` command."""

from r1jax.cli.main import run

run()
