"""PPO in miniature: r1_zero_tiny's model and task, with a critic instead of groups.

One response to each prompt. The critic starts as the base with a value head, learns alone for some
steps (VC-PPO, VAPO), then with the policy. GAE with gamma = lambda = 1 (arXiv 2501.12948, A.3); the
KL to the base is taken from the rewards, as InstructGPT has it (arXiv 2203.02155).

    r1jax train --config=configs/ppo_tiny.py --workdir=runs/ppo_tiny
"""

import r1_zero_tiny


def get_config():
    config = r1_zero_tiny.get_config()
    config.name = "ppo_tiny"
    config.update({"rl": {"advantage": "gae", "prompts_per_step": 1024, "samples_per_prompt": 1}})
    config.objective = {"kl": "k1", "kl_coef": 0.001, "kl_in_reward": True}
    config.critic = {"pretrain_steps": 5, "optim": {"lr": 1e-3}}
    return config
