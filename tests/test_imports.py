"""Imports go downwards only, and the parts that promise to be light are."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "r1jax"

# What each room may import from within r1jax, besides itself.
LEAVES = {"errors", "types"}
DATA = {"data", "errors"}
MAY_IMPORT = {
    "errors": set(),
    "last_words": set(),
    "config_tree": {"errors"},
    "types": set(),
    "objectives": set(),
    "data": DATA,
    "rewards": DATA,
    "mesh": LEAVES,
    "aside": {"errors"},
    "cluster": {"errors", "last_words"},
    "ops": LEAVES | {"mesh"},
    "models": LEAVES | {"ops", "mesh"},
    "config_rl": {"config", "config_tree", "ops"},
    "config_problems": {"config", "config_tree", "data", "models", "monitor"},
    "config": LEAVES
    | {
        "config_problems",
        "config_rl",
        "config_tree",
        "data",
        "models",
        "monitor",
        "objectives",
        "ops",
        "rewards",
        "rollout",
    },
    "rollout": LEAVES | {"aside", "ops", "mesh", "models"},
    "monitor": LEAVES,
    "training": LEAVES
    | {
        "aside",
        "cluster",
        "config",
        "data",
        "mesh",
        "models",
        "monitor",
        "objectives",
        "ops",
        "rewards",
        "rollout",
    },
}
MAY_IMPORT["evaluation"] = MAY_IMPORT["training"] | {"training"}
MAY_IMPORT["pipeline"] = MAY_IMPORT["evaluation"] | {"evaluation"}
MAY_IMPORT["cli"] = MAY_IMPORT["pipeline"] | {"pipeline"}
MAY_IMPORT["__main__"] = {"cli"}


def imports_of(path: pathlib.Path) -> set[str]:
    """Absolute module names that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_go_downwards(path):
    room = room_of(path)
    if room == "__init__":
        return
    assert room in MAY_IMPORT, f"say in this test what r1jax/{room} may import"
    for name in imports_of(path):
        package, _, rest = name.partition(".")
        if package == "r1jax" and rest:
            imported = rest.partition(".")[0]
            allowed = MAY_IMPORT[room] | {room}
            assert imported in allowed, f"{room} must not import {name}"


FREE_OF_JAX = [
    "r1jax.rewards",
    "r1jax.rewards.grader",
    "r1jax.rewards.workers",
    "r1jax.data.tasks",
    "r1jax.cli.main",
]


@pytest.mark.parametrize("module", FREE_OF_JAX)
def test_is_free_of_jax(module):
    code = f"import sys, {module}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_objectives_import_nothing_else_of_r1jax():
    code = (
        "import sys; from r1jax.objectives import policy_loss;"
        "print([m for m in sys.modules if m.startswith('r1jax.')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = ast.literal_eval(out.stdout)
    assert all(name.startswith("r1jax.objectives") for name in loaded)
