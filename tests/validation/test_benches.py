"""Every benchmark's kernel computes what its name says, in every format and direction it has."""

from dataclasses import replace

import pytest

from costmodel import evaluate
from costmodel.errors import CostmodelError, UnavailableError
from costmodel.layers import Layer
from costmodel.validation import campaign, registry, timing
from costmodel.validation.bench_attention import exact_attention
from costmodel.validation.case import Case, case, from_dict
from costmodel.validation.execute import TOLERANCE, IncorrectResultError, prepare, relative_error
from costmodel.validation.torch_env import sdpa_backend

torch = pytest.importorskip("torch", reason="measuring needs torch: pip install 'costmodel[validation]'")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

ATTENTION = {"batch": 2, "heads": 4, "kv_heads": 2, "seq": 40, "head_dim": 16}
RECURRENT = {"batch": 2, "seq": 5, "hidden": 16, "input": 12, "num_layers": 2}
TABLE = {"m": 5, "n": 100}
SIZES = {"matmul": {"m": 33, "n": 17, "k": 65}, "bmm": {"batch": 3, "m": 8, "n": 9, "k": 10}}
SIZES["scaled-mm"] = {"m": 32, "n": 16, "k": 64}
KINDS = {
    "sdpa": ATTENTION,
    "triton": {**ATTENTION, "kv_heads": 4},
    "rnn": RECURRENT,
    "lstm": RECURRENT,
    "gru": RECURRENT,
    "linear": {"batch": 2, "heads": 3, "seq": 40, "head_dim": 16},
    "scan": {"batch": 2, "seq": 13, "hidden": 8},
}


def sizes_of(name):
    return SIZES.get(name) or KINDS.get(name.split("-")[0], TABLE)


def every(kind):
    """Yield a small case of each kernel, format and direction available on that kind of device."""
    for bench in registry.benches().values():
        for dtype in bench.dtypes if kind in bench.devices else ():
            for direction in bench.directions:
                yield case(bench.name, sizes_of(bench.name), dtype=dtype, direction=direction)


@pytest.mark.parametrize("one", [c for c in every("cpu") if c.dtype != "tf32"], ids=str)
def test_result_agrees_with_float64(one):
    error = relative_error(one, prepare(one, "cpu"))
    assert error <= TOLERANCE[one.dtype]
    # These are exact; elsewhere an error of 0 would mean that nothing was compared.
    if one.bench not in ("copy", "relu", "mul"):
        assert error > 0


@pytest.mark.parametrize("one", list(every("cuda")), ids=str)
def test_result_agrees_with_float64_on_cuda(one, cuda):
    # A campaign's visit tells CUDA's errors in a kernel from a kernel that the GPU lacks.
    visit = campaign.visit(one, cuda, timing.stopwatch(cuda.kind, cuda.cache_at_most), 0.0, check=True)
    if visit["status"] == "unavailable":
        pytest.skip(f"not on this GPU: {visit['reason']}")
    assert visit["status"] == "ok", visit["reason"]


@pytest.mark.parametrize("options", [{"causal": True}, {"causal": False}])
def test_exact_attention_is_the_definition(options):
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, h, 7, 4, generator=generator, dtype=torch.float64) for h in (4, 2, 2))
    got = exact_attention(torch, q, k, v, **options)
    for b, h, i in [(0, 0, 0), (1, 3, 6), (0, 2, 3)]:
        seen = i + 1 if options["causal"] else 7
        weights = [(q[b, h, i] @ k[b, h // 2, j] / 2).exp() for j in range(seen)]
        want = sum(w * v[b, h // 2, j] for j, w in enumerate(weights)) / sum(weights)
        torch.testing.assert_close(got[b, h, i], want)


def test_every_kernel_maps_to_a_layer_with_its_sizes():
    for bench in registry.benches().values():
        one = case(bench.name, sizes_of(bench.name), dtype=bench.dtypes[0])
        layer = bench.layer(one)
        if bench.name in ("rnn-loop", "lstm-loop", "gru-loop"):
            assert layer is None  # a loop over a cell of many kernels
            continue
        assert isinstance(layer, Layer)
        assert set(layer.required) <= {name for name, _ in one.sizes}
        assert {name for name, _ in one.sizes} - {"seq"} <= set(layer.sizes())
        assert bench.op(one)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_math_attention_is_predicted_in_the_format_that_torch_multiplies_in(dtype):
    """torch's dispatcher shows the casts and products; a layer's products are on its matrix units."""
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append((function.overloadpacket.__name__, args[0].dtype if args else None))
            return function(*args, **(kwargs or {}))

    one = case("sdpa-math", {"batch": 1, "heads": 2, "seq": 8, "head_dim": 16}, dtype=dtype)
    prepared = prepare(one, "cpu")
    with torch.no_grad(), sdpa_backend("math"), Watch():
        prepared.work.call(*prepared.work.inputs)
    layer = registry.find("sdpa-math").layer(one)
    assert {kind for name, kind in seen if name == "bmm"} == {torch.float32}
    assert {kind for engine, kind in layer.cost.flops if engine == "matrix"} == {"fp32"}
    counts = evaluate(layer, **dict(one.sizes))
    products = evaluate(registry.find("sdpa-math").layer(replace(one, dtype="fp32")), **dict(one.sizes))
    casts = [kind for name, kind in seen if name == "_to_copy"]
    width, table, scores = 2, 2 * 8 * 16, 2 * 8 * 8
    # Q, K and V are read narrow and written wide; O and the probabilities the other way.
    moved = 3 * width * (4 * table + scores) if dtype != "fp32" else 0
    assert len(casts) == (5 if dtype != "fp32" else 0)
    assert counts["hbm_bytes"] - products["hbm_bytes"] == moved


@pytest.mark.parametrize("direction", ["fwd", "fwd+bwd"])
def test_linear_attention_is_counted_in_the_calls_that_torch_makes(direction):
    """Each call but views, and how many of them are products; none that autograd does not make."""
    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if not function.is_view:
                made.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    one = case("linear-attention", sizes_of("linear"), direction=direction)
    prepared = prepare(one, "cpu")
    with prepared.scope(), Watch():
        prepared.run()
    made = [name for name in made if name not in ("detach", "_unsafe_view")]
    layer = registry.find("linear-attention").layer(one)
    assert layer.cost.launches == len(made)
    products = sum(name in ("matmul", "bmm") for name in made)  # without gradients, one stands for the other
    assert products == sum(phase.kernel == "gemm" for phase in layer.phases())


def test_decoding_is_predicted_as_decoding():
    one = case("sdpa-flash", {"batch": 1, "heads": 2, "seq": 1, "seq_kv": 9, "head_dim": 8})
    bench = registry.find("sdpa-flash")
    assert bench.layer(one).name == "decode-attention"
    assert bench.op(one) == "attention_decode"


def test_wrong_kernel_is_found(monkeypatch):
    one = case("matmul", {"m": 8, "n": 8, "k": 8})
    right = registry.find("matmul")

    def build(case, make):
        work = right.build(case, make)
        return replace(work, call=lambda a, b: (a @ b) * 1.01)

    monkeypatch.setitem(registry.benches(), "matmul", replace(right, build=build))
    with pytest.raises(IncorrectResultError, match="wanted at most 1e-04"):
        relative_error(one, prepare(one, "cpu"))


def test_result_that_is_no_number_is_found(monkeypatch):
    one = case("tanh", TABLE)
    right = registry.find("tanh")

    def build(case, make):
        return replace(right.build(case, make), call=lambda x: x / 0 * 0)

    monkeypatch.setitem(registry.benches(), "tanh", replace(right, build=build))
    with pytest.raises(IncorrectResultError, match="nan"):
        relative_error(one, prepare(one, "cpu"))


def test_cold_copies_have_other_operands_and_reruns_the_same():
    one = case("matmul", {"m": 4, "n": 4, "k": 4})
    first, again, other = (prepare(one, "cpu", copy=c).work.inputs[0] for c in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (case("scaled-mm", SIZES["matmul"], dtype="fp8"), "cuda only"),
        (case("sdpa-flash", ATTENTION, dtype="tf32"), "fp32, bf16, fp16 only"),
        (case("copy", TABLE, direction="bwd"), "directions fwd only"),
        (case("copy", TABLE, launch="graph"), "a CPU has no graphs"),
        (case("copy", TABLE, dtype="tf32"), "a CPU has no tf32"),
    ],
    ids=str,
)
def test_kernel_that_a_device_lacks_is_refused_with_the_reason(one, message):
    with pytest.raises(UnavailableError, match=message):
        prepare(one, "cpu")


def test_unknown_words_are_refused():
    with pytest.raises(CostmodelError, match="did you mean 'matmul'"):
        registry.find("matmull")
    with pytest.raises(CostmodelError, match="unknown state 'hot'"):
        case("copy", TABLE, state="hot")


def test_case_survives_its_record():
    one = case("lstm", RECURRENT, dtype="bf16", options={"bidirectional": True}, launch="graph")
    assert from_dict(one.as_dict()) == one
    assert from_dict(one.as_dict()).key == one.key
    assert Case.__str__(one).startswith("lstm bf16 fwd batch=2")
    # The order of sizes does not matter.
    assert case("lstm", dict(reversed(RECURRENT.items()))) == case("lstm", RECURRENT)
