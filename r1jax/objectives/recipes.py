"""The recipes of papers and frameworks as data: see presets.py.

A number that nobody printed is None. Where the objective cannot do without one, `assumed` names the
fields that carry r1jax's choice. Sources: `[x]` is a section or table of the paper, "settings" the
experimental settings it reports, anything else the code or configuration that it was read in.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from r1jax.objectives.policy import PolicyObjective

Numbers = Mapping[str, tuple[Any, str]]


@dataclasses.dataclass(frozen=True)
class Preset:
    """A recipe. `advantage` names a function of advantages.py and its keyword arguments.

    `reward_kl` is the KL that is subtracted from rewards; `keep_sampling_mask` says that log-probs
    are of the truncated policy that was sampled from.
    """

    source: str
    objective: PolicyObjective
    advantage: tuple[str, Mapping[str, Any]]
    numbers: Numbers = dataclasses.field(default_factory=dict)
    reward_kl: str = "none"
    keep_sampling_mask: bool = False
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


GROUP_STD = ("group_normalized", {"scale": "std"})
CENTRED = ("group_normalized", {"scale": "none"})
BATCH_STD = ("group_normalized", {"scale": "batch_std"})

SECOND_HAND = "The formula was read in notes and code about the paper, not in the paper."

R1 = PolicyObjective(
    aggregation="sequence_mean", clip_low=10.0, clip_high=10.0, kl="k3", kl_coef=0.001
)
R1_NUMBERS = {
    "learning_rate": (3e-6, "[2.1, 3.2.1]"),
    "kl_coef": (0.001, "[2.1, 3.2.1]"),
    "samples_per_prompt": (16, "[2.1, 3.2.1]"),
    "prompts_per_step": (32, "[2.1, 3.2.1]"),
    "outputs_per_rollout": (8192, "[2.1]: 16 mini-batches, one epoch"),
    "reference_refresh_steps": (400, "[2.1, 3.2.1]"),
    "max_length": (32768, "[3.2.1]"),
    "temperature": (1.0, "[2.1, 3.2.1]"),
    "optimizer": (None, "not printed, nor weight decay, warm-up and gradient clip"),
    "advantage_eps": (None, "not printed, nor ddof"),
}
R1_NOTES = (
    "The paper prints the sequence's ratio and no average over tokens; DeepSeekMath, by the same "
    "group, prints this token form. What the code does is not printed.",
    "Rewards: accuracy + format, equal weight; from stage 1 on + language consistency.",
)
MATH = PolicyObjective(aggregation="sequence_mean", kl="k3", kl_coef=0.04)
MATH_NUMBERS = {
    "learning_rate": (1e-6, "[4.2]"),
    "kl_coef": (0.04, "[4.2]"),
    "samples_per_prompt": (64, "[4.2]"),
    "max_length": (1024, "[4.2]"),
    "batch_size": (1024, "[4.2], unit not printed"),
    "updates_per_step": (1, "[4.2]"),
    "clip": (None, "not printed"),
    "temperature": (None, "not printed"),
}
DAPO = PolicyObjective(clip_low=0.2, clip_high=0.28)
DAPO_NUMBERS = {
    "clip": ((0.2, 0.28), "[4.1]"),
    "learning_rate": (1e-6, "[4.1], constant AdamW"),
    "warm_up_steps": (20, "[4.1], rollout steps; the released script has 10"),
    "prompts_per_step": (512, "[4.1]"),
    "samples_per_prompt": (16, "[4.1]"),
    "updates_per_step": (16, "[4.1]: mini-batches of 512 samples"),
    "max_response": (20480, "[4.1]: 16384 + 4096 of soft punishment"),
    "temperature": (1.0, "released script"),
    "kl_coef": (0.0, "[2.3]"),
}
DAPO_NOTES = (
    "Dynamic sampling: prompts whose samples are all right or all wrong are sampled anew.",
    "Overlong: truncated samples are masked, or punished softly over the last 4096 tokens.",
    "Rewards are +1 and -1.",
)

PRESETS: dict[str, Preset] = {
    "r1_zero": Preset(
        "DeepSeek-R1-Zero, 2501.12948 v2",
        dataclasses.replace(R1, clip_low=0.2, clip_high=0.2),
        GROUP_STD,
        {
            **R1_NUMBERS,
            "max_length": (32768, "[2.1]; 65536 after step 8200"),
            "steps": (10400, "[2.1], = 1.6 epochs"),
            "clip": (None, "not printed"),
        },
        assumed=("clip_low", "clip_high", "ratio", "aggregation"),
        notes=R1_NOTES,
    ),
    "r1_stage1": Preset(
        "DeepSeek-R1, first RL stage, 2501.12948 v2",
        R1,
        GROUP_STD,
        {**R1_NUMBERS, "clip": (10.0, "[3.2.1]"), "steps": (None, "not printed")},
        assumed=("ratio", "aggregation"),
        notes=(*R1_NOTES, "With eps = 10 only ratios above 11 with A > 0 are ever clipped."),
    ),
    "r1_stage2": Preset(
        "DeepSeek-R1, second RL stage, 2501.12948 v2",
        R1,
        GROUP_STD,
        {
            **R1_NUMBERS,
            "temperature": (0.7, "[3.2.2]: higher is incoherent"),
            "steps": (1700, "[3.2.2]: preference rewards in the last 400 only"),
            "clip": (10.0, "[3.2.2]: as stage 1"),
        },
        assumed=("ratio", "aggregation"),
        notes=R1_NOTES,
    ),
    "deepseekmath_outcome": Preset(
        "DeepSeekMath GRPO, outcome supervision, 2402.03300 v3 eq. 3",
        MATH,
        GROUP_STD,
        MATH_NUMBERS,
        assumed=("clip_low", "clip_high"),
    ),
    "deepseekmath_process": Preset(
        "DeepSeekMath GRPO, process supervision, 2402.03300 v3 [4.1.3]",
        MATH,
        ("process_sum", {}),
        MATH_NUMBERS,
        assumed=("clip_low", "clip_high"),
    ),
    "dapo": Preset(
        "DAPO, 2503.14476 v2, with the token mean over the step of its released code",
        DAPO,
        GROUP_STD,
        DAPO_NUMBERS,
        notes=(*DAPO_NOTES, "The paper prints a mean per prompt: `dapo_paper`."),
    ),
    "dapo_paper": Preset(
        "DAPO as printed, 2503.14476 v2 eq. 8",
        dataclasses.replace(DAPO, aggregation="prompt_mean"),
        GROUP_STD,
        DAPO_NUMBERS,
        notes=DAPO_NOTES,
    ),
    "dr_grpo": Preset(
        "Dr. GRPO, 2503.20783",
        PolicyObjective(aggregation="constant", constant_length=3000),
        CENTRED,
        {
            "clip": (0.2, "settings table"),
            "kl_coef": (0.0, "settings table"),
            "learning_rate": (1e-6, "constant AdamW (.9, .95), no weight decay, clip 1"),
            "samples_per_prompt": (8, "settings table"),
            "temperature": (1.0, "settings table"),
            "max_response": (3000, "settings table; constant_length"),
        },
        notes=("constant_length is the longest response: set it to yours.",),
    ),
    "rloo": Preset(
        "RLOO, 2402.14740",
        PolicyObjective(surrogate="reinforce", aggregation="constant", constant_length=1),
        ("rloo", {}),
        reward_kl="k1 of the whole response, coefficient 0.03",
        numbers={
            "learning_rate": (1e-6, "settings"),
            "kl_coef": (0.03, "settings; in the reward"),
            "samples_per_prompt": ((2, 4), "settings"),
            "batch_size": (512, "settings"),
        },
        notes=("The response is one action: its log-prob is the sum over tokens, hence length 1.",),
    ),
    "reinforce_pp": Preset(
        "REINFORCE++, 2501.03262",
        PolicyObjective(),
        ("reinforce_pp", {"gamma": 1.0}),
        reward_kl="k1 at every token, coefficient 0.01",
        numbers={
            "kl_coef": (0.01, "slime, Relax: k1 in the reward"),
            "gamma": (1.0, "slime, Relax"),
            "clip": (None, "not found"),
        },
        assumed=("clip_low", "clip_high", "aggregation"),
    ),
    "reinforce_pp_baseline": Preset(
        "REINFORCE++-baseline, 2501.03262",
        PolicyObjective(kl="k2", kl_coef=0.01),
        ("reinforce_pp_baseline", {}),
        {
            "kl_coef": (0.01, "slime, Relax: k2 in the loss"),
            "samples_per_prompt": (8, "slime, Relax"),
            "clip": (None, "not found"),
        },
        assumed=("clip_low", "clip_high", "aggregation"),
    ),
    "lite_ppo": Preset(
        "Lite PPO, 2508.08221",
        PolicyObjective(),
        BATCH_STD,
        {
            "learning_rate": (1e-6, "settings"),
            "prompts_per_step": (128, "settings"),
            "samples_per_prompt": (8, "settings"),
            "max_length": (8192, "settings"),
            "temperature": (0.99, "settings"),
            "top_p": (0.99, "settings"),
            "top_k": (100, "settings"),
            "clip": (None, "'vanilla PPO clip'; clip-higher .28 to .32 helps aligned models"),
        },
        assumed=("clip_low", "clip_high"),
        notes=("Token mean is for base models; aligned ones did better with the sequence mean.",),
    ),
    "gspo": Preset(
        "GSPO, 2507.18071",
        PolicyObjective(
            ratio="sequence", clip_low=3e-4, clip_high=4e-4, aggregation="sequence_mean"
        ),
        GROUP_STD,
        {
            "clip": ((3e-4, 4e-4), "settings"),
            "kl_coef": (0.0, "settings"),
            "updates_per_step": (4, "settings"),
        },
        notes=("GSPO-token, for advantages that differ by token: ratio='sequence_token'.",),
    ),
    "cispo": Preset(
        "CISPO, MiniMax-M1 2506.13585",
        PolicyObjective(surrogate="cispo", clip_low=None, clip_high=4.0),
        GROUP_STD,
        {
            "clip_high": (None, "not found; ScaleRL saw no difference between caps 4, 5 and 8"),
            "adam": ((0.9, 0.95, 1e-15), "betas and eps"),
            "samples_per_prompt": (None, "not found"),
        },
        assumed=("clip_high",),
        notes=("The cap on the ratio is 1 + clip_high = 5, TRL's recommendation.", SECOND_HAND),
    ),
    "scale_rl": Preset(
        "ScaleRL, 2510.13786",
        PolicyObjective(surrogate="cispo", clip_low=None, clip_high=4.0, aggregation="prompt_mean"),
        BATCH_STD,
        {
            "cap": ((4, 8), "ablation: 4, 5 and 8 equal; TRL uses 5"),
            "prompts_per_step": (48, "settings"),
            "samples_per_prompt": (16, "settings"),
            "max_response": (14336, "settings: 12288 thinking + 2048 answer"),
        },
        assumed=("clip_high",),
        notes=(
            "The cap on the ratio is 1 + clip_high = 5.",
            "Zero-variance prompts are dropped; prompts solved 9 times in 10 are retired.",
            SECOND_HAND,
        ),
    ),
    "vapo": Preset(
        "VAPO, 2504.05118",
        PolicyObjective(clip_low=0.2, clip_high=0.28),
        ("gae", {"gamma": 1.0, "lam": "1 - 1 / (0.05 length), the critic's 1"}),
        {
            "lam": ("1 - 1 / (0.05 length)", "settings: length_adaptive_lambda; the critic's is 1"),
            "clip": ((0.2, 0.28), "settings"),
            "learning_rate": (1e-6, "settings"),
            "critic_learning_rate": (2e-6, "settings"),
            "prompts_per_step": (512, "settings"),
            "samples_per_prompt": (16, "settings"),
            "positive_nll_coef": (0.1, "settings: supervised.token_loss on the correct samples"),
            "value_pretraining_steps": (50, "settings"),
        },
        notes=(
            "In the loop: rl.advantage='gae', rl.positive_nll=0.1, critic.length_alpha=0.05, "
            "critic.optim.lr=2e-6.",
        ),
    ),
    "ppo": Preset(
        "PPO, 1707.06347, as a baseline to GRPO in DeepSeek-R1 [A.3]",
        PolicyObjective(kl="k1", kl_in_reward=True),
        ("gae", {"gamma": 1.0, "lam": 1.0}),
        reward_kl="k1 at every token",
        numbers={
            "kl_coef": (None, "not printed: set it"),
            "clip": (0.2, "1707.06347, table 1"),
            "lam": (1.0, "2501.12948 [A.3]: .95 clearly worse, 1 nearly GRPO"),
        },
        assumed=("aggregation", "kl_coef"),
        notes=(
            "The critic has its clipped value loss: value.clipped_value_loss. In the loop: "
            "rl.advantage='gae', and the critic section of a config.",
        ),
    ),
    "sapo": Preset(
        "SAPO, 2511.20347",
        PolicyObjective(
            surrogate="sapo", clip_low=None, clip_high=None, aggregation="sequence_mean"
        ),
        GROUP_STD,
        {"sapo_tau": ((1.0, 1.05), "settings: A >= 0, A < 0")},
        notes=(SECOND_HAND,),
    ),
    "deepseek_v32": Preset(
        "DeepSeek-V3.2, 2512.02556",
        PolicyObjective(
            aggregation="sequence_mean", kl="k3_unbiased", kl_coef=0.001, off_policy_delta=0.5
        ),
        CENTRED,
        {
            "kl_coef": (None, "not printed (TRL suggests .001); weak or 0 for mathematics"),
            "off_policy_delta": (None, "not printed (TRL suggests .5)"),
            "clip": (None, "not printed"),
            "learning_rate": (None, "not printed"),
            "samples_per_prompt": (None, "not printed"),
        },
        keep_sampling_mask=True,
        assumed=("kl_coef", "off_policy_delta", "clip_low", "clip_high", "aggregation"),
        notes=("The sampler's expert routing is kept as well when log-probs are computed.",),
    ),
    "magistral": Preset(
        "Magistral, 2506.10910",
        PolicyObjective(clip_low=0.2, clip_high=0.28),
        ("reinforce_pp_baseline", {}),
        {
            "clip_high": ((0.26, 0.28), "settings; .3 after a cold start"),
            "clip_low": (None, "not printed"),
            "learning_rate": (None, "not printed"),
            "samples_per_prompt": (None, "not printed"),
            "kl_coef": (0.0, "no KL"),
        },
        assumed=("clip_low",),
        notes=(
            "Advantages are normalised over the mini-batch; groups of equal rewards are removed.",
        ),
    ),
    "kimi": Preset(
        "Kimi k1.5, 2501.12599",
        PolicyObjective(
            surrogate="reinforce", aggregation="constant", constant_length=1, kl="k2", kl_coef=0.0
        ),
        CENTRED,
        {
            "tau": (None, "not printed: kl_coef is tau, set it"),
            "samples_per_prompt": (None, "not printed"),
            "learning_rate": (None, "not printed"),
        },
        assumed=("kl_coef",),
        notes=(
            "The reference is the policy at the iteration's start; the optimizer restarts there.",
            "The paper squares the log-ratio of the sequence, k2 that of each token.",
        ),
    ),
    "pro_rl": Preset(
        "ProRL, 2505.24864",
        PolicyObjective(clip_low=0.2, clip_high=0.4, kl="k3", kl_coef=0.001),
        GROUP_STD,
        {
            "kl_coef": (None, "not printed (1e-3 in a later report)"),
            "learning_rate": (2e-6, "settings"),
            "samples_per_prompt": (16, "settings"),
            "prompts_per_step": (256, "settings; mini-batches of 64"),
            "updates_per_step": (4, "settings"),
            "temperature": (1.2, "settings"),
            "max_length": (8096, "settings"),
        },
        assumed=("kl_coef", "kl"),
        notes=("Reference and optimizer are reset when validation stalls; dynamic sampling.",),
    ),
    "max_rl": Preset(
        "MaxRL, 2602.02710",
        PolicyObjective(),
        ("max_rl", {}),
        {
            "learning_rate": (1e-6, "settings"),
            "samples_per_prompt": ((8, 128), "settings"),
            "clip": (None, "not found"),
        },
        assumed=("clip_low", "clip_high", "aggregation"),
        notes=(SECOND_HAND,),
    ),
    "trl_1_16": Preset(
        "TRL 1.16.0, defaults of GRPOConfig",
        PolicyObjective(kl="k3_unbiased", kl_coef=0.0),
        ("group_normalized", {"scale": "std", "eps": 1e-4, "ddof": 1}),
        {
            "clip": (0.2, "GRPOConfig.epsilon"),
            "learning_rate": (1e-6, "GRPOConfig"),
            "kl_coef": (0.0, "GRPOConfig.beta"),
            "samples_per_prompt": (8, "GRPOConfig.num_generations"),
            "max_response": (512, "GRPOConfig.max_completion_length"),
            "temperature": (1.0, "GRPOConfig"),
            "correction_high": (3.0, "vllm_importance_sampling_clip_max"),
        },
        notes=(
            "With vLLM, TRL also sets correction='sequence_product_mask', correction_high=3.0.",
            "A KL, once it has a coefficient, is k3 times the ratio.",
        ),
    ),
    "verl_0_9": Preset(
        "verl 0.9.1, defaults of ppo_trainer.yaml with adv_estimator=grpo",
        PolicyObjective(dual_clip=3.0, kl="k3", kl_coef=0.0),
        ("group_normalized", {"scale": "std", "eps": 1e-6, "ddof": 1}),
        {
            "clip": (0.2, "actor.yaml"),
            "dual_clip": (3.0, "actor.yaml: clip_ratio_c"),
            "learning_rate": (1e-6, "ppo_trainer.yaml"),
            "kl_coef": (0.001, "kl_loss_coef; use_kl_loss is off"),
            "prompts_per_step": (1024, "ppo_trainer.yaml; mini-batches of 256"),
            "samples_per_prompt": (1, "ppo_trainer.yaml; its default estimator is gae"),
            "max_response": (512, "ppo_trainer.yaml"),
        },
        notes=("A KL, once it has a coefficient, is plain k3; verl also caps its value at 10.",),
    ),
    "verl_0_9_dapo": Preset(
        "verl 0.9.1, the DAPO 32B script",
        PolicyObjective(clip_low=0.2, clip_high=0.28, dual_clip=10.0),
        ("group_normalized", {"scale": "std", "eps": 1e-6, "ddof": 1}),
        {
            **DAPO_NUMBERS,
            "dual_clip": (10.0, "script: clip_ratio_c"),
            "warm_up_steps": (10, "script"),
            "weight_decay": (0.1, "script"),
            "gradient_clip": (1.0, "script"),
        },
        notes=DAPO_NOTES,
    ),
}
