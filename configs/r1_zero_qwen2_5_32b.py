"""DeepSeek's own R1-Zero on a small base: Qwen2.5-32B (arXiv 2501.12948 v2, appendix B.4.1).

    r1jax train --config=configs/r1_zero_qwen2_5_32b.py:QUESTIONS --workdir=runs/zero_32b

Printed: learning rate 2e-6, k3 KL 0.001, 16 outputs per question, temperature 1, 32,768 tokens,
batches of 512 outputs; rollouts of 8,192 outputs dealt to 16 mini-batches, each used once; the
reference replaced every 400 batches, here 25 steps of 16; more than 10,000 batches (F.1), here 625
steps. Rewards: accuracy and format, of equal weight (2.2).

Not printed: the clip range (0.2 is the usual one), how the loss is averaged over tokens (as
DeepSeekMath prints it), betas, weight decay, warm-up and gradient clip, the longest prompt. Result
in the paper: 47 on AIME 2024 (as DAPO, 2503.14476, Table 1, quotes it).
"""

from ml_collections import ConfigDict


def get_config(questions="questions.jsonl"):
    config = ConfigDict()
    config.name = "r1_zero_qwen2_5_32b"
    config.init_from = "Qwen/Qwen2.5-32B"
    config.model = {"dtype": "bfloat16", "remat": "full"}
    config.data = {
        "train": questions,
        "template": "r1_zero",
        "max_prompt_tokens": 1024,
        "too_long": "drop",
    }
    config.rl = {
        "steps": 625,
        "prompts_per_step": 512,
        "samples_per_prompt": 16,
        "updates_per_step": 16,
        "reference_every": 25,
    }
    config.objective = {
        "aggregation": "sequence_mean",
        "clip_low": 0.2,
        "clip_high": 0.2,
        "kl": "k3",
        "kl_coef": 0.001,
    }
    config.sampling = {"temperature": 1.0, "max_tokens": 32768}
    config.reward_weights = {"accuracy": 1.0, "format": 1.0}
    config.optim = {"lr": 2e-6}
    config.mesh = {"fsdp": 64}
    config.eval = {"every": 25, "prompts": 128, "samples": 16, "k": 16, "temperature": 0.6}
    config.checkpoint = {"every": 5}
    return config
