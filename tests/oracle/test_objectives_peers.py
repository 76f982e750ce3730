"""Losses and gradients of TRL 1.16.0 and verl 0.9.1 on fixed random cases, in float64.

The committed numbers, tests/golden/objectives_peers.json, are what tests/objectives/test_golden.py
holds r1jax to. They are made, and checked, where both peers are installed:

    pip install torch trl==1.16.0 omegaconf packaging
    pip install --no-deps --target "$VERL_DIR" verl==0.9.1
    VERL_DIR=... python tests/oracle/test_objectives_peers.py     # writes the golden file
    VERL_DIR=... python -m pytest -m oracle tests/oracle/test_objectives_peers.py

This file imports neither jax nor r1jax, so the peers may live in an environment of their own.
"""

import collections
import functools
import importlib.util
import json
import os
import pathlib
import sys
import types
from unittest import mock

import numpy as np
import pytest

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "objectives_peers.json"
LENGTH = 7
FIELDS = ("logp", "logp_old", "logp_ref", "logp_behavior", "entropy")


def make_inputs(seed: int, *, spread: float, empty_row: bool = False) -> dict:
    """Four completions of up to seven tokens; `spread` is the log-ratios' deviation."""
    rng = np.random.default_rng(seed)
    logp = -rng.exponential(1.0, (4, LENGTH))
    inputs = {"logp": logp, "entropy": rng.exponential(1.0, (4, LENGTH))}
    for name in ("logp_old", "logp_ref", "logp_behavior"):
        inputs[name] = logp + spread * rng.normal(size=logp.shape)
    lengths = np.array([7, 3, 5, 0 if empty_row else 1])
    inputs["mask"] = np.arange(LENGTH) < lengths[:, None]
    inputs["advantages"] = rng.normal(size=4)
    return inputs


INPUTS = {
    "near": make_inputs(0, spread=0.2),
    "far": make_inputs(1, spread=1.5),
    "empty row": make_inputs(2, spread=0.4, empty_row=True),
}


# -- TRL ------------------------------------------------------------------------------------------


def trl_loss(tensors, loss_type="dapo", level="token", low=0.2, high=0.28, items=None, **options):
    """`GRPOTrainer._compute_loss` bound to a stand-in that has what the method reads."""
    from trl import GRPOTrainer

    logp, mask = tensors["logp"], tensors["mask"].long()
    settings = {
        "delta": None,
        "use_bias_correction_kl": False,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "steps_per_generation": 1,
        "beta": 0.0,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "max_completion_length": LENGTH,
        "current_gradient_accumulation_steps": 1,
    } | options
    weights = settings.pop("weights", None)
    keep = {"gather": lambda x: x, "gather_for_metrics": lambda x: x, "num_processes": 1}
    keep |= {"reduce": lambda x, reduction: x, "pad_across_processes": lambda x, **_: x}
    trainer = types.SimpleNamespace(
        args=types.SimpleNamespace(**settings),
        accelerator=types.SimpleNamespace(sync_gradients=True, **keep),
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon_low=low,
        epsilon_high=high,
        use_vllm=weights is not None,
        vllm_importance_sampling_correction=weights is not None,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        model=types.SimpleNamespace(training=True),
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        **settings,
    )
    trainer.get_off_policy_mask = GRPOTrainer.get_off_policy_mask
    trainer.get_high_entropy_mask = functools.partial(GRPOTrainer.get_high_entropy_mask, trainer)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logp, tensors["entropy"], None)
    rows = logp.new_zeros((len(logp), 1)).long()
    inputs = {
        "prompt_ids": rows,
        "prompt_mask": rows + 1,
        "completion_ids": mask,
        "completion_mask": mask,
        "advantages": tensors["advantages"],
        "old_per_token_logps": tensors["logp_old"],
        "ref_per_token_logps": tensors["logp_ref"],
        "sampling_per_token_logps": tensors["logp_behavior"],
        "num_items_in_batch": mask.sum() if items is None else items,
    }
    if weights is not None:
        inputs["importance_sampling_ratio"] = weights
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    return loss, {name: values[0] for name, values in trainer._metrics["train"].items()}


def trl_split(tensors, **options):
    """The same loss as two accumulated micro-batches of two rows."""
    halves = [{name: x[rows] for name, x in tensors.items()} for rows in (slice(2), slice(2, 4))]
    items = tensors["mask"].sum()
    both = {"current_gradient_accumulation_steps": 2, "steps_per_generation": 2, "items": items}
    return sum(trl_loss(half, **both, **options)[0] for half in halves), {}


def trl_correction(tensors, mode):
    """TRL's importance weights against the sampler, with its default cap of 3."""
    mask = tensors["mask"]
    gap = (tensors["logp_old"] - tensors["logp_behavior"]) * mask
    level, action = mode.split("_")
    weights = (gap.sum(-1, keepdim=True) if level == "sequence" else gap).exp()
    if action == "truncate":
        weights = weights.clamp(max=3.0)
    else:
        weights = weights.masked_fill(weights > 3.0, 0.0)
    return trl_loss(tensors, weights=weights)


TRL = {
    "dapo": trl_loss,
    "bnpo": functools.partial(trl_loss, loss_type="bnpo"),
    "grpo": functools.partial(trl_loss, loss_type="grpo"),
    "dr_grpo": functools.partial(trl_loss, loss_type="dr_grpo"),
    "dapo k3": functools.partial(trl_loss, beta=0.3),
    "dapo k3_unbiased": functools.partial(trl_loss, beta=0.3, use_bias_correction_kl=True),
    "dapo two-sided": functools.partial(trl_loss, delta=3.0),
    "gspo": functools.partial(trl_loss, loss_type="grpo", level="sequence", low=0.03, high=0.04),
    "gspo k3": functools.partial(trl_loss, loss_type="grpo", level="sequence", beta=0.3),
    "cispo": functools.partial(trl_loss, loss_type="cispo", high=1.5),
    "sapo": functools.partial(trl_loss, loss_type="sapo"),
    "off-policy mask": functools.partial(trl_loss, off_policy_mask_threshold=0.1),
    "high entropy": functools.partial(trl_loss, top_entropy_quantile=0.3),
    "dapo in two": trl_split,
    **{
        f"dapo {mode}": functools.partial(trl_correction, mode=mode)
        for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
    },
}


def stand_in(**attributes):
    """A trainer whose statistics go nowhere."""
    trainer = mock.MagicMock(_total_train_tokens=0, _tp_size=1, aux_loss_enabled=False)
    trainer.accelerator.gather_for_metrics = lambda x: x
    trainer.configure_mock(**attributes)
    return trainer


def trl_preferences() -> dict:
    """TRL's DPO losses on three pairs of padded completions, and its reward-model loss."""
    import torch
    from trl import DPOTrainer, RewardTrainer

    rng = np.random.default_rng(4)
    mask = torch.tensor(np.arange(5) < np.array([[5], [2], [4], [3], [5], [1]])).long()
    logp, ref = (torch.tensor(-rng.exponential(1.0, (6, 5))) * mask for _ in range(2))
    logp.requires_grad_()
    chosen, rejected = ref.sum(1).chunk(2)
    inputs = {"input_ids": mask.new_zeros(6, 6), "attention_mask": mask.new_ones(6, 6)}
    inputs |= {"completion_mask": torch.nn.functional.pad(mask, (1, 0))}
    inputs |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    zeros = torch.zeros(6, 5)
    outputs = types.SimpleNamespace(
        log_probs=logp, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
    )
    result = {}
    for loss_type in ("sigmoid", "ipo"):
        trainer = stand_in(
            loss_types=[loss_type],
            loss_weights=[1.0],
            beta=0.3,
            ld_alpha=None,
            precompute_ref_logps=True,
            f_divergence_type="reverse_kl",
            use_weighting=False,
        )
        loss = DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)
        (gradient,) = torch.autograd.grad(loss, logp, retain_graph=True)
        result[loss_type] = {"loss": loss.item(), "gradient": gradient.tolist()}
    scores = torch.tensor(rng.normal(size=(6, 1)), requires_grad=True)
    trainer = stand_in(**{"args.center_rewards_coefficient": None})
    model = mock.Mock(return_value=types.SimpleNamespace(logits=scores))
    loss = RewardTrainer.compute_loss(trainer, model, {"attention_mask": mask})
    (gradient,) = torch.autograd.grad(loss, scores)
    result["bradley-terry"] = {"loss": loss.item(), "gradient": gradient[:, 0].tolist()}
    given = {"logp": logp, "logp_ref": ref, "mask": mask.bool(), "scores": scores[:, 0]}
    return {"inputs": {k: v.tolist() for k, v in given.items()}, "outputs": result}


# -- verl -----------------------------------------------------------------------------------------


class ActorConfig(types.SimpleNamespace):
    """The attributes of verl's actor configuration that its losses read."""

    def get(self, key, default=None):
        return getattr(self, key, default)


@functools.cache
def verl_core():
    """`verl.trainer.ppo.core_algos` from $VERL_DIR without verl's other dependencies."""
    root = pathlib.Path(os.environ["VERL_DIR"])

    def add(name, **attributes):
        module = types.ModuleType(name)
        module.__dict__.update(attributes)
        sys.modules[name] = module

    def load(name):
        path = root / (name.replace(".", "/") + ".py")
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
        return sys.modules[name]

    for package in ("verl", "verl.trainer", "verl.trainer.ppo", "verl.utils", "verl.workers"):
        add(package, __path__=[str(root / package.replace(".", "/"))])
    for name, needed in (("tensordict", "TensorDict"), ("transformers", "PreTrainedTokenizer")):
        if name not in sys.modules:
            add(name, **{needed: type(needed, (), {})})
    add("verl.workers.config", ActorConfig=ActorConfig)
    groups = load("verl.utils.groupwise")
    sys.modules["verl.utils"].as_torch_index = groups.as_torch_index
    sys.modules["verl.utils"].group_mean_std = groups.group_mean_std
    return load("verl.trainer.ppo.core_algos")


def verl_loss(tensors, name="vanilla", agg="token-mean", low=0.2, high=0.28, cap=1e9, kl=None):
    """A registered policy loss, plus 0.3 times a KL estimate aggregated the same way."""
    core = verl_core()
    mask = tensors["mask"].to(tensors["logp"].dtype)
    config = ActorConfig(
        clip_ratio=0.2,
        clip_ratio_low=low,
        clip_ratio_high=high,
        clip_ratio_c=cap,
        tau_pos=1.0,
        tau_neg=1.05,
        global_batch_info={},
        policy_loss=types.SimpleNamespace(kl_cov_ratio=0.2, ppo_kl_coef=0.5),
    )
    advantages = tensors["advantages"][:, None].expand(mask.shape)
    loss, metrics = core.get_policy_loss_fn(name)(
        tensors["logp_old"], tensors["logp"], advantages, mask, agg, config
    )
    if kl is not None:
        estimate = core.kl_penalty(tensors["logp"], tensors["logp_ref"], kl)
        loss = loss + 0.3 * core.agg_loss(estimate, mask, agg)
    return loss, metrics


VERL = {
    "vanilla": verl_loss,
    "vanilla dual clip": functools.partial(verl_loss, cap=3.0),
    "vanilla seq-mean-token-mean": functools.partial(verl_loss, agg="seq-mean-token-mean"),
    "vanilla seq-mean-token-sum-norm": functools.partial(verl_loss, agg="seq-mean-token-sum-norm"),
    "vanilla seq-mean-token-sum": functools.partial(verl_loss, agg="seq-mean-token-sum"),
    "gspo": functools.partial(
        verl_loss, name="gspo", agg="seq-mean-token-mean", low=0.03, high=0.04
    ),
    "gspo token-mean": functools.partial(verl_loss, name="gspo", low=0.03, high=0.04),
    "cispo": functools.partial(verl_loss, name="cispo"),
    "sapo": functools.partial(verl_loss, name="sapo"),
    "gpg": functools.partial(verl_loss, name="gpg"),
    "kl_cov": functools.partial(verl_loss, name="kl_cov"),
    **{f"vanilla {kl}": functools.partial(verl_loss, kl=kl) for kl in ("k1", "k2", "k3")},
}


def verl_advantages() -> dict:
    """Every outcome estimator on two groups of three, and GAE; rewards sit at the last token."""
    import torch

    core = verl_core()
    rng = np.random.default_rng(3)
    lengths = np.array([5, 2, 4, 1, 5, 3])
    mask = torch.tensor(np.arange(5) < lengths[:, None]).double()
    outcome = rng.normal(size=6)
    rewards = torch.zeros(6, 5, dtype=torch.float64)
    rewards[np.arange(6), lengths - 1] = torch.tensor(outcome)
    token_rewards = torch.tensor(rng.normal(size=(6, 5)))
    values, old_values, targets = (torch.tensor(rng.normal(size=(6, 5))) for _ in range(3))
    index = np.array([0, 0, 0, 1, 1, 1])
    config = types.SimpleNamespace(gamma=0.9)
    estimators = {
        "grpo": core.compute_grpo_outcome_advantage,
        "rloo": core.compute_rloo_outcome_advantage,
        "reinforce_plus_plus_baseline": core.compute_reinforce_plus_plus_baseline_outcome_advantage,
        "grpo, no std": functools.partial(
            core.compute_grpo_outcome_advantage, norm_adv_by_std_in_grpo=False
        ),
    }
    result = {
        name: compute(rewards.clone(), mask, index)[0] for name, compute in estimators.items()
    }
    result["reinforce_plus_plus"] = core.compute_reinforce_plus_plus_outcome_advantage(
        token_rewards.clone(), mask, config=config
    )[0]
    advantages, returns = core.compute_gae_advantage_return(token_rewards, values, mask, 0.9, 0.8)
    result |= {"gae, whitened": advantages * mask, "gae returns": returns * mask}
    loss, clipped = core.compute_value_loss(values, targets, old_values, mask, 0.2)
    result |= {"value loss": loss, "value clipfrac": clipped}
    inputs = {"outcome": outcome, "token_rewards": token_rewards, "values": values}
    inputs |= {"values_old": old_values, "returns": targets, "mask": mask.bool()}
    return {
        "inputs": {name: np.asarray(x).tolist() for name, x in inputs.items()},
        "outputs": {name: x.tolist() for name, x in result.items()},
    }


# -- the golden file ------------------------------------------------------------------------------


def evaluate(compute, inputs) -> dict:
    """Loss, gradient with respect to logp at counted tokens, and what the peer logs."""
    import torch

    tensors = {name: torch.tensor(x) for name, x in inputs.items()}
    tensors["logp"].requires_grad_()
    loss, metrics = compute(tensors)
    (gradient,) = torch.autograd.grad(loss, tensors["logp"])
    gradient = torch.where(tensors["mask"], gradient, 0.0)
    return {"loss": loss.item(), "gradient": gradient.tolist(), "metrics": metrics}


def make_golden() -> dict:
    """Everything the golden file holds."""
    cases = {}
    for case, inputs in INPUTS.items():
        peers = {"trl": TRL, "verl": VERL}
        outputs = {
            peer: {name: evaluate(compute, inputs) for name, compute in variants.items()}
            for peer, variants in peers.items()
        }
        cases[case] = {"inputs": {k: v.tolist() for k, v in inputs.items()}} | outputs
    versions = {"trl": "1.16.0", "verl": "0.9.1", "dtype": "float64"}
    golden = {"versions": versions, "cases": cases, "advantages": verl_advantages()}
    return golden | {"preferences": trl_preferences()}


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")  # of the peers, not ours
def test_golden_file_is_what_the_peers_compute():
    pytest.importorskip("trl")
    if "VERL_DIR" not in os.environ:
        pytest.skip("set VERL_DIR to the folder that verl 0.9.1 was installed into")
    made, committed = make_golden(), json.loads(GOLDEN.read_text())

    def compare(left, right):
        if isinstance(left, dict):
            assert left.keys() == right.keys()
            for name in left:
                compare(left[name], right[name])
        elif isinstance(left, str):
            assert left == right
        else:
            np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-14)

    compare(json.loads(json.dumps(made)), committed)


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(make_golden(), indent=1) + "\n")
