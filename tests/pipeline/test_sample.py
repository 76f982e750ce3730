"""`r1jax sample` on a checkpoint: templates, streams, a conversation."""

import io
import re

import pytest

pytest.importorskip("transformers")

from helpers import kept_compiles
from hf_folder import make_folder

from r1jax.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled")
    make_folder(folder / "model")
    with kept_compiles(folder / "compiled"):
        yield folder / "model"


def ask(capsys, model, *flags):
    assert main.main(["sample", f"--model={model}", "--max_tokens=9", *flags]) == 0
    return capsys.readouterr()


def test_answers_and_their_speed(model, capsys):
    flags = ["--prompt=What is 1 + 2?", "--samples=2", "--template=raw", "--temperature=0.7"]
    said = ask(capsys, model, *flags)
    assert said.out.startswith("question: What is 1 + 2?\n  ")
    assert re.fullmatch(r"\d+ tokens; [\d.]+ tokens/s after the first of each answer\n", said.err)
    assert ask(capsys, model, *flags).out == said.out
    assert ask(capsys, model, *flags, "--seed=1").out != said.out
    both = ask(capsys, model, "--prompt=a", *flags).out
    assert both.startswith("question: a\n  ")
    greedy = [
        ask(capsys, model, *flags, f"--seed={seed}", "--temperature=0").out for seed in (0, 1)
    ]
    assert greedy[0] == greedy[1]


def test_the_chat_template_is_what_an_instructed_model_gets(model, capsys):
    pytest.importorskip("jinja2")
    said = ask(capsys, model, "--prompt=hi", "--show_prompt", "--system=Be short.")
    assert said.out.startswith(
        "question: <|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_conversation_ends_with_the_input(model, capsys, monkeypatch):
    pytest.importorskip("jinja2")
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n\nand then?\n"))
    said = ask(capsys, model, "--chat", "--show_prompt", "--temperature=0")
    first, second = said.out.split("<|im_start|>user\nand then?")
    answer = first.split("assistant\n")[1].split("\n> ")[0]
    assert answer.strip()
    # What it said is part of what it reads next.
    assert "<|im_start|>assistant\n" + answer.strip()[:3] in first.rpartition("> ")[2]
    assert second.endswith("\n> \n")


MISTAKES = {
    (): "give --prompt=QUESTION, or --chat",
    ("--prompt=a", "--base"): "--base and --step are for a run's folder",
    ("--prompt=a", "--step=3"): "--base and --step are for a run's folder",
    ("--prompt=a", "--top_p=0"): "top_p=0.0: must be in (0, 1]",
    ("--prompt=a", "--samples=0"): "must be 1 or more",
    ("--prompt=", "--template=raw"): "a prompt needs a token",
    ("--prompt=a", "another"): "give one folder",
}


@pytest.mark.parametrize("flags", MISTAKES, ids=" ".join)
def test_what_cannot_be_asked_is_one_line(model, capsys, flags):
    assert main.main(["sample", f"--model={model}", *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert MISTAKES[flags] in line
