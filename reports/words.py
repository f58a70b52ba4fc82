"""Numbers in words, for findings, titles and tables."""

from __future__ import annotations

from collections.abc import Sequence

from costmodel.units import render


def seconds(value: float) -> str:
    """Return a time: ``0.00032 → "320 µs"``, ``5400 → "5,400 s"``."""
    return render(value, "s", 3)


def size(value: float) -> str:
    """Return bytes with a decimal prefix: ``1.41e11 → "141 GB"``."""
    return render(value, "bytes", 3)


def flop(value: float) -> str:
    """Return FLOPs with a prefix: ``2e12 → "2 TFLOP"``."""
    return render(value, "FLOP", 3)


def steps(value: float) -> str:
    """Return dependent steps: ``"1 step"``, ``"786,432 steps"``."""
    return "1 step" if value == 1 else f"{value:,.0f} steps"


def rounded(value: float) -> str:
    """Return an estimated size to two digits: ``8190.7 → "about 8,200"``; whole numbers unchanged."""
    return f"{value:,.0f}" if float(value).is_integer() else f"about {float(f'{value:.2g}'):,.0f}"


def sentence(text: str) -> str:
    """Return a text with its first letter capitalised."""
    return text[:1].upper() + text[1:]


def whole(value: float) -> str:
    """Return a count: ``131072 → "131,072"``."""
    return f"{value:,.0f}"


def share(value: float) -> str:
    """Return a share in per cent: ``0.376 → "38 %"``, ``0.0042 → "0.42 %"``."""
    percent = 100 * value
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def times(value: float) -> str:
    """Return a ratio: ``1.012 → "1.01 times"``, ``3.21 → "3.2 times"``, ``1534.2 → "1,534 times"``."""
    if value < 10:
        return f"{value:.{3 if 1 < value < 1.1 else 2}g} times"
    return f"{value:,.0f} times"


def at(name: str, value: float) -> str:
    """Return a size: ``("seq", 8192) → "8,192 tokens"``, ``("hidden", 512) → "hidden = 512"``."""
    return span(name, value, value)


def span(name: str, low: float, high: float) -> str:
    """Return a range of a size: ``"129 to 98,817 tokens"``, ``"m = 16 to 64"``; one value as `at` does."""
    said = rounded(low) if low == high else f"{rounded(low)} to {rounded(high)}"
    if name not in ("seq", "seq_kv", "window"):
        return f"{name} = {said}"
    return f"{said} token{'' if said == '1' else 's'}"


def extent(name: str) -> str:
    """Return the noun for a size: ``length`` for a number of tokens, else ``size``."""
    return "length" if name in ("seq", "seq_kv") else "size"


def verb(subjects: Sequence[str], said: str) -> str:
    """Return a verb in the plural if there are several subjects: ``waits for → wait for``."""
    first, _, rest = said.partition(" ")
    return said if len(subjects) == 1 else f"{first.removesuffix('s')} {rest}".strip()


def rows(count: float) -> str:
    """Return a number of rows: ``"1 row"``, ``"1,024 rows"``."""
    return "1 row" if count == 1 else f"{count:,.0f} rows"


def be(subjects: Sequence[str]) -> str:
    """Return ``is`` for one subject, ``are`` for several."""
    return "is" if len(subjects) == 1 else "are"


def listed(items: Sequence[str]) -> str:
    """Return items as an enumeration: ``"a, b and c"``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def origins(constants_from: str) -> str:
    """Return origins of constants: ``"none, self" → "the device itself, the rest from the datasheet"``."""
    names = constants_from.split(", ")
    fitted = [name.replace("self", "the device itself") for name in names if name != "none"]
    if not fitted:
        return "the datasheet alone"
    return listed(fitted) + (", the rest from the datasheet" if "none" in names else "")
