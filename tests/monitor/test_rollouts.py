"""The rollout browser: what the page holds of a run, and that a reader can work with it."""

import itertools
import json
import pathlib

import pytest
from browser import find_chromium, opened_browser

from r1jax.monitor.report import write_report
from r1jax.monitor.rollouts import PAGE_BYTES, TEXT_SHOWN, Rollouts, browser_html

EVIL = "</script><script>alert(1)</script><!--<script>\u202egnirts\u2028 👩‍👩‍👧 \x00\ud800"


def record(step: int, prompt_id: int = 0, sample: int = 0, **changes) -> dict:
    return {
        "phase": "rl",
        "step": step,
        "prompt": f"What is {prompt_id} + {step}?",
        "completion": f"It is {prompt_id + step}, sample {sample}.",
        "reward": 1.0 - 0.25 * sample,
        "correct": sample == 0,
        "length": 10 + sample,
        "parts": {"accuracy": float(sample == 0), "format": 1.0},
        "prompt_id": prompt_id,
        "sample": sample,
        "task": "sums",
        "answer": str(prompt_id + step),
        "reference": str(prompt_id + step),
        "valid": True,
        "finished": True,
        "reasoned": False,
        "policy": step,
    } | changes


def kept(records: list[dict], **how) -> Rollouts:
    rollouts = Rollouts(**how)
    assert list(rollouts.watch(records)) == records
    return rollouts


def test_a_page_of_a_short_run_holds_all_of_it():
    rollouts = kept([record(step, p, s) for step in (0, 10) for p in (0, 1) for s in (0, 1, 2)])
    assert rollouts.told() == "All 12 logged completions."
    steps = json.loads(rollouts.data)
    assert [(s["phase"], s["step"]) for s in steps] == [("rl", 0), ("rl", 10)]
    group = steps[1]["groups"][1]
    assert (group["id"], group["prompt"], group["reference"]) == (1, "What is 1 + 10?", "11")
    assert [sample["sample"] for sample in group["samples"]] == [0, 1, 2]
    assert group["samples"][2]["reward"] == 0.5
    assert group["samples"][2]["policy"] == 10


def test_a_log_of_before_there_was_a_browser_can_be_read():
    old = ("phase", "step", "prompt", "completion", "reward", "correct", "length", "parts")
    records = [{name: record(0, 7, s)[name] for name in old} for s in (0, 1)]
    ((group,),) = ([s["groups"] for s in json.loads(kept(records).data)],)
    assert group[0]["id"] is None
    assert [sample["sample"] for sample in group[0]["samples"]] == [0, 1]
    assert [sample["policy"] for sample in group[0]["samples"]] == [None, None]


@pytest.mark.parametrize("count", [3, 64, 1000])
def test_what_does_not_fit_is_thinned_evenly_and_said(count):
    room = 40_000
    text = "x" * 2000
    records = [record(step, 0, s, completion=text) for step in range(count) for s in (0, 1)]
    rollouts = kept(records, page_bytes=room)
    assert len(rollouts.data) < 1.1 * room
    shown = [step["step"] for step in json.loads(rollouts.data)]
    assert (shown[0], shown[-1]) == (0, count - 1)
    gaps = {b - a for a, b in itertools.pairwise(shown[:-1])}
    assert len(gaps) <= 1
    assert all(len(step["groups"][0]["samples"]) == 2 for step in json.loads(rollouts.data))
    if count > 3:
        assert len(shown) > 4
        assert f"{2 * len(shown)} of {2 * count:,} logged completions" in rollouts.told()
        assert f"{len(shown)} of {count:,} logged steps" in rollouts.told()
        assert "0.04 MB" in rollouts.told()


def test_one_step_does_not_take_the_whole_page():
    records = [record(0, p, completion="y" * 2000) for p in range(100)]
    rollouts = kept([*records, record(1)], page_bytes=40_000)
    assert len(rollouts.data) < 15_000
    assert [step["step"] for step in json.loads(rollouts.data)] == [0, 1]
    assert "of 101 logged completions" in rollouts.told()


def test_a_long_line_loses_its_middle_and_the_page_says_so():
    rollouts = kept([record(0, completion="a" * 50_000 + "b" * 50_000), record(0, 1)])
    (step,) = json.loads(rollouts.data)
    text = step["groups"][0]["samples"][0]["completion"]
    assert len(text) < 1.01 * TEXT_SHOWN
    assert "90,000 characters left out" in text
    assert text.endswith("b" * 3000)
    assert rollouts.told().endswith("of 1 the middle of a long text is left out.")


def test_no_text_can_end_the_script_or_break_the_page():
    odd = {"reward": "high", "correct": 1, "length": 2.5, "parts": {EVIL: 10**400}}
    evil = record(0, prompt=EVIL, completion=EVIL, answer=EVIL)
    rollouts = kept([evil, record(0) | odd | {"sample": "x"}, {}])
    html = browser_html(rollouts)
    assert html.count("</script>") == 1
    assert "<!--" not in html
    assert not set(html) & set("\x00\ud800\u2028")
    (step,) = json.loads(rollouts.data)
    assert step["groups"][0]["samples"][0]["completion"].startswith("</script><script>")
    odd_sample = step["groups"][1]["samples"][0]
    assert (odd_sample["reward"], odd_sample["correct"], odd_sample["length"]) == (None,) * 3


def test_no_completions_no_browser():
    assert browser_html(kept([])) == ""


# ---- as a reader sees it -------------------------------------------------------------------------

needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")

SHOWN = "document.querySelector('#rollouts .count').textContent"
TITLE = "document.querySelector('#rollouts .detail h3').textContent"
CURRENT = "document.querySelector('#rollouts [aria-current]').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with opened_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> pathlib.Path:
    """Twelve logged steps of two questions with three samples, and one step of evil texts."""
    workdir = tmp_path_factory.mktemp("run")
    records = [record(10 * i, p, s) for i in range(12) for p in (0, 1) for s in (0, 1, 2)]
    evil = [record(999, 5, s, completion=text) for s, text in enumerate((EVIL, "z" * 100_000))]
    evil.append(record(999, 5, 2, completion="", valid=False, finished=False, reward=None))
    lines = "".join(json.dumps(each) + "\n" for each in [*records, *evil])
    (workdir / "completions.jsonl").write_text(lines)
    metrics = [{"phase": "rl", "step": step, "reward": 1.0} for step in range(5)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    return write_report(workdir)


def set_field(browser, name: str, value: str) -> None:
    browser.js(
        f"(e=>{{e.value={json.dumps(value)};e.dispatchEvent(new Event('input',{{bubbles:true}}))}})"
        f"(document.querySelector('#rollouts [name={name}]'))"
    )


def entries(browser) -> list[str]:
    return browser.js(
        "[...document.querySelectorAll('#rollouts .entry')].map(e=>e.innerText)",
    )


@needs_chromium
def test_filters_orders_and_search(browser, page):
    browser.open(page)
    assert browser.js(SHOWN) == "75 completions"
    assert browser.js(TITLE) == "rl step 999 · question 5 · sums"  # newest first
    for name, value, left in (
        ("step_min", "100", 15),
        ("step_max", "110", 12),
        ("verdict", "right", 4),
        ("reward_max", "0.9", 0),
    ):
        set_field(browser, name, value)
        assert browser.js(SHOWN) == f"{left} of 75 completions"
    assert "No completion fits" in browser.js("document.querySelector('#rollouts').innerText")
    browser.js("document.querySelector('#rollouts [type=reset]').click()")
    browser.js("new Promise(done=>setTimeout(done))")
    for name, value, left in (
        ("verdict", "unjudged", 1),
        ("verdict", "cut", 1),
        ("verdict", "wrong", 49),
        ("length_min", "12", 24),
        ("text", "IT IS 1, sample", 1),
        ("text", "what is 1 + 1", 3),
    ):
        set_field(browser, name, value)
        assert browser.js(SHOWN) == f"{left} of 75 completions", (name, value)
    assert browser.js("document.querySelector('#rollouts mark').textContent") == "What is 1 + 1"
    for name in ("text", "verdict", "length_min"):
        set_field(browser, name, "")
    for order, first in (
        ("oldest", "step 0 reward 1"),
        ("worst", "step 0 reward 0.5"),
        ("longest", "step 0 reward 0.5"),
        ("newest", "step 999"),
    ):
        set_field(browser, "order", order)
        assert first in " ".join(entries(browser)[0].split()), order
    assert browser.errors == []


@needs_chromium
def test_two_samples_of_a_group_side_by_side(browser, page):
    browser.open(page)
    set_field(browser, "order", "oldest")
    browser.js("document.querySelectorAll('#rollouts .siblings button')[2].click()")
    words = "[...document.querySelectorAll('#rollouts .comparison {}')].map(e=>e.textContent)"
    assert browser.js(words.format("h4")) == ["sample 0", "sample 2"]
    assert browser.js(words.format("del")) == ["0"]
    assert browser.js(words.format("ins")) == ["2"]
    texts = browser.js(words.format("pre.completion"))
    assert texts == ["It is 0, sample 0.", "It is 0, sample 2."]
    browser.js("document.querySelectorAll('#rollouts .siblings button')[2].click()")
    assert browser.js(words.format("h4")) == []
    assert browser.errors == []


@needs_chromium
def test_what_is_too_long_to_compare_by_words(browser, tmp_path):
    """By lines then, and if that is too much as well, the page says so at once."""
    lines = "".join(f"{i} is a word and a line, unlike the others.\n" for i in range(200))
    texts = {0: (lines, lines.replace("7 is", "7 was", 1)), 1: ("!\n" * 4000, "?\n" * 4000)}
    records = [record(0, p, s, completion=texts[p][s]) for p in (0, 1) for s in (0, 1)]
    (tmp_path / "completions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"phase": "rl", "step": 0, "reward": 1.0}))
    browser.open(write_report(tmp_path))
    browser.js("document.querySelector('#rollouts .list').focus()")
    browser.press("d")
    assert browser.js("document.querySelector('#rollouts ins').textContent") == "was"
    browser.press("ArrowDown", "ArrowDown", "d")
    assert browser.js("document.querySelector('.comparison .note').textContent") == (
        "Too long to compare: nothing is marked."
    )
    assert browser.js("document.querySelectorAll('#rollouts del').length") == 0
    assert browser.errors == []


@needs_chromium
def test_everything_by_keys(browser, page):
    browser.open(page)
    set_field(browser, "order", "oldest")
    browser.js("document.querySelector('#rollouts .list').focus()")
    browser.press("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp")
    assert (browser.js(TITLE), browser.js(CURRENT)) == (
        "rl step 0 · question 0 · sums",
        "sample 2 · wrong",
    )
    browser.press("]")
    assert browser.js(CURRENT) == "sample 0 · right"
    browser.press("[", "d")
    pair = "[...document.querySelectorAll('#rollouts .comparison h4')].map(e=>e.textContent)"
    assert browser.js(pair) == ["sample 2", "sample 0"]
    browser.press("]")
    assert browser.js(pair) == ["sample 2", "sample 1"]
    browser.press("]")
    assert browser.js(pair) == ["sample 2", "sample 0"]
    browser.press("Escape")
    assert browser.js(pair) == []
    browser.press("End")
    assert browser.js(TITLE) == "rl step 999 · question 5 · sums"
    browser.press("/", "1", "0", "5")
    assert browser.js("document.activeElement.name") == "text"
    assert browser.js(SHOWN) == "0 of 75 completions"
    browser.press("Escape")
    assert browser.js("document.activeElement.className") == "list"
    browser.press("d", "ArrowDown", "]")
    assert browser.errors == []


@needs_chromium
def test_evil_texts_are_texts_and_nothing_is_fetched(browser, page):
    browser.open(page)
    text = "document.querySelector('#rollouts .completion').textContent"
    assert browser.js(text) == EVIL.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert browser.js("document.querySelectorAll('script').length") == browser.js(
        "document.querySelectorAll('script[type]').length + 1"
    )
    browser.js("document.querySelector('#rollouts .list').focus()")
    browser.press("d")
    assert "Too long" not in browser.js("document.querySelector('#rollouts').innerText")
    browser.press("Escape", "ArrowDown")
    assert "characters left out" in browser.js(text)
    for width in (390, 820, 1280):
        browser.open(page, width=width)
        browser.js("document.querySelector('#rollouts .list').focus()")
        browser.press("d")
        assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.errors == []
    assert browser.fetched == [page.resolve().as_uri()]
    assert page.stat().st_size < PAGE_BYTES
