"""DAPO in miniature: r1_zero_tiny with clip-higher, token mean and no KL.

The clip bounds are the paper's (arXiv 2503.14476, section 4.1). Dynamic sampling and the soft
overlong punishment are not part of this config.

    r1jax train --config=configs/dapo_tiny.py --workdir=runs/dapo_tiny
"""

import r1_zero_tiny


def get_config():
    config = r1_zero_tiny.get_config()
    config.name = "dapo_tiny"
    config.objective = {"clip_low": 0.2, "clip_high": 0.28, "aggregation": "token_mean"}
    return config
