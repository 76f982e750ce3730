"""Knights, who always tell the truth, and knaves, who always lie: who is what?"""

import itertools
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.rewards.logic.answer import final_answer

NAMES = ("Ada", "Ben", "Cora", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jon")
# ["knight", i], ["knave", i], ["count", k], ["same", i, j], ["not", s], and two-part statements.
Statement = Sequence[Any]
_JOINERS = {"and": "and", "or": "or", "iff": "if and only if"}


def knights_and_knaves(rng: random.Random, *, people: int | None = None) -> dict[str, Any]:
    """One statement from each of `people` (2 to 5) inhabitants, with exactly one solution."""
    count = people or rng.randint(2, 5)
    names = rng.sample(NAMES, count)
    while True:
        statements = [_statement(rng, count) for _ in range(count)]
        solutions = solve(statements)
        if len(solutions) == 1:
            return _item(names, statements, solutions[0])


def _statement(rng: random.Random, count: int) -> list[Any]:
    kind = rng.choice(("simple", "simple", "count", "same", "and", "or", "iff"))
    if kind == "count":
        return ["count", rng.randint(0, count)]
    if kind == "same":
        return ["same", *sorted(rng.sample(range(count), 2))]
    if kind == "simple":
        return [rng.choice(("knight", "knave")), rng.randrange(count)]
    first, second = rng.sample(range(count), 2)
    roles = [rng.choice(("knight", "knave")) for _ in range(2)]
    return [kind, [roles[0], first], [roles[1], second]]


def is_true(statement: Statement, knights: Sequence[bool]) -> bool:
    """Whether a statement holds when `knights` says who is a knight."""
    kind, *parts = statement
    if kind == "knight":
        return knights[parts[0]]
    if kind == "knave":
        return not knights[parts[0]]
    if kind == "count":
        return sum(knights) == parts[0]
    if kind == "same":
        return knights[parts[0]] == knights[parts[1]]
    first, second = (is_true(part, knights) for part in parts)
    return {"and": first and second, "or": first or second, "iff": first == second}[kind]


def solve(statements: Sequence[Statement]) -> list[tuple[bool, ...]]:
    """Every assignment in which exactly the knights' statements are true."""
    return [
        knights
        for knights in itertools.product((True, False), repeat=len(statements))
        if all(is_true(said, knights) == knights[i] for i, said in enumerate(statements))
    ]


def _say(statement: Statement, names: Sequence[str]) -> str:
    kind, *parts = statement
    if kind in ("knight", "knave"):
        return f"{names[parts[0]]} is a {kind}"
    if kind == "count":
        return f"exactly {parts[0]} of us {'is a knight' if parts[0] == 1 else 'are knights'}"
    if kind == "same":
        return f"{names[parts[0]]} and {names[parts[1]]} are of the same kind"
    return f" {_JOINERS[kind]} ".join(_say(part, names) for part in parts)


def _item(
    names: Sequence[str], statements: list[list[Any]], knights: tuple[bool, ...]
) -> dict[str, Any]:
    said = "\n".join(
        f'{name} says: "{_say(statement, names)}."'
        for name, statement in zip(names, statements, strict=True)
    )
    question = (
        "On an island, knights always tell the truth and knaves always lie. Everyone is one or "
        f'the other; "or" includes both.\n{said}\nWho is what? '
        "Answer in this form: Name: knight, Name: knave"
    )
    roles = {name: "knight" if k else "knave" for name, k in zip(names, knights, strict=True)}
    answer = ", ".join(f"{name}: {role}" for name, role in roles.items())
    return {"question": question, "answer": answer, "roles": roles, "statements": statements}


def score(answer: str, item: Mapping[str, Any]) -> float:
    """1.0 where each person is given the right kind, once, and nothing else is said."""
    text = final_answer(answer)
    return float(text is not None and read_roles(text) == _lower(item["roles"]))


def _lower(roles: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): role.lower() for name, role in roles.items()}


def read_roles(text: str) -> dict[str, str] | None:
    """Names and kinds of "A: knight, B is a knave and …"; None where anything else stands there."""
    roles: dict[str, str] = {}
    text = re.sub(r"[*`\"]|\\text\s?", "", text).strip(" .{}").lower()
    for part in re.split(r"[,;\n]+\s*(?:and\s)?|\sand\s", text):
        part = " ".join(part.split()).strip(" .")
        match = re.fullmatch(r"(?:[-•] ?)?(\w{1,40}) ?(?:[:=]|is) ?(?:an? )?(\w{1,20})", part)
        if match is None:
            if part:
                return None
            continue
        if match[1] in roles:
            return None
        roles[match[1]] = match[2]
    return roles
