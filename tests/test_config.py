"""A config says what it means: overrides, types, and errors of one line that help."""

import dataclasses
import itertools
import pathlib

import pytest

from r1jax import config as config_lib
from r1jax.config import Config, from_config_dict
from r1jax.data.tasks import documents_at, make_task
from r1jax.errors import UserError

CONFIGS = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads(path):
    config = config_lib.load(str(path))
    assert config.name == path.stem
    # What is written to the workdir is the config, whole.
    assert from_config_dict(config_lib.to_dict(config)) == config


def flat(source):
    return config_lib.flatten(config_lib.to_dict(config_lib.load(source)))


def differing(one, other):
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def config_path(name):
    return str(next(path for path in CONFIGS if path.stem == name))


def test_dapo_tiny_is_the_same_task_with_all_of_dapo():
    zero, dapo = flat(config_path("r1_zero_tiny")), flat(config_path("dapo_tiny"))
    assert {
        key for key in differing(zero, dapo) if key.startswith(("model", "data", "opt"))
    } == set()
    assert (dapo["objective.clip_low"], dapo["objective.clip_high"]) == (0.2, 0.28)
    assert (dapo["objective.aggregation"], dapo["objective.kl"]) == ("token_mean", "none")
    assert (dapo["rl.mask_cut"], dapo["rl.dynamic.mode"]) == (True, "refill")
    assert dapo["reward_weights.soft_overlong"] == 1
    soft = (dapo["grading.settings.soft_overlong.max_len"], dapo["sampling.max_tokens"])
    assert soft == (16, 16)


def test_each_rung_of_the_progressive_table_adds_one_thing():
    path = config_path("dapo_progressive")
    rungs = ["naive", "overlong_filter", "clip_higher", "soft_punishment", "token_loss"]
    rungs = [flat(f"{path}:{rung}") for rung in [*rungs, "dynamic_sampling"]]
    added = [differing(*pair) for pair in itertools.pairwise(rungs)]
    soft = {"grading.settings", "reward_weights.soft_overlong"}
    soft |= {f"grading.settings.soft_overlong.{name}" for name in ("max_len", "cache")}
    assert added == [
        {"rl.mask_cut"},
        {"objective.clip_high"},
        soft,
        {"objective.aggregation"},
        {"rl.dynamic.mode"},
    ]
    # The base's corpus has longer texts than a response may become: they must fit a row too.
    task = make_task("countdown")
    documents = documents_at(task, seed=0, index=0, count=500, reasoning_share=1.0)
    encode = task.tokenizer().encode
    longest = max(len(encode(prompt)) + len(encode(text)) for prompt, text in documents)
    assert rungs[0]["sampling.max_tokens"] < longest < rungs[0]["batch.row_length"]
    base = flat(f"{path}:naive,runs/base")
    assert (base["init_from"], base["pretrain.steps"]) == ("runs/base", 0)
    with pytest.raises(UserError, match="no rung 'all'; there are naive, overlong_filter"):
        config_lib.load(f"{path}:all")


@pytest.fixture
def config_file(tmp_path):
    def write(body: str) -> str:
        path = tmp_path / "a_config.py"
        path.write_text(body)
        return str(path)

    return write


def test_overrides_win_over_the_file_and_the_file_over_defaults(config_file):
    source = config_file("def get_config():\n    return {'rl': {'steps': 7}, 'seed': 3}\n")
    config = config_lib.load(source, {"seed": "4", "optim.lr": "1e-3", "objective.kl": "k3"})
    assert (config.rl.steps, config.seed, config.optim.lr) == (7, 4, 1e-3)
    assert config.objective.kl == "k3"
    assert config.rl.prompts_per_step == Config().rl.prompts_per_step


def test_a_file_takes_an_argument(config_file):
    source = config_file("def get_config(size='1'):\n    return {'data': {'size': int(size)}}\n")
    assert config_lib.load(source).data.size == 1
    assert config_lib.load(source + ":6").data.size == 6


def test_overriding_one_reward_weight_keeps_the_others(config_file):
    source = config_file("def get_config():\n    return {}\n")
    config = config_lib.load(source, {"reward_weights.format": "0.5"})
    assert config.reward_weights == {"accuracy": 1.0, "format": 0.5}


def test_settings_of_reward_parts_are_set_one_by_one(config_file):
    source = config_file("def get_config():\n    return {}\n")
    flags = {
        "reward_weights.soft_overlong": "0.5",
        "grading.settings.soft_overlong.max_len": "100",
        "grading.settings.soft_overlong.cache": "20",
        "grading.verifiers.gsm8k": "math",
        "grading.when_correct": "('format',)",
    }
    config = config_lib.load(source, flags)
    assert config.grading.settings == {"soft_overlong": {"max_len": 100, "cache": 20}}
    assert config.grading.verifiers == {"gsm8k": "math"}
    assert config.grading.when_correct == ("format",)
    assert set(config.make_reward().weights) == {"accuracy", "format", "soft_overlong"}
    # What is written to the workdir is the config, whole.
    assert from_config_dict(config_lib.to_dict(config)) == config
    control = config_lib.load(source, {**flags, "reward": "random"})
    assert control.make_reward().weights == {"random": 1.0}
    assert control.make_reward().verifiers == {"gsm8k": "math"}


@pytest.mark.parametrize("text", ["true", "True"])
def test_booleans_read_as_people_write_them(config_file, text):
    source = config_file("def get_config():\n    return {}\n")
    assert config_lib.load(source, {"logging.tensorboard": text}).logging.tensorboard is True


WRONG = {
    "optim.lrr": ("1", ["unknown key 'lrr'", "did you mean 'lr'"]),
    "optimizer.lr": ("1", ["unknown key 'optimizer'"]),
    "optim.lr": ("fast", ["'fast'", "float"]),
    "optim.lr.x": ("1", ["below a value"]),
    "rl.steps": ("1.5", ["1.5", "int"]),
    "rl": ("3", ["section"]),
    "rl.samples_per_prompt": ("1", ["2 or more"]),
    "rl.updates_per_step": ("7", ["must divide the 512 samples"]),
    "objective.ratio": ("word", ["token, sequence"]),
    "objective.kl_coef": ("0.1", ["kl"]),
    "data.task": ("riddles", ["running_sum"]),
    "data.template": ("chatty", ["r1_zero"]),
    "model.kv_heads": ("3", ["must divide", "heads=4"]),
    "model.dtype": ("int8", ["bfloat16"]),
    "model.layers": ("-1", ["1 or more"]),
    "model.width": ("0", ["1 or more"]),
    "model.rope_theta": ("0", ["above 0"]),
    "model.max_positions": ("-1", ["0 or more"]),
    "objective.clip_low": ("-0.2", ["0 or more"]),
    "rl.advantage_eps": ("-1", ["0 or more"]),
    "mesh.data": ("0", ["-1 for all"]),
    "mesh.fsdp": ("-1", ["1 or more"]),
    "eval.temperature": ("-1", ["0 or more"]),
    "sampling.top_p": ("0", ["(0, 1]"]),
    "sampling.temperature": ("0", ["greedy", "1.0"]),
    "sampling.max_tokens": ("0", ["1 or more"]),
    "reward": ("luck", ["rules", "random"]),
    "reward_weights.charm": ("1.0", ["charm", "accuracy"]),
    "eval.k": ("99", ["eval.samples"]),
    "reward_weights.soft_overlong": ("1.0", ["grading.settings.soft_overlong", "'max_len'"]),
    "grading.settings.lenght.max_len": ("1", ["lenght has no weight"]),
    "grading.when_correct": ("('language',)", ["language has no weight"]),
    "grading.verifiers.gsm8k": ("maths", ["must be one of math"]),
    "grading.workers": ("-1", ["0 or more"]),
    "grading.timeout_s": ("0", ["above 0"]),
    "grading.timeouts": ("0", ["did you mean 'timeout_s'"]),
    "optim.lr ": ("1", ["unknown key"]),
    "optim.b1": ("1.0", ["[0, 1)"]),
    "optim.weight_decay": ("-0.1", ["0 or more"]),
    "pretrain.optim.eps": ("0", ["above 0"]),
    "optim.final_fraction": ("2", ["between 0 and 1"]),
    "optim.schedule": ("steps", ["constant", "cosine"]),
    "seed": ("nan", ["int"]),
    "optim.eps": ("1e999", ["finite"]),
}


@pytest.mark.parametrize("seed", ["-1", str(2**31)])
def test_a_seed_that_no_device_can_hold_is_refused(config_file, seed):
    with pytest.raises(UserError, match=f"seed={seed}: must lie between 0 and"):
        config_lib.load(config_file("def get_config():\n    return {}\n"), {"seed": seed})


def test_no_heads_to_share_keys_are_no_division_by_zero(config_file):
    with pytest.raises(UserError, match=r"model\.kv_heads=0: must be 1 or more"):
        config_lib.load(config_file("def get_config():\n    return {}\n"), {"model.kv_heads": "0"})


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_setting_is_one_line_with_key_value_and_remedy(config_file, key):
    value, wanted = WRONG[key]
    with pytest.raises(UserError) as caught:
        config_lib.load(config_file("def get_config():\n    return {}\n"), {key: value})
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(("config." + key.split(".")[0], "config.grading.settings"))
    assert all(text in message for text in wanted), message


BROKEN_FILES = {
    "def get_config(:\n": "SyntaxError",
    "x = 1\n": "get_config",
    "def get_config():\n    return 3\n": "ConfigDict",
    "def get_config():\n    raise KeyError('rl')\n": "KeyError",
    "import no_such_module_here\n": "no_such_module_here",
    "def get_config():\n    return {'rl': {'stepz': 1}}\n": "stepz",
    "def get_config():\n    return {'model': {'kv_heads': '4'}}\n": "kv_heads='4'",
    "def get_config():\n    return {'reward_weights': {}}\n": "empty",
}


@pytest.mark.parametrize("body", BROKEN_FILES)
def test_a_broken_file_is_one_line(config_file, body):
    with pytest.raises(UserError, match=BROKEN_FILES[body]) as caught:
        config_lib.load(config_file(body))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.py: no such file"):
        config_lib.load(str(tmp_path / "nowhere.py"))


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seed = 1


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        # arXiv 2501.12948 v2, B.4.1
        (
            "r1_zero_qwen2_5_32b",
            {
                "optim.lr": 2e-6,
                "objective.kl": "k3",
                "objective.kl_coef": 0.001,
                "rl.samples_per_prompt": 16,
                "sampling.temperature": 1.0,
                "sampling.max_tokens": 32768,
            },
        ),
        # arXiv 2503.20783 and its examples/
        *(
            (
                name,
                {
                    "optim.lr": 1e-6,
                    "optim.b2": 0.95,
                    "objective.clip_high": 0.2,
                    "objective.kl": "none",
                    "objective.constant_length": 3000,
                    "rl.advantage_scale": "none",
                    "rl.prompts_per_step": 128,
                    "rl.samples_per_prompt": 8,
                },
            )
            for name in ("r1_zero_qwen2_5_math_7b", "r1_zero_qwen2_5_math_1_5b")
        ),
        # README and script of hkust-nlp/simpleRL-reason
        *(
            (
                name,
                {
                    "optim.lr": 5e-7,
                    "objective.kl_coef": 1e-4,
                    "objective.entropy_coef": 1e-3,
                    "rl.prompts_per_step": 1024,
                    "rl.samples_per_prompt": 8,
                    "sampling.max_tokens": 8192,
                },
            )
            for name in ("r1_zero_qwen2_5_7b", "r1_zero_llama3_1_8b")
        ),
    ],
)
def test_what_the_papers_print_is_what_their_configs_say(name, printed):
    config = flat(config_path(name))
    assert {key: config[key] for key in printed} == printed
    outputs = config["rl.prompts_per_step"] * config["rl.samples_per_prompt"]
    batches = {"r1_zero_qwen2_5_32b": 512, "r1_zero_qwen2_5_7b": 2048, "r1_zero_llama3_1_8b": 2048}
    assert outputs // config["rl.updates_per_step"] == batches.get(name, 128)
    if name == "r1_zero_qwen2_5_32b":
        assert outputs == 8192
        assert config["rl.reference_every"] * config["rl.updates_per_step"] == 400
