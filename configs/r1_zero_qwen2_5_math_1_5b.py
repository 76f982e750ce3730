"""Oat-Zero on Qwen2.5-Math-1.5B: r1_zero_qwen2_5_math_7b with a smaller model and other questions.

    r1jax train --config=configs/r1_zero_qwen2_5_math_1_5b.py:QUESTIONS --workdir=runs/oat_zero

Dr. GRPO (arXiv 2503.20783); the script, examples/qwen2.5-math-1.5b.sh, takes 20 epochs of the 12k
questions of MATH, 128 in a step: 1,875 steps. Its result is in a figure only.
"""

import r1_zero_qwen2_5_math_7b


def get_config(questions="math_12k.jsonl"):
    config = r1_zero_qwen2_5_math_7b.get_config(questions)
    config.name = "r1_zero_qwen2_5_math_1_5b"
    config.init_from = "Qwen/Qwen2.5-Math-1.5B"
    config.update({"rl": {"steps": 1875}})
    return config
