"""SimpleRL-Zoo on Llama-3.1-8B: r1_zero_qwen2_5_7b with another model, prompt and questions.

    r1jax train --config=configs/r1_zero_llama3_1_8b.py:QUESTIONS --workdir=runs/zoo_llama

arXiv 2503.18892: the same command for every model up to 14B, easy questions (GSM8K and MATH level
1) and the plain prompt for a base model that does not follow a chat template. That prompt is part
of the questions here (template "raw"). Result: mean of six benchmarks 10.6 to 22.0, GSM8K 39.7 to
79.2. Numbers of this model's own run: not found.
"""

import r1_zero_qwen2_5_7b


def get_config(questions="simplelr_abel_level1.jsonl"):
    config = r1_zero_qwen2_5_7b.get_config(questions)
    config.name = "r1_zero_llama3_1_8b"
    config.init_from = "meta-llama/Llama-3.1-8B"
    config.update({"data": {"template": "raw"}})
    return config
