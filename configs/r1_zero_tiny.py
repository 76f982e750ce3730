"""R1-Zero in miniature: running sum mod 10, from random weights to reasoning, on two CPU cores.

A base model learns a corpus in which one answer in ten works out the partial sums and the others
answer at once, mostly wrong. Then reinforcement learning with rule rewards alone.

    r1jax train --config=configs/r1_zero_tiny.py --workdir=runs/r1_zero_tiny

The control, which must stay flat: add --config.reward=random and another --workdir.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "name": "r1_zero_tiny",
            "model": {
                "layers": 2,
                "width": 64,
                "heads": 4,
                "kv_heads": 4,
                "head_dim": 16,
                "ffn": 128,
            },
            "data": {"task": "running_sum", "max_prompt_tokens": 9},
            "pretrain": {"steps": 900},
            "rl": {
                "steps": 50,
                "prompts_per_step": 32,
                "samples_per_prompt": 16,
                "updates_per_step": 2,
            },
            "sampling": {"max_tokens": 16},
            "optim": {"lr": 5e-4},
            "batch": {"tokens_per_device": 1024},
        }
    )
