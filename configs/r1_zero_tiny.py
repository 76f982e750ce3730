"""R1-Zero in miniature: running sum mod 10, from random weights to reasoning, on two CPU cores.

A base model learns a corpus in which 8 answers in 100 work out the partial sums and the others
answer at once, mostly wrong. Then reinforcement learning with rule rewards alone.

    r1jax train --config=configs/r1_zero_tiny.py --workdir=runs/r1_zero_tiny

The control, which must stay flat: add --config.reward=random and another --workdir.
"""

from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.name = "r1_zero_tiny"
    config.model = {
        "layers": 2,
        "width": 64,
        "heads": 4,
        "kv_heads": 4,
        "head_dim": 16,
        "ffn": 128,
        "qk_norm": True,
    }
    config.data = {"task": "running_sum", "max_prompt_tokens": 9}
    config.pretrain = {"steps": 2000, "reasoning_share": 0.08}
    config.rl = {
        "steps": 80,
        "prompts_per_step": 64,
        "samples_per_prompt": 16,
        "updates_per_step": 2,
    }
    # GRPO as printed: the mean over each response first, k3 KL to the base in the loss, with
    # R1-Zero's 0.001 (arXiv 2501.12948); its clip range is not printed, 0.2 is the usual one.
    config.objective = {
        "aggregation": "sequence_mean",
        "clip_low": 0.2,
        "clip_high": 0.2,
        "kl": "k3",
        "kl_coef": 0.001,
    }
    config.sampling = {"max_tokens": 16}
    config.optim = {"lr": 3e-4}
    config.batch = {"tokens_per_device": 1024}
    return config
