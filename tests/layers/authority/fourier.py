"""Convolutions by Fourier transforms: transforms run on numbers that count, butterfly by butterfly."""

from __future__ import annotations

import cmath
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from .convolution import causal
from .counted import LEDGER, Counted, dot, exp, log2_ceil, special, tally
from .kernels import WIDTH, Expected, Kernel, Number, directed, product, statistic, table
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


# -- Hyena -------------------------------------------------------------------------------------


def sine(x: Counted, frequency: float) -> Counted:
    return special(math.sin, x * frequency)


def sine_gradient(g: Counted, x: Counted, frequency: float) -> Counted:
    return g * (special(math.cos, x * frequency) * frequency)


def windowed(h: Counted, t: Counted, rate: float, shift: float) -> Counted:
    """Return safari's ExponentialModulation; its gradient multiplies by the same window."""
    return h * (exp(t * -rate) + shift)


def gate_gradient(g: Counted, x: Counted, y: Counted) -> list[Counted]:
    return [g * x, g * y]


def hyena(o: dict[str, Any], s: Sizes) -> Expected:
    """Expect Algorithms 1 to 3 (Poli et al.): projections, filters from positions, and the recurrence."""
    w, times = WIDTH[o["dtype"]], o["order"]
    b, n, d, inside, features, k = (s[x] for x in ("batch", "seq", "d_model", "hidden", "input", "k"))
    wide, rows = (times + 1) * d, b * n
    both = {
        way: (
            causal({**o, "decode": False, "direction": way}, {**s, "d_model": wide}),
            long_convolution({**o, "order": 3, "direction": way}, s),
        )
        for way in ("fwd", "bwd")
    }

    def ending(kernels: tuple[Kernel, ...], more: Number) -> tuple[Kernel, ...]:
        return (*kernels[:-1], replace(kernels[-1], workspace=kernels[-1].workspace + more))

    def again(kernels: tuple[Kernel, ...]) -> tuple[Kernel, ...]:
        return tuple(replace(kernel, repeats=times) for kernel in kernels)

    def on_filters(cols: int, cost: Any, reads: int = 1) -> Kernel:
        return table(w, n, cols, reads, 1, **vars(cost), workspace=w * n * cols)

    x = w * rows * d
    waves, gradient = (
        tally(lambda v: sine(v, 2.0), 0.3),
        tally(lambda g, v: sine_gradient(g, v, 2.0), 0.5, 0.3),
    )
    window = tally(lambda h, t: windowed(h, t, 2.0, 0.1), 0.5, 0.3)
    layers = [(features, inside), (inside, inside), (inside, inside), (inside, times * d)]
    made = [product(w, n, layers[0][1], layers[0][0], workspace=w * n * layers[0][1])]
    for into, out in layers[1:]:
        made += [on_filters(inside, waves), product(w, n, out, into, workspace=w * n * out)]
    made.append(on_filters(times * d, window))
    unmade = [on_filters(times * d, window)]
    for into, out in reversed(layers[1:]):
        unmade += [
            product(w, n, into, out, workspace=w * n * into),
            product(w, into, out, n),
            on_filters(inside, gradient, 2),
        ]
    unmade.append(product(w, features, inside, n))

    gates = tally(gate_gradient, 0.5, 0.3, 0.2)
    forward = (
        product(w, rows, wide, d, workspace=w * rows * wide),
        *ending(both["fwd"][0].kernels, w * rows * wide),
        *made,
        *again(ending(both["fwd"][1].kernels, x)),
        *again((table(w, rows, d, 2, 1, vector=1, workspace=x),)),
        product(w, rows, d, d),
    )
    backward = (
        product(w, rows, d, d, workspace=x),
        product(w, d, d, rows),
        *again((table(w, rows, d, 3, 2, **vars(gates), workspace=2 * x),)),
        *again(ending(both["bwd"][1].kernels, x + w * n * d)),
        *unmade,
        *ending(both["bwd"][0].kernels, w * rows * wide),
        product(w, rows, d, wide),
        product(w, d, wide, rows),
    )
    weights = d * wide + k * wide + sum(into * out for into, out in layers) + d * d
    first = features * inside  # positions have no gradient, so none needs the first product's weights
    # The input, the short convolution's, and the last gate's result; x_i and h_i ∗ z; the convolutions'
    # own; features, and what goes into and comes out of three layers of sines.
    kept = w * rows * (d + wide + d + 2 * times * d) + times * both["fwd"][1].kept
    return Expected(
        kernels=directed(o, forward, backward),
        inputs=x,
        weights=w * (weights - first),
        offsets=w * first,
        outputs=x,
        kept=kept + w * n * (features + 6 * inside),
        parameters=weights,
    )
