"""The DeepSeek-R1 and DAPO recipes as pure JAX functions."""

__version__ = "0.1.0"
