"""A Hugging Face folder and a file of questions in, a trained Hugging Face folder out."""

import errno
import json
import shutil

import jax
import numpy as np
import pytest

pytest.importorskip("transformers")

from helpers import kept_compiles
from hf_folder import make_folder
from runs import assert_same_run, records

from r1jax import mesh as mesh_lib
from r1jax import models
from r1jax.cli import convert, main
from r1jax.config import from_config_dict, to_dict
from r1jax.data.hf_tokenizer import load_tokenizer
from r1jax.models.hf import files
from r1jax.training.load import initial_params, save_base
from r1jax.training.setup import fresh_params, make_setup
from r1jax.training.workdir import write_json

CONFIG = """
def get_config(argument):
    model, questions = argument.split(",")
    return {
        "name": "from_hf",
        "init_from": model,
        "data": {"train": questions, "template": "r1_zero", "max_prompt_tokens": 400,
                 "held_out": 0.25},
        "rl": {"steps": 12, "prompts_per_step": 2, "samples_per_prompt": 2},
        "objective": {"kl": "k3", "kl_coef": 0.01},
        "sampling": {"max_tokens": 6},
        "reward": "random",  # a tiny random model earns nothing else
        "optim": {"lr": 1e-3},
        "mesh": {"data": 1},
        "eval": {"prompts": 64, "samples": 2, "k": 2},
        "checkpoint": {"every": 1},
        "logging": {"completions_every": 1},
    }
"""


class Setting:
    """A checkpoint, questions, and the `r1jax` command on them, in this process."""

    def __init__(self, folder, capsys):
        self.model, self.questions = folder / "model", folder / "questions.jsonl"
        self._config, self._capsys = folder / "from_hf.py", capsys

    def __call__(self, *arguments):
        """(exit code, standard output, standard error)"""
        code = main.main([str(argument) for argument in arguments])
        return code, *self._capsys.readouterr()

    def done(self, *arguments):
        code, out, err = self(*arguments)
        assert code == 0, err
        return out

    def train(self, workdir, *flags):
        """The arguments of a training run."""
        config = f"--config={self._config}:{self.model},{self.questions}"
        return ["train", config, f"--workdir={workdir}", *flags]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("from_hf")
    (folder / "from_hf.py").write_text(CONFIG)
    make_folder(folder / "model", dtype="bfloat16")
    lines = [{"question": f"What is {i} + 2?", "answer": str(i + 2)} for i in range(8)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "questions.jsonl").write_text(text)
    with kept_compiles(folder / "compiled"):
        yield folder


@pytest.fixture
def r1jax(folder, capsys):
    return Setting(folder, capsys)


@pytest.mark.slow
def test_from_a_folder_of_the_hub_to_a_folder_of_the_hub(r1jax, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    said = r1jax.done(*r1jax.train(run, "--config.rl.steps=2"))
    assert "data: 6 questions to train on, 2 held out" in said
    said = r1jax.done(*r1jax.train(run, "--config.rl.steps=3"))
    assert "rl goes on at step 2 of 3" in said

    printed = json.loads(r1jax.done("evaluate", run))
    summary = json.loads((run / "summary.json").read_text())["after"]
    assert {key: printed[key] for key in summary} == summary

    asked = r1jax.done("sample", run, "--prompt=What is 1 + 2?", "--show_prompt")
    assert asked.startswith("question: A conversation between User and Assistant.")
    assert "User: What is 1 + 2?. Assistant:" in asked

    r1jax.done("convert", run, f"--out={out}", "--dtype=bfloat16")
    before, after = files.open_folder(r1jax.model), files.open_folder(out)
    assert set(before) == set(after)
    assert any(before[n].array().tobytes() != after[n].array().tobytes() for n in before)
    assert {path.name for path in r1jax.model.iterdir()} == {path.name for path in out.iterdir()}
    assert len(load_tokenizer(out)) == len(load_tokenizer(r1jax.model))

    # Another run starts where this one ended.
    r1jax.done(*r1jax.train(tmp_path / "second", f"--init_from={run}", "--config.rl.steps=1"))
    begun = json.loads((tmp_path / "second" / "summary.json").read_text())["before"]
    assert {key: begun[key] for key in summary if key != "step"} == {
        key: summary[key] for key in summary if key != "step"
    }


@pytest.mark.slow
def test_with_its_checkpoint_gone_a_policy_can_still_be_read(r1jax, tmp_path):
    """All that is not in the run's own checkpoints lies in its start/."""
    moved, run, out = tmp_path / "elsewhere", tmp_path / "run", tmp_path / "out"
    shutil.copytree(r1jax.model, moved)
    r1jax.done(*r1jax.train(run, f"--init_from={moved}", "--config.rl.steps=1"))
    shutil.rmtree(moved)
    r1jax.done("convert", run, f"--out={out}")
    _, params = models.load(out)
    # The learning rate moves a weight by so much at most.
    _, start = models.load(r1jax.model, dtype="float32")
    moves = [abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (params, start)), strict=True)]
    assert 0 < max(moves) < 2e-3
    # It goes on from where its checkpoint is now, but from no other, and with no other questions.
    other = make_folder(tmp_path / "other", seed=1)
    code, _, err = r1jax(*r1jax.train(run, f"--init_from={other}"))
    assert code == 2
    assert "the weights are not those that this run started with" in err
    changed = tmp_path / "questions.jsonl"
    changed.write_text(r1jax.questions.read_text().replace("What", "what", 1))
    code, _, err = r1jax(*r1jax.train(run, f"--config.data.train={changed}"))
    assert code == 2
    assert "the questions are not those" in err
    r1jax.done(*r1jax.train(run, "--config.rl.steps=2"))


@pytest.mark.slow
def test_stopped_and_resumed_is_the_same_run(r1jax, tmp_path):
    r1jax.done(*r1jax.train(tmp_path / "whole"))
    for steps in (3, 7, 12):
        r1jax.done(*r1jax.train(tmp_path / "parts", f"--config.rl.steps={steps}"))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_bfloat16_compute_trains_float32_weights(r1jax, tmp_path):
    flags = ["--config.model.dtype=bfloat16", "--config.model.remat=full", "--config.rl.steps=1"]
    r1jax.done(*r1jax.train(tmp_path / "run", *flags))
    (line,) = [line for line in records(tmp_path / "run") if line["phase"] == "rl"]
    assert np.isfinite(line["loss"])
    # Sampler and trainer differ by bfloat16's rounding and no more.
    assert line["sampling/sampling_logp_difference/mean"] < 0.02
    r1jax.done("convert", tmp_path / "run", f"--out={tmp_path / 'out'}")
    _, params = models.load(tmp_path / "out")
    kernel = params["layers"]["block"]["gate"]
    assert kernel.dtype == np.float32
    assert (kernel != kernel.astype("bfloat16").astype("float32")).any()


MISTAKES = {
    ("--config.data.max_prompt_tokens=8",): "its prompt has",
    ("--config.model.layers=3",): "the checkpoint of config.init_from decides",
    ("--init_from=nowhere/at/all",): "no such folder",
    ("--config.data.train=nowhere.jsonl",): "no such file of questions",
    ("--config.pretrain.steps=3",): "config.init_from has a trained model",
    ("--config.data.held_out=1.5",): "must lie between 0 and 1",
    ("--config.data.template=symbolic",): "must be one of r1_zero",
}


@pytest.mark.slow
def test_adapters_are_trained_saved_and_exported_beside_a_frozen_base(r1jax, tmp_path):
    run, moved = tmp_path / "run", tmp_path / "moved"
    flags = ["--config.lora.rank=2", "--config.lora.targets=('query', 'down')"]
    shutil.copytree(r1jax.model, moved)
    r1jax.done(*r1jax.train(run, f"--init_from={moved}", "--config.rl.steps=1", *flags))
    r1jax.done(*r1jax.train(run, f"--init_from={moved}", "--config.rl.steps=2", *flags))
    (line,) = [line for line in records(run) if line["phase"] == "rl" and line["step"] == 1]
    assert line["kl"] > 0  # the base is the reference
    assert line["sampling/sampling_logp_difference/max"] < 1e-5

    printed = json.loads(r1jax.done("evaluate", run))
    summary = json.loads((run / "summary.json").read_text())["after"]
    assert {key: printed[key] for key in summary} == summary

    r1jax.done("convert", run, f"--out={tmp_path / 'merged'}")
    r1jax.done("convert", run, f"--out={tmp_path / 'adapter'}", "--adapter")
    merged = files.open_folder(tmp_path / "merged")
    adapter = files.read_header(tmp_path / "adapter" / "adapter_model.safetensors")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["down_proj", "q_proj"]
    assert settings["base_model_name_or_path"] == str(moved)
    for name, tensor in files.open_folder(r1jax.model).items():
        change = merged[name].array() - np.float32(tensor.array())
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in adapter:
            low, high = (adapter[f"{stem}.lora_{end}.weight"].array() for end in "AB")
            np.testing.assert_allclose(change, 32 / 2 * high @ low, atol=1e-6)
            assert abs(change).max() > 1e-4
        else:
            assert not change.any()
    # The base is not in the run: another one, or none, cannot be taken for it.
    shutil.rmtree(moved)
    assert "no such folder" in r1jax("evaluate", run)[2]
    make_folder(moved, seed=1)
    assert "the weights are not those" in r1jax("evaluate", run)[2]


def test_both_ways_between_the_hub_s_form_and_orbax(r1jax, tmp_path):
    there, back = tmp_path / "there", tmp_path / "back"
    assert f"--init_from={there}" in r1jax.done("convert", r1jax.model, f"--out={there}")
    r1jax.done("convert", there, f"--out={back}", "--base", "--dtype=bfloat16")
    before, after = files.open_folder(r1jax.model), files.open_folder(back)
    assert set(before) == set(after)
    for name in before:
        assert before[name].array().tobytes() == after[name].array().tobytes()
    assert {path.name for path in r1jax.model.iterdir()} == {path.name for path in back.iterdir()}


@pytest.mark.slow
def test_a_run_starts_from_either_form_the_same(r1jax, tmp_path):
    there, flags = tmp_path / "there", ("--config.rl.steps=2",)
    r1jax.done("convert", r1jax.model, f"--out={there}")
    r1jax.done(*r1jax.train(tmp_path / "a", *flags))
    r1jax.done(*r1jax.train(tmp_path / "b", f"--init_from={there}", *flags))
    assert records(tmp_path / "a") == records(tmp_path / "b")


def test_parameters_of_a_run_come_onto_the_devices_of_the_one_that_starts(tmp_path):
    model = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "ffn": 32}
    config = from_config_dict({"model": model, "mesh": {"data": 1}})
    write_json(tmp_path / "config.json", to_dict(config))
    setup = make_setup(config)
    with mesh_lib.use(setup.mesh):
        before = fresh_params(setup)
        save_base(before, tmp_path)
    setup = make_setup(
        from_config_dict({"init_from": str(tmp_path), "mesh": {"data": 1, "expert": 2}})
    )
    with mesh_lib.use(setup.mesh):
        params = initial_params(setup)
    assert all(
        leaf.sharding.device_set == {*setup.mesh.devices.flat} for leaf in jax.tree.leaves(params)
    )
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_a_full_disk_leaves_no_half_workdir(r1jax, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(convert, "save_base", full)
    code, _, err = r1jax("convert", r1jax.model, f"--out={tmp_path / 'out'}")
    assert code == 2
    assert "nothing was saved: the disk is full" in err
    assert not list(tmp_path.iterdir())


def test_a_question_that_nobody_judges_is_named_before_the_first_step(r1jax, tmp_path):
    path = tmp_path / "odd.jsonl"
    lines = [
        {"question": f"q{i}", "task": "dance" if i else "math", "answer": "1"} for i in range(2)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, err = r1jax(*r1jax.train(tmp_path / "run", f"--config.data.train={path}"))
    assert code == 2
    assert f"{path}:2: task 'dance'" in err


@pytest.mark.parametrize("flags", MISTAKES, ids=" ".join)
def test_what_does_not_fit_together_is_one_line(r1jax, tmp_path, flags):
    code, _, err = r1jax(*r1jax.train(tmp_path / "run", *flags))
    assert code == 2
    (line,) = err.strip().splitlines()
    assert MISTAKES[flags] in line


@pytest.mark.slow
def test_a_mixture_with_rewards_of_its_own_goes_on_exactly(r1jax, tmp_path):
    other = tmp_path / "letters.jsonl"
    lines = [
        {
            "question": f"Which? A {i} B {i + 1}",
            "options": [i, i + 1],
            "answer": "A",
            "task": "choice",
        }
        for i in range(6)
    ]
    other.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = [
        "--config.data.train=",
        f"--config.data.mix={ {str(r1jax.questions): 1, str(other): 3} }",
        "--config.data.curriculum=priority",
        "--config.reward=rules",
        "--config.task_rewards={'choice': {'accuracy': 2.0, 'soft_overlong': 1.0}}",
        "--config.grading.settings.soft_overlong.max_len=6",
        "--config.grading.settings.soft_overlong.cache=5",
    ]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    r1jax.done(*r1jax.train(whole, *flags))
    lines = [line for line in records(whole) if line["phase"] == "rl"]
    shares = [line["tasks/choice/share"] for line in lines]
    assert 0.5 < np.mean(shares) < 1
    assert all(
        line["tasks/choice/accuracy"] is None for line in lines if not line["tasks/choice/share"]
    )
    punished = [line["tasks/choice/reward"] for line in lines]
    assert any(reward is not None and reward < 0 for reward in punished)
    assert all(line["tasks/math/reward"] in (None, 0) for line in lines)
    books = json.loads((whole / "checkpoints/rl/12/run/metadata").read_text())
    assert len(books["rates"]) > 6  # of both files
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints/rl/12")
    assert "rl goes on at step 11" in r1jax.done(*r1jax.train(cut, *flags))
    assert_same_run(cut, whole)
    code, _, err = r1jax(*r1jax.train(cut, *flags, "--config.data.train=x.jsonl"))
    assert code == 2
    assert "data.mix names the questions; leave one of them out" in err
