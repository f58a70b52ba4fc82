"""Whose constants a kernel is given (the nearest, its own before a relative's), and how certain they are."""

from dataclasses import replace

import numpy as np
import pytest

import costmodel as cm
from costmodel import calibration, choosing, hardware, spreads
from costmodel.calibration import Provenance, Section, Spread, Wanted
from costmodel.errors import UnavailableError, UnknownNameError
from costmodel.hardware import load
from costmodel.harness import DISPATCH
from costmodel.layers import get
from costmodel.layers.matmul import Matmul
from costmodel.predict import measured_as, predict

PROVENANCE = Provenance(
    source="", licence="", versions="", table_hash="", rows_fitted=1, rows_held_out=1, mdape=0, mape=0, bias=0
)


def section(**changes):
    cell = {"kernel": "gemm", "op": "gemm", "dtype": "bf16", "framework": "trtllm"}
    return Section(**(cell | {"constants": {"efficiency": 0.8}, "provenance": PROVENANCE} | changes))


WANTED = Wanted(kernel="gemm", op="gemm", dtype="bf16")


@pytest.mark.parametrize(
    ("wanted", "first", "second"),
    [
        (WANTED, {"op": "gemm", "dtype": "fp16"}, {"op": "bmm"}),  # the op before the dtype
        (WANTED, {"dtype": "bf16"}, {"dtype": "fp16"}),
        (WANTED, {"framework": "trtllm"}, {"framework": "pytorch"}),  # a stated order
        (WANTED, {"framework": "pytorch"}, {"framework": "somebody"}),
        (Wanted("gemm", "gemm", "bf16", framework="pytorch"), {"framework": "pytorch"}, {}),
        (Wanted("gemm", "gemm", "bf16", harness="host-wall"), {"harness": "host-wall"}, {"harness": ""}),
        (
            Wanted("gemm", "gemm", "bf16", label="cublas"),
            {"kernels": ("cublas",)},
            {"kernels": ("cutlass",)},
        ),
        (Wanted("gemm", "gemm", "bf16", label="cublas"), {}, {"kernels": ("cutlass",)}),  # of any kernel
        (Wanted("gemm", "gemm", "bf16", "bwd_data"), {"direction": "bwd"}, {"direction": "fwd"}),
        (Wanted("gemm", "gemm", "bf16", "bwd"), {"direction": "bwd"}, {"direction": "bwd_data"}),
    ],
)
def test_nearest_section_is_chosen_whatever_the_order(wanted, first, second):
    a, b = section(**first), section(**second)
    assert choosing.best([a, b], wanted) == a
    assert choosing.best([b, a], wanted) == a


def test_constants_of_another_kernel_or_format_are_never_chosen():
    assert choosing.best([section(kernel="stream"), section(dtype="fp32")], WANTED) is None
    assert choosing.best([], WANTED) is None


@pytest.fixture
def shelf(monkeypatch):
    """Pretend that these devices have these sections, and no other has any."""

    def put(**devices):
        named = {name.replace("_", "/", 1).replace("_", "-"): parts for name, parts in devices.items()}
        monkeypatch.setattr(calibration, "load", lambda name: named.get(name, ()))

        def relatives(device):
            vendor = device.name.partition("/")[0]
            kin = {name: name.startswith(f"{vendor}/") for name in named if name != device.name}
            return [(name, "sibling" if alike else "foreign") for name, alike in kin.items()]

        monkeypatch.setattr(choosing, "relatives", relatives)

    return put


def test_own_constants_are_preferred_to_a_relatives(shelf):
    own, other = section(constants={"efficiency": 0.7}), section(constants={"efficiency": 0.6})
    shelf(nvidia_h200_sxm=(own,), nvidia_a100_sxm_80gb=(other,))
    h200 = load("nvidia/h200-sxm")
    found = choosing.choose(h200, WANTED)
    assert (found.origin, found.section, found.constants) == ("self", own, own.constants)
    # No row was held out, so the interval is that of constants of another generation.
    assert found.spread == spreads.transfer("gemm", "generation") != ()
    # Rung `kernel` takes nothing fitted on the device itself.
    assert choosing.choose(h200, WANTED, own=False).origin == "nvidia/a100-sxm-80gb"
    assert choosing.choose(load("nvidia/b200-sxm"), WANTED).origin == "nvidia/h200-sxm"


def test_what_if_has_the_constants_of_its_base_device_and_names_it(shelf):
    shelf(nvidia_h200_sxm=(section(),))
    choice = choosing.choose(load("nvidia/h200-sxm").replace(hbm="6 TB/s"), WANTED)
    assert choice.origin == "nvidia/h200-sxm"


def test_without_fitted_constants_the_origin_is_none(shelf):
    shelf()
    assert choosing.choose(load("nvidia/h200-sxm"), WANTED) == choosing.Choice("none")


@pytest.mark.parametrize("device", hardware.available())
def test_relatives_read_one_by_one_have_the_order_of_their_rank(device):
    """Specs are read only as far as needed; the order must be that of
    `hardware.relatives`, which reads them all.
    """
    target = load(device)
    ranked = hardware.relatives(target, calibration.calibrated_devices())
    assert list(choosing.relatives(target)) == ranked
    assert hardware.family_of(device) == target.family


@pytest.mark.parametrize(
    ("device", "kernel", "op", "origin"),
    [
        # On GDDR: passes from a board with GDDR, products from the nearest chip. On HBM: the nearest family.
        ("nvidia/l4", "stream", "softmax", "nvidia/t4"),
        ("nvidia/rtx-4090", "stream", "gelu", "nvidia/t4"),
        ("nvidia/l4", "gemm", "gemm", "nvidia/a100-pcie-40gb"),
        ("nvidia/p100-pcie-16gb", "stream", "softmax", "nvidia/p4"),
        ("nvidia/h100-sxm", "stream", "softmax", "nvidia/a100-pcie-80gb"),
    ],
)
def test_passes_take_constants_of_a_board_with_the_same_kind_of_memory(device, kernel, op, origin):
    wanted = Wanted(kernel, op, "fp32", framework="pytorch")
    assert choosing.choose(load(device), wanted, own=False).origin == origin


def test_recurrence_prefers_a_relatives_constants_of_its_direction_to_its_own_of_another():
    """M40's bwd_data rows were predicted better with its twin's constants: none of its own were kept."""
    wanted = Wanted("recurrence", "lstm", "fp32", framework="cudnn", direction="bwd_data")
    m40 = load("nvidia/m40")
    assert choosing.choose(m40, wanted).origin == "nvidia/titan-x-maxwell"
    assert choosing.choose(m40, replace(wanted, direction="fwd")).origin == "self"


# -- how sure ----------------------------------------------------------------------------------


def directions(layer, **sizes):
    """Return the passes over memory of each kind, by the direction whose constants they are given."""
    found = {"fwd": [], "bwd": []}
    for part in predict(layer, "nvidia/t4", **sizes).plan.phases:
        if part.phase.kernel == "stream":
            found[part.direction].append(part.phase.name.partition(": ")[2] or part.phase.name)
    return found


@pytest.mark.parametrize("layer", [cm.Softmax, cm.Norm, cm.Elementwise])
def test_each_pass_of_a_training_step_has_the_constants_of_its_direction(layer):
    there, back, both = (directions(layer(direction=way), m=64, n=64) for way in ("fwd", "bwd", "fwd+bwd"))
    assert (len(there["fwd"]), len(there["bwd"])) == (1, 0)
    assert (len(back["fwd"]), len(back["bwd"])) == (0, 1)
    assert both == {"fwd": there["fwd"], "bwd": back["bwd"]}


@pytest.mark.parametrize("direction", ["bwd", "fwd+bwd"])
def test_recomputed_kernels_have_the_constants_of_forward(direction):
    """So have sums of gradients and optimiser steps."""
    sizes = {"batch": 2, "seq": 64, "d_model": 64, "heads": 4}
    found = directions(cm.TransformerBlock(dtype="fp16", direction=direction, recompute="full"), **sizes)
    assert set(found["bwd"]) == {"gelu gradient", "layer norm gradient", "row sums of dO∘O"}
    assert found["fwd"].count("gelu") == (2 if direction == "fwd+bwd" else 1)
    assert "sum of input gradients" in found["fwd"]
    model = directions(cm.models.load("gpt2").training("fp16"), batch=1, seq=64)
    assert {"layer norm gradient", "gelu-tanh gradient", "cross-entropy gradient"} <= set(model["bwd"])
    assert {"layer norm", "gelu-tanh", "cross-entropy", "adamw"} <= set(model["fwd"])
    assert not {"layer norm", "gelu-tanh", "cross-entropy", "adamw"} & set(model["bwd"])


def test_intervals_with_a_relatives_constants_are_wider_than_its_own():
    """The relative's residuals on itself understate the error: the errors between devices widen them."""
    wanted = Wanted(kernel="gemm", op="gemm", dtype="bf16")
    own = choosing.choose(load("nvidia/h200-sxm"), wanted)
    carried = choosing.choose(load("nvidia/h100-sxm"), wanted)
    assert (own.origin, carried.origin) == ("self", "nvidia/h200-sxm")
    assert carried.section == own.section
    (told,) = spreads.transfer("gemm", "sibling")
    assert [s.above for s in carried.spread] == [s.above for s in own.spread]
    for there, here in zip(own.spread, carried.spread, strict=True):
        for wide, narrow in ((here, there), (here, told)):
            assert (np.array(wide.q[:2]) <= narrow.q[:2]).all()
            assert (np.array(wide.q[2:]) >= narrow.q[2:]).all()
        assert all(q in (*there.q, *told.q) for q in here.q)
    assert spreads.transfer("gemm", "stranger") == ()


def test_intervals_widen_for_kernels_the_constants_were_not_fitted_on(shelf):
    """Another framework's kernel, another operation or library; and a backward pass most of all."""
    (other,) = spreads.transfer("attention", "generation")
    q = [0.9, 0.95, 1.05, 1.1]
    fitted = section(
        kernel="attention", op="attention_prefill", framework="vllm", kernels=("vllm_flash_attn_fa3",),
        spread=(Spread(above=0.0, rows=100, q=q),),
    )  # fmt: skip
    shelf(nvidia_h200_sxm=(fitted,))
    wanted = Wanted("attention", "attention_prefill", "bf16")
    ends = {
        name: choosing.choose(load("nvidia/h200-sxm"), replace(wanted, **changed)).spread[0].q
        for name, changed in {
            "own": {},
            "fa3": {"label": "fa3"},
            "another's": {"framework": "pytorch"},
            "all pairs": {"op": "attention_prefill_noncausal"},
            "fa2": {"label": "sdpa flash"},
            "cudnn": {"label": "sdpa cudnn"},
            "borrowed": {"borrowed": True},
            "bwd": {"direction": "bwd"},
        }.items()
    }
    assert list(ends["own"]) == list(ends["fa3"]) == q
    others = ("another's", "all pairs", "fa2", "cudnn", "borrowed")
    assert all(list(ends[name]) == list(other.q) for name in others)
    assert list(ends["bwd"]) == [a * b for a, b in zip(q, other.q, strict=True)]


def test_interval_widens_for_a_kernel_name_that_was_not_fitted(shelf):
    q = (0.9, 0.95, 1.05, 1.1)
    shelf(nvidia_h200_sxm=(section(kernels=("cublas",), spread=(Spread(above=0.0, rows=100, q=q),)),))
    (other,) = spreads.transfer("gemm", "generation")
    for label, expected in (("cublas", q), ("cutlass", other.q)):
        assert choosing.choose(load("nvidia/h200-sxm"), replace(WANTED, label=label)).spread[0].q == expected


def test_operation_never_measured_has_at_least_the_interval_of_another_generation():
    """An embedding's gather has an addition's constants; their own 80 % interval was ±0.7 %."""
    sizes = {"batch": 64, "seq": 4096, "vocab": 32000, "d_model": 4096}
    p = cm.predict(cm.Embedding(), "nvidia/a100-sxm-80gb", **sizes)
    assert p.constants_from == "self"
    (other,) = spreads.transfer("stream", "generation")
    assert p.lo80_s <= other.q[1] * p.seconds < p.seconds < other.q[2] * p.seconds <= p.hi80_s


def test_relatives_constants_have_a_wider_interval_for_another_library(shelf):
    q = (0.99, 0.995, 1.005, 1.01)
    spread = (Spread(above=0.0, rows=100, q=q),)
    told = {"kernel": "attention", "op": "attention_prefill", "framework": "vllm", "spread": spread}
    shelf(nvidia_b200_sxm=(section(**told, kernels=("vllm_flashinfer_trtllmprefill",)),))
    (other,) = spreads.transfer("attention", "generation")
    for label, named in ((None, False), ("trtllm", False), ("sdpa flash", True), ("sdpa cudnn", True)):
        wanted = Wanted("attention", "attention_prefill", "bf16", label=label)
        low, inner_low, inner_high, high = choosing.choose(load("nvidia/gb200"), wanted).spread[0].q
        assert (inner_low <= other.q[1] and inner_high >= other.q[2]) is named
        assert low < inner_low < 1 < inner_high < high


def test_without_errors_between_devices_a_relatives_interval_is_kept(shelf, monkeypatch):
    spread = (Spread(above=0.0, rows=20, q=(0.8, 0.9, 1.1, 1.3)),)
    shelf(nvidia_h200_sxm=(section(spread=spread),))
    monkeypatch.setattr(spreads, "_transfers", dict)
    assert choosing.choose(load("nvidia/b200-sxm"), WANTED).spread == spread


@pytest.mark.parametrize(
    "device", ["nvidia/h100-sxm", "nvidia/gb200", "nvidia/l4", "nvidia/rtx-pro-6000-server"]
)
@pytest.mark.parametrize(
    ("kernel", "op"),
    [("attention", "attention_prefill"), ("decode", "attention_decode"), ("conv", "causal_conv1d_prefill")],
)
def test_relatives_constants_always_have_intervals(device, kernel, op):
    """No pair of siblings was measured for these kernel models: the
    intervals come from other models' siblings.
    """
    choice = choosing.choose(load(device), Wanted(kernel, op, "bf16", framework="vllm"))
    assert choice.origin not in ("self", "none")
    assert all(s.q[1] < 1 < s.q[2] for s in choice.spread)
    assert choice.spread


# -- whose constants, where those of another kernel were fitted ------------------------------------

DELTA = {"kernel": "delta", "op": "gdn_chunk_prefill", "framework": "vllm"}
FUSED = section(**DELTA, kernels=("chunk_gated_delta_rule_flashinfer",))
CHUNKED = section(**DELTA | {"framework": "sglang"}, kernels=("chunk_gated_delta_rule",))


def test_own_constants_of_another_framework_are_preferred_to_a_relatives(shelf):
    """With one framework's constants taken away on open devices: products 9 % off against 21 (DIARY)."""
    own, other = section(framework="trtllm"), section(framework="sglang")
    shelf(nvidia_b200_sxm=(own,), nvidia_h200_sxm=(other,))
    wanted = Wanted("gemm", "gemm", "bf16", framework="sglang")
    assert choosing.choose(load("nvidia/b200-sxm"), wanted).section == own
    # So are those of another operation of the same kernel.
    batched = section(op="bmm")
    shelf(nvidia_b200_sxm=(batched,), nvidia_h200_sxm=(section(),))
    wanted = Wanted("gemm", "gemm", "bf16", framework="trtllm")
    assert choosing.choose(load("nvidia/b200-sxm"), wanted).section == batched


def test_constants_that_depend_on_the_operation_serve_no_other(shelf):
    """A softmax takes ten cycles an element, ReLU one: ReLU takes none of those from a softmax."""
    fitted = {"element_cycles": 10.0, "start_s": 9e-6, "fork_s": 4e-6}
    softmax = section(kernel="cpu_stream", op="softmax", dtype="fp32", constants=fitted)
    shelf(nvidia_h200_sxm=(softmax,))
    for op, left in (("softmax", fitted), ("relu", {"fork_s": 4e-6})):
        wanted = Wanted("cpu_stream", op, "fp32")
        for device in ("nvidia/h200-sxm", "nvidia/b200-sxm"):
            assert choosing.choose(load(device), wanted).constants == left


def test_single_product_takes_the_constants_of_batched_ones(shelf):
    """On three CPUs products are 2 to 20 points nearer with them than with defaults (DIARY, Zen 4)."""
    fitted = {"pack_cycles": 0.3, "start_s": 1e-6, "bandwidth_share": 0.4, "l3_share": 1.3}
    shelf(nvidia_h200_sxm=(section(kernel="cpu_gemm", op="bmm", dtype="fp32", constants=fitted),))
    choice = choosing.choose(load("nvidia/h200-sxm"), Wanted("cpu_gemm", "gemm", "fp32"))
    assert choice.constants == fitted


def test_algorithm_without_own_constants_is_looked_for_on_relatives(shelf):
    """Fused and chunked delta nets have different terms: with the other's constants one has its defaults."""
    shelf(nvidia_h200_sxm=(FUSED,), nvidia_b200_sxm=(FUSED, CHUNKED))
    h200 = load("nvidia/h200-sxm")
    asked = Wanted("delta", "gdn_chunk_prefill", "bf16", framework="sglang")
    choice = choosing.choose(h200, asked)
    assert (choice.origin, choice.section) == ("nvidia/b200-sxm", CHUNKED)
    assert choice.spread
    # No framework named, or that of its own constants, or the algorithm fitted nowhere: its own.
    plain = Wanted("delta", "gdn_chunk_prefill", "bf16")
    assert choosing.choose(h200, plain).section == FUSED
    named = Wanted("delta", "gdn_chunk_prefill", "bf16", framework="vllm")
    assert choosing.choose(h200, named).section == FUSED
    # Another kernel of the framework of its own constants: looked for elsewhere too.
    labelled = Wanted("delta", "gdn_chunk_prefill", "bf16", framework="vllm", label="chunk_gated_delta_rule")
    assert choosing.choose(h200, labelled).section == CHUNKED
    shelf(nvidia_h200_sxm=(FUSED,), nvidia_b200_sxm=(FUSED,))
    choice = choosing.choose(h200, asked)
    assert (choice.origin, choice.section) == ("self", FUSED)
    # A device without any constants takes a relative's, of either algorithm.
    choice = choosing.choose(load("nvidia/l40s"), asked)
    assert (choice.origin, choice.section) == ("nvidia/h200-sxm", FUSED)


def test_frameworks_algorithm_is_the_one_it_was_measured_with_on_that_device(shelf):
    """vLLM's gated delta net is Triton's chunked kernel on L40S and FlashInfer's elsewhere."""
    triton = section(**DELTA, kernels=("chunk_gated_delta_rule_triton",))
    shelf(nvidia_l40s=(triton,), nvidia_h200_sxm=(FUSED,))
    asked = Wanted("delta", "gdn_chunk_prefill", "bf16", framework="vllm")
    assert choosing.choose(load("nvidia/l40s"), asked).section == triton


def test_relative_with_the_requested_algorithm_is_preferred_to_a_nearer_one(shelf):
    """B200 is nearer to H200 than to L40S, but here only L40S has constants of the chunked algorithm."""
    shelf(nvidia_h200_sxm=(FUSED,), nvidia_l40s=(CHUNKED,))
    asked = Wanted("delta", "gdn_chunk_prefill", "bf16", framework="sglang")
    choice = choosing.choose(load("nvidia/b200-sxm"), asked)
    assert (choice.origin, choice.section) == ("nvidia/l40s", CHUNKED)


@pytest.mark.parametrize(
    ("device", "op", "framework", "label", "origin", "whose"),
    [
        # H200 is nearer to A100 than L40S is, but runs flash-attention 3.
        ("a100-sxm-80gb", "attention_prefill", "vllm", "vllm_flash_attn", "l40s", "vllm"),
        ("a100-sxm-80gb", "attention_decode", "vllm", "vllm_flash_attn", "l40s", "vllm"),
        ("b200-sxm", "attention_prefill", None, "fa2", "a100-sxm-80gb", "vllm"),
        # FlashInfer's are templates of FlashAttention-2; SGLang's name on A100 does not say which it ran.
        ("l40s", "attention_prefill", "sglang", "flashinfer", "a100-sxm-80gb", "vllm"),
        ("a100-sxm-80gb", "attention_prefill", "sglang", "flash_attention", "h200-sxm", "sglang"),
        # Code for Hopper or Blackwell alone: the nearest relative's.
        ("b200-sxm", "attention_decode", "vllm", "trtllm", "h200-sxm", "vllm"),
        ("h200-sxm", "attention_prefill", "vllm", "fa3", "a100-sxm-80gb", "vllm"),
        # A sibling comes first, whatever it ran; without a kernel's name, the nearest relative.
        ("gb200", "attention_prefill", None, "fa2", "b200-sxm", "sglang"),
        ("a100-pcie-80gb", "attention_prefill_noncausal", None, "fa2", "a100-sxm-80gb", "vllm"),
        ("a100-sxm-80gb", "attention_prefill", None, None, "h200-sxm", "sglang"),
    ],
)
def test_relative_with_the_same_portable_kernel_is_preferred_to_a_nearer_one(
    device, op, framework, label, origin, whose
):
    kernel = "decode" if op == "attention_decode" else "attention"
    wanted = Wanted(kernel, op, "bf16", framework=framework, label=label)
    choice = choosing.choose(load(f"nvidia/{device}"), wanted, own=False)
    assert (choice.origin, choice.section.framework) == (f"nvidia/{origin}", whose)


def test_chosen_start_times_are_scaled_by_the_clock_and_shares_are_not():
    """Three quarters of a kernel's start are cycles: 1.98 GHz on H200, 1.41 on A100."""
    h200, a100 = hardware.load("nvidia/h200-sxm"), hardware.load("nvidia/a100-sxm-80gb")
    wanted = Wanted(kernel="gemm", op="gemm", dtype="bf16", framework="trtllm")
    carried = choosing.choose(h200, wanted, own=False)
    assert carried.origin == a100.name
    theirs = carried.section.constants
    for name in ("start_s", "split_s"):
        assert carried.constants[name] / theirs[name] == pytest.approx(0.25 + 0.75 * 1.41 / 1.98)
    assert carried.constants["start_s"] < theirs["start_s"]
    for name in ("bandwidth_share", "droop_s"):
        assert carried.constants[name] == theirs[name]


def test_launch_constants_of_fp32_serve_every_format(shelf):
    """A launch takes as long in any format; the rate of the arithmetic does not carry over."""
    fitted = {"call_s": 2e-5, "step_s": 3e-6, "bandwidth_share": 0.4}
    shelf(nvidia_h200_sxm=(section(kernel="recurrence", op="lstm", dtype="fp32", constants=fitted),))
    for device in ("nvidia/h200-sxm", "nvidia/b200-sxm"):
        choice = choosing.choose(load(device), Wanted("recurrence", "lstm", "bf16"))
        assert (choice.origin, choice.section, choice.spread) == ("nvidia/h200-sxm", None, ())
        assert choice.constants == {"call_s": 2e-5, "step_s": 3e-6}
    shelf(nvidia_h200_sxm=(section(kernel="gemm", dtype="fp32"),))
    assert choosing.choose(load("nvidia/h200-sxm"), WANTED).origin == "none"
    shelf()
    for dtype in ("bf16", "fp32"):
        wanted = Wanted("recurrence", "lstm", dtype)
        assert choosing.choose(load("nvidia/h200-sxm"), wanted) == choosing.Choice("none")


FORMATS = {
    "bf16": {"peak_share": 0.8, "step_cycles": 500.0, "energy_j": 2e-12},
    "fp8": {"peak_share": 0.7, "step_cycles": 300.0, "energy_j": 1e-12},
    "fp32": {"peak_share": 0.9, "step_cycles": 100.0, "energy_j": 1e-11},
}


@pytest.mark.parametrize(
    ("dtype", "fitted"), [("tf32", "bf16"), ("int8", "fp8"), ("fp64", "bf16")], ids=lambda value: value
)
def test_format_without_constants_takes_those_of_the_nearest_format_of_its_engine(shelf, dtype, fitted):
    """Never CUDA cores' fp32, though as wide as TF32; nor a relative's while the device has some."""
    mine = tuple(section(dtype=name, constants=values) for name, values in FORMATS.items())
    shelf(nvidia_h200_sxm=mine, nvidia_a100_sxm_80gb=(section(constants={"peak_share": 0.1}),))
    h200 = load("nvidia/h200-sxm")
    choice = choosing.choose(h200, Wanted("gemm", "gemm", dtype))
    assert choice.whose == f"nvidia/h200-sxm ({fitted})"
    assert choice.constants["step_cycles"] == FORMATS[fitted]["step_cycles"]
    # The engine draws the same power in either format.
    drawn = [
        values["energy_j"] * h200.peak(name)
        for name, values in ((fitted, FORMATS[fitted]), (dtype, choice.constants))
    ]
    assert drawn[0] == pytest.approx(drawn[1])
    with pytest.raises(UnavailableError, match=f"no constants of its own for gemm in {dtype}"):
        predict(Matmul(dtype=dtype), h200, rung="calibrated", m=64, n=64, k=64)


def test_choice_names_the_format_that_was_fitted(shelf):
    """FP16's constants serve BF16 unchanged, and are found under either name."""
    shelf(nvidia_h200_sxm=(section(dtype="fp16"),))
    assert choosing.choose(load("nvidia/h200-sxm"), Wanted("gemm", "gemm", "tf32")).fitted == "fp16"


def test_backward_interval_is_no_narrower_in_a_format_without_constants(shelf):
    attention = {"kernel": "attention", "op": "attention_prefill"}
    shelf(
        nvidia_h200_sxm=(section(**attention, spread=(Spread(above=0.0, rows=9, q=(0.8, 0.9, 1.1, 1.3)),)),)
    )
    wanted = Wanted("attention", "attention_prefill", "bf16", direction="bwd")
    unfitted, fitted = (
        choosing.choose(load("nvidia/h200-sxm"), replace(wanted, dtype=dtype)).spread[0].q
        for dtype in ("fp8", "bf16")
    )
    assert (np.array(unfitted[:2]) <= fitted[:2]).all()
    assert (np.array(unfitted[2:]) >= fitted[2:]).all()


def test_named_library_is_preferred_in_a_format_without_constants_too(shelf):
    attention = {"kernel": "attention", "op": "attention_prefill"}
    fa2 = section(**attention, framework="vllm", kernels=("vllm_flash_attn_fa2",))
    shelf(nvidia_l40s=(section(**attention, framework="sglang", kernels=("flashinfer",)), fa2))
    wanted = Wanted("attention", "attention_prefill", "fp8", label="fa2")
    assert choosing.choose(load("nvidia/l40s"), wanted).section == fa2


def test_pass_in_a_format_without_constants_takes_those_of_the_nearest_width(shelf):
    fitted = tuple(section(kernel="stream", op="softmax", dtype=name) for name in ("fp32", "bf16"))
    shelf(nvidia_h200_sxm=fitted)
    for dtype, nearest in (("tf32", "fp32"), ("fp64", "fp32"), ("fp8", "bf16")):
        choice = choosing.choose(load("nvidia/b200-sxm"), Wanted("stream", "softmax", dtype))
        assert choice.whose == f"nvidia/h200-sxm ({nearest})"


@pytest.mark.parametrize("device", ["a40", "a100-pcie-40gb", "h100-pcie"])
def test_tf32_runs_at_half_of_the_speed_of_bf16(device):
    """Posted for torch's ``mm`` at 8,192 and 10,240: 0.48 to 0.54 on these three.

    github.com/zzc0721/torch-performance-test-data, issues 185, 108 and 95.
    """
    for size in (8192, 10240):
        bf16, tf32 = (
            predict(Matmul(dtype=dtype), device, rung="kernel", m=size, n=size, k=size).seconds
            for dtype in ("bf16", "tf32")
        )
        assert 0.42 < bf16 / tf32 < 0.54


def test_tensor_cores_constants_do_not_serve_cuda_cores(shelf):
    """P100's fp16 products take A100's fp32 constants, not its bf16; AMD's fp32 runs on matrix cores."""
    fp32 = section(dtype="fp32")
    shelf(nvidia_a100_sxm_80gb=(section(), fp32))
    p100 = choosing.choose(load("nvidia/p100-pcie-16gb"), Wanted("gemm", "gemm", "fp16"))
    assert p100.whose == "nvidia/a100-sxm-80gb (fp32)"
    mi210 = choosing.choose(load("amd/mi210"), Wanted("gemm", "gemm", "fp32"))
    assert (mi210.whose, mi210.section) == ("nvidia/a100-sxm-80gb", fp32)


def test_vendors_constants_of_another_format_are_preferred_to_another_vendors(shelf):
    """Predicted over posted time on MI300X: FP8 by H200's constants 0.58, bf16 by MI210's 0.89."""
    bf16, fp8 = section(), section(dtype="fp8")
    shelf(nvidia_h200_sxm=(fp8,), amd_mi210=(bf16,))
    mi300x = load("amd/mi300x")
    found = choosing.choose(mi300x, Wanted("gemm", "gemm", "fp8"))
    assert found.whose == "amd/mi210 (bf16)"
    # An engine draws the same power in either format: at twice the rate, half the 1.3 pJ expected of 16 bits.
    assert found.constants["energy_j"] == pytest.approx(0.5 * 1.3e-12)
    shelf(nvidia_h200_sxm=(fp8,))
    assert choosing.choose(mi300x, Wanted("gemm", "gemm", "fp8")).whose == "nvidia/h200-sxm"
    assert choosing.choose(mi300x, Wanted("gemm", "gemm", "bf16")).whose == "nvidia/h200-sxm (fp8)"


def test_constants_of_the_named_library_are_preferred(shelf):
    """FlashAttention-2's with its tiles, whichever framework calls it; other names change nothing."""
    attention = {"kernel": "attention", "op": "attention_prefill", "framework": "sglang"}
    flashinfer = section(**attention, kernels=("flash_attention",))
    fa2 = section(**attention | {"framework": "vllm"}, kernels=("vllm_flash_attn",))
    shelf(nvidia_a100_sxm_80gb=(flashinfer, fa2))
    a100, wanted = load("nvidia/a100-sxm-80gb"), Wanted("attention", "attention_prefill", "bf16")
    chosen = {
        label: choosing.choose(a100, replace(wanted, framework="pytorch", label=label)).section
        for label in (None, "sdpa cudnn", "sdpa flash", "flashinfer")
    }
    assert chosen.pop("sdpa flash") == fa2
    assert {found.framework for found in chosen.values()} == {flashinfer.framework}


@pytest.mark.parametrize("kernel", [None, "sdpa cudnn", "sdpa flash"])
def test_framework_without_constants_gets_constants_and_tiles_of_one_library(kernel):
    """A100's FlashInfer constants with FlashAttention-2's tiles took 1.5 times as long as posted."""
    layer, sizes = cm.TiledAttention(dtype="bf16"), {"batch": 2, "heads": 64, "seq": 8192, "head_dim": 128}
    (part,) = measured_as(("pytorch", None, kernel), layer, "a100-sxm-80gb", sizes).plan.phases
    fitted = {"sglang": "flashinfer", "vllm": "fa2"}[part.choice.section.framework]
    assert part.options["kernel"].startswith(fitted)
    assert fitted == "fa2" or kernel != "sdpa flash"


@pytest.mark.parametrize(
    ("framework", "kernel"), [("sglang", None), (None, "vllm_flash_attn"), (None, "fa2")]
)
def test_unmasked_attention_has_constants_and_tiles_of_one_library_too(framework, kernel):
    """A100 has causal kernels' constants alone: FlashInfer's by SGLang, FlashAttention-2's by vLLM."""
    layer, sizes = cm.TiledAttention(dtype="bf16"), {"batch": 2, "heads": 16, "seq": 4096, "head_dim": 128}
    (part,) = cm.predict(layer, "a100-sxm-80gb", sizes, framework=framework, kernel=kernel).plan.phases
    assert part.choice.section.kernels == ("vllm_flash_attn",)
    assert part.options["kernel"].startswith("fa2")


def test_tile_in_a_kernels_name_sets_the_tile_of_a_product_and_nothing_else():
    """Another kernel's name (`fa2`) changes nothing of a product."""
    layer, sizes = Matmul(dtype="bf16"), {"m": 16, "n": 4096, "k": 4096}
    options = {
        kernel: measured_as((None, None, kernel), layer, "h200-sxm", sizes).plan.phases[0].options
        for kernel in (None, "fa2", "sgemm_128x64")
    }
    assert {found["rotation"] for found in options.values()} == {"weights"}
    assert [found["tile_m"] for found in options.values()] == pytest.approx([np.nan, np.nan, 64], nan_ok=True)


@pytest.mark.parametrize(
    ("device", "framework", "kernel", "fitted", "algorithm"),
    [
        ("h200-sxm", None, "fa2", "chunk_gated_delta_rule_flashinfer", "fused"),
        ("h200-sxm", "vllm", "fa2", "chunk_gated_delta_rule_flashinfer", "fused"),
        ("b200-sxm", None, None, "chunk_gated_delta_rule", "chunked"),
        ("b200-sxm", None, "FlashInfer", "chunk_gated_delta_rule_flashinfer", "fused"),
        ("b200-sxm", "vllm", None, "chunk_gated_delta_rule_flashinfer", "fused"),
        # On L40S vLLM calls Triton's kernel, and all its rows are of that.
        ("l40s", "vllm", None, "chunk_gated_delta_rule_triton", "chunked"),
    ],
)
def test_delta_nets_have_the_algorithm_of_their_constants(device, framework, kernel, fitted, algorithm):
    sizes = {"batch": 1, "seq": 8192, "heads": 16, "kv_heads": 32, "head_dim": 128}
    layer = cm.GatedDeltaNet(dtype="bf16")
    (part,) = measured_as((framework, None, kernel), layer, device, sizes).plan.phases
    assert (part.choice.section.kernels, part.options["kernel"]) == ((fitted,), algorithm)


@pytest.mark.parametrize(
    ("device", "framework", "kernel", "origin"),
    [
        ("h200-sxm", None, None, "nvidia/b200-sxm"),
        ("h200-sxm", "vllm", "flashinfer", "nvidia/b200-sxm"),
        ("b200-sxm", "vllm", None, "self"),
        ("l40s", None, "chunk_gated_delta_rule_triton", "self"),
    ],
)
@pytest.mark.parametrize("name", ["gated-delta-net", "kimi-delta-attention"])
def test_backward_passes_of_delta_nets_are_flash_linear_attentions(name, device, framework, kernel, origin):
    """FlashInfer and vLLM have none, and none with decays of channels."""
    sizes = {"batch": 1, "seq": 8192, "heads": 16, "head_dim": 128}
    layer = get(name)(dtype="bf16", direction="fwd+bwd")
    forward, backward = measured_as((framework, None, kernel), layer, device, sizes).plan.phases
    alone = (backward,) if name == "gated-delta-net" else (forward, backward)
    for part in alone:
        assert part.options["kernel"] == "chunked"
        assert part.choice.section.kernels == ("chunk_gated_delta_rule",)
        assert part.choice.origin == origin


def test_another_formats_constants_are_of_the_same_algorithm():
    """Not H200's of FlashInfer's kernel, though they are its own."""
    sizes = {"batch": 1, "seq": 8192, "heads": 16, "head_dim": 128}
    for dtype, origin in (("bf16", "nvidia/b200-sxm"), ("fp8", "nvidia/b200-sxm (bf16)")):
        found = predict(get("kimi-delta-attention")(dtype=dtype), "h200-sxm", sizes)
        assert found.plan.phases[0].choice.section.kernels == ("chunk_gated_delta_rule",)
        assert found.constants_from == origin


def test_a_kernel_that_only_another_layer_has_is_refused():
    """FlashInfer has a gated delta net's forward pass; none with decays of channels."""
    sizes = {"batch": 1, "seq": 8192, "heads": 16, "head_dim": 128}
    own = predict(get("kimi-delta-attention")(), "b200-sxm", sizes, kernel="chunk_gated_delta_rule")
    assert own.seconds == predict(get("kimi-delta-attention")(), "b200-sxm", sizes).seconds
    with pytest.raises(UnknownNameError, match="flashinfer"):
        predict(get("kimi-delta-attention")(), "b200-sxm", sizes, kernel="flashinfer")


def test_geforce_clock_is_raised_with_constants_of_a_data_centre_board():
    """And not raised twice where the lender raised its own clock while it was fitted."""
    layer, sizes = Matmul(dtype="fp16"), {"m": 8192, "n": 8192, "k": 8192}
    (part,) = predict(layer, "rtx-4090", sizes).plan.phases
    assert part.device.clock_hz == pytest.approx(load("rtx-4090").raised * load("rtx-4090").clock_hz)
    assert part.device.hbm_bandwidth == load("rtx-4090").hbm_bandwidth
    (part,) = predict(layer, "l40", sizes).plan.phases
    assert part.device == load("l40")
    # A what-if of a possible clock is not refused because the board would raise it further.
    faster = load("rtx-4090").replace(clock="8 GHz")
    assert predict(layer, faster, sizes).seconds < predict(layer, "rtx-4090", sizes).seconds
    lent = choosing.choose(load("titan-xp"), Wanted("gemm", "gemm", "fp32"))
    assert lent.raised == pytest.approx(load("titan-xp").raised / load(lent.origin).raised)


# -- whose host ----------------------------------------------------------------------------------

EAGER = Wanted("gemm", "gemm", "bf16", framework="pytorch", harness="eager-events")


def timed(dispatch_s, **changed):
    """Return a section of products with that host time per call [µs]."""
    constants = {"peak_share": 0.8, "dispatch_s": dispatch_s * 1e-6, "record_s": 0.0}
    return section(**{"harness": "eager-events", "framework": "pytorch", "constants": constants} | changed)


@pytest.fixture
def hosts(shelf, monkeypatch):
    """Do as `shelf`, and pretend that no other device is calibrated."""

    def put(**devices):
        shelf(**devices)
        names = [name.replace("_", "/", 1).replace("_", "-") for name in devices]
        monkeypatch.setattr(calibration, "calibrated_devices", lambda: tuple(names))

    return put


def test_unknown_host_has_the_median_of_its_vendors_times(hosts):
    hosts(nvidia_t4=(timed(10),), nvidia_p4=(timed(12),), nvidia_a40=(timed(50),), amd_mi210=(timed(1),))
    told = choosing.host(load("nvidia/h100-sxm"), EAGER)
    assert told["dispatch_s"] == pytest.approx(12e-6)
    assert set(told) == set(DISPATCH)
    assert choosing.host(load("amd/mi300x"), EAGER)["dispatch_s"] == pytest.approx(1e-6)
    assert choosing.host(load("intel/arc-pro-b60"), EAGER)["dispatch_s"] == pytest.approx(11e-6)


def test_own_host_and_the_same_operation_are_preferred(hosts):
    hosts(nvidia_t4=(timed(10), timed(20, op="bmm")), nvidia_p4=(timed(30, op="bmm"),))
    t4, a40 = load("nvidia/t4"), load("nvidia/a40")
    assert choosing.host(t4, EAGER)["dispatch_s"] == pytest.approx(10e-6)
    assert choosing.host(t4, EAGER, own=False)["dispatch_s"] == pytest.approx(30e-6)
    assert choosing.host(a40, EAGER)["dispatch_s"] == pytest.approx(10e-6)
    assert choosing.host(a40, replace(EAGER, op="bmm"))["dispatch_s"] == pytest.approx(25e-6)


def test_constants_fitted_with_a_host_keep_its_times(hosts):
    """Hosts of a device's other sections serve only sections that have none."""
    own = timed(10, constants={"peak_share": 0.8, "dispatch_s": 10e-6, "record_s": 3e-6})
    hosts(nvidia_t4=(own, timed(20, dtype="fp32"), timed(30, dtype="fp16", framework="trtllm")))
    t4 = load("nvidia/t4")
    choice = choosing.choose(t4, EAGER)
    assert choosing.timed(choice, EAGER, t4).constants == own.constants


@pytest.mark.parametrize("harness", [None, "graph-replay", "kernel-time"])
def test_host_is_empty_for_harnesses_that_do_not_time_it(hosts, harness):
    hosts(nvidia_t4=(timed(10),))
    for device in ("nvidia/t4", "nvidia/a40"):
        assert choosing.host(load(device), replace(EAGER, harness=harness)) == {}


def test_constants_fitted_without_a_host_get_one_for_eager_calls():
    """H200's products were timed in replayed graphs; an eager call of a
    small one takes as long as its dispatch.
    """
    small = {"m": 16, "n": 64, "k": 64}
    layer = Matmul(dtype="bf16")
    replayed, eager = (
        predict(layer, "nvidia/h200-sxm", **small, harness=harness).seconds
        for harness in ("graph-replay", "eager-events")
    )
    floors = [
        s.constants["dispatch_s"]
        for name in calibration.calibrated_devices()
        for s in calibration.load(name)
        if (s.kernel, s.harness) == ("gemm", "eager-events")
    ]
    assert replayed < min(floors) < eager < replayed + 2 * max(floors)


@pytest.mark.parametrize(
    ("device", "causal", "kernels"),
    [
        ("amd/mi300x", True, ("ck",)),
        ("amd/mi300x", False, ("ck",)),
        ("amd/mi355x", True, ("ck",)),
        ("nvidia/a100-sxm-80gb", True, ("flashinfer", "fa2", "fa2-paged")),
        ("nvidia/h100-sxm", True, ("fa3", "fa3-graphs")),
    ],
)
def test_carried_constants_come_without_the_lenders_kernel(device, causal, kernels):
    """FlashAttention-3 needs Hopper's asynchronous MMA (arXiv 2407.08608), TensorRT-LLM an NVIDIA GPU."""
    layers = [cm.TiledAttention(causal=causal), *([cm.DecodeAttention()] if causal else [])]
    for layer in layers:
        sizes = {"batch": 4, "heads": 32, "seq_kv": 1024, "head_dim": 128}
        sizes |= {"seq": 1024} if "seq" in layer.required else {}
        (part,) = cm.predict(layer, device, sizes, rung="kernel").plan.phases
        assert part.choice.origin not in ("self", "none")
        assert part.options["kernel"] in kernels


@pytest.mark.parametrize(
    ("cut", "whole", "dtype"),
    [("rtx-4090", "l40s", "bf16"), ("rtx-5090", "l40s", "bf16"), ("rtx-3090", "a40", "fp16")],
)
def test_halved_tensor_cores_reach_more_of_their_peak(cut, whole, dtype):
    """With fp32 accumulation GeForce boards have half the rate, while a step's other work takes as long.

    169 TFLOP/s, 102 % of the stated peak, were measured on an RTX 4090 (its spec); L40S reaches 0.71 of its
    peak.
    """
    share, time, half = {}, {}, {}
    for name in (cut, whole):
        device = load(f"nvidia/{name}")
        own = predict(Matmul(dtype=dtype), device, m=4096, n=4096, k=4096)
        share[name] = 2 * 4096**3 / own.seconds / device.peak(dtype)
        half[name] = device.peak(dtype) / device.units / device.clock_hz
        time[name] = own.seconds * device.units * device.clock_hz
    assert half[cut] == pytest.approx(half[whole] / 2, rel=0.03)
    assert share[whole] + 0.1 < share[cut] < 1.02 or share[whole] < 0.9 <= share[cut]
    # Per cycle, no unit of the halved chip is faster than one of the whole chip.
    assert time[cut] > time[whole]


def test_peak_share_is_unchanged_between_whole_tensor_cores():
    """Rates that double between generations, or differ by a few per cent, are no sign of a cut."""
    for device, lender, dtype in (
        ("h100-sxm", "h200-sxm", "bf16"),
        ("l4", "l40s", "bf16"),
        ("l40s", "h200-sxm", "fp8"),
        ("h200-sxm", "a100-sxm-80gb", "bf16"),
    ):
        wanted = Wanted("gemm", "gemm_fp8_dynquant" if dtype == "fp8" else "gemm", dtype)
        found = choosing.choose(load(f"nvidia/{device}"), wanted, own=False)
        assert found.origin == f"nvidia/{lender}"
        assert found.constants["peak_share"] == found.section.constants["peak_share"]
