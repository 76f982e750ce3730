"""What a run can be: two processes over the loopback do it as one with the same devices does."""

import copy
import importlib.util
import json
import pathlib
import shutil

import pytest
from cluster_runs import (
    FLAGS,
    FSDP,
    assert_same,
    finish,
    refused,
    run_alone,
    run_pair,
    start_cluster,
    wait_for_rl,
)
from runs import MICRO, records

TENSOR = ["--config.mesh.data=1", "--config.mesh.tensor=2", "--config.model.kv_heads=2"]
KINDS = {
    "fsdp": FSDP,
    "tensor": TENSOR,
    "refill": [
        "--config.rl.dynamic.mode=refill",
        "--config.rl.dynamic.carry=true",
        "--config.rl.epochs=2",
        "--config.rl.reference_every=2",
    ],
    "adapters": ["--config.lora.rank=2", "--config.lora.alpha=2"],
    "speculative": ["--config.rollout.speculate=ngram"],
}
# Rewards are all given, so that one process has to wait for the other's.
LATE = "--config.reward_weights={'accuracy': 1.0, 'cluster_rewards:late': 1.0}"
ONE_STEP_OFF = [
    LATE,
    "--config.rl.asynchronous=true",
    "--config.objective.correction=tis",
    "--config.objective.correction_high=2.0",
    "--config.reward_model.every=2",
    "--config.reward_model.updates=2",
    "--config.reward_model.pairs=4",
    "--config.reward_model.optim.lr=1e-2",
]
FORMAT = "parquet" if importlib.util.find_spec("pyarrow") else "jsonl"  # tests can do without
PPO = [
    "--config.rl.advantage=gae",
    "--config.critic.pretrain_steps=1",
    "--config.critic.optim.lr=1e-3",
    "--config.objective.kl=k1",
    "--config.objective.kl_in_reward=true",
    "--config.eval.every=2",
    "--config.checkpoint.best=true",
    f"--config.logging.completions_format={FORMAT}",
]
STEPS = ["--config.rl.advantage=process", "--config.grading.steps=cluster_rewards:steps", LATE]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one_of_every_kind(two_devices, tmp_path, kind):
    run_pair(two_devices, tmp_path / "two", *FLAGS, *KINDS[kind])
    run_alone(two_devices, tmp_path / "one", *FLAGS, *KINDS[kind])
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("damaged", [0, 1])
def test_a_checkpoint_that_one_of_them_cannot_read_is_passed_over_by_both(
    two_devices, tmp_path, damaged
):
    """Each reads its own shards."""
    whole, workdir = tmp_path / "whole", tmp_path / "damaged"
    wider = [*FLAGS, *FSDP, "--config.model.width=128", "--config.model.ffn=512"]
    run_pair(two_devices, whole, *wider)
    shutil.copytree(whole, workdir)
    files = workdir.glob(f"checkpoints/rl/6/state/ocdbt.process_{damaged}/d/*")
    largest = max(files, key=lambda path: path.stat().st_size)
    data = largest.read_bytes()
    middle = slice(len(data) // 4, len(data) // 2)
    largest.write_bytes(
        data[: middle.start] + bytes(byte ^ 0xFF for byte in data[middle]) + data[middle.stop :]
    )
    said = run_pair(two_devices, workdir, *wider)
    assert "checkpoint 6 is damaged" in said[0][0]
    assert "goes on at step 4" in said[0][0]
    assert "Traceback" not in said[0][1] + said[1][1]
    assert (workdir / "checkpoints/damaged/rl-6").is_dir()
    assert_same(workdir, whole)


@pytest.fixture(scope="module")
def one_step_off(two_devices):
    """The workdir of one process."""
    workdir = two_devices.folder / "one_step_off"
    run_alone(two_devices, workdir, *FLAGS, *ONE_STEP_OFF)
    return workdir


@pytest.mark.slow
@pytest.mark.long
def test_one_step_off_by_a_reward_model_that_learns(two_devices, one_step_off, tmp_path):
    run_pair(two_devices, tmp_path / "two", *FLAGS, *ONE_STEP_OFF)
    assert_same(one_step_off, tmp_path / "two")
    lines = records(one_step_off)
    stale = [line["staleness/max"] for line in lines if line["phase"] == "rl"]
    assert stale == [1, 3, 3, 3, 3, 3]  # two updates a step
    paid = [line["rewards/reward_model/std"] for line in lines if line["phase"] == "rl"]
    assert [std > 0 for std in paid] == [False, False, True, True, True, True]
    assert [line["step"] for line in lines if line["phase"] == "reward_model"] == [2, 4, 6]


@pytest.mark.slow
@pytest.mark.long
def test_killed_with_samples_that_wait_for_verdicts_the_pair_goes_on(
    two_devices, one_step_off, tmp_path
):
    workdir = tmp_path / "killed"
    processes = start_cluster(two_devices, workdir, *FLAGS, *ONE_STEP_OFF)
    wait_for_rl(processes, workdir, 2)
    processes[1].kill()
    finish(processes, 60)
    saved = sorted(int(path.name) for path in (workdir / "checkpoints/rl").glob("[0-9]"))
    assert saved[-1] in (2, 4)
    books = json.loads((workdir / f"checkpoints/rl/{saved[-1]}/run/metadata").read_text())
    assert books["ahead"]["tokens"] > 0  # of samples that the next step learns from
    said = run_pair(two_devices, workdir, *FLAGS, *ONE_STEP_OFF)
    assert f"rl goes on at step {saved[-1]} of 6" in said[0][0]
    assert_same(workdir, one_step_off)


@pytest.mark.slow
def test_a_critic_the_best_policy_going_back_and_doing_a_step_again(two_devices, tmp_path):
    workdir = tmp_path / "two"
    run_pair(two_devices, workdir, *FLAGS, *PPO)
    run_alone(two_devices, tmp_path / "one", *FLAGS, *PPO)
    assert_same(tmp_path / "one", workdir)
    best = [[path.name for path in (w / "checkpoints/best").iterdir()] for w in tmp_path.iterdir()]
    assert best[0] == best[1] != []
    said = run_pair(two_devices, workdir, *FLAGS, *PPO, "--resume=4")
    assert "rl goes on at step 4 of 6" in said[0][0]
    assert [path.name for path in (workdir / "checkpoints/later").iterdir()] == ["rl-6"]
    assert_same(tmp_path / "one", workdir)
    do_again(two_devices, workdir, 5)


def do_again(runs, workdir: pathlib.Path, step: int) -> None:
    """Both processes do a step again, and say what became of it once."""
    runs, before = copy.copy(runs), sorted(workdir.iterdir())
    runs.arguments = lambda _, *flags: ["train", f"--workdir={workdir}", *flags]
    replaying = start_cluster(runs, workdir, f"--replay={step}")
    said = finish(replaying)
    assert [process.returncode for process in replaying] == [0, 0], said
    counts = [out.count(f"rl step {step} is the same, bit for bit") for out, _ in said]
    assert counts == [1, 0]
    assert sorted(workdir.iterdir()) == before


def from_elsewhere(runs, folder: pathlib.Path):
    """Runs of a config that leaves the model to where it starts from."""
    runs = copy.copy(runs)
    lines = MICRO.splitlines(keepends=True)
    own = [line for line in lines if '"model"' not in line and '"pretrain"' not in line]
    runs.config = folder / "elsewhere.py"
    runs.config.write_text("".join(own))
    return runs, [flag for flag in FLAGS if "pretrain" not in flag]


@pytest.mark.slow
@pytest.mark.long
def test_steps_are_rewarded_in_a_run_that_starts_from_another(two_devices, one_step_off, tmp_path):
    runs, flags = from_elsewhere(two_devices, tmp_path)
    flags += [f"--init_from={one_step_off}", *STEPS]
    run_pair(runs, tmp_path / "two", *flags)
    run_alone(runs, tmp_path / "one", *flags)
    assert_same(tmp_path / "one", tmp_path / "two")
    begun, ended = (
        json.loads((w / "summary.json").read_text())[when]["accuracy"]
        for w, when in ((tmp_path / "two", "before"), (one_step_off, "after"))
    )
    assert begun == ended
    assert max(line["grad_norm"] for line in records(tmp_path / "two") if line["phase"] == "rl") > 0


def write_questions(folder: pathlib.Path, answer: int) -> None:
    lines = [{"question": f"What is {i} + 2?", "answer": str(i + answer)} for i in range(8)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "questions.jsonl").write_text(text)


@pytest.fixture
def of_text(two_devices, tmp_path):
    """Runs of a Hugging Face folder on a file of questions, and their flags."""
    pytest.importorskip("transformers")
    from hf_folder import make_folder

    runs, flags = from_elsewhere(two_devices, tmp_path)
    runs.env = {**runs.env, "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}
    return runs, [
        *flags,
        f"--init_from={make_folder(tmp_path / 'model', dtype='bfloat16')}",
        "--config.data.train=questions.jsonl",
        "--config.data.template=r1_zero",
        "--config.data.max_prompt_tokens=400",
        "--config.data.held_out=0.25",
        "--config.data.curriculum=priority",
        "--config.sampling.max_tokens=6",
        "--config.reward=random",  # a tiny random model earns nothing else
    ]


@pytest.mark.slow
@pytest.mark.long
def test_a_hugging_face_folder_and_a_file_of_questions(of_text, tmp_path, monkeypatch):
    runs, flags = of_text
    write_questions(tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    run_pair(runs, tmp_path / "two", *flags)
    run_alone(runs, tmp_path / "one", *flags)
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_a_process_with_other_weights_is_refused(of_text, tmp_path):
    """Of the same shapes, and split: no process reads all of them."""
    from hf_folder import make_folder

    runs, flags = of_text
    folders = [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(folders):
        make_folder(folder / "theirs", dtype="bfloat16", seed=seed)
        write_questions(folder, 2)
    flags = [*flags, *FSDP, "--init_from=theirs"]
    said = refused(start_cluster(runs, tmp_path / "w", *flags, folders=folders))
    wanted = "same checkpoint to start from; they differ in theirs/model.safetensors ("
    assert [wanted in line for line in said] == [True, True], said


@pytest.mark.slow
def test_a_process_with_other_questions_is_refused(of_text, tmp_path):
    runs, flags = of_text
    folders = [tmp_path / "a", tmp_path / "b"]
    for answer, folder in enumerate(folders):
        folder.mkdir()
        write_questions(folder, answer)
    said = refused(start_cluster(runs, tmp_path / "w", *flags, folders=folders))
    wanted = "have the same questions; they differ in questions.jsonl ("
    assert [wanted in line for line in said] == [True, True], said
