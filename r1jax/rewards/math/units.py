"""Units of measure and money as exact sizes in base units, and count nouns as words."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from r1jax.rewards.math.nodes import Unit
from r1jax.rewards.math.vocabulary import names

_F = Fraction
_POUND, _FOOT, _GRAVITY = _F("0.45359237"), _F("0.3048"), _F("9.80665")

# name: (dimensions, size in base units). Base units: m, kg, s, A, K, mol, byte, and each currency
# its own.
_BASE: dict[str, tuple[dict[str, int], Fraction]] = {
    "m": ({"m": 1}, _F(1)), "g": ({"kg": 1}, _F(1, 1000)), "s": ({"s": 1}, _F(1)), "A": ({"A": 1},
    _F(1)),
    "K": ({"K": 1}, _F(1)), "mol": ({"mol": 1}, _F(1)), "L": ({"m": 3}, _F(1, 1000)),
    "byte": ({"byte": 1}, _F(1)),
    "N": ({"kg": 1, "m": 1, "s": -2}, _F(1)), "J": ({"kg": 1, "m": 2, "s": -2}, _F(1)),
    "W": ({"kg": 1, "m": 2, "s": -3}, _F(1)),
    "Pa": ({"kg": 1, "m": -1, "s": -2}, _F(1)), "Hz": ({"s": -1}, _F(1)), "C": ({"A": 1, "s": 1},
    _F(1)),
    "V": ({"kg": 1, "m": 2, "s": -3, "A": -1}, _F(1)), "ohm": ({"kg": 1, "m": 2, "s": -3, "A": -2},
    _F(1)),
    "T": ({"kg": 1, "s": -2, "A": -1}, _F(1)), "F": ({"kg": -1, "m": -2, "s": 4, "A": 2}, _F(1)),
    "eV": ({"kg": 1, "m": 2, "s": -2}, _F("1.602176634e-19")),
    "inch": ({"m": 1}, _FOOT / 12), "foot": ({"m": 1}, _FOOT), "yard": ({"m": 1}, 3 * _FOOT),
    "mile": ({"m": 1}, 5280 * _FOOT),
    "li": ({"m": 1}, _F(500)), "hectare": ({"m": 2}, _F(10_000)), "acre": ({"m": 2},
    43_560 * _FOOT**2), "ton": ({"kg": 1}, _F(1000)),
    "pound_mass": ({"kg": 1}, _POUND), "ounce": ({"kg": 1}, _POUND / 16), "jin": ({"kg": 1}, _F(1,
    2)),
    "min": ({"s": 1}, _F(60)), "h": ({"s": 1}, _F(3600)), "day": ({"s": 1}, _F(86_400)),
    "week": ({"s": 1}, _F(604_800)),
    "month": ({"month": 1}, _F(1)), "year": ({"month": 1}, _F(12)), "decade": ({"month": 1},
    _F(120)), "century": ({"month": 1}, _F(1200)),
    "gallon": ({"m": 3}, 231 * (_FOOT / 12) ** 3), "quart": ({"m": 3}, 231 * (_FOOT / 12) ** 3 / 4),
    "pint": ({"m": 3}, 231 * (_FOOT / 12) ** 3 / 8), "cup": ({"m": 3},
    231 * (_FOOT / 12) ** 3 / 16),
    "mph": ({"m": 1, "s": -1}, 5280 * _FOOT / 3600), "kph": ({"m": 1, "s": -1}, _F(5, 18)),
    "rpm": ({"turn": 1, "s": -1}, _F(1, 60)),
    "dollar": ({"dollar": 1}, _F(1)), "cent": ({"dollar": 1}, _F(1, 100)), "euro": ({"euro": 1},
    _F(1)), "pound": ({"pound": 1}, _F(1)),
    "pence": ({"pound": 1}, _F(1, 100)), "yuan": ({"yuan": 1}, _F(1)), "jiao": ({"yuan": 1}, _F(1,
    10)), "fen": ({"yuan": 1}, _F(1, 100)),
    "rupee": ({"rupee": 1}, _F(1)), "yen": ({"yen": 1}, _F(1)), "dime": ({"dollar": 1}, _F(1, 10)),
    "nickel": ({"dollar": 1}, _F(1, 20)), "bar": ({"kg": 1, "m": -1, "s": -2}, _F(10**5)),
    "atm": ({"kg": 1, "m": -1, "s": -2}, _F(101_325)),
    "cal": ({"kg": 1, "m": 2, "s": -2}, _F("4.184")), "celsius": ({"celsius": 1}, _F(1)),
    "fahrenheit": ({"fahrenheit": 1}, _F(1)),
    "radian": ({}, _F(1)), "knot": ({"m": 1, "s": -1}, _F(1852, 3600)), "bit": ({"byte": 1}, _F(1,
    8)),
}  # fmt: skip

_ALIASES = {
    "m": "meter meters metre metres 米 公尺", "g": "gram grams gramme grammes gm 克",
    "s": "sec secs second seconds 秒 秒钟",
    "A": "ampere amperes amp amps 安", "K": "kelvin kelvins", "mol": "mole moles 摩尔",
    "N": "newton newtons 牛 牛顿",
    "L": "l liter liters litre litres 升", "byte": "bytes B", "J": "joule joules 焦 焦耳",
    "W": "watt watts 瓦",
    "Pa": "pascal pascals 帕", "Hz": "hertz", "V": "volt volts 伏", "ohm": "ohms Omega 欧",
    "inch": "in inches 英寸",
    "foot": "ft feet 英尺", "yard": "yd yds yards", "mile": "mi miles 英里", "li": "里",
    "hectare": "ha hectares 公顷",
    "acre": "acres", "ton": "t tons tonne tonnes 吨", "pound_mass": "lb lbs", "ounce": "oz ounces",
    "jin": "斤",
    "min": "mins minute minutes 分钟", "h": "hr hrs hour hours 小时 时", "day": "d days 天 日",
    "week": "weeks wk wks 周 星期",
    "month": "months 月 个月", "year": "yr yrs years 年 岁", "decade": "decades",
    "century": "centuries 世纪", "gallon": "gal gallons",
    "quart": "qt quarts", "pint": "pt pints", "cup": "cups", "mph": "MPH", "kph": "kmh kmph",
    "rpm": "RPM",
    "dollar": "dollars USD usd US$ 美元", "cent": "cents ¢ 美分", "euro": "euros EUR 欧元",
    "pound": "pounds GBP 英镑",
    "pence": "penny pennies", "yuan": "RMB CNY rmb 元 块 块钱 人民币", "jiao": "角", "fen": "分",
    "rupee": "rupees INR Rs Rs.", "yen": "JPY 日元",
    "dime": "dimes", "nickel": "nickels", "bar": "bars", "cal": "calorie calories 卡",
    "celsius": "℃ 摄氏度",
    "fahrenheit": "华氏度", "radian": "rad radians 弧度", "knot": "knots", "bit": "bits",
}  # fmt: skip
_PREFIXES = {"k": _F(1000), "c": _F(1, 100), "m": _F(1, 1000), "d": _F(1, 10), "M": _F(10**6),
    "G": _F(10**9), "n": _F(1, 10**9),
             "μ": _F(1, 10**6), "u": _F(1, 10**6)}  # fmt: skip
_LONG_PREFIXES = {
    "kilo": "k",
    "centi": "c",
    "milli": "m",
    "deci": "d",
    "mega": "M",
    "giga": "G",
    "nano": "n",
    "micro": "u",
}
_HAN_PREFIXES = {
    "千": _F(1000),
    "厘": _F(1, 100),
    "毫": _F(1, 1000),
    "分": _F(1, 10),
    "微": _F(1, 10**6),
    "兆": _F(10**6),
}
_PREFIXED = (
    "m",
    "g",
    "s",
    "L",
    "A",
    "N",
    "J",
    "W",
    "Pa",
    "Hz",
    "V",
    "mol",
    "byte",
    "eV",
    "cal",
    "ohm",
    "bit",
)

SCALES = {
    "dozen": 12, "dozens": 12, "打": 12, "hundred": 100, "hundreds": 100, "thousand": 1000,
    "thousands": 1000,
    "million": 10**6, "millions": 10**6, "百万": 10**6, "billion": 10**9, "billions": 10**9,
    "trillion": 10**12,
}  # fmt: skip
GENERIC = names("""
    unit units square cubic sq cu approximately about exactly roughly total each of the a an in
    单位 平方单位 个
""")


def _table() -> dict[str, tuple[dict[str, int], Fraction]]:
    table = dict(_BASE)
    for name in _PREFIXED:
        dims, factor = _BASE[name]
        for prefix, size in _PREFIXES.items():
            table.setdefault(prefix + name, (dims, factor * size))
        for alias in _ALIASES.get(name, "").split():
            for long, short in _LONG_PREFIXES.items():
                table.setdefault(long + alias, (dims, factor * _PREFIXES[short]))
            if not alias.isascii():
                for han, size in _HAN_PREFIXES.items():
                    table.setdefault(han + alias, (dims, factor * size))
    for name, aliases in _ALIASES.items():
        for alias in aliases.split():
            table[alias] = _BASE[name]
    table["公里"] = table["km"]
    table["公斤"] = table["kg"]
    table["ml"], table["cc"] = table["mL"], table["mL"]
    table["lb"] = table["lbs"]
    table["kilo"] = table["kilos"] = table["kg"]
    for power, mark in ((2, "平方"), (3, "立方")):
        for name in [n for n in table if n.endswith(("米", "英里", "英尺", "公里"))]:
            dims, factor = table[name]
            table.setdefault(mark + name, ({d: p * power for d, p in dims.items()}, factor**power))
    return table


TABLE = _table()
# Letters that stand for a unit only where they are upright or set off by a space.
LETTER_UNITS = names("m g s L l h N J W V A K C t d T F B")
NONE = Unit((), Fraction(1))


_CURRENCIES = frozenset(("dollar", "euro", "pound", "yuan", "rupee", "yen"))


def is_money(word: str) -> bool:
    known = lookup(word)
    return known is not None and set(known[0]) <= _CURRENCIES and bool(known[0])


def is_known(word: str) -> bool:
    return word in TABLE or (word.lower() in TABLE and len(word) > 2)


def lookup(word: str) -> tuple[dict[str, int], Fraction] | None:
    if word in TABLE:
        return TABLE[word]
    return TABLE.get(word.lower()) if len(word) > 2 else None


def make_unit(factors: Iterable[tuple[str, int]]) -> Unit:
    """The product of named factors with powers; names outside the table stay as words."""
    dims: dict[str, int] = {}
    size = Fraction(1)
    words: list[str] = []
    for name, power in factors:
        if known := lookup(name):
            for dim, each in known[0].items():
                dims[dim] = dims.get(dim, 0) + each * power
            size *= known[1] ** power
        elif name.lower() in ("unit", "units") and power in (2, 3):
            dims["unit"] = power
        elif name.lower() not in GENERIC:
            words.append(name.lower())
    return Unit(tuple(sorted((d, p) for d, p in dims.items() if p)), size, tuple(words))


def _stem(word: str) -> str:
    for ending, instead in (
        ("ies", "y"),
        ("ses", "s"),
        ("xes", "x"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("s", ""),
    ):
        if word.endswith(ending) and len(word) > len(ending) + 1 and not word.endswith("ss"):
            return word[: -len(ending)] + instead
    return word


def unnamed_power(unit: Unit) -> int | None:
    """2 of square units, 3 of cubic ones."""
    return unit.dims[0][1] if [dim for dim, _ in unit.dims] == ["unit"] else None


def compatible(left: Unit, right: Unit) -> bool:
    """Whether two quantities may be compared: same dimensions, or one side named none; count nouns
    may be more or less detailed, but not others.
    """
    if left.dims and right.dims:
        powers = {unnamed_power(left) or dict(left.dims).get("m")} | {
            unnamed_power(right) or dict(right.dims).get("m")
        }
        unnamed = unnamed_power(left) or unnamed_power(right)
        return left.dims == right.dims or (unnamed is not None and len(powers) == 1)
    if bool(left.dims) != bool(right.dims):
        bare = right if left.dims else left
        return not bare.words  # 5 kg are no 5 apples
    if left.words and right.words:
        theirs = [{_stem(word) for word in unit.words} for unit in (left, right)]
        return theirs[0] <= theirs[1] or theirs[1] <= theirs[0]
    return True
