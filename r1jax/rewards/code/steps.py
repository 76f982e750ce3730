"""What the sandbox is asked to compute, and what is done with its answers on our side.

The expected values stay here. A function case is one call; the answer is compared with `expected`.
Assert tests are taken apart: of `assert f(3) == 6` the sandbox gets the question "what is f(3)?",
and `== 6` happens here, so an object that claims to equal everything gains nothing. The same holds
for other comparisons with a literal, for `abs(f(3) - 6) < 1e-6` and `math.isclose(f(3), 6)`. An
assert of another shape (`assert f(f(x)) == x`) is judged in the interpreter of the program, which
could lie about it: prefer the other shapes. All statements run in order in one process.
"""

import ast
import copy
import dataclasses
import math
import operator
from collections.abc import Callable
from typing import Any

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    # Decoded values are new objects: of the literals only None, True and False have an identity.
    ast.Is: lambda a, b: type(a) is type(b) and a == b,
    ast.IsNot: lambda a, b: not (type(a) is type(b) and a == b),
}
_CONTAINERS = {"set": set, "frozenset": frozenset, "list": list, "tuple": tuple}


class NotALiteral(ValueError):
    """This side of the assert must be computed by the program."""


@dataclasses.dataclass(frozen=True)
class AssertPlan:
    steps: list[dict[str, str]]  # for the sandbox
    checks: list[Callable[[Any], bool]]  # one for each step that answers


def plan_asserts(code: str) -> AssertPlan:
    """Take a test script apart; SyntaxError if it does not parse, ValueError without an assert."""
    plan = AssertPlan([], [])
    for statement in _flatten(ast.parse(code).body):
        if not isinstance(statement, ast.Assert):
            plan.steps.append({"execute": ast.unparse(statement)})
            continue
        for test in _conjuncts(statement.test):
            step, check = _plan_assert(test)
            plan.steps.append(step)
            plan.checks.append(check)
    if not plan.checks:
        raise ValueError("the test code has no assert at its top level")
    return plan


def _flatten(body: list[ast.stmt]) -> list[ast.stmt]:
    """HumanEval's `def check(candidate): …` and `check(f)` as plain statements."""
    checkers = {
        s.name: s
        for s in body
        if isinstance(s, ast.FunctionDef)
        and len(s.args.args) == 1
        and any(isinstance(part, ast.Assert) for part in s.body)
        and not any(isinstance(part, ast.Return) for part in ast.walk(s))
    }
    flat: list[ast.stmt] = []
    for statement in body:
        match statement:
            case ast.Expr(ast.Call(ast.Name(name), [argument], [])) if name in checkers:
                target = ast.Name(checkers[name].args.args[0].arg, ast.Store())
                assign = ast.Assign([target], argument)
                flat += [ast.fix_missing_locations(assign), *copy.deepcopy(checkers[name].body)]
            case ast.FunctionDef(name) if name in checkers:
                continue
            case _:
                flat.append(statement)
    return flat


def _conjuncts(test: ast.expr) -> list[ast.expr]:
    """`assert a and b` as two asserts."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return [part for value in test.values for part in _conjuncts(value)]
    return [test]


def _plan_assert(test: ast.expr) -> tuple[dict[str, str], Callable[[Any], bool]]:
    """The question for the sandbox and the judgement of its answer."""
    for attempt in (_plan_closeness, _plan_isclose, _plan_comparison):
        try:
            subject, check = attempt(test)
        except NotALiteral:
            continue
        return {"value": ast.unparse(subject)}, _total(check)
    return {"truth": ast.unparse(test)}, lambda got: got is True


def _plan_comparison(test: ast.expr) -> tuple[ast.expr, Callable[[Any], bool]]:
    match test:
        case ast.Compare(left, [op], [right]):
            compare = _COMPARISONS[type(op)]
        case _:
            raise NotALiteral
    try:
        wanted = _literal(right)
    except NotALiteral:
        given = _literal(left)
        return right, lambda got: bool(compare(given, got))
    return left, lambda got: bool(compare(got, wanted))


def _plan_closeness(test: ast.expr) -> tuple[ast.expr, Callable[[Any], bool]]:
    """`abs(subject - wanted) < bound`, `wanted` on either side."""
    match test:
        case ast.Compare(
            ast.Call(ast.Name("abs"), [ast.BinOp(left, ast.Sub(), right)], []),
            [ast.Lt() | ast.LtE() as op],
            [bound],
        ):
            compare, limit = _COMPARISONS[type(op)], _literal(bound)
        case _:
            raise NotALiteral
    subject, wanted = _split(left, right)
    return subject, lambda got: bool(compare(abs(got - wanted), limit))


def _plan_isclose(test: ast.expr) -> tuple[ast.expr, Callable[[Any], bool]]:
    match test:
        case ast.Call(
            ast.Attribute(ast.Name("math"), "isclose") | ast.Name("isclose"),
            [left, right],
            keywords,
        ):
            options = {str(keyword.arg): _literal(keyword.value) for keyword in keywords}
        case _:
            raise NotALiteral
    subject, wanted = _split(left, right)
    return subject, lambda got: math.isclose(got, wanted, **options)


def _split(left: ast.expr, right: ast.expr) -> tuple[ast.expr, Any]:
    try:
        return left, _literal(right)
    except NotALiteral:
        return right, _literal(left)


def _literal(node: ast.expr) -> Any:
    """The value of a literal, or of set([…]), float("inf") and the like around one."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        pass
    match node:
        case ast.Call(ast.Name("float"), [ast.Constant(str() as text)], []):
            return float(text)
        case ast.Call(ast.Name(name), [argument], []) if name in _CONTAINERS:
            try:
                return _CONTAINERS[name](_literal(argument))
            except TypeError:
                raise NotALiteral from None
    raise NotALiteral


def _total(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """`1 < "a"` raises in the assert and fails; so it does here."""

    def checked(got: Any) -> bool:
        try:
            return bool(check(got))
        except (TypeError, ValueError, OverflowError):
            return False

    return checked
