"""Caesar, Vigenère and substitution ciphers, with the task said in full."""

import random
import string
from collections.abc import Mapping
from typing import Any

from r1jax.rewards.logic.answer import final_answer

_LIST = """
    about above after again apple basket before below better black bread bridge bright brother
    candle carry castle change circle clean clear cloud corner count cover dance desert dinner
    doctor dream early earth empty enough evening every family farmer father field figure
    finger flower follow forest friend garden gentle glass golden green ground happy heart
    heavy house island journey kitchen ladder letter light little market meadow memory middle
    mirror moment money morning mother mountain music narrow nature never number ocean orange
    paper pencil people picture planet pocket quiet rabbit river round school season secret
    shadow silver simple sister small spring square stone story strange street strong summer
    table teacher thread travel under valley village voice water weather white window winter
    wonder yellow young
"""
WORDS = tuple(_LIST.split())
_ALPHABET = string.ascii_uppercase


def caesar(rng: random.Random) -> dict[str, Any]:
    """Encrypt or decrypt with a known shift, or decrypt with the shift unknown."""
    task = rng.choice(("encrypt", "decrypt", "crack"))
    shift = rng.randint(1, 25)
    plain = _phrase(rng)
    if task == "crack":
        while not _has_one_reading(plain):
            plain = _phrase(rng)
    secret = shift_letters(plain, [shift])
    rule = f"each letter moved {shift} places forward in the alphabet, Z being followed by A"
    if task == "crack":
        rule = (
            "each letter moved forward by the same unknown number of places, Z being followed by "
            "A. The text consists of common English words"
        )
    return _item(task, f"Caesar cipher ({rule})", plain, secret)


def vigenere(rng: random.Random) -> dict[str, Any]:
    """Encrypt or decrypt with a keyword; blanks use up no letter of the key."""
    key = rng.choice(WORDS).upper()
    plain = _phrase(rng)
    shifts = [_ALPHABET.index(letter) for letter in key]
    rule = (
        f"Vigenère cipher with the key {key} (the first letter moved forward by the key's first "
        "letter, A = 0, and so on, the key repeated; blanks use up no letter of the key)"
    )
    task = rng.choice(("encrypt", "decrypt"))
    return _item(task, rule, plain, shift_letters(plain, shifts))


def substitution(rng: random.Random) -> dict[str, Any]:
    """Encrypt or decrypt with a whole alphabet that is given."""
    key = "".join(rng.sample(_ALPHABET, 26))
    plain = _phrase(rng)
    rule = f"substitution cipher that writes {_ALPHABET} as {key}, letter by letter"
    task = rng.choice(("encrypt", "decrypt"))
    return _item(task, rule, plain, plain.translate(str.maketrans(_ALPHABET, key)))


def score(answer: str, item: Mapping[str, Any]) -> float:
    """1.0 for exactly the words asked for; small letters, quotes and a full stop do not matter."""
    text = final_answer(answer)
    if text is None:
        return 0.0
    told = text.strip(" \t\n.\"'`*“”‘’").upper().split()
    return float(told == item["answer"].split())


def shift_letters(text: str, shifts: list[int]) -> str:
    """The text with its letters moved forward by the shifts in turn; blanks stay."""
    moved, used = [], 0
    for letter in text:
        if letter in _ALPHABET:
            place = _ALPHABET.index(letter) + shifts[used % len(shifts)]
            letter = _ALPHABET[place % 26]
            used += 1
        moved.append(letter)
    return "".join(moved)


def _phrase(rng: random.Random) -> str:
    return " ".join(rng.sample(WORDS, rng.randint(2, 4))).upper()


def _has_one_reading(plain: str) -> bool:
    """Whether no other shift turns every word into one of the list."""
    known = set(WORDS)
    readings = (shift_letters(plain, [shift]).lower().split() for shift in range(26))
    return sum(known.issuperset(words) for words in readings) == 1


def _item(task: str, rule: str, plain: str, secret: str) -> dict[str, Any]:
    encrypting = task == "encrypt"
    given, wanted = (plain, secret) if encrypting else (secret, plain)
    verb = "Encrypt" if encrypting else "Decrypt"
    question = f"{verb} this text: {given}\nIt is a {rule}. Answer with the text only."
    if encrypting:
        question = f"Encrypt this text: {given}\nUse a {rule}. Answer with the text only."
    return {"question": question, "answer": wanted, "kind": task}
