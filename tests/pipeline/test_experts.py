"""A whole run of a model that has what DeepSeek-V3 has: experts chosen with a bias, latent
attention, multi-token prediction."""

import json

import pytest

SMALL = """
import micro

def get_config():
    config = micro.get_config()
    config["model"] = {
        "layers": 2, "width": 16, "heads": 2, "kv_heads": 2, "head_dim": 8, "ffn": 32,
        "mla": {"kv_rank": 8, "rope_dim": 4, "value_dim": 8},
        "moe": {
            "experts": 4, "chosen": 2, "ffn": 8, "dense_layers": (0,), "score": "sigmoid",
            "selection_bias": True, "normalized": True,
        },
        "mtp": True,
    }
    config["auxiliary"] = {"balance_loss": 0.001, "rebalance": 0.01, "mtp_loss": 0.1}
    config["rl"]["steps"] = 4
    return config
"""


@pytest.mark.slow
def test_both_phases_balance_experts_and_train_multi_token_prediction(runs, tmp_path):
    config = runs.folder / "experts.py"
    config.write_text(SMALL)
    done = runs.r1jax("train", f"--config={config}", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for phase in ("pretrain", "rl"):
        found = [line for line in lines if line["phase"] == phase]
        assert len(found) > 1
        for line in found:
            assert line["expert_load_max"] >= 1
            assert line["balance_loss"] > 0
            assert line["mtp_loss"] > 0
    of_pretraining = [line["mtp_loss"] for line in lines if line["phase"] == "pretrain"]
    assert of_pretraining[-1] < of_pretraining[0]


def test_a_model_without_experts_has_none_to_balance(runs, tmp_path):
    done = runs.run(tmp_path, "--config.auxiliary.rebalance=0.001")
    assert done.returncode != 0
    assert "config.auxiliary.rebalance=0.001: the model has no experts" in done.stderr
    assert len(done.stderr.splitlines()) == 1
