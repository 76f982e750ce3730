"""SimpleRL-Zoo: Qwen2.5-7B with GRPO (arXiv 2503.18892, its README and released script).

    r1jax train --config=configs/r1_zero_qwen2_5_7b.py:QUESTIONS --workdir=runs/zoo_7b

Printed there (train_grpo_math_tune_ray.sh, and the README's command for this model): learning rate
5e-7, clip 0.2, k3 KL 1e-4 in the loss (1e-3 above 14B), entropy bonus 1e-3, 8 samples of 1,024
questions in a step, mini-batches of 256 questions (4 updates), temperature 1, prompts of 1,024 and
responses of 8,192 tokens, a reward for the correct answer alone; about 100 steps on 8k questions of
GSM8K and MATH, 15 hours on 16 H100. Result: mean of six benchmarks 40.3 to 55.2, MATH-500 64.6 to
78.2.

Not printed: how the loss is averaged (verl 0.2, which it is built on: over tokens), betas, weight
decay, warm-up and gradient clip. The questions carry the paper's instruction to box the answer.
"""

from ml_collections import ConfigDict


def get_config(questions="simplelr_qwen_level3to5.jsonl"):
    config = ConfigDict()
    config.name = "r1_zero_qwen2_5_7b"
    config.init_from = "Qwen/Qwen2.5-7B"
    config.model = {"dtype": "bfloat16", "remat": "full"}
    config.data = {
        "train": questions,
        "template": "chat",
        "max_prompt_tokens": 1024,
        "too_long": "drop",
    }
    config.rl = {
        "steps": 100,
        "prompts_per_step": 1024,
        "samples_per_prompt": 8,
        "updates_per_step": 4,
    }
    config.objective = {
        "aggregation": "token_mean",
        "clip_low": 0.2,
        "clip_high": 0.2,
        "kl": "k3",
        "kl_coef": 1e-4,
        "entropy_coef": 1e-3,
    }
    config.sampling = {"temperature": 1.0, "max_tokens": 8192}
    config.reward_weights = {"accuracy": 1.0}
    config.optim = {"lr": 5e-7}
    config.mesh = {"fsdp": 16}
    config.eval = {"every": 5, "prompts": 256, "samples": 4, "k": 4}
    config.checkpoint = {"every": 5}
    return config
