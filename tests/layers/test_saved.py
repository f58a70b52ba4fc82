"""Bytes kept for backward (``kept_bytes``) of plain modules against what torch's autograd saves."""

import pytest

from costmodel import evaluate
from costmodel.layers import get

torch = pytest.importorskip("torch")
from test_eager_torch import BATCH, CODE, HEADS, INNER, SEQ, WIDTH  # noqa: E402
from torch.nn import functional  # noqa: E402


def saved(run, *inputs, weights=()):
    """Return the sizes of the tables that autograd saves in a run, without weights [bytes]."""
    found, left_out = {}, {w.untyped_storage().data_ptr() for w in weights}

    def note(t):
        found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        kept_alive = run(*inputs)
    assert kept_alive is not None
    return [size for place, size in found.items() if place not in left_out]


def table(*shape):
    return torch.rand(*shape, requires_grad=True)


def kept(name, sizes, **options):
    return evaluate(get(name)(dtype="fp32", **options), **sizes)["kept_bytes"]


FUNCTIONS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
    "gelu-tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "relu2": lambda x: torch.relu(x).square(),
}
B, N, D, F, H, DV, R = 2, 7, 6, 20, 3, 5, 4


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_feed_forward_keeps_what_autograd_saves(activation):
    """GELU and SiLU keep their input; the gradients of the other activations follow from their result."""
    function, up, down = FUNCTIONS[activation], table(D, F), table(F, D)
    found = saved(lambda x: function(x @ up) @ down, table(B, N, D), weights=(up, down))
    sizes = {"batch": B, "seq": N, "d_model": D, "d_ff": F}
    assert kept("feed-forward", sizes, activation=activation) == sum(found)
    block = {**sizes, "heads": H, "head_dim": 2, "sram": 4096}
    parts = ({"activation": a} for a in (activation, "gelu"))
    differs, most = (kept("transformer-block", block, direction="fwd+bwd", **o) for o in parts)
    assert most - differs == kept("feed-forward", sizes, activation="gelu") - sum(found)


QUERIES, KEYS, VALUES = (B, H, N, D), (B, H, N, D), (B, H, N, DV)
CORE = {"batch": B, "heads": H, "seq": N, "head_dim": D, "value_dim": DV}


def test_dense_attention_keeps_what_autograd_saves():
    def run(q, k, v):
        return torch.softmax(q @ k.mT, -1) @ v

    found = saved(run, table(*QUERIES), table(*KEYS), table(*VALUES))
    assert kept("dense-attention", CORE) == sum(found)


def test_linear_attention_keeps_what_autograd_saves():
    def run(q, k, v):
        q, k = functional.elu(q) + 1, functional.elu(k) + 1
        return (q @ (k.mT @ v)) / (q @ k.sum(-2)[..., None])

    found = saved(run, table(*QUERIES), table(*KEYS), table(*VALUES))
    assert kept("linear-attention", CORE) == sum(found)


def test_linformer_keeps_what_autograd_saves():
    e, f = table(R, N), table(R, N)

    def run(q, k, v):
        return torch.softmax(q @ (e @ k).mT, -1) @ (f @ v)

    found = saved(run, table(*QUERIES), table(*KEYS), table(*VALUES), weights=(e, f))
    assert kept("linformer", {**CORE, "rank": R}) == sum(found)


@pytest.mark.parametrize("style", CODE)
def test_eager_models_keep_what_autograd_saves(style):
    """Only tables as large as an activation are compared, not norm statistics and n × n causal masks."""
    code, fused = CODE[style]
    module = code(fused)
    found = saved(module, table(BATCH, SEQ, WIDTH), weights=tuple(module.parameters()))
    size = 4 * BATCH * SEQ * WIDTH
    sizes = {"batch": BATCH, "seq": SEQ, "d_model": WIDTH, "heads": HEADS, "d_ff": INNER, "vocab": 11}
    ours = [kept("eager-transformer", {**sizes, "num_layers": n}, style=style) for n in (1, 2)]
    assert ours[1] - ours[0] == sum(s for s in found if s >= size)
    head = 4 * BATCH * WIDTH if style == "bert" else size  # the head's input
    assert 2 * ours[0] - ours[1] == head
