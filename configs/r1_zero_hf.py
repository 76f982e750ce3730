"""R1-Zero on a real base model and a file of questions.

    r1jax train --config=configs/r1_zero_hf.py:MODEL,QUESTIONS --workdir=runs/zero

MODEL is a Hugging Face folder or hub id; QUESTIONS a file of JSON lines, each with "question" and
"answer" (docs/data.md: what else can be named). One question in ten is held out to measure on.

What the paper prints for R1-Zero (arXiv 2501.12948): template, accuracy and format rewards of equal
weight, 32 questions of 16 samples each, temperature 1, k3 KL 0.001; for Zero-Qwen-32B the learning
rate 2e-6. Its lengths, 32,768 and more, are for a pod: here 1,024. Its clip range is not printed;
with one update for each rollout no ratio leaves 1.
"""

from ml_collections import ConfigDict


def get_config(argument="Qwen/Qwen2.5-0.5B,questions.jsonl"):
    model, _, questions = argument.partition(",")
    config = ConfigDict()
    config.name = "r1_zero_hf"
    config.init_from = model
    config.model = {"dtype": "bfloat16", "remat": "full"}
    config.data = {
        "train": questions,
        "template": "r1_zero",
        "max_prompt_tokens": 512,
        "too_long": "drop",
    }
    config.rl = {"steps": 200, "prompts_per_step": 32, "samples_per_prompt": 16}
    config.objective = {"aggregation": "sequence_mean", "kl": "k3", "kl_coef": 0.001}
    config.sampling = {"max_tokens": 1024}
    config.reward_weights = {"accuracy": 1.0, "format": 1.0}
    config.optim = {"lr": 2e-6}
    config.batch = {"tokens_per_device": 8192}
    config.eval = {"prompts": 128, "samples": 4, "k": 4}
    config.checkpoint = {"every": 20}
    return config
