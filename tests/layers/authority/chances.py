"""Expected numbers of different things that random choices touch, by following one choice after the other."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import comb


@cache
def expected_distinct(n: int, k: int, draws: int) -> Fraction:
    """Return how many of n things are chosen at least once if each draw takes k different ones.

    A Markov chain of the number chosen so far: of the next k, j are new with the probability that a hand of
    k cards has j unmarked ones.
    """
    chances = {0: Fraction(1)}
    for _ in range(draws):
        then: dict[int, Fraction] = {}
        for seen, chance in chances.items():
            for new in range(max(0, k - seen), min(k, n - seen) + 1):
                hand = Fraction(comb(n - seen, new) * comb(seen, k - new), comb(n, k))
                then[seen + new] = then.get(seen + new, Fraction(0)) + chance * hand
        chances = then
    return sum((seen * chance for seen, chance in chances.items()), Fraction(0))
