"""Convolutions by Fourier transforms: transforms run on numbers that count, butterfly by butterfly."""

from __future__ import annotations

import cmath
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from .counted import LEDGER, Counted, dot, log2_ceil
from .kernels import WIDTH, Expected, Kernel, Number, directed, statistic, table
from .scans import chains

Sizes = dict[str, int]


@dataclass(frozen=True)
class Complex:
    """A complex number whose two parts count their operations."""

    real: Counted
    imag: Counted

    def __add__(self, other: Complex) -> Complex:
        return Complex(self.real + other.real, self.imag + other.imag)

    def __sub__(self, other: Complex) -> Complex:
        return Complex(self.real - other.real, self.imag - other.imag)

    def times(self, z: complex) -> Complex:
        """Return the product with a constant: four multiplications, two additions."""
        return Complex(
            self.real * z.real - self.imag * z.imag,
            self.real * z.imag + self.imag * z.real,
        )

    def conj(self) -> Complex:
        return Complex(self.real, -self.imag)

    def turned(self) -> Complex:
        """Return the product with i, at no cost."""
        return Complex(-self.imag, self.real)

    @property
    def depth(self) -> int:
        return max(self.real.depth, self.imag.depth)


def root(points: int, power: int, sign: int) -> complex:
    return cmath.exp(sign * 2j * math.pi * power / points)


def butterflies(xs: Sequence[Complex]) -> list[Complex]:
    """Run Cooley and Tukey's radix-2 transform: a product and two additions for each pair at each level."""
    if len(xs) == 1:
        return list(xs)
    even, odd = butterflies(xs[::2]), butterflies(xs[1::2])
    turned = [x.times(root(len(xs), k, -1)) for k, x in enumerate(odd)]
    return [a + b for a, b in zip(even, turned, strict=True)] + [
        a - b for a, b in zip(even, turned, strict=True)
    ]


def monarch(xs: Sequence[Complex], factors: Sequence[int], sign: int) -> list[Complex]:
    """Run the transform as products with the matrices of its factors, with twiddles in between.

    Fu et al., §2.1: F_N = P (I ⊗ F_N2) D P⁻¹ (I ⊗ F_N1) P, and F_N2 is decomposed in turn.
    """
    first, rest = factors[0], factors[1:]
    if not rest:
        return _dense(xs, sign)
    inner = len(xs) // first
    columns = [_dense(xs[j::inner], sign) for j in range(inner)]
    found = [Complex(Counted(0.0), Counted(0.0))] * len(xs)
    for k in range(first):
        row = [columns[j][k].times(root(len(xs), j * k, sign)) for j in range(inner)]
        for i, x in enumerate(monarch(row, rest, sign)):
            found[k + first * i] = x
    return found


def _dense(xs: Sequence[Complex], sign: int) -> list[Complex]:
    """Multiply by the matrix of a transform; each part of a result is a real dot product of 2N terms."""
    parts, found = [part for x in xs for part in (x.real, x.imag)], []
    for k in range(len(xs)):
        roots = [root(len(xs), j * k, sign) for j in range(len(xs))]
        real = dot(parts, [r for z in roots for r in (z.real, -z.imag)])
        found.append(Complex(real, dot(parts, [r for z in roots for r in (z.imag, z.real)])))
    return found


def even_factors(points: int, count: int) -> list[int]:
    """Return `count` powers of two whose product is the number of points, as equal as possible."""
    found = [1] * count
    while math.prod(found) < points:
        found[found.index(min(found))] *= 2
    return found


def power_of_two(n: int) -> int:
    return int(2 ** log2_ceil(n))


def spectrum(xs: Sequence[Counted], factors: Sequence[int]) -> list[Complex]:
    """Return twice the spectrum of 2M real numbers, the second half zeros, from M packed points."""
    points = math.prod(factors)
    real = [*xs, *[Counted(0.0)] * (2 * points - len(xs))]
    z = monarch([Complex(real[2 * j], real[2 * j + 1]) for j in range(points)], factors, -1)
    found = [Complex(Counted(0.0), Counted(0.0))] * (points + 1)
    found[points // 2] = Complex(2 * z[points // 2].real, 2 * z[points // 2].imag).conj()
    _forget(2)  # the factors of 2 that this function leaves to the filter
    for k in range(points // 2):
        mirrored = z[-k].conj()
        even, odd = z[k] + mirrored, (z[k] - mirrored).turned().times(-root(2 * points, k, -1))
        found[k], found[points - k] = even + odd, (even - odd).conj()
    return found


def from_spectrum(xs: Sequence[Complex], factors: Sequence[int]) -> list[Counted]:
    """Return 2M real numbers, times 2M, from their spectrum."""
    points = math.prod(factors)
    z = [Complex(Counted(0.0), Counted(0.0))] * points
    z[points // 2] = Complex(2 * xs[points // 2].real, 2 * xs[points // 2].imag).conj()
    _forget(2)
    for k in range(points // 2):
        mirrored = xs[points - k].conj()
        even, odd = xs[k] + mirrored, (xs[k] - mirrored).times(root(2 * points, k, 1)).turned()
        z[k] = even + odd
        if k:
            z[points - k] = (even - odd).conj()
        else:
            even - odd  # a kernel treats all pairs alike
    return [part for x in monarch(z, factors, 1) for part in (x.real, x.imag)]


def _forget(count: int) -> None:
    LEDGER["vector"] -= count


def convolution(xs: Sequence[Counted], filter_: Sequence[complex], factors: Sequence[int]) -> list[Counted]:
    """Return a causal convolution with a filter whose spectrum is given, as one fused kernel computes it."""
    found = [x.times(h) for x, h in zip(spectrum(xs, factors), filter_, strict=True)]
    return from_spectrum(found, factors)[: len(xs)]


def gradients(
    xs: Sequence[Counted], dy: Sequence[Counted], filter_: Sequence[complex], factors: Sequence[int]
) -> tuple[list[Counted], list[Complex]]:
    """Return dx and the spectrum of the filter's gradient; backward, spectra are conjugated."""
    of_x, of_dy = spectrum(xs, factors), spectrum(dy, factors)
    back = from_spectrum([g.times(h.conjugate()) for g, h in zip(of_dy, filter_, strict=True)], factors)
    of_filter = [
        Complex(g.real * x.real + g.imag * x.imag, g.imag * x.real - g.real * x.imag)
        for g, x in zip(of_dy, of_x, strict=True)
    ]
    return back[: len(xs)], of_filter


@dataclass(frozen=True)
class Cost:
    matrix: int
    vector: int
    depth: int


@cache
def fused_cost(n: int, order: int, direction: str) -> Cost:
    """Return what one channel of one sequence costs."""
    factors = even_factors(power_of_two(n), order)
    one, flat = [Counted(0.3)] * n, [0.5 + 0.1j] * (math.prod(factors) + 1)
    LEDGER.clear()
    if direction == "fwd":
        found = convolution(one, flat, factors)
        return Cost(LEDGER["matrix"], LEDGER["vector"], max(x.depth for x in found))
    dx, of_filter = gradients(one, one, flat, factors)
    depth = max(*(x.depth for x in dx), *(x.depth for x in of_filter))
    return Cost(LEDGER["matrix"], LEDGER["vector"], depth)


@cache
def transform_cost(points: int) -> Cost:
    """Return half the cost of a complex transform, as FFTW counts real ones: 2.5·N·log₂ N.

    Between powers of two, in proportion, with the levels of the next power.
    """
    LEDGER.clear()
    whole = power_of_two(points)
    found = butterflies([Complex(Counted(0.3), Counted(0.1))] * whole)
    flops = Counter(LEDGER)["vector"] * points // (2 * whole)
    assert 2 * whole * flops == LEDGER["vector"] * points
    return Cost(0, flops, max(x.depth for x in found))


def passes(points: int, fit: int) -> int:
    """Return how often the points go through memory, if a kernel transforms `fit` at a time."""
    found, reached = 1, max(fit, 2)
    while reached < points:
        found, reached = found + 1, reached * max(fit, 2)
    return found


def long_convolution(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect torch.fft's chain of kernels (safari's fftconv_ref), or FlashFFTConv's fused ones."""
    w, b, n, d = WIDTH[o["dtype"]], s["batch"], s["seq"], s["d_model"]
    x, taps = w * b * n * d, w * n * d
    made = _fused if o["fused"] else _chained
    kernels, kept = made(o, s)
    return Expected(kernels=kernels, inputs=x, weights=taps, outputs=x, kept=kept, parameters=n * d)


def _chained(o: dict[str, Any], s: Sizes) -> tuple[tuple[Kernel, ...], Number]:
    w, wide = WIDTH[o["dtype"]], statistic(o["dtype"])
    b, n, d = s["batch"], s["seq"], s["d_model"]
    rows, through, cost = b * d, passes(2 * n, s["block"]), transform_cost(2 * n)
    real, half = wide * 2 * n, 2 * wide * (n + 1)  # bytes of a padded row, and of its spectrum

    def walk(count: int, read: Number, write: Number, depth: int, room: Number, flops: int = 0) -> Kernel:
        plain = table(w, count, n, 0, 0, more_read=read, more_write=write, depth=depth, workspace=room)
        return replace(plain, vector=flops)

    def pad(count: int) -> Kernel:
        return walk(count, w * n * count, real * count, 0, real * count)

    def cut(count: int) -> Kernel:
        return walk(count, wide * n * count, w * n * count, 0, 0)

    def transform(count: int, first: int, last: int) -> Kernel:
        return chains(
            Kernel(
                vector=cost.vector * count,
                read=count * (first + (through - 1) * half),
                write=count * (last + (through - 1) * half),
                depth=cost.depth,
                workspace=count * last,
                launches=through,
            ),
            count,
        )

    LEDGER.clear()
    assert Complex(Counted(1.0), Counted(1.0)).times(1j).depth == 2
    each = LEDGER["vector"]
    of_spectra = walk(rows, half * (rows + d), half * rows, 2, half * rows, each * (n + 1) * rows)
    summed = walk(rows, 2 * half * rows, half * d, 2 + log2_ceil(b), half * d, (each + 2) * (n + 1) * rows)
    forward = (
        pad(rows), pad(d), transform(rows, real, half), transform(d, real, half), of_spectra,
        transform(rows, half, real), cut(rows),
    )  # fmt: skip
    backward = (
        pad(rows), transform(rows, real, half), of_spectra, summed,
        transform(rows, half, real), cut(rows), transform(d, half, real), cut(d),
    )  # fmt: skip
    return directed(o, forward, backward), (real + half) * (rows + d)


def _fused(o: dict[str, Any], s: Sizes) -> tuple[tuple[Kernel, ...], Number]:
    w, b, n, d = WIDTH[o["dtype"]], s["batch"], s["seq"], s["d_model"]
    rows, points, more = b * d, power_of_two(n), passes(2 * n, s["block"]) - 1
    x, taps, half = w * rows * n, w * d * n, 2 * w * (points + 1)
    of_filter = transform_cost(2 * points)

    def kernel(way: str, transforms: int, read: Number, write: Number, room: Number) -> Kernel:
        cost, between = fused_cost(n, o["order"], way), transforms * more * 2 * w * points * rows
        return chains(
            Kernel(
                matrix=rows * cost.matrix,
                vector=rows * cost.vector,
                read=read + between,
                write=write + between,
                depth=cost.depth,
                launches=transforms * more + 1,
                workspace=room,
            ),
            rows,
        )

    def plain(vector: int, read: Number, write: Number, depth: int, room: Number) -> Kernel:
        return chains(Kernel(vector=vector, read=read, write=write, depth=depth, workspace=room), d)

    forward = (
        plain(d * of_filter.vector, taps, half * d, of_filter.depth, half * d),
        kernel("fwd", 2, x + half * d, x, 0),
    )
    every = half * rows
    backward = (
        kernel("bwd", 3, 2 * x + half * d, x + every, every),
        plain(
            d * of_filter.vector + rows * 2 * (points + 1),
            every,
            taps,
            of_filter.depth + log2_ceil(b),
            0,
        ),
    )
    return directed(o, forward, backward), x + half * d
