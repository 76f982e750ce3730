"""A run's policy as a Hugging Face folder: the same weights, wherever they are read."""

import jax
import numpy as np
import pytest

from r1jax import models
from r1jax.cli import main
from r1jax.training.load import load_policy


@pytest.mark.parametrize("base", [False, True])
def test_what_is_exported_is_what_the_run_holds(whole_run, base, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--base"] if base else ["--nobase"]
    assert main.main(["convert", str(whole_run), f"--out={out}", *flags]) == 0
    assert f"{out}: step {20 if base else 12} of" in capsys.readouterr().out
    setup, wanted, _ = load_policy(whole_run, base=base, overrides={})
    module, params = models.load(out)
    jax.tree.map(np.testing.assert_array_equal, params, wanted)
    assert module.config.vocab_size == setup.module.config.vocab_size


def test_an_export_needs_a_place(whole_run, tmp_path, capsys):
    assert main.main(["convert", str(whole_run), "--out="]) == 2
    assert "--out" in capsys.readouterr().err
    assert main.main(["convert", str(whole_run), f"--out={whole_run}"]) == 2
    assert "is there already" in capsys.readouterr().err
