"""Zebra puzzles: houses in a row, one value of each category in each, found from clues."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1jax.rewards.logic.answer import final_answer

CATEGORIES = {
    "color": ("red", "green", "blue", "white", "yellow", "black"),
    "pet": ("cat", "dog", "fish", "horse", "zebra", "rabbit"),
    "drink": ("tea", "coffee", "milk", "juice", "water", "cocoa"),
    "name": ("Alice", "Bob", "Clara", "David", "Emma", "Felix"),
    "job": ("baker", "doctor", "farmer", "pilot", "singer", "teacher"),
    "sport": ("chess", "golf", "hockey", "rowing", "skiing", "tennis"),
}
# [relation, value, value] or ["at" | "not_at", value, house]; houses count from 0.
Clue = Sequence[Any]
_RELATIONS: Mapping[str, Callable[[int, int], bool]] = {
    "same": lambda a, b: a == b,
    "different": lambda a, b: a != b,
    "just_left": lambda a, b: a + 1 == b,
    "left": lambda a, b: a < b,
    "beside": lambda a, b: abs(a - b) == 1,
    "at": lambda a, house: a == house,
    "not_at": lambda a, house: a != house,
}
_WORDING = {
    "same": "The house with {} is the house with {}.",
    "different": "The house with {} is not the house with {}.",
    "just_left": "The house with {} is directly left of the house with {}.",
    "left": "The house with {} is somewhere left of the house with {}.",
    "beside": "The house with {} is next to the house with {}.",
    "at": "The house with {} is house {}.",
    "not_at": "The house with {} is not house {}.",
}
_ABSOLUTE = ("at", "not_at")
Domains = dict[str, frozenset[int]]


def zebra(
    rng: random.Random, *, houses: int | None = None, categories: int | None = None
) -> dict[str, Any]:
    """A puzzle of 3 to 5 houses and categories whose clues leave one solution, none to spare."""
    houses = houses or rng.randint(3, 4)
    chosen = rng.sample(sorted(CATEGORIES), categories or rng.randint(3, 4))
    grid = {name: rng.sample(CATEGORIES[name], houses) for name in chosen}
    clues = _true_clues(grid, rng)
    used: list[Clue] = []
    for clue in clues:
        used.append(clue)
        if len(solve(grid, used)) == 1:
            break
    for clue in list(used):
        fewer = [other for other in used if other is not clue]
        if len(solve(grid, fewer)) == 1:
            used = fewer
    return _item(grid, used, houses)


def _true_clues(grid: Mapping[str, Sequence[str]], rng: random.Random) -> list[Clue]:
    """Every true clue between values of different categories, the strongest kinds kept rare."""
    places = [(value, house) for row in grid.values() for house, value in enumerate(row)]
    category = {value: name for name, row in grid.items() for value in row}
    clues: list[Clue] = []
    for a, at in places:
        for b, other in places:
            if category[a] == category[b] and not (a != b and rng.random() < 0.2):
                continue
            names = [n for n in _RELATIONS if n not in _ABSOLUTE and _RELATIONS[n](at, other)]
            if category[a] == category[b]:
                names = [n for n in names if n not in ("same", "different")]
            clues += [[name, a, b] for name in names]
    houses = len(next(iter(grid.values())))
    for a, at in places:
        if rng.random() < 0.15:
            clues.append(["at", a, at])
        clues += [["not_at", a, house] for house in range(houses) if house != at]
    weights = {"different": 0.15, "not_at": 0.3}
    clues.sort(key=lambda clue: rng.random() ** (1 / weights.get(clue[0], 1.0)), reverse=True)
    # All values are at some house, so the whole list always leaves one solution: the absolute
    # places are put at its end as the last resort.
    return clues + [["at", a, at] for a, at in places]


def solve(
    grid: Mapping[str, Sequence[str]], clues: Sequence[Clue], limit: int = 2
) -> list[dict[str, int]]:
    """Up to `limit` assignments of values to houses that obey the clues (grid order unused)."""
    houses = len(next(iter(grid.values())))
    domains: Domains = {v: frozenset(range(houses)) for row in grid.values() for v in row}
    found: list[dict[str, int]] = []
    _search(domains, [list(row) for row in grid.values()], clues, limit, found)
    return found


def _search(
    domains: Domains,
    rows: list[list[str]],
    clues: Sequence[Clue],
    limit: int,
    found: list[dict[str, int]],
) -> None:
    if not _propagate(domains, rows, clues):
        return
    open_values = [value for value, houses in domains.items() if len(houses) > 1]
    if not open_values:
        found.append({value: next(iter(houses)) for value, houses in domains.items()})
        return
    value = min(open_values, key=lambda name: len(domains[name]))
    for house in sorted(domains[value]):
        if len(found) < limit:
            _search({**domains, value: frozenset((house,))}, rows, clues, limit, found)


def _propagate(domains: Domains, rows: list[list[str]], clues: Sequence[Clue]) -> bool:
    """Strike houses that a clue or a neighbour rules out, to the end; False at a contradiction."""
    changed = True
    while changed:
        changed = False
        narrowed = [*_by_clues(domains, clues), *_by_rows(domains, rows)]
        for value, houses in narrowed:
            kept = domains[value] & houses
            if not kept:
                return False
            if kept != domains[value]:
                domains[value] = kept
                changed = True
    return True


def _by_clues(domains: Domains, clues: Sequence[Clue]) -> list[tuple[str, frozenset[int]]]:
    narrowed = []
    for relation, a, b in clues:
        holds = _RELATIONS[relation]
        if relation in _ABSOLUTE:
            narrowed.append((a, frozenset(x for x in domains[a] if holds(x, b))))
            continue
        pairs = [(x, y) for x in domains[a] for y in domains[b] if holds(x, y)]
        narrowed.append((a, frozenset(x for x, _ in pairs)))
        narrowed.append((b, frozenset(y for _, y in pairs)))
    return narrowed


def _by_rows(domains: Domains, rows: list[list[str]]) -> list[tuple[str, frozenset[int]]]:
    narrowed = []
    for row in rows:
        for value in row:
            others = [domains[other] for other in row if other != value]
            taken = frozenset().union(*(houses for houses in others if len(houses) == 1))
            narrowed.append((value, domains[value] - taken))
            only_here = domains[value] - frozenset().union(*others)
            if only_here:
                narrowed.append((value, only_here))
    return narrowed


def _item(grid: Mapping[str, Sequence[str]], clues: Sequence[Clue], houses: int) -> dict[str, Any]:
    listed = "\n".join(f"- {name}: {', '.join(sorted(row))}" for name, row in grid.items())
    told = "\n".join(f"{number}. {_say(clue)}" for number, clue in enumerate(clues, start=1))
    order = ", ".join(grid)
    question = (
        f"{houses} houses stand in a row, numbered 1 to {houses} from left to right. Each has a "
        f"different value of each of these:\n{listed}\n\n{told}\n\nWhat is in each house? Answer "
        f"with one line per house, in this form (values in the order {order}):\n1: value, value"
    )
    rows = [[grid[name][house] for name in grid] for house in range(houses)]
    answer = "\n".join(f"{i}: {', '.join(row)}" for i, row in enumerate(rows, start=1))
    return {"question": question, "answer": answer, "rows": rows, "clues": [*map(list, clues)]}


def _say(clue: Clue) -> str:
    relation, a, b = clue
    return _WORDING[relation].format(a, b + 1 if relation in _ABSOLUTE else b)


def score(answer: str, item: Mapping[str, Any]) -> float:
    """1.0 where every house is given with exactly its values, in any order within the line.

    The puzzle has one solution, so to obey all clues and to be that solution are the same.
    """
    text = final_answer(answer)
    rows = None if text is None else read_rows(text)
    wanted = [sorted(value.lower() for value in row) for row in item["rows"]]
    return float(rows == dict(enumerate(wanted, start=1)))


def read_rows(text: str) -> dict[int, list[str]] | None:
    """House number to sorted values; None where a line is anything else or a house comes twice."""
    rows: dict[int, list[str]] = {}
    for line in re.sub(r"[*`]", "", text).lower().splitlines():
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*(?:house\s*)?(\d)\s*[:.)=-]\s*(.{1,300})", line, re.ASCII)
        if match is None or int(match[1]) in rows:
            return None
        rows[int(match[1])] = sorted(value.strip(" .") for value in match[2].split(","))
    return rows
