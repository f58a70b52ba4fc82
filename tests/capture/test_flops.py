"""FLOPs of captured modules equal torch's own count, forward and backward, also at other lengths."""

import dataclasses

import pytest

from costmodel.capture import from_torch
from costmodel.symbols import symbol

torch = pytest.importorskip("torch", reason="from_torch needs torch")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count  # noqa: E402

from .zoo import ZOO, Attention, Twice, encoder_layer, rows  # noqa: E402

aten = torch.ops.aten
#: FlopCounterMode knows fused attention by its name on GPUs; on the CPU it has another name.
WHOLE = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(g, q, k, v)
    ),
}


def counted(module, given, *, whole_attention=False):
    """Return FlopCounterMode's counts (forward, forward and backward)."""
    backend = SDPBackend.FLASH_ATTENTION if whole_attention else SDPBackend.MATH
    mode = FlopCounterMode(display=False, custom_mapping=WHOLE if whole_attention else None)
    with sdpa_kernel(backend), mode as counter:
        result = module(given)
        forward = counter.get_total_flops()
        result = result[0] if isinstance(result, tuple) else result
        result.backward(torch.empty_like(result))
    return forward, counter.get_total_flops()


def ours(model, batch, seq):
    both = [dataclasses.replace(model, convention="torch", direction=d) for d in ("fwd", "fwd+bwd")]
    at = {symbol("batch"): batch, symbol("seq"): seq}
    return tuple(int(variant.product_flops.xreplace(at)) for variant in both)


@pytest.mark.parametrize("name", ZOO)
def test_flops_equal_flop_counter_modes(name, monkeypatch):
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
    specimen = ZOO[name]
    # On the meta device torch decomposes recurrent layers into products that it counts.
    module = specimen.make().to("meta")
    model = from_torch(module, specimen.inputs(3, 6), dims=specimen.dims, direction="fwd+bwd")
    assert model.unmapped == ()
    for batch, free in ((3, 6), (2, 11), (5, 16), (1, 7)):
        seq = specimen.fixed or free
        given = specimen.inputs(batch, seq).to("meta")
        assert ours(model, batch, seq) == counted(module, given)


@pytest.mark.parametrize("make", [lambda: Attention(kv_heads=4), lambda: Twice().eval(), encoder_layer])
@pytest.mark.parametrize("fusion", ["flash", "compile"])
def test_fused_attention_counts_the_scores_computed_again_backward(make, fusion):
    module = make()
    model = from_torch(
        module, rows(3, 6), dims={"batch": (0, 0), "seq": (0, 1)}, direction="fwd+bwd", fusion=fusion
    )
    kernels = {phase.kernel for phase in model.forward()}
    assert "attention" in kernels
    for batch, seq in ((3, 6), (2, 11)):
        assert ours(model, batch, seq) == counted(module, rows(batch, seq), whole_attention=True)


def test_a_frozen_part_costs_no_gradients():
    module = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16))
    module[0].requires_grad_(False)
    model = from_torch(module, rows(3, 6), dims={"batch": (0, 0), "seq": (0, 1)}, direction="fwd+bwd")
    assert ours(model, 2, 5) == counted(module, rows(2, 5))
    assert model.cost.parameters == 2 * (16 * 16 + 16)
    assert dataclasses.replace(model, direction="bwd").cost.compulsory == 4 * (16 * 16 + 16)


def test_checkpointing_counts_a_second_forward_and_keeps_only_its_input():
    from torch.utils.checkpoint import checkpoint  # noqa: PLC0415

    class Checkpointed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Sequential(
                torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16)
            )

        def forward(self, x):
            return checkpoint(self.inner, x * 2, use_reentrant=False)

    module = Checkpointed()
    given = rows(3, 6).requires_grad_()
    model = from_torch(module, given, dims={"batch": (0, 0), "seq": (0, 1)}, direction="fwd+bwd")
    assert ours(model, 3, 6) == counted(module, given)
    kept = model.cost.kept.xreplace({symbol("batch"): 3, symbol("seq"): 6})
    assert kept == 4 * 3 * 6 * 16  # the input of the checkpointed part, nothing inside it


def test_torchs_counts_of_single_operations_add_up_to_its_total():
    """The shares of operations are therefore shares of all FLOPs that torch counts."""
    from costmodel.capture._trace import run  # noqa: PLC0415

    module, given = Attention(kv_heads=4), rows(3, 6)
    trace = run(module, (given,), {}, sizes={}, backward=True, dtype=None, whole_attention=False, loss=None)
    total = sum(int(call.counted) for call in trace.calls if call.counted is not None)
    assert total == counted(module, given)[1]
