"""The tiny tasks: right answers are right, the corpus is what it claims, streams do not repeat."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.data.tasks import TASKS, documents_at, item_at, make_task
from r1jax.data.tasks.countdown import evaluate
from r1jax.data.tasks.countdown import is_correct as countdown_is_correct
from r1jax.data.templates import render
from r1jax.rewards.format import read


@pytest.fixture(params=sorted(TASKS))
def task(request):
    return make_task(request.param)


def corpus(task, count, share, seed=0):
    return documents_at(task, seed=seed, index=0, count=count, reasoning_share=share)


def split(document):
    prompt, response = document
    assert response.endswith("<eos>")
    return prompt, read(response.removesuffix("<eos>"), opened_by_prompt=True)


def test_every_document_is_in_form_and_survives_the_tokenizer(task):
    tokenizer = task.tokenizer()
    for prompt, response in corpus(task, 200, 0.5):
        ids = tokenizer.encode(prompt + response)
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.encode(tokenizer.decode(ids)) == ids
        assert split((prompt, response))[1] is not None


def test_the_share_that_reasons_is_the_share_asked_for(task):
    parts = [split(document)[1] for document in corpus(task, 4000, 0.1)]
    share = np.mean([bool(part.thoughts) for part in parts])
    assert share == pytest.approx(0.1, abs=0.025)  # five standard errors


@pytest.mark.parametrize("name", ["running_sum", "parity"])
def test_worked_out_answers_are_right_and_guesses_are_luck(name):
    task = make_task(name)
    rng = np.random.default_rng(0)
    worked = guessed = 0
    for _ in range(3000):
        item = task.draw(rng)
        worked += task.is_correct(task.working(item, rng)[1], item)
        guessed += task.is_correct(task.guess(item, rng), item)
    chance = {"running_sum": 0.1, "parity": 0.5}[name]
    assert worked == 3000
    assert guessed / 3000 == pytest.approx(chance, abs=0.05)


def test_a_chain_is_the_partial_sums():
    task = make_task("running_sum")
    chain, answer = task.working({"question": "31415926", "answer": "1"}, np.random.default_rng(0))
    assert (chain, answer) == ("34894351", "1")


def test_countdown_attempts_check_themselves_honestly():
    task = make_task("countdown")
    rng = np.random.default_rng(0)
    solved = 0
    for _ in range(500):
        item = task.draw(rng)
        thoughts, answer = task.working(item, rng)
        right = task.is_correct(answer, item)
        assert thoughts.endswith("OK" if right else "NO")
        assert thoughts.count("OK") == int(right)
        for step in thoughts.replace("OK", ",").replace("NO", ",").split(","):
            if step.strip():
                left, _, result = step.partition("=")
                assert evaluate(left)[0] == int(result)
        solved += right
    assert 0.05 < solved / 500 < 0.4


def test_items_depend_on_their_place_only(task):
    first = [item_at(task, seed=0, split="train", index=i) for i in range(20)]
    again = [item_at(task, seed=0, split="train", index=i) for i in reversed(range(20))]
    assert first == again[::-1]
    for other in ({"seed": 1, "split": "train"}, {"seed": 0, "split": "eval"}):
        assert first != [item_at(task, **other, index=i) for i in range(20)]


def test_sizes(task):
    small = make_task(task.name, 4)
    item = small.draw(np.random.default_rng(0))
    assert len(item.get("numbers", item["question"])) == 4


def test_countdown_accepts_any_right_way_and_nothing_else():
    item = {"numbers": [2, 3, 3], "target": 12}
    for right in ["( 3 + 3 ) * 2", "2*(3+3)", "(3+3)*2"]:
        assert countdown_is_correct(right, item)
    wrong = [
        "",
        "12",
        "6*2",
        "2*3*3",
        "(3+3)*2*1",
        "2**3",
        "3+3*2",
        "(3+3)*2 #",
        "__import__('os')",
    ]
    wrong += ["(3+3)*2.0", "(3+3)×2", "(" * 100, "9**9**9**9", "3 3 2", "-3+3+12", "(3+3)*2\x00"]
    for answer in wrong:
        assert not countdown_is_correct(answer, item), answer


@given(st.text(alphabet="0123456789+-*() .ex", max_size=40))
def test_countdown_never_raises_and_agrees_with_arithmetic(text):
    got = evaluate(text)
    if got is not None:
        value, used = got
        assert value == eval(text.strip(), {"__builtins__": {}})
        assert all(isinstance(number, int) for number in used)


def test_templates_put_the_question_where_it_belongs():
    assert render("symbols", "123") == "123<think>"
    prompt = render("r1_zero", "What is {1+1}?")
    assert prompt.endswith("User: What is {1+1}?. Assistant:")
    assert prompt.startswith("A conversation between User and Assistant.")


def test_an_unknown_symbol_is_named():
    with pytest.raises(ValueError, match="'z'"):
        make_task("running_sum").tokenizer().encode("12z")


def test_decoding_drops_special_tokens_only_when_asked():
    tokenizer = make_task("running_sum").tokenizer()
    ids = tokenizer.encode("1</think>2<eos>")
    assert tokenizer.decode(ids) == "1</think>2<eos>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "1</think>2"
