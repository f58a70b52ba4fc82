"""Hyena against its paper, and against torch's counters on an operator written out."""

import math

import pytest
from flop_counter import flops

from costmodel import evaluate, predict
from costmodel.asymptotics import complexity, degree
from costmodel.layers import get
from costmodel.symbols import symbol

torch = pytest.importorskip("torch")
from torch.nn import functional  # noqa: E402

HYENA = get("hyena")
B, N, D, W, E, K = 2, 12, 6, 5, 3, 4
SIZES = {"batch": B, "seq": N, "d_model": D, "hidden": W, "input": E, "k": K}


def weights(order):
    """Return the tables of an operator: projections, short filters, the network, frequencies and windows."""
    shapes = [(D, (order + 1) * D), ((order + 1) * D, 1, K), (D, D)]
    network = [(E, W), (W, W), (W, W), (W, order * D)]
    return [torch.rand(*shape, requires_grad=True) for shape in (*shapes, *network)]


def operator(x, into, short, out, *network):
    """Return Hyena's output: Algorithms 1 to 3, with a window, and with convolutions by torch.fft."""
    order = into.shape[1] // D - 1
    u = functional.conv1d(functional.pad((x @ into).mT, (K - 1, 0)), short, groups=into.shape[1])
    v, *gates = u.split(D, 1)
    h = torch.ones(N, E, dtype=into.dtype)
    for table in network[:-1]:
        h = torch.sin(2.0 * (h @ table))
    window = torch.exp(-torch.arange(N)[:, None] * torch.linspace(0.1, 1.0, order * D)) + 0.01
    for gate, taps in zip(gates, (h @ network[-1] * window).mT.split(D, 0), strict=True):
        spectra = torch.fft.rfft(v, n=2 * N), torch.fft.rfft(taps, n=2 * N)
        v = gate * torch.fft.irfft(spectra[0] * spectra[1], n=2 * N)[..., :N]
    return v.mT @ out


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_operator_written_out_is_causal_and_has_the_parameters(order):
    """A later position changes no earlier output."""
    tables = [table.double() for table in weights(order)]
    x = torch.rand(B, N, D, dtype=torch.float64)
    later = x.clone()
    later[:, 7:] += 1
    ours, theirs = (operator(value, *tables) for value in (x, later))
    assert torch.allclose(ours[:, :7], theirs[:, :7])
    assert not torch.allclose(ours[:, 7:], theirs[:, 7:])
    found = evaluate(HYENA(order=order), **SIZES)
    assert found["parameters"] == sum(table.numel() for table in tables)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_matrix_flops_equal_torchs(order):
    counted = flops(operator, torch.rand(B, N, D, requires_grad=True), *weights(order))
    for way, theirs in zip(("fwd", "bwd"), counted, strict=True):
        layer = HYENA(order=order, convention="torch", direction=way)
        assert evaluate(layer, **SIZES)["matrix_flops"] == theirs, way


@pytest.mark.parametrize("order", [1, 2, 4])
def test_flops_are_the_papers_and_those_of_the_filters(order):
    """Poli et al., Appendix A: projections, short convolution, FFT convolutions, output; 2 FLOP each.

    The paper rounds 5·N·log₂ N per convolution; here three real transforms of 2n points, one of them for
    all sequences.
    """
    n, d, k = 4096, 256, 3
    found = evaluate(HYENA(order=order), batch=1, seq=n, d_model=d)
    network = 2 * n * (3 * 64 + 2 * 64 * 64 + 64 * order * d)
    assert found["matrix_flops"] == 2 * n * (order + 1) * d * d + 2 * n * d * d + network
    transforms = order * d * 3 * 5 * n * 13
    short, gates, spectra = 2 * k * n * (order + 1) * d, order * n * d, order * 6 * (n + 1) * d
    waves = 3 * n * 64 + 3 * n * order * d
    assert found["vector_flops"] == short + transforms + gates + spectra + waves
    assert math.log2(2 * n) == 13


def test_growth_is_linear_but_for_a_logarithm():
    n, d, b = (symbol(name) for name in ("seq", "d_model", "batch"))
    cost = HYENA().cost
    assert degree(cost.flops.total, "seq") == 1
    assert b * n * d**2 in complexity(cost.flops["matrix"]).terms
    assert degree(cost.bytes["hbm"], "seq") == 1


def test_each_order_adds_a_convolution_with_its_projection_and_its_filter():
    sizes = {"batch": 4, "seq": 1024, "d_model": 64}
    for direction in ("fwd", "bwd"):
        one, two, four = (evaluate(HYENA(order=order, direction=direction), **sizes) for order in (1, 2, 4))
        for count in ("matrix_flops", "vector_flops", "hbm_bytes", "launches", "parameters", "kept_bytes"):
            assert four[count] - two[count] == pytest.approx(2 * (two[count] - one[count])), count


@pytest.mark.parametrize("fused", [False, True])
def test_long_sequences_take_less_time_than_attention_with_projections(fused):
    """Poli et al., §4.4: at 64K tokens Hyena is far ahead of FlashAttention."""
    sizes = {"batch": 1, "d_model": 1024, "seq": 2**16}
    ours = predict(HYENA(fused=fused), "nvidia/h200-sxm", rung="kernel", **sizes)
    attention = get("tiled-attention")(projections=True, causal=True)
    theirs = predict(attention, "nvidia/h200-sxm", rung="kernel", heads=16, head_dim=64, **sizes)
    assert ours.lower_s <= ours.seconds < theirs.seconds
