"""Rewards for programs: run them behind walls, judge what they answer.

    verdict = run_tests(program, {"type": "stdin", "cases": [{"input": "3\\n", "output": "6\\n"}]})

`sandbox_info()` says which walls this machine offers.
"""

from r1jax.rewards.code.levels import SandboxInfo, sandbox_info
from r1jax.rewards.code.run import Job, run_batch, run_tests
from r1jax.rewards.code.verdict import CodeVerdict

__all__ = [
    "CodeVerdict",
    "Job",
    "SandboxInfo",
    "run_batch",
    "run_tests",
    "sandbox_info",
]
