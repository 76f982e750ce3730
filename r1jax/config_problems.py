"""What no config may say, beside the `rl` section: impossible values and combinations."""

import dataclasses
from typing import TYPE_CHECKING

from r1jax.config_tree import Problem, below, not_above_0, not_one_of
from r1jax.data.tasks import TASKS
from r1jax.data.templates import TEMPLATES
from r1jax.models.config import ModelConfig
from r1jax.models.lora import TARGETS
from r1jax.monitor import doctor

if TYPE_CHECKING:  # which has these sections
    from r1jax.config import Config, LoraConfig, OptimConfig

# What a run says of its model even where a checkpoint says the rest: how it is computed.
RUNTIME_FIELDS = ("dtype", "remat", "attention")


def problems(config: "Config") -> list[Problem]:
    return [
        (
            not 0 <= config.seed < 2**31,
            f"seed={config.seed}: must lie between 0 and {2**31 - 1}",
        ),
        *_data_problems(config),
        *_run_problems(config),
        *_optim_problems("optim", config.optim),
        *_optim_problems("pretrain.optim", config.pretrain.optim),
        *_optim_problems("critic.optim", config.critic.optim),
        *_optim_problems("reward_model.optim", config.reward_model.optim),
    ]


def _data_problems(config: "Config") -> list[Problem]:
    data, pretrain = config.data, config.pretrain
    return [
        not_one_of("data.task", data.task, TASKS),
        not_one_of("data.template", data.template, TEMPLATES),
        below("data.size", data.size, 0),
        below("data.max_prompt_tokens", data.max_prompt_tokens, 1),
        below("pretrain.steps", pretrain.steps, 0),
        below("pretrain.documents_per_step", pretrain.documents_per_step, 1),
        (
            not 0 <= pretrain.reasoning_share <= 1,
            f"pretrain.reasoning_share={pretrain.reasoning_share}: must lie between 0 and 1",
        ),
        (
            not 0 < data.held_out < 1,
            f"data.held_out={data.held_out}: must lie between 0 and 1; name data.eval to train on "
            "all of data.train",
        ),
        (
            bool(data.eval) and not data.has_files,
            f"data.eval={data.eval!r}: name data.train too, or neither",
        ),
        (
            bool(data.train and data.mix),
            f"data.train={data.train!r}: data.mix names the questions; leave one of them out",
        ),
        (
            any(weight <= 0 for weight in data.mix.values()),
            f"data.mix={dict(data.mix)}: weights must be above 0",
        ),
        (
            data.curriculum != "none" and not data.has_files,
            f"data.curriculum={data.curriculum!r}: a task's questions never come again; name "
            "data.train or data.mix",
        ),
        (
            not 0 < data.retire_at <= 1,
            f"data.retire_at={data.retire_at}: must lie between 0 and 1",
        ),
        *_start_problems(config),
    ]


def _start_problems(config: "Config") -> list[Problem]:
    """Without a checkpoint there are no words; with one, the checkpoint says what the model is."""
    data, plain = config.data, ModelConfig()
    said = [
        field.name
        for field in dataclasses.fields(ModelConfig)
        if field.name not in RUNTIME_FIELDS
        and getattr(config.model, field.name) != getattr(plain, field.name)
    ]
    if not config.init_from:
        return [
            (
                data.has_files,
                f"data.train={data.train!r}: needs a model that reads text; name one in "
                "config.init_from (--init_from=DIR)",
            )
        ]
    return [
        (
            bool(said),
            f"model.{', model.'.join(said)}: the checkpoint of config.init_from decides; what can "
            f"be said beside it: {', '.join(RUNTIME_FIELDS)}",
        ),
        (
            config.pretrain.steps > 0,
            f"pretrain.steps={config.pretrain.steps}: config.init_from has a trained model; use 0",
        ),
    ]


def _run_problems(config: "Config") -> list[Problem]:
    unknown = ", ".join(name for name in config.logging.stop_on if name not in doctor.NAMES)
    return [
        (bool(unknown), f"logging.stop_on: unknown {unknown}; known: {', '.join(doctor.NAMES)}"),
        *_lora_problems(config.lora),
        *_auxiliary_problems(config),
        below("batch.tokens_per_device", config.batch.tokens_per_device, 0),
        below("batch.row_length", config.batch.row_length, 0),
        below("batch.lanes", config.batch.lanes, 0),
        below("mesh.data", config.mesh.data, -1),
        (config.mesh.data == 0, "mesh.data=0: must be 1 or more, or -1 for all devices left"),
        below("mesh.fsdp", config.mesh.fsdp, 1),
        below("mesh.tensor", config.mesh.tensor, 1),
        below("mesh.expert", config.mesh.expert, 1),
        below("eval.every", config.eval.every, 0),
        below("eval.prompts", config.eval.prompts, 1),
        below("eval.samples", config.eval.samples, 1),
        (
            not 1 <= config.eval.k <= config.eval.samples,
            f"eval.k={config.eval.k}: must lie between 1 and eval.samples={config.eval.samples}",
        ),
        below("eval.temperature", config.eval.temperature, 0),
        below("checkpoint.every", config.checkpoint.every, 1),
        below("checkpoint.keep", config.checkpoint.keep, 1),
        below("checkpoint.milestone", config.checkpoint.milestone, 0),
        (
            config.checkpoint.best and not config.eval.every,
            "checkpoint.best: needs evaluations to compare; set eval.every",
        ),
        below("grading.workers", config.grading.workers, 0),
        not_above_0("grading.timeout_s", config.grading.timeout_s),
        not_above_0("grading.deadline_s", config.grading.deadline_s),
        below("logging.every", config.logging.every, 1),
        below("logging.completions_every", config.logging.completions_every, 1),
        below("logging.completions", config.logging.completions, 0),
        below("watchdog.warn_s", config.watchdog.warn_s, 0),
        below("watchdog.end_s", config.watchdog.end_s, 0),
    ]


def _lora_problems(lora: "LoraConfig") -> list[Problem]:
    unknown = ", ".join(name for name in lora.targets if name not in TARGETS)
    return [
        below("lora.rank", lora.rank, 0),
        (lora.alpha <= 0, f"lora.alpha={lora.alpha}: must be above 0"),
        (not lora.targets, "lora.targets is empty: name at least one projection"),
        (bool(unknown), f"lora.targets: unknown {unknown}; known: {', '.join(TARGETS)}"),
    ]


def _auxiliary_problems(config: "Config") -> list[Problem]:
    auxiliary = config.auxiliary
    return [
        *(
            (value < 0, f"auxiliary.{name}={value}: must be 0 or more")
            for name, value in dataclasses.asdict(auxiliary).items()
        ),
        (
            auxiliary.rebalance > 0 and config.lora.rank > 0,
            f"auxiliary.rebalance={auxiliary.rebalance}: adapters (config.lora) leave the model's "
            "own parameters as they are, the selection bias among them; use 0",
        ),
        (
            auxiliary.mtp_loss > 0 and config.batch.share_prompts is True,
            f"auxiliary.mtp_loss={auxiliary.mtp_loss}: responses that share a prompt's places are "
            "not each other's next tokens; leave out batch.share_prompts",
        ),
    ]


def _optim_problems(section: str, optim: "OptimConfig") -> list[Problem]:
    return [
        not_above_0(f"{section}.lr", optim.lr),
        not_above_0(f"{section}.clip_norm", optim.clip_norm),
        below(f"{section}.warmup_steps", optim.warmup_steps, 0),
        below(f"{section}.weight_decay", optim.weight_decay, 0),
        not_above_0(f"{section}.eps", optim.eps),
        (
            not 0 <= optim.final_fraction <= 1,
            f"{section}.final_fraction={optim.final_fraction}: must lie between 0 and 1",
        ),
        (not 0 <= optim.b1 < 1, f"{section}.b1={optim.b1}: must lie in [0, 1)"),
        (not 0 <= optim.b2 < 1, f"{section}.b2={optim.b2}: must lie in [0, 1)"),
    ]
