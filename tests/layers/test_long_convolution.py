"""Long convolutions: the counted programs compute what torch does; costs lie where algebra puts them."""

import math
import random

import numpy as np
import pytest
from authority import fourier
from authority.counted import LEDGER, Counted
from flop_counter import flops

from costmodel import crossover, evaluate, predict
from costmodel.asymptotics import complexity, table1
from costmodel.errors import CostmodelError
from costmodel.layers import get
from costmodel.symbols import symbol

LONG = get("long-convolution")


def numbers(count, seed):
    chance = random.Random(seed)
    return [chance.uniform(-1, 1) for _ in range(count)]


def direct(x, h):
    """Return y_t = Σ_j h_j x_{t−j}, term by term."""
    return [sum(h[j] * x[t - j] for j in range(t + 1)) for t in range(len(x))]


def padded_spectrum(h, points):
    return np.fft.rfft(h, 2 * points)


# -- the programs that are counted -------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 16, 33])
def test_torchs_chain_of_transforms_is_the_direct_convolution(n):
    """The kernels that are counted: pad to 2n, transform, multiply, transform back, cut."""
    torch = pytest.importorskip("torch")
    x, h = (torch.tensor(numbers(n, seed), dtype=torch.float64) for seed in (1, 2))
    spectra = torch.fft.rfft(x, n=2 * n), torch.fft.rfft(h, n=2 * n)
    assert all(spectrum.shape == (n + 1,) for spectrum in spectra)
    y = torch.fft.irfft(spectra[0] * spectra[1], n=2 * n)[:n]
    assert y.tolist() == pytest.approx(direct(x.tolist(), h.tolist()))


@pytest.mark.parametrize("levels", range(6))
def test_butterflies_are_torchs_transform_and_cost_fftws_count(levels):
    """FFTW's benchFFT: 5·N·log₂ N for a complex transform of N points, here exactly; three per level deep."""
    points = 2**levels
    xs = [complex(a, b) for a, b in zip(numbers(points, 1), numbers(points, 2), strict=True)]
    LEDGER.clear()
    found = fourier.butterflies([fourier.Complex(Counted(x.real), Counted(x.imag)) for x in xs])
    assert LEDGER["vector"] == 5 * points * levels
    assert max(x.depth for x in found) == 3 * levels
    assert [complex(x.real.value, x.imag.value) for x in found] == pytest.approx(list(np.fft.fft(xs)))


@pytest.mark.parametrize("n", [2, 7, 16, 33])
@pytest.mark.parametrize("order", [2, 3, 4])
def test_fused_program_is_the_direct_convolution(n, order):
    factors = fourier.even_factors(fourier.power_of_two(n), order)
    x, h, points = numbers(n, 1), numbers(n, 2), math.prod(factors)
    found = fourier.convolution([Counted(v) for v in x], padded_spectrum(h, points), factors)
    # Left to the filter: 1/2 for the spectrum and 1/(2M) for the way back.
    assert [y.value / (4 * points) for y in found] == pytest.approx(direct(x, h))


@pytest.mark.parametrize("n", [2, 9, 16])
def test_fused_gradients_are_torchs(n):
    torch = pytest.importorskip("torch")
    factors = fourier.even_factors(fourier.power_of_two(n), 2)
    x, h, dy, points = numbers(n, 1), numbers(n, 2), numbers(n, 3), math.prod(factors)
    x_t, h_t = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x, h))
    y = torch.stack([sum(h_t[j] * x_t[t - j] for j in range(t + 1)) for t in range(n)])
    (y * torch.tensor(dy, dtype=torch.float64)).sum().backward()
    counted = ([Counted(v) for v in row] for row in (x, dy))
    dx, of_filter = fourier.gradients(*counted, padded_spectrum(h, points), factors)
    assert [v.value / (4 * points) for v in dx] == pytest.approx(x_t.grad.tolist())
    dh = np.fft.irfft([complex(v.real.value, v.imag.value) for v in of_filter], 2 * points)[:n]
    assert (dh / 4).tolist() == pytest.approx(h_t.grad.tolist())  # both spectra are twice as large


# -- counts by hand ----------------------------------------------------------------------------

SIZES = {"batch": 2, "seq": 1024, "d_model": 3}


def test_bytes_of_the_chain_by_hand():
    """bf16 at both ends, fp32 in between: x, 2n, n + 1 complex numbers, 2n again, y; 6 rows and 3 filters."""
    n, real, half = 1024, 4 * 2048, 8 * 1025
    pads = (2 * n + real) * (6 + 3)
    transforms = (real + half) * (6 + 3 + 6)
    product, cut = half * (6 + 3 + 6), (4 * n + 2 * n) * 6
    found = evaluate(LONG(), **SIZES)
    assert found["hbm_bytes"] == pads + transforms + product + cut
    assert found["launches"] == 7
    assert found["vector_flops"] == 5 * n * 11 * (6 + 3 + 6) + 6 * 1025 * 6


def test_bytes_of_the_fused_kernel_by_hand():
    """FlashFFTConv reads x and the spectrum of the filter, and writes y; a framework makes the spectrum."""
    n, half = 1024, 4 * 1025
    found = evaluate(LONG(fused=True), **SIZES)
    assert found["hbm_bytes"] == 2 * 2 * n * 6 + (2 * n + 2 * half) * 3
    assert found["launches"] == 2
    assert found["compulsory_bytes"] == 2 * n * (6 + 3 + 6)


def test_a_transform_that_does_not_fit_passes_through_memory_again():
    """Of 2n = 8192 points, 128 fit: two passes for each transform; fused, an outer factor each way."""
    chain, fused = (
        [evaluate(LONG(fused=f), batch=1, seq=4096, d_model=1, block=b) for b in (8192, 128)]
        for f in (False, True)
    )
    half = 8 * 4097
    assert chain[1]["launches"] - chain[0]["launches"] == 3
    assert chain[1]["hbm_bytes"] - chain[0]["hbm_bytes"] == 3 * 2 * half
    assert fused[1]["launches"] - fused[0]["launches"] == 2
    assert fused[1]["hbm_bytes"] - fused[0]["hbm_bytes"] == 2 * 2 * 4 * 4096
    assert chain[0]["vector_flops"] == chain[1]["vector_flops"]


def test_matrix_flops_of_the_fused_kernel_are_the_papers():
    """Fu et al., eq. 2: 16·N·N_i FLOP for each factor, both ways. A real transform of 2n has N = n points."""
    n = 4096
    for order, factors in ((2, (64, 64)), (3, (16, 16, 16)), (4, (8, 8, 8, 8))):
        found = evaluate(LONG(fused=True, order=order), batch=1, seq=n, d_model=1)
        assert found["matrix_flops"] == sum(16 * n * factor for factor in factors)


def test_torch_counts_no_flop_in_transforms():
    """FlopCounterMode has no formula for them, and the chain has no matrix product either."""
    torch = pytest.importorskip("torch")

    def run(x, h):
        return torch.fft.irfft(torch.fft.rfft(x, n=32) * torch.fft.rfft(h, n=32), n=32)[..., :16]

    counted = flops(run, *(torch.rand(*shape, requires_grad=True) for shape in ((2, 3, 16), (3, 16))))
    sizes = {"batch": 2, "seq": 16, "d_model": 3}
    ways = [LONG(convention="torch", direction=way) for way in ("fwd", "bwd")]
    assert counted == tuple(evaluate(way, **sizes)["matrix_flops"] for way in ways) == (0, 0)


def test_autograd_saves_the_padded_operands_and_their_spectra():
    torch = pytest.importorskip("torch")
    x, h = (torch.rand(*shape, requires_grad=True) for shape in ((2, 3, 16), (3, 16)))
    found = {}

    def note(t):
        found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        y = torch.fft.irfft(torch.fft.rfft(x, n=32) * torch.fft.rfft(h, n=32), n=32)[..., :16]
    assert y.shape == x.shape
    kept = evaluate(LONG(dtype="fp32"), batch=2, seq=16, d_model=3)["kept_bytes"]
    assert sum(found.values()) == kept


# -- growth, and where it pays -----------------------------------------------------------------


def test_flops_grow_as_n_log_n_and_fused_as_a_root_more():
    n, d = symbol("seq"), symbol("d_model")
    (row,) = table1([LONG()])
    assert (str(row.complexity), str(row.sequential), str(row.path)) == ("O(n·d·log n)", "O(1)", "O(1)")
    for order in (2, 3, 4):
        fused = LONG(fused=True, order=order).cost.flops["matrix"].subs(symbol("batch"), 1)
        (term,) = complexity(fused).terms
        assert term.equals(d * n ** (1 + 1 / symbol("n")).subs(symbol("n"), order))


@pytest.mark.parametrize("causal", [False, True])
def test_crossover_with_attention_is_where_algebra_puts_it(causal):
    """All FLOP: a pair takes 4·d_h + 5 per head, so 4 + 5/64 per channel; a position as in `ours`."""
    sizes = {"batch": 8, "d_model": 512, "heads": 8, "head_dim": 64}
    lengths = np.arange(2.0, 200.0)

    def total(layer):
        named = {name: size for name, size in sizes.items() if name in layer.sizes()}
        found = evaluate(layer, seq=lengths, **named)
        return sum(found[f"{engine}_flops"] for engine in ("matrix", "vector", "special")) / (8 * 512)

    # Two transforms and an eighth of one, of 5·n·log₂ 2n; products of n + 1 complex numbers.
    ours = np.array([(10 + 5 / 8) * n * math.ceil(math.log2(2 * n)) + 6 * (n + 1) for n in lengths])
    pairs = lengths * (lengths + 1) / 2 if causal else lengths**2
    theirs = pairs * (4 + 5 / 64)
    dense = get("dense-attention")(causal=causal)
    assert total(LONG()) == pytest.approx(ours)
    assert total(dense) == pytest.approx(theirs)
    assert ((total(LONG()) < total(dense)) == (ours < theirs)).all()
    assert lengths[ours < theirs].min() == (39 if causal else 15)


@pytest.mark.parametrize("name", ["dense-attention", "tiled-attention"])
def test_crossover_of_matrix_flops_is_where_algebra_puts_it(name):
    """4·n² against 16·M·(N₁ + N₂), with M = N₁·N₂: each padded length M has a range of n to itself."""
    sizes = {"batch": 8, "d_model": 512, "heads": 8, "head_dim": 64}
    found = crossover(LONG(fused=True, order=2), get(name)(), over="seq", of="flops", **sizes)

    def less(n):
        factors = fourier.even_factors(fourier.power_of_two(n), 2)
        return np.sign(16 * math.prod(factors) * sum(factors) - 4 * n**2)

    assert found.cheaper[-1] == "long-convolution"
    assert found.sizes[-1] == next(n for n in range(2000, 1, -1) if less(n) >= 0) + 1 == 314


def test_direct_convolution_of_n_taps_costs_more_beyond_forty_positions():
    """2·n FLOP for each output against 10·log₂ 2n + 6 (large batches): from 39 positions on."""
    lengths = np.array([2.0, 8.0, 16.0, 32.0, 39.0, 64.0, 128.0, 1024.0, 2.0**17])
    sizes = {"batch": 10**6, "d_model": 8, "seq": lengths}
    taps = evaluate(get("causal-conv1d")(), **sizes, k=lengths)["vector_flops"]
    more = taps > evaluate(LONG(), **sizes)["vector_flops"]
    assert more.tolist() == [2 * n > 10 * math.ceil(math.log2(2 * n)) + 6 for n in lengths]
    assert more.tolist() == [n >= 39 for n in lengths]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_long_sequences_take_less_time_than_attention_and_no_less_than_the_bound(fused, direction):
    sizes = {"batch": 4, "d_model": 1024, "heads": 16, "head_dim": 64, "seq": 2**17}
    for rung in ("bound", "kernel"):
        ours, theirs = (
            predict(layer, "nvidia/h200-sxm", rung=rung, **{k: sizes[k] for k in sizes if k in layer.sizes()})
            for layer in (LONG(fused=fused, direction=direction), get("tiled-attention")(direction=direction))
        )
        assert ours.lower_s <= ours.seconds < theirs.seconds


def test_fusion_saves_bytes_and_time():
    """Fu et al.: the transforms' passes over memory are most of torch's time."""
    sizes = {"batch": 8, "seq": 8192, "d_model": 1024}
    chain, fused = (predict(LONG(fused=f), "nvidia/h200-sxm", rung="kernel", **sizes) for f in (False, True))
    assert fused.hbm_bytes < chain.hbm_bytes / 5
    assert fused.seconds < chain.seconds


@pytest.mark.parametrize("order", [1, 5])
def test_orders_that_no_kernel_has_are_refused(order):
    with pytest.raises(CostmodelError, match="2, 3 or 4"):
        LONG(order=order)
