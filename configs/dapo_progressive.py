"""DAPO's Table 1 (arXiv 2503.14476) on mini-Countdown: its parts one after the other.

    r1jax train --config=configs/dapo_progressive.py:RUNG --workdir=runs/RUNG
    r1jax train --config=configs/dapo_progressive.py:RUNG,BASE --workdir=runs/RUNG
    python benchmarks/dapo_progressive.py --seeds=0,1,2          # all rungs, and the table

RUNG, each with all of those before it, and what the paper measured (Qwen2.5-32B, AIME24 avg@32):

    naive            GRPO: mean over each response first, clip 0.2     30
    overlong_filter  responses that were cut are not in the loss      36
    clip_higher      clip 0.2 / 0.28                                  38
    soft_punishment  over the last fifth of the length                41
    token_loss       mean over all tokens                             42
    dynamic_sampling groups of mixed answers only                     50

BASE is a workdir whose base model to take (`naive` with --config.rl.steps=0 makes one), so that
the rungs of a seed share theirs. No rung has a KL term; whether the paper's naive rung had one is
not printed. The paper makes 16 updates of 512 x 16 samples, here 8 of 32 x 16; rewards +1 and -1
are here 2 and 0, which are the same differences. The learning rate is for a model of this size.
"""

from ml_collections import ConfigDict

RUNGS = (
    "naive",
    "overlong_filter",
    "clip_higher",
    "soft_punishment",
    "token_loss",
    "dynamic_sampling",
)
LONGEST = 64  # tokens of a response: four attempts of twelve and the answer


def get_config(argument="dynamic_sampling"):
    rung, _, base = argument.partition(",")
    if rung not in RUNGS:
        raise ValueError(f"no rung {rung!r}; there are {', '.join(RUNGS)}")
    parts = RUNGS[1 : RUNGS.index(rung) + 1]
    config = ConfigDict()
    config.name = "dapo_progressive"
    config.data = {"task": "countdown", "max_prompt_tokens": 6}
    if base:
        config.init_from = base
    else:
        config.model = {
            "layers": 2,
            "width": 64,
            "heads": 4,
            "kv_heads": 4,
            "head_dim": 16,
            "ffn": 128,
            "qk_norm": True,
        }
        config.pretrain = {"steps": 1500, "documents_per_step": 256, "reasoning_share": 1.0}
    config.rl = {
        "steps": 200,
        "prompts_per_step": 32,
        "samples_per_prompt": 16,
        "updates_per_step": 8,
        "mask_cut": "overlong_filter" in parts,
        "dynamic": {"mode": "refill" if "dynamic_sampling" in parts else "off"},
    }
    config.objective = {
        "aggregation": "token_mean" if "token_loss" in parts else "sequence_mean",
        "clip_low": 0.2,
        "clip_high": 0.28 if "clip_higher" in parts else 0.2,
    }
    config.reward_weights = {"accuracy": 2.0}
    if "soft_punishment" in parts:
        config.reward_weights = {"accuracy": 2.0, "soft_overlong": 1.0}
        config.grading = {"settings": {"soft_overlong": {"max_len": LONGEST, "cache": 12}}}
    config.sampling = {"max_tokens": LONGEST}
    config.optim = {"lr": 3e-4}
    # The base's corpus has texts of five attempts, longer than what a response may become.
    config.batch = {"tokens_per_device": 1024, "row_length": 80}
    config.eval = {"every": 20, "prompts": 128, "samples": 32, "k": 8}  # the paper: avg@32
    config.checkpoint = {"every": 20}
    return config
