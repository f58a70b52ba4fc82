"""The counted programs of the linear-time families compute what torch computes."""

import random

import pytest
from authority import chunks, delta, exponential, gated, linear, state_space
from authority.counted import Counted

torch = pytest.importorskip("torch")
STEPS = 5


def numbers(count, seed, low=0.1, high=1.0):
    rng = random.Random(seed)
    return [rng.uniform(low, high) for _ in range(count)]


def counted(values):
    return [counted(v) if isinstance(v, list) else Counted(v) for v in values]


def plain(values):
    return [plain(v) if isinstance(v, list) else v.value for v in values]


def tensor(values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def fixed(values):
    return torch.tensor(values, dtype=torch.float64)


def close(found, wanted):
    assert torch.tensor(plain(found), dtype=torch.float64).flatten().tolist() == pytest.approx(
        wanted.flatten().tolist(), rel=1e-9, abs=1e-12
    )


# -- gated cells -------------------------------------------------------------------------------


def cell_in_torch(cell, pre, x, biases, v, h):
    """Return the outputs of a cell by the papers' equations."""
    s, out = torch.sigmoid, []
    for t in range(STEPS):
        p = pre[t]
        if cell == "min-gru":
            z = s(p[0] + biases[0])
            h = (1 - z) * h + z * (p[1] + biases[1])
            out.append(h)
        elif cell == "min-lstm":
            f, i = s(p[0] + biases[0]), s(p[1] + biases[1])
            h = f / (f + i) * h + i / (f + i) * (p[2] + biases[2])
            out.append(h)
        elif cell == "qrnn":
            z, f, o = torch.tanh(p[0] + biases[0]), s(p[1] + biases[1]), s(p[2] + biases[2])
            h = f * h + (1 - f) * z
            out.append(o * h)
        elif cell == "rg-lru":
            r, i = s(p[0] + biases[0]), s(p[1] + biases[1])
            a = torch.exp(v[0] * r)
            h = a * h + torch.sqrt(1 - a**2) * (i * x[t])
            out.append(h)
        else:
            f, r = s(p[1] + biases[0] + v[0] * h), s(p[2] + biases[1] + v[1] * h)
            h = f * h + (1 - f) * p[0]
            out.append(r * h + (1 - r) * x[t])
    return torch.stack(out)


CELLS = [(cell, False) for cell in gated.MATRICES] + [("sru", True)]


@pytest.mark.parametrize(("cell", "peephole"), CELLS)
def test_gated_cells_equal_torchs_values_and_gradients(cell, peephole):
    mats = gated.MATRICES[cell]
    pre = [numbers(mats, t, -1.0) for t in range(STEPS)]
    xs, dh, biases = numbers(STEPS, 7), numbers(STEPS, 8), numbers(gated.BIASED[cell], 9)
    v = (0.4, -0.3) if peephole else None
    pre_t, x_t, h_t = tensor(pre), tensor(xs), tensor(0.3)
    v_t = tensor((gated.SLOPE,) if cell == "rg-lru" else v or (0.0, 0.0))
    out = cell_in_torch(cell, pre_t, x_t, biases, v_t, h_t)
    (out * fixed(dh)).sum().backward()

    state, histories, outputs = Counted(0.3), [], []
    for t in range(STEPS):
        state, h, kept = gated.forward(cell, counted(pre[t]), state, Counted(xs[t]), biases, v)
        histories.append(kept)
        outputs.append(h)
    close(outputs, out.detach())
    carried, gates, extras = Counted(0.0), [], []
    for t in reversed(range(STEPS)):
        carried, of_products, extra = gated.backward(cell, Counted(dh[t]), carried, histories[t], v)
        gates.insert(0, of_products)
        extras.insert(0, extra)
    close(gates, pre_t.grad)
    close([carried], h_t.grad)
    if cell in ("sru", "rg-lru"):
        close([e[0] for e in extras], x_t.grad)
    if cell == "rg-lru":
        assert sum(e[1].value for e in extras) == pytest.approx(v_t.grad.item())
    if peephole:
        assert [sum(e[i].value for e in extras) for i in (1, 2)] == pytest.approx(v_t.grad.tolist())


# -- linear attention --------------------------------------------------------------------------

KINDS = [("none", False, True), ("none", False, False), ("fixed", False, False), ("vector", False, False)]
KINDS += [("scalar", False, False), ("scalar", True, True)]
N, DK, DV = 7, 3, 2


def head(decay, gated_keys, normalised):
    gates = {
        "scalar": numbers(N, 4, -0.5, -0.1),
        "vector": [numbers(DK, 40 + t, -0.5, -0.1) for t in range(N)],
    }
    rows = [[numbers(width, 10 * seed + t) for t in range(N)] for seed, width in ((1, DK), (2, DK), (3, DV))]
    return rows, gates.get(decay, []), numbers(N, 5, -0.3, 0.3) if gated_keys else []


def linear_in_torch(q, k, v, decay, gates, key_gates, normalised):
    """Return o_t = q_t S_t, over q_t z_t if normalised, for S_t = α_t S_{t−1} + e^{i_t} k_t v_tᵀ."""
    s, z, out = torch.zeros(DK, DV, dtype=torch.float64), torch.zeros(DK, dtype=torch.float64), []
    for t in range(N):
        alpha = torch.ones(DK, dtype=torch.float64)
        if decay == "fixed":
            alpha = 0.9 * alpha
        elif decay != "none":
            alpha = torch.exp(gates[t]) * alpha
        key = k[t] * (torch.exp(key_gates[t]) if len(key_gates) else 1.0)
        s, z = alpha[:, None] * s + torch.outer(key, v[t]), alpha * z + key
        out.append(q[t] @ s / (q[t] @ z if normalised else 1.0))
    return torch.stack(out)


@pytest.mark.parametrize("chunk", [1, 3, 7, 9])
@pytest.mark.parametrize(("decay", "gated_keys", "normalised"), KINDS)
def test_chunked_linear_attention_equals_torchs_values_and_gradients(decay, gated_keys, normalised, chunk):
    (q, k, v), gates, key_gates = head(decay, gated_keys, normalised)
    do = [numbers(DV, 70 + t) for t in range(N)]
    inputs = [tensor(x) for x in (q, k, v, gates, key_gates)]
    wanted = linear_in_torch(*inputs[:3], decay, *inputs[3:], normalised)
    (wanted * fixed(do)).sum().backward()

    h = chunks.Head(
        counted(q), counted(k), counted(v), decay, counted(gates), counted(key_gates), normalised=normalised
    )
    close(chunks.token_by_token(h), wanted.detach())
    states, sums = chunks.states(h, chunk)
    o = chunks.outputs(h, chunk, states, sums)
    close(o, wanted.detach())

    inner = [Counted(0.0)] * N
    of_o = counted(do)
    if normalised:
        below = [
            sum(a * b for a, b in zip(q[t], z, strict=True)) for t, z in enumerate(weights_seen(*inputs))
        ]
        pairs = [chunks.undivided(of_o[t], o[t], Counted(below[t])) for t in range(N)]
        of_o, inner = [p[0] for p in pairs], [p[1] for p in pairs]
    ds, dz = chunks.state_gradients(h, chunk, of_o, inner)
    g = chunks.operand_gradients(h, chunk, of_o, inner, states, sums, ds, dz)
    for found, x in zip((g.q, g.k, g.v), inputs, strict=False):
        close(found, x.grad)
    if decay in ("scalar", "vector"):
        close(g.gates, inputs[3].grad)
    if gated_keys:
        close(g.key_gates, inputs[4].grad)


def weights_seen(q, k, v, gates, key_gates):
    """Return z_t, the decayed sum of keys in each query's divisor."""
    z, found = torch.zeros(DK, dtype=torch.float64), []
    for t in range(N):
        alpha = torch.exp(gates[t]) if len(gates) else 1.0
        z = alpha * z + k[t] * (torch.exp(key_gates[t]) if len(key_gates) else 1.0)
        found.append(z.tolist())
    return found


def test_the_feature_map_and_its_gradient_equal_torchs():
    for value in (-0.7, 0.4):
        x = tensor(value)
        y = torch.nn.functional.elu(x) + 1
        (1.3 * y).backward()
        mapped = linear.elu_plus_1(Counted(value))
        assert mapped.value == pytest.approx(y.item())
        assert linear.elu_plus_1_gradient(mapped, Counted(1.3)).value == pytest.approx(x.grad.item())


# -- state spaces ------------------------------------------------------------------------------


def test_the_selective_scan_equals_torchs_values_and_gradients():
    states = 3
    x, delta, z, dout = (numbers(STEPS, seed) for seed in range(4))
    a, d = numbers(states, 5, -1.0, -0.1), 0.6
    b, c = ([numbers(states, 10 * s + t) for t in range(STEPS)] for s in (1, 2))
    xs = [tensor(v) for v in (x, delta, z, a, b, c, d)]
    tx, tdelta, tz, ta, tb, tc, td = xs
    h, out = torch.zeros(states, dtype=torch.float64), []
    for t in range(STEPS):
        h = torch.exp(tdelta[t] * ta) * h + tdelta[t] * tb[t] * tx[t]
        out.append((tc[t] @ h + td * tx[t]) * torch.nn.functional.silu(tz[t]))
    (torch.stack(out) * fixed(dout)).sum().backward()
    args = [counted(v) for v in (x, delta, z, a, b, c)] + [Counted(d)]
    close(state_space.selective_scan(*args), torch.stack(out).detach())
    g = state_space.selective_scan_gradient(counted(dout), *args)
    for found, wanted in ((g.x, tx), (g.delta, tdelta), (g.z, tz), (g.b, tb), (g.c, tc)):
        close(found, wanted.grad)
    for found, wanted in ((g.a, ta), (g.d, td)):
        assert torch.tensor(plain(found), dtype=torch.float64).sum(0).tolist() == pytest.approx(
            wanted.grad.tolist()
        )


def test_mamba_2s_operations_around_linear_attention_equal_torchs():
    """Δ A, Δ x and D x; a weighted sum of gate and values stands for the linear attention."""
    p, weights, dgate = 3, numbers(3, 1), 0.7
    delta, a, skip, x = tensor(0.3), tensor(-0.4), tensor(0.8), tensor(numbers(p, 2))
    gate, values = delta * a, delta * x
    dy = fixed(numbers(p, 3))
    (gate * dgate + (values * fixed(weights)).sum() + ((skip * x) * dy).sum()).backward()
    found = state_space.discretised(Counted(0.3), Counted(-0.4), counted(x.tolist()))
    assert found[0].value == pytest.approx(gate.item())
    close(found[1], values.detach())
    dx, ddelta, da, dskip = state_space.duality_gradient(
        Counted(0.3),
        Counted(-0.4),
        counted(x.tolist()),
        Counted(0.8),
        counted(dy.tolist()),
        Counted(dgate),
        counted(weights),
    )
    close(dx, x.grad)
    close([ddelta], delta.grad)
    close([da], a.grad)
    assert sum(v.value for v in dskip) == pytest.approx(skip.grad.item())


def test_rwkvs_average_equals_torchs_values_and_gradients():
    """RWKV-4, eq. 16, without the separate exponents that keep it stable."""
    k, v, dy = numbers(STEPS, 1, -1.0), numbers(STEPS, 2), numbers(STEPS, 3)
    tw, tu, tk, tv = tensor(-0.3), tensor(0.2), tensor(k), tensor(v)
    out = []
    for t in range(STEPS):
        e = [torch.exp((t - 1 - i) * tw + tk[i]) for i in range(t)] + [torch.exp(tu + tk[t])]
        out.append(sum(x * tv[i] for i, x in enumerate(e)) / sum(e))
    y = torch.stack(out)
    (y * fixed(dy)).sum().backward()
    w, u = Counted(-0.3), Counted(0.2)
    close(state_space.wkv(w, u, counted(k), counted(v)), y.detach())
    dw, du, dk, dv = state_space.wkv_gradient(w, u, counted(k), counted(v), counted(y.tolist()), counted(dy))
    for found, wanted in ((dw, tw), (du, tu), (dk, tk), (dv, tv)):
        close(found, wanted.grad)


# -- sLSTM -------------------------------------------------------------------------------------


def test_slstm_with_its_stabiliser_equals_torch_without_it():
    """The stabiliser m changes no result."""
    units, gates = 2, exponential.GATES
    r = [[numbers(units, 10 * g + u, -0.5, 0.5) for u in range(units)] for g in range(gates)]
    wx = [[numbers(units, 100 * g + t, -0.5, 0.5) for t in range(STEPS)] for g in range(gates)]
    dy, bias = [numbers(units, 50 + t) for t in range(STEPS)], numbers(gates, 60)
    pre, tr = tensor(wx), fixed(r)
    h0 = tensor(numbers(units, 70))
    h, c, n = (
        h0,
        torch.full((units,), 0.5, dtype=torch.float64),
        torch.full((units,), 0.7, dtype=torch.float64),
    )
    out = []
    for t in range(STEPS):
        i, f, z, o = (pre[g, t] + bias[g] + tr[g] @ h for g in range(gates))
        new, keep = torch.exp(i), torch.sigmoid(f)
        c, n = keep * c + new * torch.tanh(z), keep * n + new
        h = torch.sigmoid(o) * c / n
        out.append(h)
    (torch.stack(out) * fixed(dy)).sum().backward()

    memory = exponential.Memory(
        counted(h0.tolist()), counted([0.5] * units), counted([0.7] * units), counted([0.0] * units)
    )
    histories = []
    for t in range(STEPS):
        step = [counted(wx[g][t]) for g in range(gates)]
        memory, kept = exponential.forward(step, memory, r, bias)
        close(memory.h, out[t].detach())
        histories.append(kept)
    zero = counted([0.0] * units)
    carried = (zero, zero, zero)
    for t in reversed(range(STEPS)):
        carried, of_gates = exponential.backward(counted(dy[t]), carried, histories[t], r)
        close(of_gates, pre.grad[:, t])
    close(carried[0], h0.grad)


@pytest.mark.parametrize("chunk", [None, 1, 3, 4, 9])
def test_gated_delta_net_token_by_token_and_by_chunks_equals_torchs(chunk):
    """S ← α S (I − β k kᵀ) + β v kᵀ (arXiv 2412.06464, eq. 10)."""
    d, dv, n = 3, 2, 7
    q, k, v = ([numbers(width, 10 * t + x, -0.5) for t in range(n)] for x, width in enumerate((d, d, dv)))
    g, beta = numbers(n, 1, -0.5, 0.0), numbers(n, 2)
    rows = [counted(x) for x in (q, k, v)]
    gates = [counted(g), counted(beta)]
    found = delta.token_by_token(*rows, *gates) if chunk is None else delta.by_chunks(*rows, *gates, chunk)
    tq, tk, tv, alpha, tb = fixed(q), fixed(k), fixed(v), torch.exp(fixed(g)), fixed(beta)
    state, wanted = torch.zeros(dv, d, dtype=torch.float64), []
    for t in range(n):
        state = alpha[t] * state @ (torch.eye(d, dtype=torch.float64) - tb[t] * torch.outer(tk[t], tk[t]))
        state = state + tb[t] * torch.outer(tv[t], tk[t])
        wanted.append(state @ tq[t])
    close(found, torch.stack(wanted))


@pytest.mark.parametrize("chunk", [None, 1, 3, 4, 9])
def test_kimi_delta_attention_token_by_token_and_by_chunks_equals_torchs(chunk):
    """S ← (I − β k kᵀ) diag(α) S + β k vᵀ, o = Sᵀ q (arXiv 2510.26692, eq. 1)."""
    d, dv, n = 3, 2, 7
    q, k, v, g = (
        [numbers(width, 10 * t + x, -0.5, *high) for t in range(n)]
        for x, (width, *high) in enumerate(((d,), (d,), (dv,), (d, 0.0)))
    )
    beta = numbers(n, 2)
    rows = [counted(x) for x in (q, k, v, g, beta)]
    found = delta.channels_token_by_token(*rows) if chunk is None else delta.channels_by_chunks(*rows, chunk)
    tq, tk, tv, alpha, tb = fixed(q), fixed(k), fixed(v), torch.exp(fixed(g)), fixed(beta)
    state, wanted = torch.zeros(d, dv, dtype=torch.float64), []
    for t in range(n):
        state = torch.diag(alpha[t]) @ state
        state = (torch.eye(d, dtype=torch.float64) - tb[t] * torch.outer(tk[t], tk[t])) @ state
        state = state + tb[t] * torch.outer(tk[t], tv[t])
        wanted.append(state.T @ tq[t])
    close(found, torch.stack(wanted))
