"""The objectives as other projects use them: by themselves."""

import pathlib
import re
import subprocess
import sys

import jax

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "objectives.md"


def test_importing_the_loss_imports_nothing_else_of_r1jax():
    program = (
        "import sys, jax, jaxtyping; before = set(sys.modules)\n"
        "from r1jax.objectives import policy_loss\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "ours = [n for n in sys.modules if n.startswith('r1jax')]\n"
        "assert all(n == 'r1jax' or n.startswith('r1jax.objectives') for n in ours), ours\n"
        "print(*sorted(new - set(sys.stdlib_module_names)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["r1jax"]


def test_the_example_in_the_docs_learns():
    (program,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    assert sum(bool(line) for line in program.splitlines()) <= 30
    assert set(re.findall(r"r1jax[\w.]*", program)) == {"r1jax.objectives"}
    names = {}
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        exec(compile(program, str(DOCS), "exec"), names)
    assert names["rewards"].mean() > 0.9
