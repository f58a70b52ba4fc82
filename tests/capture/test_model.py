"""A captured module is a model, and so a layer: it is predicted, swept and compared. Bad input is refused."""

import dataclasses
import subprocess
import sys

import pytest

import costmodel as cm
from costmodel.capture import from_torch
from costmodel.errors import CostmodelError, UnknownNameError

torch = pytest.importorskip("torch", reason="from_torch needs torch")

from .zoo import BATCH_FIRST, ZOO, Attention, GatedFeedForward, TiedModel, Twice, rows, tokens  # noqa: E402

nn = torch.nn


def test_captured_modules_are_predicted_swept_and_compared_like_layers():
    block = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True, norm_first=True).eval()
    lstm = nn.LSTM(512, 512, batch_first=True)
    given = torch.empty(1, 16, 512, device="meta")
    models = [
        from_torch(module, given, dims=BATCH_FIRST, dtype="bf16", fusion="compile")
        for module in (block, lstm)
    ]
    for rung in ("bound", "kernel"):
        predicted = cm.predict(models[0], "h200-sxm", rung=rung, batch=8, seq=[128, 1024, 8192])
        assert (predicted.seconds >= predicted.lower_s).all()
        assert (predicted.seconds[1:] > predicted.seconds[:-1]).all()
    frame = cm.sweep(models, ["h200-sxm", "a100-sxm-80gb"], batch=8, seq=cm.log2_range(128, 1024))
    assert len(frame) == 2 * 2 * 4
    assert set(frame["layer"]) == {"TransformerEncoderLayer", "LSTM"}
    # 12·d² + 2·n·d multiply-adds per token against 8·d²: the LSTM has fewer FLOPs at every length.
    found = cm.crossover(models[1], models[0], over="seq", of="flops", batch=1)
    assert (found.sizes, found.cheaper) == ((), ("LSTM",))


def test_captured_lstms_and_attention_count_like_the_layers_of_those_names():
    """nn.LSTM against cm.LSTM, scaled_dot_product_attention against cm.TiledAttention."""
    sizes = {"batch": 4, "seq": 64}
    lstm = from_torch(nn.LSTM(16, 8, 2, batch_first=True), rows(3, 6), dims=BATCH_FIRST, direction="fwd+bwd")
    layer = cm.LSTM(dtype="fp32", direction="fwd+bwd")
    there = cm.evaluate(layer, hidden=8, input=16, num_layers=2, **sizes)
    here = cm.evaluate(lstm, **sizes)
    for name in ("vector_flops", "special_flops", "depth", "parameters", "kept_bytes"):
        assert here[name] == there[name]
    # The module's input needs no gradient, so the product that the layer has for it does not run.
    assert there["matrix_flops"] - here["matrix_flops"] == 2 * 4 * 64 * 16 * 4 * 8
    flash = from_torch(Attention(kv_heads=4), rows(3, 6), dims=BATCH_FIRST, fusion="flash")
    (core,) = [phase for phase in flash.forward() if phase.kernel == "attention"]
    tiled = cm.TiledAttention(dtype="fp32", causal=True)
    sram = {"sram": 64 * 1024}
    wanted = cm.evaluate(tiled, heads=4, head_dim=4, **sizes, **sram)
    at = {s: sizes[s.name] for s in core.flops["matrix", "fp32"].free_symbols}
    assert float(core.flops["matrix", "fp32"].xreplace(at)) == wanted["matrix_flops"]


def test_a_given_dtype_counts_like_a_module_of_that_dtype():
    model = from_torch(GatedFeedForward(), rows(3, 6), dims=BATCH_FIRST, dtype="bf16")
    own = from_torch(GatedFeedForward().to(torch.bfloat16), rows(3, 6).bfloat16(), dims=BATCH_FIRST)
    assert model.dtype == own.dtype == "bf16"
    assert model.cost.rows() == own.cost.rows()
    mixed = from_torch(nn.Sequential(nn.Linear(16, 8).half(), nn.Softmax(-1)), rows(3, 6).half())
    assert {phase.options["dtype"] for phase in mixed.forward()} == {"fp16"}


def test_equal_stacked_modules_become_repeated_parts():
    deep, shallow = (
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), depth, enable_nested_tensor=False
        )
        for depth in (6, 2)
    )
    six, two = (from_torch(stack, rows(3, 6), dims=BATCH_FIRST) for stack in (deep, shallow))
    assert len(six.parts) == len(two.parts)
    assert {part.repeats / other.repeats for part, other in zip(six.parts, two.parts, strict=True)} == {3}
    assert six.cost.launches == 3 * two.cost.launches
    assert six.cost.depth == 3 * two.cost.depth
    assert any(part.name == "layers.*.linear1" for part in six.parts)


class Indexed(nn.Module):
    """Indexes whole axes, and a part of one."""

    def forward(self, x):
        return (x[:, None] * 2 + x[:, :][:, 1:].sum()).tanh()


def test_slicing_a_whole_axis_runs_no_kernel():
    """With concrete sizes torch's indexing skips such a slice, forward and backward."""
    given = rows(3, 6).requires_grad_()
    open_, closed = (
        from_torch(Indexed(), given, dims=dims, direction="fwd+bwd") for dims in (BATCH_FIRST, None)
    )
    kernels = [[phase.name for phase in model.phases()] for model in (open_, closed)]
    assert kernels[0] == kernels[1]
    assert sum("slice_backward" in name for name in kernels[0]) == 1
    assert cm.evaluate(open_, batch=3, seq=6)["hbm_bytes"] == cm.evaluate(closed)["hbm_bytes"]


@pytest.mark.parametrize("wanted", [False, True])
def test_backward_leaves_the_gradients_that_torch_leaves(wanted):
    module, given = nn.Linear(8, 4), torch.zeros(3, 8, requires_grad=wanted)
    model = from_torch(module, given, direction="fwd+bwd")
    module(given).sum().backward()
    left = [tensor.grad for tensor in (*module.parameters(), given) if tensor.grad is not None]
    assert len(left) == 2 + wanted
    assert model.gradients == sum(gradient.nbytes for gradient in left)


def test_the_optimiser_follows_the_backward_pass():
    module = GatedFeedForward()
    plain, updated = (
        from_torch(
            module, rows(3, 6), dims=BATCH_FIRST, direction="fwd+bwd", fusion="compile", optimizer=name
        )
        for name in (None, "adamw")
    )
    extra = updated.backward()[len(plain.backward()) :]
    # One kernel reads weight, gradient, m and v, and writes weight, m and v.
    numbers = 3 * 16 * 32
    assert [(phase.read, phase.write) for phase in extra] == [(4 * 4 * numbers, 3 * 4 * numbers)]
    assert updated.cost.footprint - plain.cost.footprint >= 2 * 4 * numbers
    foreach = from_torch(module, rows(3, 6), direction="fwd+bwd", optimizer="sgd")
    assert [phase.name for phase in foreach.backward()][-1] == "optimiser: update"


def test_backward_starts_from_the_modules_own_loss_or_the_given_one():
    from_loss = from_torch(TiedModel(), tokens(3, 6), dims=BATCH_FIRST, direction="fwd+bwd")
    own = from_torch(
        TiedModel(), tokens(3, 6), dims=BATCH_FIRST, direction="fwd+bwd", loss=lambda result: result
    )
    assert from_loss.cost.rows() == own.cost.rows()
    assert from_loss.outputs == 4  # one number


@pytest.mark.parametrize(
    ("module", "dims", "message"),
    [
        (nn.Linear, None, "wanted a torch.nn.Module, got the class Linear"),
        (nn.Identity(), {"batch": (0, 0)}, "^Identity runs nothing that takes time"),
        (
            nn.Linear(16, 4),
            [("batch", 0)],
            r"wanted dims to be a mapping of text to anything or None, got \[\('batch', 0\)\]",
        ),
        (
            nn.Linear(16, 4),
            {"batch": (0, 0), "seq": (0, 0)},
            "dims of 'seq': axis 0 of input 0 is 'batch' already",
        ),
        (nn.Linear(16, 4), {"batch": (0, 0), "seq": (0, -3)}, "axis -3 of input 0 is 'batch' already"),
    ],
)
def test_bad_modules_and_dims_are_refused(module, dims, message):
    with pytest.raises(CostmodelError, match=message):
        from_torch(module, rows(3, 6), dims=dims)
    with pytest.raises(CostmodelError, match="wanted dynamic_shapes to be a mapping"):
        from_torch(nn.Linear(16, 4), rows(3, 6), dynamic_shapes=3)


def test_directions_that_were_not_captured_are_refused():
    model = from_torch(GatedFeedForward(), rows(3, 6), dims=BATCH_FIRST)
    with pytest.raises(CostmodelError, match=r"captured for direction fwd, not bwd: .*direction='fwd\+bwd'"):
        dataclasses.replace(model, direction="bwd")
    with pytest.raises(CostmodelError, match="formats it was captured in"):
        model.in_dtype("bf16")
    # The error does not advise to capture in a format that cannot be captured.
    with pytest.raises(CostmodelError, match="not in fp8"):
        model.in_dtype("fp8")


class Frozen(nn.Module):
    def forward(self, x):
        return x.argmax(-1)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        ("not a module", {}, "wanted a torch.nn.Module, got str"),
        (GatedFeedForward, {"fusion": "fuse"}, "unknown fusion 'fuse'"),
        (GatedFeedForward, {"direction": "forward"}, "unknown direction 'forward'"),
        (GatedFeedForward, {"dtype": "int4"}, "unknown dtype 'int4' of from_torch"),
        (GatedFeedForward, {"optimizer": "adamw"}, "nothing to update in direction='fwd'"),
        (GatedFeedForward, {"optimizer": "adama", "direction": "fwd+bwd"}, "unknown optimiser .*'adama'"),
        (Frozen, {"direction": "fwd+bwd"}, "nothing of what the module returns has a gradient"),
        (lambda: nn.LazyLinear(4), {}, "weight has no size yet: run the module once before"),
    ],
)
def test_bad_options_are_refused_in_one_line(module, options, message):
    made = module if isinstance(module, str) else module()
    with pytest.raises((CostmodelError, UnknownNameError), match=message) as error:
        from_torch(made, rows(3, 6), **options)
    assert "\n" not in str(error.value)


def test_a_module_that_fails_is_refused_with_torchs_message_and_line():
    with pytest.raises(
        CostmodelError, match=r"GatedFeedForward cannot run on these inputs: .*reduction dim.*zoo\.py"
    ):
        from_torch(GatedFeedForward(), torch.zeros(3, 6, 17))


def test_capturing_changes_neither_the_module_nor_torch():
    module = Twice()
    before = {name: id(tensor) for name, tensor in module.named_parameters()}
    functions = [torch.nn.functional.scaled_dot_product_attention, torch._VF.lstm, torch._VF.dropout]
    from_torch(module, rows(3, 6), dims=BATCH_FIRST, direction="fwd+bwd", fusion="flash")
    assert {name: id(tensor) for name, tensor in module.named_parameters()} == before
    assert all(tensor.grad is None for tensor in module.parameters())
    assert [
        torch.nn.functional.scaled_dot_product_attention, torch._VF.lstm, torch._VF.dropout,
    ] == functions  # fmt: skip
    lstm = ZOO["lstm"].make()
    weights = lstm._flat_weights
    from_torch(lstm, rows(3, 6), dims=BATCH_FIRST)
    assert lstm._flat_weights is weights


def test_without_torch_the_error_names_the_extra_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CostmodelError, match=r"needs torch.*costmodel\[validation\]"):
        from_torch(None)


def test_importing_the_package_does_not_load_torch():
    code = "import costmodel.capture, sys; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"


def test_path_length_is_n_through_a_recurrence_and_1_through_attention():
    """Vaswani et al., Table 1."""
    recurrent = cm.from_torch(
        torch.nn.LSTM(8, 8, 2), torch.zeros(6, 3, 8), dims={"seq": (0, 0), "batch": (0, 1)}
    )
    assert cm.evaluate(recurrent, batch=3, seq=50)["path"] == 50
    block = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    attending = cm.from_torch(block, torch.zeros(3, 6, 8), dims={"seq": (0, 1), "batch": (0, 0)})
    assert cm.evaluate(attending, batch=3, seq=50)["path"] == 1
