"""Operations without measurements borrow another's constants, and get the wider interval of borrowed ones."""

import dataclasses

import pytest

import costmodel as cm
from costmodel import calibration, choosing, layers
from costmodel.layers._base import Layer
from costmodel.layers.pointwise import OPERATIONS
from costmodel.measured import OPERATIONS_MEASURED

FITTED = {s.op for name in calibration.calibrated_devices() for s in calibration.load(name)}
#: (reads, writes) of a measured pass per element of its table.
PASSES = {
    "softmax": (1, 1),
    "layernorm": (1, 1),
    "rmsnorm": (1, 1),
    **dict.fromkeys(("relu", "tanh", "gelu"), (1, 1)),
    "silu_and_mul": (2, 1),
    **{f"elementwise_{name.replace('-', '_')}": (o.reads, 1) for name, o in OPERATIONS.items()},
}


def variants():
    """Yield every layer, forward, with its defaults and with each of its flags flipped."""
    for name in layers.available():
        kind = layers.get(name)
        yield kind()
        for option in dataclasses.fields(kind):
            if option.type == "bool":
                try:
                    yield kind(**{option.name: not option.default})
                except cm.CostmodelError:  # valid only with another option
                    continue


@pytest.mark.parametrize("layer", list(variants()), ids=lambda layer: layer.label)
def test_passes_named_after_a_measured_operation_move_as_much_or_borrow(layer: Layer):
    for phase in layer.exact.cost.phases:
        if phase.kernel == "stream" and phase.op in FITTED and not phase.borrowed:
            assert (phase.sizes["reads"], phase.sizes["writes"]) == PASSES[phase.op], phase.name


@pytest.mark.parametrize("op", sorted(OPERATIONS_MEASURED.keys() & FITTED))
def test_measured_operations_borrow_nothing(op: str):
    """A measured row is of exactly this operation, so its interval must not be widened."""
    layer = OPERATIONS_MEASURED[op].layer("fp8" if "fp8" in op else "bf16", {"op": op})
    (phase,) = (p for p in layer.exact.cost.phases if p.op == op)
    assert not phase.borrowed


def kernel_of(layer: Layer, device: str) -> choosing.Choice:
    """Return the choice of constants for a layer's first kernel on a device, with their spread."""
    return cm.predict(layer, device, **dict.fromkeys(layer.required, 1024)).plan.phases[0].choice


@pytest.mark.parametrize("device", ["nvidia/t4", "nvidia/l40s", "nvidia/a100-pcie-40gb"])
@pytest.mark.parametrize("name", ["dropout", "optimizer-step", "rotary"])
def test_borrowing_passes_have_the_spread_of_unmeasured_operations(device: str, name: str):
    """A copy has a name of its own and borrows the constants of additions.

    Before, it had the interval of another generation's constants.
    """
    addition, copy = (kernel_of(cm.Elementwise(dtype="fp32", op=op), device) for op in ("add", "copy"))
    found = kernel_of(layers.get(name)(dtype="fp32"), device)
    assert found.origin == addition.origin
    assert found.spread == copy.spread != addition.spread


def test_borrowing_changes_the_interval_but_not_the_constants():
    """Dropout borrows the addition's constants, which the residual has too, with a wider spread."""
    block = cm.TransformerBlock(dtype="fp32", dropout=True)
    p = cm.predict(block, "nvidia/t4", batch=8, seq=1024, d_model=2048, heads=16)
    whose = {phase["phase"]: phase["constants_from"] for phase in p.phases}
    assert whose["dropout"] == whose["residual"] == "self"
    dropout = next(part for part in p.plan.phases if part.phase.name == "dropout").choice
    residual = next(part for part in p.plan.phases if part.phase.name == "residual").choice
    assert dropout.constants == residual.constants
    assert dropout.section == residual.section
    assert dropout.spread != residual.spread


@pytest.mark.parametrize(
    ("layer", "op", "borrowed"),
    [
        *((cm.FeedForward(activation=f), f, False) for f in ("relu", "gelu", "tanh", "silu")),
        (cm.FeedForward(activation="gelu-tanh"), "gelu", True),
        (cm.FeedForward(activation="sigmoid"), "elementwise_add", True),
        (cm.FeedForward(activation="gelu", direction="bwd"), "elementwise_add", True),
        (cm.SwiGLU(), "silu_and_mul", False),
        (cm.SwiGLU(activation="gelu"), "silu_and_mul", True),
        (cm.Elementwise(op="silu-and-mul"), "silu_and_mul", False),
        (cm.Elementwise(op="gelu-tanh-and-mul"), "silu_and_mul", True),
        *((cm.Elementwise(op=f), f, False) for f in ("relu", "gelu", "tanh", "silu")),
        *((cm.Elementwise(op="gelu-tanh", direction=d), "gelu", True) for d in ("fwd", "bwd")),
    ],
)
def test_activations_use_their_own_name_or_borrow_the_nearest(layer: Layer, op: str, borrowed: bool):
    """The tanh form of GELU borrows the erf form; gated activations borrow SiLU's."""
    (found,) = (phase for phase in layer.exact.cost.phases if phase.kernel == "stream")
    assert (found.op, found.borrowed) == (op, borrowed)


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh"])
@pytest.mark.parametrize("device", ["nvidia/t4", "nvidia/p4", "amd/mi210"])
def test_a_feed_forward_activation_takes_as_long_as_the_elementwise_layer(device: str, name: str):
    layer = cm.FeedForward(dtype="fp32", activation=name)
    p = cm.predict(layer, device, batch=8, seq=512, d_model=1024, d_ff=4096)
    alone = cm.predict(cm.Elementwise(dtype="fp32", op=name), device, m=4096, n=4096)
    (took,) = (phase["seconds"] for phase in p.phases if phase["kernel"] == "stream")
    assert took == alone.seconds


@pytest.mark.parametrize("device", ["nvidia/t4", "nvidia/p4"])
def test_the_tanh_form_of_gelu_has_a_wider_interval_than_the_measured_form(device: str):
    exact, other = (
        cm.predict(cm.Elementwise(dtype="fp32", op=op), device, m=4096, n=4096)
        for op in ("gelu", "gelu-tanh")
    )
    assert exact.seconds == other.seconds
    assert other.lo80_s < exact.lo80_s < exact.hi80_s < other.hi80_s


@pytest.mark.parametrize("name", ["block-sparse", "bigbird", "longformer", "sliding-window"])
def test_masked_attention_borrows_the_constants_of_unmasked_with_more_spread(name: str):
    """The measured FlashAttention kernels skip no tiles."""
    whole = kernel_of(cm.TiledAttention(causal=name == "sliding-window"), "nvidia/h200-sxm")
    masked = kernel_of(layers.get(name)(), "nvidia/h200-sxm")
    assert masked.constants == whole.constants
    for wide, narrow in zip(masked.spread, whole.spread, strict=True):
        assert wide.q[3] / wide.q[0] > narrow.q[3] / narrow.q[0]
