"""DAPO in miniature (arXiv 2503.14476): r1_zero_tiny's model and task, with all of its parts.

Clip-higher 0.2 / 0.28, token mean, no KL, rewards +1 and -1 (here 2 and 0: the same differences),
overlong filter, soft overlong punishment over the last fifth of the length, dynamic sampling. The
paper makes 16 updates of a step's 8,192 samples (section 4.1); here 2 of 1,024. What a step began
beyond the groups it wanted goes on in the next one.

    r1jax train --config=configs/dapo_tiny.py --workdir=runs/dapo_tiny
"""

import r1_zero_tiny


def get_config():
    config = r1_zero_tiny.get_config()
    config.name = "dapo_tiny"
    config.update({"rl": {"mask_cut": True, "dynamic": {"mode": "refill", "carry": True}}})
    config.objective = {"clip_low": 0.2, "clip_high": 0.28, "aggregation": "token_mean"}
    config.reward_weights = {"accuracy": 2.0, "soft_overlong": 1.0}
    # Working all eight digits out takes 13 tokens of the 16.
    config.grading = {"settings": {"soft_overlong": {"max_len": 16, "cache": 3}}}
    return config
