"""Small matrix algebra on nodes, so that 1/2 · M or A + B is compared entry by entry."""

from __future__ import annotations

from collections.abc import Callable

from r1jax.rewards.math.nodes import (
    ZERO,
    Call,
    Matrix,
    Node,
    Num,
    Seq,
    Sym,
    TooCostly,
    negate,
    walk,
)

MAX_SIZE = 8
MAX_POWER = 4
MAX_NODES = 2_000
_AXES = ("unit:i", "unit:j", "unit:k")


def is_matrix(node: Node) -> bool:
    return isinstance(node, Matrix)


def reduce_matrix(node: Node) -> Node:
    """The matrix that sums, products, powers and transposes of matrices make; other nodes as they
    are.
    """
    if (
        not isinstance(node, Call)
        or node.name in ("det", "abs")
        or not any(isinstance(n, Matrix) for n in walk(node))
    ):
        return node
    args = [_bounded(reduce_matrix(arg)) for arg in node.args]
    matrices = [arg for arg in args if isinstance(arg, Matrix)]
    if any(len(m.rows) > MAX_SIZE or len(m.rows[0]) > MAX_SIZE for m in matrices):
        raise TooCostly("matrix algebra")
    match node.name:
        case "neg" if matrices:
            return _map(matrices[0], negate)
        case "+" if len(matrices) == len(args) and len({_shape(m) for m in matrices}) == 1:
            return _sum(matrices)
        case "*" if matrices:
            return _product(args)
        case "/" if isinstance(args[0], Matrix) and len(matrices) == 1:
            return _map(args[0], lambda entry: Call("/", (entry, args[1])))
        case "^" if isinstance(args[0], Matrix):
            return _power(args[0], args[1]) or node
        case "transpose" if matrices:
            return Matrix(tuple(zip(*matrices[0].rows, strict=True)))
    return node


def _bounded(node: Node) -> Node:
    """Entries of a product share their parts; counted as a tree they grow with every power."""
    if isinstance(node, Matrix) and any(count > MAX_NODES for count, _ in enumerate(walk(node))):
        raise TooCostly("matrix algebra")
    return node


def _shape(matrix: Matrix) -> tuple[int, int]:
    return len(matrix.rows), len(matrix.rows[0])


def _map(matrix: Matrix, function: Callable[[Node], Node]) -> Matrix:
    return Matrix(tuple(tuple(function(entry) for entry in row) for row in matrix.rows))


def _sum(matrices: list[Matrix]) -> Matrix:
    rows = zip(*(m.rows for m in matrices), strict=True)
    return Matrix(
        tuple(tuple(Call("+", entries) for entries in zip(*row, strict=True)) for row in rows)
    )


def _product(factors: list[Node]) -> Node:
    scalars = tuple(f for f in factors if not isinstance(f, Matrix))
    matrices = [f for f in factors if isinstance(f, Matrix)]
    result = matrices[0]
    for other in matrices[1:]:
        multiplied = _multiply(result, other)
        if multiplied is None:
            return Call("*", tuple(factors))
        result = multiplied
    return _map(result, lambda entry: Call("*", (*scalars, entry))) if scalars else result


def _multiply(left: Matrix, right: Matrix) -> Matrix | None:
    if len(left.rows[0]) != len(right.rows):
        return None
    columns = list(zip(*right.rows, strict=True))
    return Matrix(
        tuple(
            tuple(
                Call("+", tuple(Call("*", pair) for pair in zip(row, column, strict=True)))
                for column in columns
            )
            for row in left.rows
        )
    )


def _power(matrix: Matrix, exponent: Node) -> Matrix | None:
    if exponent in (Sym("T"), Call("transpose", ())):
        return Matrix(tuple(zip(*matrix.rows, strict=True)))
    if (
        not isinstance(exponent, Num)
        or not 1 <= exponent.value <= MAX_POWER
        or exponent.value.denominator != 1
    ):
        return None
    result: Matrix | None = matrix
    for _ in range(int(exponent.value) - 1):
        result = _multiply(result, matrix) if result else None
    return result


def unit_vector(node: Node, size: int) -> Seq | None:
    """3i − 2j in base vectors as the tuple (3, −2) of the given size."""
    if not any(isinstance(n, Sym) and n.name in _AXES for n in walk(node)):
        return None
    parts: dict[str, Node] = {}
    for term in node.args if isinstance(node, Call) and node.name == "+" else (node,):
        axis, coefficient = _axis(term)
        if axis is None or axis in parts:
            return None
        parts[axis] = coefficient
    if not 2 <= size <= 3 or (size == 2 and "unit:k" in parts):
        return None
    return Seq("vector", tuple(parts.get(axis, ZERO) for axis in _AXES[:size]))


def _axis(term: Node) -> tuple[str | None, Node]:
    if isinstance(term, Call) and term.name == "neg":
        axis, coefficient = _axis(term.args[0])
        return axis, negate(coefficient)
    one = Num(ZERO.value + 1)
    if isinstance(term, Sym) and term.name in _AXES:
        return term.name, one
    if isinstance(term, Call) and term.name == "*":
        axes = [a for a in term.args if isinstance(a, Sym) and a.name in _AXES]
        rest = tuple(a for a in term.args if a not in axes)
        if len(axes) == 1 and isinstance(axes[0], Sym):
            return axes[0].name, rest[0] if len(rest) == 1 else Call("*", rest) if rest else one
    return None, ZERO
