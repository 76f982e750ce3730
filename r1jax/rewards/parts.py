"""The parts that a reward can be made of, by name.

A part is a function of one sample, `part(sample, *, settings…)`, or of all samples of one prompt,
`part(samples, *, settings…)`, which gives a list. The name of the first parameter says which. A
value of None masks the sample. A name with a colon is the import path of somebody's own part.
"""

import functools
import hashlib
import importlib
import inspect
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from r1jax.errors import UserError
from r1jax.rewards import format as response_format
from r1jax.rewards import judge as judge_lib
from r1jax.rewards import language as language_lib
from r1jax.rewards import length, repetition, scores
from r1jax.rewards.judge import client
from r1jax.rewards.language import latin
from r1jax.rewards.samples import Sample

Part = Callable[..., Any]


def accuracy(sample: Sample) -> float | None:
    """What the item's verifier says: 1 or 0, a share of tests where code is set to give one."""
    return sample.accuracy.score


def in_format(sample: Sample) -> float:
    """R1's tags. Empty thoughts are in form where the prompt opened them.

    Only correctness may make reasoning worth its length.
    """
    return response_format.r1_format(
        sample.text,
        opened_by_prompt=sample.opened_by_prompt,
        empty_thoughts=sample.opened_by_prompt,
    )


def coin(sample: Sample) -> float:
    """A coin that knows nothing of the text: the control every learning claim needs."""
    digest = hashlib.blake2b(repr(sample.key).encode(), digest_size=1).digest()
    return float(digest[0] & 1)


def language(
    sample: Sample,
    *,
    target: str,
    form: Literal["hardened", "ratio"] = "hardened",
    neutral: float | None = None,
    lingua: Sequence[str] = (),
) -> float | None:
    """Language consistency of the thoughts; `neutral` where there is too little to judge.

    `lingua` names the languages that may occur, and has lingua tell them apart.
    """
    if form not in ("hardened", "ratio"):
        raise ValueError(f"form={form!r}: must be hardened or ratio")
    detector = _lingua(tuple(lingua)) if lingua else latin.detect
    prompt = str(sample.item.get("question", "")) if form == "hardened" else ""
    report = language_lib.report(sample.text, target, prompt=prompt, detector=detector)
    value = report.hardened if form == "hardened" else report.ratio
    return neutral if value is None else value


@functools.cache
def _lingua(languages: tuple[str, ...]) -> latin.Detector:
    try:
        return latin.lingua_detector(languages)
    except ImportError as error:
        raise UserError(
            "grading.settings.language.lingua: pip install lingua-language-detector"
        ) from error
    except AttributeError as error:
        raise ValueError(f"lingua={list(languages)}: {error}") from error


def soft_overlong(sample: Sample, *, max_len: int, cache: int) -> float:
    return length.soft_overlong(sample.n_tokens, max_len, cache)


def overlong_filter(sample: Sample, *, punishment: float | None = None) -> float | None:
    """0 for a finished response; a cut one is masked, or punished."""
    return length.overlong_filter(0.0, truncated=not sample.finished, punishment=punishment)


def cosine(sample: Sample, *, max_len: int, **values: Any) -> float:
    return length.cosine(sample.n_tokens, max_len, sample.correct, **values)


def kimi_length(samples: Sequence[Sample]) -> list[float]:
    return length.kimi([s.n_tokens for s in samples], [s.correct for s in samples])


def repetitions(sample: Sample, **settings: Any) -> float:
    return repetition.penalty(sample.tokens, **settings)


def judge(
    sample: Sample, *, url: str, model: str, judgements: int = 1, **endpoint: Any
) -> float | None:
    """The share of a judging model's replies that find the answer equal to the reference.

    Asked in the background while the response waits to be graded; see `ask_judge`.
    """
    del url, model, judgements, endpoint
    return sample.judged["judge"].score


def helpful(samples: Sequence[Sample], *, scorer: str) -> list[float | None]:
    """A reward model's scores of the final summaries; `scorer` is an import path."""
    prompts, responses = _pairs(samples)
    return scores.helpfulness(_scorer(scorer), prompts, responses)


def safe(samples: Sequence[Sample], *, scorer: str) -> list[float | None]:
    """A reward model's scores of the whole responses; `scorer` is an import path."""
    prompts, responses = _pairs(samples)
    return scores.safety(_scorer(scorer), prompts, responses)


def _scorer(path: str) -> scores.Scorer:
    return load_function(path, "grading.settings, scorer")


def _pairs(samples: Sequence[Sample]) -> tuple[list[str], list[str]]:
    return [str(s.item.get("question", "")) for s in samples], [s.text for s in samples]


PARTS: Mapping[str, Part] = {
    "accuracy": accuracy,
    "format": in_format,
    "random": coin,
    "language": language,
    "soft_overlong": soft_overlong,
    "overlong_filter": overlong_filter,
    "cosine": cosine,
    "kimi_length": kimi_length,
    "repetition": repetitions,
    "judge": judge,
    "helpful": helpful,
    "safe": safe,
}


@functools.lru_cache(maxsize=64)
def chat_of(url: str, model: str, **endpoint: Any) -> client.HttpChat:
    """One client for each endpoint of this process, so that its rate limit holds for all."""
    if endpoint.get("cache_dir"):
        endpoint["cache_dir"] = pathlib.Path(endpoint["cache_dir"])
    return client.HttpChat(client.Endpoint(url, model, **endpoint))


def ask_judge(
    sample: Sample, *, url: str, model: str, judgements: int = 1, **endpoint: Any
) -> float | None:
    """The judge sees the final summary, not the thoughts. Slow: for threads."""
    return judge_lib.correctness(
        chat_of(url, model, **endpoint),
        str(sample.item.get("question", "")),
        str(sample.item["answer"]),
        scores.final_summary(sample.text) or sample.text,
        judgements=judgements,
    )


def is_custom(name: str) -> bool:
    return ":" in name


@functools.cache
def load_function(path: str, what: str = "reward_weights") -> Callable[..., Any]:
    """The function at package.module:function, or a UserError that says what is missing."""
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{what}: {path}: cannot import {module_name} ({type(error).__name__}: {reason}); it "
            "must be installed, or its folder be in PYTHONPATH"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{what}: {path}: {module_name} has no function {name!r}")
    return function


def find(name: str) -> Part:
    if is_custom(name):
        return load_function(name)
    if name not in PARTS:
        raise UserError(
            f"reward_weights: unknown part {name}; known: {', '.join(PARTS)}, "
            "or package.module:function"
        )
    return PARTS[name]


@functools.cache
def of_group(part: Part) -> bool:
    """Whether it wants all samples of a prompt at once."""
    return next(iter(inspect.signature(part).parameters), "") == "samples"


def check(name: str, settings: Mapping[str, Any]) -> None:
    """A UserError of one line where the part cannot be called with these settings."""
    part = find(name)
    try:
        signature = inspect.signature(part)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"reward_weights: {name}: its signature cannot be read ({error})"
        ) from error
    first = next(iter(signature.parameters.values()), None)
    if (
        first is None
        or first.name not in ("sample", "samples")
        or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD)
    ):
        raise UserError(
            f"reward_weights: {name}{signature}: its first parameter must be `sample` (one "
            "response) or `samples` (all of a prompt's, for a list of values)"
        )
    try:
        signature.bind(None, **settings)
    except TypeError as error:
        raise UserError(
            f"grading.settings.{name}: {error}; it is called as {name}{signature}"
        ) from error
    if is_custom(name):
        return
    try:
        _try_out(name, part, settings)
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"grading.settings.{name}: {reason}") from error


def check_steps(name: str, settings: Mapping[str, Any]) -> None:
    """A UserError where this cannot be a function that rewards the steps of a sample."""
    if not is_custom(name) or of_group(find(name)):
        raise UserError(
            f"grading.steps={name!r}: must be package.module:function, a function of `sample` that "
            "gives [(characters up to the end of a step, its reward), ...]"
        )
    check(name, settings)


def _try_out(name: str, part: Part, settings: Mapping[str, Any]) -> None:
    """Once on an empty response, so that a wrong value shows at the start and not at step 1."""
    if name == "judge":
        chat_of(**{k: v for k, v in settings.items() if k != "judgements"})
    elif name in ("helpful", "safe"):
        _scorer(settings["scorer"])
    elif of_group(part):
        part([Sample("", {})], **settings)
    else:
        part(Sample("", {}), **settings)
