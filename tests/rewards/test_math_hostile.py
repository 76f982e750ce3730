"""Nothing that a model can write may hang, raise, grow or be executed."""

import subprocess
import sys
import time

import pytest

from r1jax.rewards import math

DEEP = 5000
HOSTILE = {
    "tower": "9**9**9**9",
    "tower in LaTeX": "10^{10^{8}}",
    "factorial": "(10^9)!",
    "factorials of factorials": "((((9!)!)!)!)!",
    "factorial chain": "9" + "!" * DEEP,
    "brackets": "(" * DEEP + "1" + ")" * DEEP,
    "braces": "{" * DEEP + "1" + "}" * DEEP,
    "fractions": "\\frac{" * DEEP + "1" + "}{2}" * DEEP,
    "bare fractions": "\\frac" * 900,
    "roots": "\\sqrt" * 700 + "2",
    "minus signs": "-" * 3000 + "1",
    "primes": "f" + "'" * 3000,
    "powers": "2^" * 500 + "1",
    "indices": "x_" * 500 + "1",
    "logarithms": "\\log" * 900 + "2",
    "bars": "|" * 3000,
    "set braces": "\\{" * 1500,
    "text in text": "\\text{" * 600,
    "megabyte of digits": "1" * 1_000_000,
    "megabyte of sums": "x+" * 500_000,
    "megabyte in a box": "\\boxed{" + "1+" * 500_000 + "1}",
    "open boxes": "\\boxed{" * 50_000,
    "joined boxes": "\\boxed{2}, " * 50_000,
    "dollars": "$" * 5000,
    "announcements": "answer is " * 20_000,
    "tags": "<answer>" * 50_000,
    "backslashes": "\\" * 5001,
    "null bytes": "\x00" * 1000,
    "lone surrogates": "\ud800\udfff",
    "combining marks": "2" + "\u0301" * 5000,
    "digit groups": "2" + " 000" * 900 + "x",
    "wide matrix": "\\begin{pmatrix}" + "&".join(["1"] * 3000) + "\\end{pmatrix}",
    "large matrix": "\\begin{pmatrix}"
    + "\\\\".join(["&".join(["1"] * 40)] * 40)
    + "\\end{pmatrix}",
    "matrix power": "\\begin{pmatrix}1&1\\\\1&0\\end{pmatrix}^{1000000}",
    "matrix powers of powers": "((\\begin{pmatrix}x&1\\\\1&y\\end{pmatrix}^4)^4)^4",
    "determinant": "\\det\\begin{pmatrix}"
    + "\\\\".join(["&".join(["x+1"] * 12)] * 12)
    + "\\end{pmatrix}",
    "expansion": "(a+b+c+d+e+f)^{10000}",
    "sum of products": "\\prod_{k=1}^{1000}\\sum_{j=1}^{1000} j^k",
    "sums in sums": "\\sum_{a=1}^{900}\\sum_{b=1}^{900}\\sum_{c=1}^{900} abc",
    "wild integral": "\\int_0^1 \\sin(1/x) dx",
    "no limit": "\\lim_{x\\to\\infty} \\sin x",
    "divergent sum": "\\sum_{k=1}^{\\infty} \\sin k",
    "half-integer factorial": "(10^{8}+0.5)!",
    "binomial": "\\binom{10^{12}}{10^{11}}",
    "gcd": "\\gcd(2^{100000}-1,3^{80000}-1)+1",
    "large powers": "+".join(f"{i}^{{9999}}" for i in range(2, 250)),
    "plus-minus": "\\pm1" * 50,
    "list of roots": ",".join(f"\\sqrt{{{i}}}" for i in range(2, 190)),
    "unions": "\\cup".join(f"({i},{i + 1})" for i in range(300)),
    "inequality": "x^{24}+x^{23}-5x^7+1<0",
    "limits in limits": "\\lim_{x\\to 0}" * 20 + "\\sin x",
    "derivatives": "\\frac{d}{dx}" * 20 + "x^{30}",
    "integrals": "\\int_0^1 " * 6 + "xy" + " dx" * 6,
    "labels of choices": "(B) " * 900 + "7",
    "quotients to the left": "2 \\over " * 400 + "2",
    "residues to the left": "5" + " \\pmod 3" * 400,
    "prices to the left": "\\pi + \\$ " * 400 + "3",
    "periodic": "\\tan(10^{100000})",
    "exponentials": "e^{e^{e^{e^{e}}}}",
    "exponent": "1e999999999",
    "long decimal": "1." + "7" * 3000 + "^{0.5}",
    "functions": "f(" * 100 + "x" + ")" * 100,
    "Chinese numeral": "二" * 3500,
    "Chinese fractions": "百分之" * 1000,
    "units": "5 " + "km " * 1000,
    "import": "__import__('os').system('id')",
    "eval": "eval('1')",
    "exec": "exec(\"print('x')\")",
    "attribute": "().__class__.__bases__[0].__subclasses__()",
    "lambda": "(lambda: 1)()",
    "LaTeX input": "\\input{/etc/passwd}",
    "homoglyph of one": "І",
    "other digits": "१",
    "circled digit": "①",
    "mixed number in a base": "3¼_2",
    "base of a fraction": "12_{5/2}",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("boxed", [False, True])
def test_hostile_answers_are_wrong_and_cheap(name, boxed):
    text = f"So \\boxed{{{HOSTILE[name]}}}." if boxed else HOSTILE[name]
    before = time.thread_time()
    verdict = math.verify(text, "1")
    spent = time.thread_time() - before
    assert verdict.correct is False, verdict
    assert not verdict.reason.startswith("grader")
    assert spent < 10  # the bar is 2 s; a busy test machine and run-time type checks get room


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_golds_never_reward_another_answer(name):
    assert math.verify("\\boxed{123456789123}", HOSTILE[name]).correct in (False, None)


def test_identical_hostile_text_is_equal_without_evaluation():
    assert math.verify("9^{9^{9^{9}}}", "9^{9^{9^{9}}}").correct is True


def test_the_package_imports_no_jax_and_no_computer_algebra():
    code = (
        "import sys; import r1jax.rewards.math as m; m.verify('x+1', '1+x');"
        "print([n for n in sys.modules if n.split('.')[0] in ('jax', 'jaxlib', 'numpy', 'sympy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
