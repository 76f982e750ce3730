"""Packaging only; tool settings are in pyproject.toml.

Lower bounds are the oldest versions the tests have passed with; what has none has not been tried
at an older version. There are no upper bounds.
"""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "r1jax/__init__.py").read_text()).group(1)

CORE = [
    "jax>=0.10.2",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "numpy>=2.0",
    "absl-py>=2.5",
    "ml_collections>=1.1",
    "jaxtyping>=0.3.11",
    "mpmath>=1.3",
]
HF = ["transformers>=5.23", "huggingface_hub>=2.4", "jinja2"]
FILES = ["pyarrow", "array_record"]
TEST = ["pytest>=9.0", "beartype>=0.23", "hypothesis>=6.150", "pytest-xdist>=3.8"]

setup(
    name="r1jax",
    version=VERSION,
    description="The DeepSeek-R1 and DAPO recipes as pure JAX functions.",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["r1jax", "r1jax.*"]),
    package_data={"r1jax": ["py.typed", "monitor/rollouts.*s"]},
    install_requires=CORE,
    extras_require={
        "test": TEST,
        "dev": [*TEST, *HF, *FILES, "ruff>=0.17", "pyright>=1.1.414", "pre-commit"],
        "tpu": ["jax[tpu]>=0.10.2"],
        "cuda": ["jax[cuda13]>=0.10.2"],
        "hf": HF,
        "data": [*FILES, "datasets", "tensorflow-datasets"],
        "rewards": ["lingua-language-detector>=2.1.1", "reasoning-gym>=0.1.25"],
        "oracle": ["torch>=2.13", "transformers>=5.12", "trl>=1.16", "omegaconf>=2.3"],
        "notebooks": ["jupyterlab", "nbclient", "matplotlib"],
        "tensorboard": ["tensorboardX>=2.6.5"],
        "wandb": ["wandb"],
    },
    entry_points={"console_scripts": ["r1jax = r1jax.cli.main:run"]},
)
