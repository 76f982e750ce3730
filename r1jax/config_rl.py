"""The `rl` section: what a step samples, which of it is learned from, and what changes in time."""

import dataclasses
from typing import TYPE_CHECKING, Literal

from r1jax.config_tree import Problem, below, not_above_0
from r1jax.ops.sampling import SamplingParams

if TYPE_CHECKING:  # which has this section
    from r1jax.config import Config


@dataclasses.dataclass(frozen=True)
class DynamicConfig:
    """What becomes of groups whose answers are all right, or all wrong: docs/training.md.

    A group is within the band if its share of correct answers is: low < share < high. The verdict
    counts, not the shaped reward.
    """

    # refill: DAPO, others are sampled instead of those outside the band. drop: Magistral, ScaleRL,
    # these are left out of the loss. zvp: RL-ZVP, those with all alike teach by their entropy.
    mode: Literal["off", "refill", "drop", "zvp"] = "off"
    band: tuple[float, float] = (0.0, 1.0)
    budget: int = 4  # refill: at most this many x prompts_per_step are sampled for a step
    exhausted: Literal["fewer", "stop"] = "fewer"  # refill: then train on what there is, or end
    carry: bool = False  # refill: groups begun beyond those wanted go on in the next step
    zvp_alpha: float = 0.1  # one implementation's; none is printed


@dataclasses.dataclass(frozen=True)
class RLConfig:
    """One step: sample `prompts_per_step * samples_per_prompt`, then `updates_per_step` updates."""

    steps: int = 100
    prompts_per_step: int = 32
    samples_per_prompt: int = 16
    updates_per_step: int = 1
    epochs: int = 1  # how often the updates go over a step's samples
    # (from this step, max_tokens, temperature) instead of those in `sampling`
    stages: tuple[tuple[int, int, float], ...] = ()
    reference_every: int = 0  # the policy becomes its own reference every so many steps; 0 = never
    # ProRL: after so many evaluations (eval.every) without a better one, the policy becomes its own
    # reference and the optimizer starts anew; 0 = never
    reset_on_stall: int = 0
    mask_cut: bool = False  # DAPO's overlong filter: a response that was cut is not in the loss
    # VAPO: coefficient of the mean negative log-likelihood of right answers' tokens, beside the
    # policy's loss; 0 = none
    positive_nll: float = 0.0
    dynamic: DynamicConfig = DynamicConfig()
    # One step off: a step's samples are of the policy before the last step's updates, drawn while
    # the host judged that step's. Needs objective.correction.
    asynchronous: bool = False
    # Nats a token by which sampler and trainer may differ on average where samples are meant to be
    # the policy's own (no correction, nothing carried); beyond it the run ends. 0 = no bound
    gap_limit: float = 0.05
    # group: against the other samples of a prompt, GRPO. process: of each token, from rewards of
    # the steps (grading.steps) against all steps of the prompt's responses. gae: against a critic,
    # PPO, whose settings are config.critic.
    advantage: Literal["group", "process", "gae"] = "group"
    advantage_scale: Literal["std", "none", "batch_std"] = "std"
    advantage_eps: float = 1e-6

    @property
    def updates(self) -> int:
        """Of one step."""
        return self.updates_per_step * self.epochs

    @property
    def is_on_policy(self) -> bool:
        """Whether every update is of the very policy that sampled."""
        return self.updates == 1 and not self.dynamic.carry and not self.asynchronous

    @property
    def has_critic(self) -> bool:
        return self.advantage == "gae"

    @property
    def replaces_reference(self) -> bool:
        return self.reference_every > 0 or self.reset_on_stall > 0

    def sampling_at(self, step: int, plain: SamplingParams) -> SamplingParams:
        for start, max_tokens, temperature in reversed(self.stages):
            if step >= start:
                return dataclasses.replace(plain, max_tokens=max_tokens, temperature=temperature)
        return plain


def rl_problems(config: "Config") -> list[Problem]:
    rl, objective = config.rl, config.objective
    sampled = rl.prompts_per_step * rl.samples_per_prompt
    return [
        below("rl.steps", rl.steps, 0),
        below("rl.prompts_per_step", rl.prompts_per_step, 1),
        below("rl.samples_per_prompt", rl.samples_per_prompt, 1),
        (
            rl.updates_per_step < 1 or sampled % max(rl.updates_per_step, 1) != 0,
            f"rl.updates_per_step={rl.updates_per_step}: must divide the {sampled} samples of a "
            "step (prompts_per_step x samples_per_prompt)",
        ),
        below("rl.epochs", rl.epochs, 1),
        below("rl.positive_nll", rl.positive_nll, 0),
        below("rl.advantage_eps", rl.advantage_eps, 0),
        *_stage_problems(rl, config.sampling.max_tokens),
        *_reference_problems(config),
        *_dynamic_problems(rl),
        *(_critic_problems(config) if rl.has_critic else _group_problems(config)),
        (
            objective.kl_coef != 0 and objective.kl == "none",
            f"objective.kl_coef={objective.kl_coef}: needs objective.kl (k3 in the papers)",
        ),
        (
            config.sampling.temperature == 0,
            "sampling.temperature=0: greedy samples of a prompt are all the same, nothing can be "
            "learned from them; use 1.0",
        ),
        *_process_problems(config),
        *_reward_model_problems(config),
        *_int8_problems(config),
        (
            rl.asynchronous and objective.correction == "none",
            "rl.asynchronous=True: samples are of the policy before the last step's updates; set "
            "objective.correction='tis' and objective.correction_high=2.0, or leave it out",
        ),
        (rl.gap_limit < 0, f"rl.gap_limit={rl.gap_limit}: must be above 0, or 0 for no bound"),
    ]


def _int8_problems(config: "Config") -> list[Problem]:
    """Eight bits sample from another distribution than the policy's, so somebody must correct."""
    return [
        (
            getattr(config.rollout, name) and config.objective.correction == "none",
            f"rollout.{name}=True: samples are then not quite the policy's; set "
            "objective.correction='tis' and objective.correction_high=2.0, or leave it out",
        )
        for name in ("int8_weights", "int8_cache")
    ]


def _stage_problems(rl: RLConfig, longest: int) -> list[Problem]:
    starts = [stage[0] for stage in rl.stages]
    return [
        (
            starts != sorted(set(starts)) or any(start < 0 for start in starts),
            f"rl.stages={rl.stages}: their first steps must be 0 or more, and ascend",
        ),
        (
            any(not 1 <= tokens <= longest for _, tokens, _ in rl.stages),
            f"rl.stages={rl.stages}: max_tokens must lie between 1 and sampling.max_tokens="
            f"{longest}, which is that of the longest stage and of evaluation",
        ),
        (
            any(temperature <= 0 for _, _, temperature in rl.stages),
            f"rl.stages={rl.stages}: temperatures must be above 0",
        ),
    ]


def _reward_model_problems(config: "Config") -> list[Problem]:
    model = config.reward_model
    plain = type(model)()
    said = [name for name, value in vars(model).items() if value != getattr(plain, name)]
    if not model.every:
        message = f"reward_model.{', reward_model.'.join(said)}: there is none; set "
        return [(bool(said), f"{message}reward_model.every, or leave it out")]
    return [
        below("reward_model.every", model.every, 1),
        below("reward_model.updates", model.updates, 1),
        below("reward_model.pairs", model.pairs, 1),
        below("reward_model.kept", model.kept, 1),
        (
            not 0 <= model.replay < 1,
            f"reward_model.replay={model.replay}: must be a share, 0 <= replay < 1",
        ),
        (
            config.rl.samples_per_prompt < 2,
            f"reward_model.every={model.every}: learns from two answers to a prompt; set "
            "rl.samples_per_prompt to 2 or more",
        ),
        (
            config.rl.advantage == "process",
            f"reward_model.every={model.every}: scores whole responses; rl.advantage='process' "
            "goes by steps",
        ),
        (
            config.lora.rank > 0,
            f"reward_model.every={model.every}: it is trained whole, which is what adapters "
            "(lora.rank) are to avoid; leave one out",
        ),
    ]


def _process_problems(config: "Config") -> list[Problem]:
    rl, function = config.rl, config.grading.steps
    return [
        (
            rl.advantage == "process" and not function,
            "rl.advantage='process': nobody rewards steps; name a function in grading.steps "
            "(docs/rewards.md)",
        ),
        (
            bool(function) and rl.advantage != "process",
            f"grading.steps={function!r}: rl.advantage={rl.advantage!r} has no use for rewards of "
            "steps; set rl.advantage='process'",
        ),
        (
            rl.advantage == "process" and config.reward == "random",
            "reward='random': a coin for each response has no steps; with rl.advantage='process' "
            "let the function of grading.steps toss coins",
        ),
        (
            rl.advantage == "process" and rl.advantage_scale != "std",
            f"rl.advantage_scale={rl.advantage_scale!r}: steps are compared by the deviation of "
            "their group; use 'std'",
        ),
        (
            rl.advantage == "process" and rl.dynamic.mode == "zvp",
            "rl.dynamic.mode='zvp': is for groups of equal outcome; rl.advantage='process' goes by "
            "steps; use 'off'",
        ),
    ]


def _reference_problems(config: "Config") -> list[Problem]:
    rl = config.rl
    return [
        below("rl.reference_every", rl.reference_every, 0),
        (
            rl.reference_every > 0 and not config.objective.needs_reference,
            f"rl.reference_every={rl.reference_every}: there is no reference; set objective.kl and "
            "objective.kl_coef, or use 0",
        ),
        (
            rl.replaces_reference and config.lora.rank > 0,
            "rl.reference_every and rl.reset_on_stall: with adapters (lora.rank) the reference "
            "stays the base; use 0",
        ),
        below("rl.reset_on_stall", rl.reset_on_stall, 0),
        (
            rl.reset_on_stall > 0 and not config.eval.every,
            f"rl.reset_on_stall={rl.reset_on_stall}: counts evaluations; set eval.every",
        ),
    ]


def _dynamic_problems(rl: RLConfig) -> list[Problem]:
    dynamic = rl.dynamic
    low, high = dynamic.band
    return [
        below("rl.dynamic.budget", dynamic.budget, 1),
        (
            not 0 <= low < high <= 1,
            f"rl.dynamic.band={dynamic.band}: must be two shares, 0 <= low < high <= 1",
        ),
        (
            dynamic.carry and dynamic.mode != "refill",
            f"rl.dynamic.carry: there is nothing to carry with rl.dynamic.mode={dynamic.mode!r}; "
            "only refill begins more than is wanted",
        ),
        not_above_0("rl.dynamic.zvp_alpha", dynamic.zvp_alpha),
        (
            dynamic.mode != "off" and rl.samples_per_prompt < 2,
            f"rl.dynamic.mode={dynamic.mode!r}: goes by the share of right answers of a group; set "
            "rl.samples_per_prompt to 2 or more, or use 'off'",
        ),
    ]


def _group_problems(config: "Config") -> list[Problem]:
    rl, plain = config.rl, type(config.critic)()
    said = [name for name, value in vars(config.critic).items() if value != getattr(plain, name)]
    return [
        (
            rl.samples_per_prompt < 2,
            f"rl.samples_per_prompt={rl.samples_per_prompt}: must be 2 or more, an advantage "
            "compares the samples of a prompt (with rl.advantage='gae', and a critic, 1 is enough)",
        ),
        (
            bool(said),
            f"critic.{', critic.'.join(said)}: advantages of groups have no critic; set "
            "rl.advantage='gae', or leave it out",
        ),
        (
            config.objective.kl_in_reward,
            "objective.kl_in_reward: a group compares whole responses; set rl.advantage='gae', or "
            "have the KL in the loss",
        ),
    ]


def _critic_problems(config: "Config") -> list[Problem]:
    rl, critic = config.rl, config.critic
    of_groups = ("advantage_scale", "advantage_eps")
    said = [name for name in of_groups if getattr(rl, name) != getattr(RLConfig(), name)]
    shares = {name: getattr(critic, name) for name in ("gamma", "lam", "return_lam")}
    return [
        (
            bool(said),
            f"rl.{', rl.'.join(said)}: of advantages within groups; rl.advantage='gae' has "
            "critic.whiten instead",
        ),
        *(
            (not 0 <= value <= 1, f"critic.{name}={value}: must lie between 0 and 1")
            for name, value in shares.items()
        ),
        (
            critic.length_alpha < 0,
            f"critic.length_alpha={critic.length_alpha}: must be 0 (off) or more; VAPO has 0.05",
        ),
        (
            critic.length_alpha > 0 and critic.lam != type(critic)().lam,
            f"critic.lam={critic.lam}: critic.length_alpha sets the policy's lambda; leave one out",
        ),
        (
            critic.clip is not None and critic.clip <= 0,
            f"critic.clip={critic.clip}: must be above 0, or None for no bound",
        ),
        below("critic.pretrain_steps", critic.pretrain_steps, 0),
        (
            rl.dynamic.mode == "zvp",
            "rl.dynamic.mode='zvp': gives advantages to groups that have none; with a critic "
            "(rl.advantage='gae') they have; use 'off'",
        ),
        (
            config.lora.rank > 0,
            f"lora.rank={config.lora.rank}: a critic is trained whole, which is what adapters are "
            "to avoid; use rl.advantage='group'",
        ),
    ]
