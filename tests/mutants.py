"""Change one thing at a time in every layer's expressions, and see whether the tests notice.

Run as ``python tests/mutants.py``. It prints every mutant that survives, with the reason if it is known, and
ends with a summary.

A mutant is a layer with one expression changed, of a kernel or of the layer (an operand, kept bytes, the
path, the parameters): a coefficient or exponent by ±1, a term dropped, a size swapped for another size of
the layer, a memory level or an engine exchanged. `check` in layers/check.py should notice, because it
compares every expression with a value worked out from papers, loops and counted programs. It compares
expression by expression, so only the changed ones are evaluated again."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import sympy as sp

sys.path.insert(0, str(Path(__file__).parent / "layers"))

from authority import AUTHORITY
from cases import cases
from check import ENGINES, OPERANDS, Key, Number, agrees, expect, observe
from exact import exact

from costmodel.layers import classes

LEVELS = ("read", "write", "l2")

#: Changes that change no value: (layer, kernel, change, reason).
EQUIVALENT = tuple(
    (
        layer,
        "attention, backward",
        "without term seq",
        "Max(seq, seq_kv) is seq_kv: a sequence that attends to itself has its own keys, so seq ≤ seq_kv",
    )
    for layer in ("transformer-block", "mla")
)


@dataclass
class Target:
    """An expression of a layer, with the values that it should have at some sizes."""

    layer: str
    phase: str
    key: Key
    expression: sp.Expr
    neighbours: Mapping[Key, sp.Expr]
    truths: list[tuple[Mapping[str, int], Mapping[Key, Number]]] = field(default_factory=list)
    symbols: frozenset[sp.Symbol] = frozenset()

    def noticed(self, changed: Mapping[Key, sp.Expr]) -> bool:
        """Return whether the changed expressions have a wrong value at one of the sizes at least."""
        return any(
            not agrees(key, expression, expected.get(key), sizes)
            for sizes, expected in self.truths
            for key, expression in changed.items()
        )


@dataclass(frozen=True)
class Mutant:
    """A change of an expression, and the expressions that result."""

    target: Target
    change: str
    changed: Mapping[Key, sp.Expr]

    def __str__(self) -> str:
        t = self.target
        return f"{t.layer}, {t.phase}, {'/'.join(map(str, t.key[2:] or t.key[1:]))}: {self.change}"


def targets(only: Collection[str] = ()) -> list[Target]:
    """Return every distinct expression of the named layers (default: all), with its expected values."""
    found: dict[tuple[object, ...], Target] = {}
    for layer, points in cases():
        if only and layer.name not in only:
            continue
        observed = observe(layer)
        names = [phase.name for phase in layer.phases()]
        truths = [(sizes, expect(layer, sizes)) for sizes in points]
        symbols = frozenset().union(*(e.free_symbols for e in observed.values()))
        for key, expression in observed.items():
            phase = names[key[1]] if key[0] == "kernel" else "layer"
            same = (layer.name, phase, key[2:] if key[0] == "kernel" else key, expression)
            siblings = {k: e for k, e in observed.items() if k[:2] == key[:2] or key[0] == k[0] == "layer"}
            target = found.setdefault(same, Target(layer.name, phase, key, expression, siblings))
            target.symbols |= symbols
            if target.key == key:
                target.truths += truths
    return list(found.values())


# -- changes -----------------------------------------------------------------------------------


def mutants(target: Target) -> Iterator[Mutant]:
    """Yield every single change of an expression, and every move to another level, engine or operand."""
    seen = {target.expression}
    for change, expression in _changes(target.expression, sorted(target.symbols, key=str)):
        if expression not in seen:
            seen.add(expression)
            yield Mutant(target, change, {target.key: expression})
    yield from _moves(target)


def _changes(e: sp.Expr, symbols: list[sp.Symbol]) -> Iterator[tuple[str, sp.Expr]]:
    """Yield (description, changed expression) for every single change."""
    if e.is_Number:
        yield f"{e} + 1", e + 1
        yield f"{e} − 1", e - 1
        return
    if not e.is_Mul or not e.args[0].is_Number:
        yield f"2·({e})", 2 * e
        yield f"without {e}", sp.Integer(0)
    if not e.is_Pow and not e.is_Add and not e.is_Mul:
        yield f"({e})²", e**2
        yield f"({e})⁰", sp.Integer(1)
    if e.is_Symbol:
        yield from ((f"{other} for {e}", other) for other in symbols if other != e)
        return
    for i, argument in enumerate(e.args):
        rest = [*e.args[:i], *e.args[i + 1 :]]
        if (e.is_Add or isinstance(e, (sp.Max, sp.Min))) and rest:
            yield f"without term {argument}", e.func(*rest)
        for change, changed in _changes(argument, symbols):
            try:
                whole = e.func(*e.args[:i], changed, *e.args[i + 1 :])
            except ValueError:  # such as Max of ⌈log₂ 0⌉
                continue
            if not whole.has(sp.zoo, sp.nan, sp.oo):
                yield change, whole


def _moves(target: Target) -> Iterator[Mutant]:
    """Yield the expression moved to another memory level, engine or operand of the same kernel or layer."""
    *place, last = target.key
    if last in LEVELS:
        others = [(*place, level) for level in LEVELS]
    elif place[-1] in ENGINES:
        others = [(*place[:-1], engine, last) for engine in ENGINES]
    elif last in OPERANDS:
        others = [(*place, operand) for operand in OPERANDS]
    else:
        return
    if target.expression == 0:
        return
    for other in others:
        if other != target.key:
            there = target.neighbours.get(other, sp.Integer(0))
            moved = {target.key: sp.Integer(0), other: there + target.expression}
            yield Mutant(target, f"moved to {other[2] if len(other) > 2 else other[-1]}", moved)


# -- the run -----------------------------------------------------------------------------------


def run(every: int = 1, only: Collection[str] = ()) -> tuple[int, list[Mutant]]:
    """Return the number of mutants of every `every`-th expression, and those that were not noticed."""
    total, survivors = 0, []
    for target in targets(only)[::every]:
        for mutant in mutants(target):
            total += 1
            if not mutant.target.noticed(mutant.changed):
                survivors.append(mutant)
    return total, survivors


def why(mutant: Mutant) -> str | None:
    """Return why no test can notice a mutant; None if a test should have noticed."""
    (_, expression), *moved = mutant.changed.items()
    if not moved and _never_differ(expression, mutant.target.expression):
        return "equal at all sizes tried"
    for layer, phase, change, reason in EQUIVALENT:
        if (layer, phase, change) == (mutant.target.layer, mutant.target.phase, mutant.change):
            return reason
    return None


def _never_differ(one: sp.Expr, other: sp.Expr, tries: int = 200) -> bool:
    """Return whether two expressions, such as Min(1, p − 1) and Min(1, 2p − 2), agree in all tries."""
    names = sorted(symbol.name for symbol in one.free_symbols | other.free_symbols)
    rng = random.Random(0)
    try:
        return all(
            exact(one, sizes) == exact(other, sizes)
            for sizes in ({name: rng.choice((1, 2, 3, 5, 8, 13, 64)) for name in names} for _ in range(tries))
        )
    except ArithmeticError:
        return False


def main() -> int:
    """Run the mutants; return 1 if fewer than 99 % are caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="change every n-th expression only")
    parser.add_argument("layers", nargs="*", help="the layers to change (all)")
    arguments = parser.parse_args()
    started = time.perf_counter()
    total, survivors = run(arguments.every, arguments.layers)
    for mutant in survivors:
        print(f"survived: {mutant} [{why(mutant) or 'NOT EXPLAINED'}]")
    without = sorted(classes().keys() - AUTHORITY.keys())
    print(f"layers without an authority, not mutated: {', '.join(without) or 'none'}")
    caught = total - len(survivors)
    unexplained = sum(why(mutant) is None for mutant in survivors)
    print(
        f"mutants: {total}, caught: {caught} ({100 * caught / total:.2f} %), survivors: {len(survivors)}"
        f" ({unexplained} not explained), {time.perf_counter() - started:.0f} s"
    )
    return 0 if caught >= 0.99 * total else 1


if __name__ == "__main__":
    sys.exit(main())
