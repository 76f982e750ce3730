"""Every setting and its default, as frozen dataclasses; config files state only differences.

    config file (ml_collections) + --config.a.b=value  ->  Config, checked once at the start

A wrong key, type, choice or combination is a `UserError` of one line.
"""

import dataclasses
import importlib.util
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, Literal

from r1jax.config_problems import RUNTIME_FIELDS as RUNTIME_FIELDS
from r1jax.config_problems import problems
from r1jax.config_rl import RLConfig, rl_problems
from r1jax.config_tree import build, parse_override, put
from r1jax.config_tree import flatten as flatten
from r1jax.errors import UserError
from r1jax.models.config import ModelConfig
from r1jax.models.lora import TARGETS
from r1jax.objectives.policy import PolicyObjective
from r1jax.ops.sampling import SamplingParams
from r1jax.rewards.compose import Reward
from r1jax.rollout.plan import RolloutConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Questions that a task draws, or those of files: see `data.sources` for what can be named."""

    task: str = "running_sum"
    size: int = 0  # digits, bits or numbers of a question; 0 = the task's own default
    train: str = ""  # questions to train on; "" = the task's
    # Or several: {"math.jsonl": 3, "code.jsonl": 1} draws three of the first for one of the second.
    mix: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # By the share of right answers when a question was last sampled: `data.mixture.Curriculum`.
    curriculum: Literal["none", "retire", "priority"] = "none"
    retire_at: float = 0.9
    eval: str = ""  # those held out; "" = a share of data.train
    held_out: float = 0.1  # that share
    template: str = "symbols"
    system: str = ""  # what a chat template is told first
    max_prompt_tokens: int = 16
    # What a longer prompt of a file is; truncate: its last tokens, as many as it may have.
    too_long: Literal["error", "drop", "truncate"] = "error"

    @property
    def has_files(self) -> bool:
        return bool(self.train or self.mix)


@dataclasses.dataclass(frozen=True)
class GradingConfig:
    """How the parts of the reward are had: docs/rewards.md."""

    # part or verifier -> its parameters: {"soft_overlong": {"max_len": 20480, "cache": 4096}}
    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    when_correct: tuple[str, ...] = ()  # parts that count only where the answer is correct
    verifiers: Mapping[str, str] = dataclasses.field(default_factory=dict)  # task -> who judges it
    steps: str = ""  # with rl.advantage="process", the function that rewards steps
    workers: int = 0  # processes and sandboxes; 0 = one less than cores
    timeout_s: float = 2.0  # processor time of one answer in its worker
    deadline_s: float = 300.0  # of a step's samples; what is not judged by then is masked


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Train adapters beside a frozen model: models/lora.py."""

    rank: int = 0  # 0 = off, every parameter is trained
    alpha: float = 32.0  # an adapter counts alpha / rank
    targets: tuple[str, ...] = tuple(TARGETS)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class AuxiliaryConfig:
    """What updates do besides their objective, for the parts that only some models have; 0 = off.

    The numbers of the papers: docs/models.md.
    """

    balance_loss: float = 0.0  # coefficient of Qwen3-MoE's loss on unevenly used experts
    rebalance: float = 0.0  # how far an update moves the selection bias of DeepSeek-V3's experts
    mtp_loss: float = 0.0  # coefficient of the loss of DeepSeek-V3's multi-token prediction


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW. The papers' reinforcement learning uses a constant rate after a short warm-up."""

    lr: float = 1e-6
    schedule: Literal["constant", "cosine"] = "constant"
    final_fraction: float = 0.1  # where the cosine ends, as a share of lr
    warmup_steps: int = 0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0  # of matrices; norms and biases do not decay
    clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True)
class CriticConfig:
    """The second model of PPO, there with rl.advantage="gae": docs/training.md."""

    gamma: float = 1.0
    lam: float = 1.0  # of the policy's advantages
    # VAPO: lam = 1 - 1 / (this x response length) instead; VAPO's is 0.05, 0 = off
    length_alpha: float = 0.0
    return_lam: float = 1.0  # of the returns that the critic learns
    whiten: bool = True  # advantages, over the step's tokens, as TRL and verl do
    clip: float | None = 0.2  # how far a step may move a value; None = any
    # VC-PPO, VAPO: in the first so many of rl.steps only the critic learns
    pretrain_steps: int = 0
    optim: OptimConfig = OptimConfig(lr=2e-6)  # VAPO's rate

    def learns_alone(self, step: int) -> bool:
        return step < self.pretrain_steps


@dataclasses.dataclass(frozen=True)
class RewardModelConfig:
    """A reward model that learns on from what the policy writes: docs/training.md."""

    every: int = 0  # rl.steps of an iteration, at whose end it learns; 0 = there is none
    weight: float = 1.0  # of its score, beside reward_weights
    updates: int = 16  # at an iteration's end
    pairs: int = 32  # of an update: a right and a wrong answer to one prompt
    replay: float = 0.1  # the share of them that is of earlier iterations: DeepSeekMath's
    kept: int = 1024  # pairs of earlier iterations
    optim: OptimConfig = OptimConfig(lr=2e-5)  # DeepSeekMath's rate


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """The tiny base model's own training; 0 steps = start from the initial parameters."""

    steps: int = 0
    documents_per_step: int = 128
    reasoning_share: float = 0.1
    optim: OptimConfig = OptimConfig(
        lr=4e-3, schedule="cosine", final_fraction=0.05, warmup_steps=20, b2=0.95
    )


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """How an update is cut up. Changes memory and speed, the result to rounding only."""

    tokens_per_device: int = 0  # in micro-batches at work; 0 = what suits the kind of device
    lanes: int = 0  # micro-batches a device works on at once; 0 = `training.lanes.choose_lanes`
    row_length: int = 0  # 0 = the longest prompt and response, or a prompt and all that share it
    # Whether responses that share a row share their prompt's places too; None = where that saves
    # time (docs/training.md).
    share_prompts: bool | None = None


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    data: int = -1  # -1 = all devices that are left
    fsdp: int = 1
    tensor: int = 1
    expert: int = 1  # splits the experts of a mixture, and the batch as well


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    every: int = 0  # also after every so many RL steps; 0 = before and after them only
    prompts: int = 256
    samples: int = 16
    k: int = 8  # of pass@k and maj@k
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every: int = 50
    keep: int = 2
    milestone: int = 0  # those at multiples of so many steps are kept for good; 0 = none
    best: bool = False  # the policy of the best evaluation (eval.every) too, in checkpoints/best


@dataclasses.dataclass(frozen=True)
class LoggingConfig:
    every: int = 1  # steps between printed lines where the output is not a terminal
    completions_every: int = 10
    completions: int = 8  # how many are kept each time; what is too many = all of the step
    completions_format: Literal["jsonl", "parquet", "arrayrecord"] = "jsonl"
    tensorboard: bool = False
    wandb_project: str = ""
    stop_on: tuple[str, ...] = ()  # findings that end the run: docs/doctor.md


@dataclasses.dataclass(frozen=True)
class WatchdogConfig:
    """Seconds that one phase of a run may take: docs/training.md, Watchdogs. 0 = any time."""

    warn_s: float = 1800.0  # then the run says what waits, and dumps its stacks
    end_s: float = 21600.0  # then it ends


@dataclasses.dataclass(frozen=True)
class Config:
    name: str = ""
    seed: int = 0
    # A Hugging Face folder, a hub id, or the workdir of a run; "" = from nothing. What `model`
    # then may say is how to compute: RUNTIME_FIELDS.
    init_from: str = ""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    lora: LoraConfig = LoraConfig()
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    pretrain: PretrainConfig = PretrainConfig()
    rl: RLConfig = dataclasses.field(default_factory=RLConfig)
    objective: PolicyObjective = dataclasses.field(default_factory=PolicyObjective)
    sampling: SamplingParams = dataclasses.field(default_factory=SamplingParams)
    # "rules" = reward_weights; "random" = a fair coin, the control of every learning claim
    reward: Literal["rules", "random"] = "rules"
    reward_weights: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"accuracy": 1.0, "format": 0.1}
    )
    # Of a task's prompts, instead of reward_weights: {"code": {"accuracy": 1.0}}
    task_rewards: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    grading: GradingConfig = GradingConfig()
    rollout: RolloutConfig = dataclasses.field(default_factory=RolloutConfig)
    optim: OptimConfig = OptimConfig()
    critic: CriticConfig = CriticConfig()
    reward_model: RewardModelConfig = RewardModelConfig()
    auxiliary: AuxiliaryConfig = AuxiliaryConfig()
    batch: BatchConfig = BatchConfig()
    mesh: MeshConfig = MeshConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
    watchdog: WatchdogConfig = WatchdogConfig()

    @property
    def keeps_reference(self) -> bool:
        """Whether checkpoints hold the reference, because the run may replace it."""
        return self.objective.needs_reference and self.rl.replaces_reference

    @property
    def old_policy(self) -> Literal["now", "before", "sampler"]:
        """Whose log-probs an update's ratio is against: those of the policy as it is now (the ratio
        is 1), as it was before the step's updates, or what the sampler recorded.

        A correction weighs the old policy against the sampler, so it wants the trainer's own count.
        """
        corrects = self.objective.correction != "none"
        if self.rl.updates == 1 and (corrects or self.rl.is_on_policy):
            return "now"
        return "before" if corrects else "sampler"

    @property
    def samples_own_policy(self) -> bool:
        """Whether the sampler is meant to be the very policy that its samples then update."""
        return self.objective.correction == "none" and not self.rl.dynamic.carry

    def make_reward(self) -> Reward:
        """What is paid for; a `UserError` where that cannot be."""
        grading = self.grading
        rules = Reward(
            self.reward_weights,
            grading.settings,
            grading.when_correct,
            grading.verifiers,
            self.task_rewards,
            grading.steps,
        )
        return rules if self.reward == "rules" else rules.replaced_by({"random": 1.0})


def load(source: str, overrides: Mapping[str, str] | None = None) -> Config:
    """The checked config of `file.py[:argument]` with `a.b -> text` overrides applied."""
    return override(read_config_file(source), overrides or {})


def override(tree: dict[str, Any], overrides: Mapping[str, str]) -> Config:
    """The checked config of a nested dict with `a.b -> text` overrides applied."""
    for key, text in overrides.items():
        put(tree, key, parse_override(Config, key, text), Config())
    return from_config_dict(tree)


def read_config_file(source: str) -> dict[str, Any]:
    """Run a config file's `get_config(argument)`; a plain nested dict."""
    path_text, _, argument = source.partition(":")
    path = pathlib.Path(path_text)
    if not path.is_file():
        raise UserError(f"--config={path_text}: no such file; configs/ holds the ready-made ones")
    spec = importlib.util.spec_from_file_location("r1jax_config_file", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={path_text}: not a Python file; name a .py with get_config()")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent.absolute())
    sys.path.insert(0, folder)  # a config file may build on its neighbours
    try:
        spec.loader.exec_module(module)
        config = module.get_config(argument) if argument else module.get_config()
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else "no message"
        raise UserError(f"--config={source}: {type(error).__name__}: {reason}") from error
    finally:
        sys.path.remove(folder)
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    if not isinstance(config, dict):
        raise UserError(f"--config={path_text}: get_config() must return a ConfigDict or a dict")
    return config


def from_config_dict(tree: Mapping[str, Any]) -> Config:
    """Nested mappings to a checked `Config`; what is not said keeps its default."""
    config = build(Config, tree, Config(), "")
    validate(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Plain JSON values, every default included."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def validate(config: Config) -> None:
    """Impossible values and combinations that no single type can rule out."""
    for wrong, message in [*problems(config), *rl_problems(config)]:
        if wrong:
            raise UserError(f"config.{message}")
    try:
        config.make_reward()
    except UserError as error:
        raise UserError(f"config.{error}") from error
