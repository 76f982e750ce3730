"""Named recipes: the choice of a paper or a framework on every axis, and its numbers.

presets.get("dapo")       the PolicyObjective
presets.lookup("dapo")    also the advantage, the numbers with their sources, and notes
presets.describe("dapo")  all of it in words
"""

import inspect

from r1jax.objectives import advantages
from r1jax.objectives.policy import PolicyObjective
from r1jax.objectives.recipes import PRESETS, Preset

ALIASES = {"grpo_paper": "deepseekmath_outcome", "trl": "trl_1_16", "verl": "verl_0_9"}


def lookup(name: str) -> Preset:
    """The preset of that name or alias."""
    try:
        return PRESETS[ALIASES.get(name, name)]
    except KeyError:
        raise ValueError(f"no preset {name!r}: there are {', '.join(PRESETS)}") from None


def get(name: str) -> PolicyObjective:
    """The objective of that name; `dataclasses.replace` changes single choices."""
    return lookup(name).objective


RATIO = {
    "token": "pi / pi_old of each token",
    "sequence": "geometric mean of the sequence's token ratios (GSPO)",
    "sequence_token": "the sequence's geometric mean, with the token's gradient (GSPO-token)",
}
SURROGATE = {
    "clip": "min(r A, clip(r) A)",
    "cispo": "sg(clip(r)) A log pi: clipped tokens keep their gradient",
    "sapo": "A sigmoid(tau (r - 1)) 4 / tau: no bounds",
    "reinforce": "A log pi",
}
AGGREGATION = {
    "token_mean": "sum over tokens / all counted tokens of the step",
    "sequence_mean": "mean of the sequences' token means, over sequences with counted tokens",
    "prompt_mean": "mean over prompts of (sum over the group's tokens / the group's tokens)",
    "constant": "sum over tokens / (sequences * constant_length)",
}
KL = {
    "none": "none in the loss",
    "k1": "k1 in the loss",
    "k2": "k2 in the loss",
    "k3": "k3 in the loss",
    "k3_unbiased": "k3 times the token's ratio, in the loss",
}
CORRECTION = {
    "none": "none",
    "tis": "token weights, truncated",
    "icepop": "token weights, 0 outside the band",
    "sequence_mask": "token weights, 0 for sequences whose geometric mean is outside the band",
    "sequence_product_tis": "weight of the whole sequence, truncated",
    "sequence_product_mask": "weight of the whole sequence, 0 outside the band",
}


ADVANTAGE = {
    "group_normalized": "(r - mean of the group) / ({scale} + {eps:g}), ddof {ddof}",
    "rloo": "r - mean of the group's other rewards",
    "max_rl": "(r - mean of the group) / mean of the group",
    "process_sum": "sum over the steps that end here or later of (r - mean) / (deviation + "
    "{eps:g}), ddof {ddof}, of all the group's steps",
    "reinforce_pp": "return to go with gamma {gamma:g}, whitened over the step's tokens",
    "reinforce_pp_baseline": "r - mean of the group, then (x - mean) / sqrt(variance + {eps:g}) "
    "over the step",
    "gae": "GAE of a critic's values, gamma {gamma:g}, lambda {lam}",
}
SCALE = {"std": "deviation of the group", "batch_std": "deviation of the step's rewards"}
SAMPLING_MASK = {
    False: "not kept: log-probs over the whole vocabulary",
    True: "kept: log-probs over what the sampler's top-k and top-p left",
}


def advantage_in_words(preset: Preset) -> tuple[str, list[str]]:
    """The formula with its numbers, and which of these are nobody's but the function's defaults."""
    function, options = preset.advantage
    if options.get("scale") == "none":
        return "r - mean of the group", []
    parameters = inspect.signature(getattr(advantages, function)).parameters
    values = {name: p.default for name, p in parameters.items()} | dict(options)
    words = ADVANTAGE[function]
    unsaid = [n for n in ("eps", "ddof") if f"{{{n}" in words and n not in options]
    values["scale"] = SCALE.get(values.get("scale", ""))
    return words.format(**values), [f"advantage {n}" for n in unsaid]


def choices(objective: PolicyObjective) -> dict[str, str]:
    """Every semantic choice of an objective in words, by axis."""
    low, high = objective.clip_low, objective.clip_high
    lines = {"ratio": RATIO[objective.ratio], "surrogate": SURROGATE[objective.surrogate]}
    if objective.surrogate == "reinforce":
        lines["ratio"] = "not used"
    if objective.surrogate in ("clip", "cispo"):
        below = "0" if low is None else f"{max(1 - low, 0):g}" + (" (never)" if low >= 1 else "")
        above = "no bound" if high is None else f"{1 + high:g}"
        lines["clip"] = f"below {below}, above {above}"
    if objective.surrogate == "clip":
        c = objective.dual_clip
        lines["dual clip"] = "none" if c is None else f"for A < 0 the ratio counts up to {c:g}"
    if objective.surrogate == "sapo":
        lines["tau"] = "{:g} for A >= 0, {:g} for A < 0".format(*objective.sapo_tau)
    lines["aggregation"] = AGGREGATION[objective.aggregation]
    if objective.constant_length is not None:
        lines["constant_length"] = f"{objective.constant_length} tokens"
    lines["kl"] = KL["none" if objective.kl_in_reward else objective.kl]
    if objective.kl != "none":
        where = "of kl in rewards: " if objective.kl_in_reward else ""
        off = "" if objective.needs_reference else ": off"
        lines["kl_coef"] = f"{where}{objective.kl_coef}{off}"
    lines["correction"] = CORRECTION[objective.correction]
    if objective.correction != "none":
        bounds = objective.correction_low, objective.correction_high
        lines["correction band"] = "{} to {}".format(*bounds)
    if objective.off_policy_delta is not None:
        lines["off-policy mask"] = (
            f"no sequence with A < 0 that drifted over {objective.off_policy_delta:g} nats a token"
        )
    lines["entropy bonus"] = f"{objective.entropy_coef}"
    return lines


def describe(name: str) -> str:
    """The preset in words: every choice, what was assumed, every number with its source."""
    preset = lookup(name)
    advantage, unsaid = advantage_in_words(preset)
    rows = {
        **choices(preset.objective),
        "kl in rewards": preset.reward_kl,
        "sampling mask": SAMPLING_MASK[preset.keep_sampling_mask],
        "advantage": advantage,
        "": f"= advantages.{preset.advantage[0]}",
    }
    lines = [f"{name}: {preset.source}", ""]
    lines += [f"  {axis:<16} {words}" for axis, words in rows.items()]
    if preset.assumed or unsaid:
        lines += ["", f"Not printed, r1jax's choice: {', '.join([*preset.assumed, *unsaid])}"]
    if preset.numbers:
        lines += ["", "Numbers and where they are printed:"]
        lines += [
            f"  {key:<24} {value}  {source}" for key, (value, source) in preset.numbers.items()
        ]
    return "\n".join([*lines, *(f"\n{note}" for note in preset.notes)])
