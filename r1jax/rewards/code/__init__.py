"""Rewards for programs: run them behind walls, judge what they answer.

    verdict = run_tests(program, {"type": "stdin", "cases": [{"input": "3\\n", "output": "6\\n"}]})
    reward = binary(verdict)

`sandbox_info()` says which walls this machine offers; a run should record it.
"""

from r1jax.rewards.code.building import BuiltTests, build_tests
from r1jax.rewards.code.extract import last_block
from r1jax.rewards.code.levels import SandboxInfo, sandbox_info
from r1jax.rewards.code.remote import Piston, SandboxFusion
from r1jax.rewards.code.reward import NO_BLOCK, binary, fraction, grade, tiered, tiers_by_pass_rate
from r1jax.rewards.code.run import Job, run_batch, run_tests
from r1jax.rewards.code.suite import problem_of_tests
from r1jax.rewards.code.verdict import CodeVerdict

__all__ = [
    "NO_BLOCK",
    "BuiltTests",
    "CodeVerdict",
    "Job",
    "Piston",
    "SandboxFusion",
    "SandboxInfo",
    "binary",
    "build_tests",
    "fraction",
    "grade",
    "last_block",
    "problem_of_tests",
    "run_batch",
    "run_tests",
    "sandbox_info",
    "tiered",
    "tiers_by_pass_rate",
]
