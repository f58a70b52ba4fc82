"""Memory of captured modules: bytes kept equal what autograd saves on a CPU; parameters are the module's."""

import dataclasses

import pytest

from costmodel.capture import from_torch
from costmodel.symbols import symbol

torch = pytest.importorskip("torch", reason="from_torch needs torch")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from .zoo import BATCH_FIRST, ZOO, Attention, GatedFeedForward, rows, tokens  # noqa: E402

#: What recurrent layers keep depends on the library; their `Layer` counts what cuDNN's cells keep.
RECURRENT = ("lstm", "projected lstm", "gru, both ways", "rnn")


def saved(module, given, backend=SDPBackend.MATH):
    """Return the bytes that autograd saves, without weights, each storage once."""
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    found, alive = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        alive.append(storage)
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with sdpa_kernel(backend), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = module(given)
    del result
    return sum(found.values())


def kept(model, batch, seq):
    return int(model.cost.kept.xreplace({symbol("batch"): batch, symbol("seq"): seq}))


@pytest.mark.parametrize("name", [name for name in ZOO if name not in RECURRENT])
def test_kept_bytes_equal_what_autograd_saves(name, monkeypatch):
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
    specimen = ZOO[name]
    module = specimen.make()
    model = from_torch(module, specimen.inputs(3, 6), dims=specimen.dims, direction="fwd+bwd")
    for batch, free in ((3, 6), (2, 11), (5, 16)):
        seq = specimen.fixed or free
        assert kept(model, batch, seq) == saved(module, specimen.inputs(batch, seq))


def test_fused_attention_keeps_what_autograd_saves_and_nothing_quadratic():
    module = Attention(kv_heads=4)
    model = from_torch(module, rows(3, 6), dims=BATCH_FIRST, direction="fwd+bwd", fusion="flash")
    for batch, seq in ((3, 6), (2, 11)):
        assert kept(model, batch, seq) == saved(module, rows(batch, seq), SDPBackend.FLASH_ATTENTION)
    assert model.cost.kept.as_poly(symbol("seq")).degree() == 1


def test_an_lstm_keeps_its_input_gates_and_states():
    """One layer: the input, four gates, and the states c and h of each step."""
    model = from_torch(torch.nn.LSTM(16, 8), rows(3, 6), dims=BATCH_FIRST, direction="fwd+bwd")
    assert kept(model, 3, 6) == 4 * 3 * 6 * (16 + 6 * 8)


def test_dropout_keeps_a_mask_of_one_byte_per_element():
    module = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Dropout(0.5))
    model = from_torch(module, rows(3, 6), dims=BATCH_FIRST, direction="fwd+bwd")
    assert kept(model, 3, 6) == 4 * 3 * 6 * 16 + 3 * 6 * 16  # the linear layer's input and the mask
    module.eval()
    model = from_torch(module, rows(3, 6), dims=BATCH_FIRST, direction="fwd+bwd")
    assert kept(model, 3, 6) == 4 * 3 * 6 * 16


def test_dropout_inside_attention_is_one_kernel_with_a_mask_of_bytes():
    class Self(torch.nn.Module):
        def __init__(self, dropout):
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(16, 4, dropout=dropout, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    with_mask, without = (
        from_torch(Self(p), rows(3, 6), dims=BATCH_FIRST, direction="fwd+bwd") for p in (0.1, 0.0)
    )
    scores = 3 * 4 * 6 * 6
    # The mask has one byte per score; the probabilities after dropout are kept for the product with V.
    assert kept(with_mask, 3, 6) - kept(without, 3, 6) == scores * (1 + 4)
    assert not [p.name for p in with_mask.forward() if "bernoulli" in p.name]


@pytest.mark.parametrize("name", ZOO)
def test_parameters_equal_the_modules(name):
    specimen = ZOO[name]
    module = specimen.make()
    model = from_torch(module, specimen.inputs(3, 6), dims=specimen.dims)
    assert model.cost.parameters == sum(p.numel() for p in module.parameters())


def test_compulsory_bytes_are_inputs_outputs_and_weights_once():
    """An embedding table has no compulsory bytes, because no row is certain to be read."""
    module = GatedFeedForward()
    model = from_torch(module, rows(3, 6), dims=BATCH_FIRST, direction="fwd+bwd")
    tokens_, weights = 4 * symbol("batch") * symbol("seq") * 16, 4 * 3 * 16 * 32
    assert dataclasses.replace(model, direction="fwd").cost.compulsory == 2 * tokens_ + weights
    assert dataclasses.replace(model, direction="bwd").cost.compulsory == weights  # the weights' gradients
    table = from_torch(torch.nn.Embedding(50, 16), tokens(3, 6), dims=BATCH_FIRST)
    ids = 8 * symbol("batch") * symbol("seq")
    assert table.cost.compulsory == ids + tokens_


@pytest.mark.parametrize("name", ["adamw", "momentum", "sgd", None])
def test_a_training_step_holds_what_torchs_optimiser_holds(name):
    """Weights, gradients and state as torch has them.

    AdamW over all tensors at once also holds a table of square roots.
    """
    side = 512
    module = torch.nn.Sequential(*(torch.nn.Linear(side, side, bias=False) for _ in range(2)))
    model = from_torch(module, torch.zeros(1, side), direction="fwd+bwd", optimizer=name)
    made = {
        "adamw": torch.optim.AdamW,
        "momentum": lambda weights: torch.optim.SGD(weights, momentum=0.9),
        "sgd": torch.optim.SGD,
    }
    module(torch.zeros(1, side)).sum().backward()
    tensors = [t for weight in module.parameters() for t in (weight, weight.grad)]
    if name is not None:
        optimizer = made[name](list(module.parameters()))
        optimizer.step()
        states = (state.values() for state in optimizer.state.values())
        tensors += [t for state in states for t in state if isinstance(t, torch.Tensor) and t.ndim]
    roots = 2 * side**2 if name == "adamw" else 0
    held = 4 * (sum(t.numel() for t in tensors) + roots)
    assert int(model.cost.footprint) == pytest.approx(held, rel=0.01)


def test_an_embeddings_gradient_is_dense():
    """Torch allocates a gradient for every row, used or not."""
    table = torch.nn.Embedding(5000, 64)
    model = from_torch(table, tokens(3, 6), direction="fwd+bwd")
    assert int(model.cost.footprint) == pytest.approx(2 * 4 * 5000 * 64, rel=0.01)
    assert model.made == 4 * 5000 * 64


def test_a_chain_of_operations_has_two_live_tensors_in_inference():
    """Only the input and the output of the current pointwise operation are live at once."""
    module = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Sigmoid(), torch.nn.Tanh(), torch.nn.Sigmoid())
    model = from_torch(module, rows(3, 6), dims=BATCH_FIRST)
    array = 4 * 16 * symbol("batch") * symbol("seq")
    assert model.live_forward == 2 * array
    assert model.cost.footprint == 4 * array  # also counts the module's own input and output
