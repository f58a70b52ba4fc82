"""Traffic of captured modules by hand: views are free, copies cost what they move, fusion saves the rest."""

import pytest

from costmodel.capture import from_torch
from costmodel.symbols import symbols

torch = pytest.importorskip("torch", reason="from_torch needs torch")

from .zoo import BATCH_FIRST, rows  # noqa: E402

nn, F = torch.nn, torch.nn.functional
B, N = symbols("batch seq")
ARRAY = 4 * B * N * 16  # bytes of the input


def module_of(function, *parameters):
    """Return a module that calls a function of its input and parameters."""

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.own = nn.ParameterList(parameters)

        def forward(self, x):
            return function(x, *self.own)

    return Module()


def kernels(function, *parameters, fusion="eager", direction="fwd", **options):
    given = rows(3, 6).requires_grad_(direction != "fwd")
    model = from_torch(
        module_of(function, *parameters),
        given,
        dims=BATCH_FIRST,
        fusion=fusion,
        direction=direction,
        **options,
    )
    return model.phases()


def moved(function, *parameters, **options):
    """Return the bytes (read, written) by every kernel together."""
    found = kernels(function, *parameters, **options)
    return sum(p.read * p.repeats for p in found), sum(p.write * p.repeats for p in found)


VIEWS = {
    "transpose": lambda x: x.transpose(0, 1),
    "view": lambda x: x.view(x.shape[0], -1),
    "slice": lambda x: x[:, :, 4:12].unsqueeze(0),
    "split": lambda x: x.chunk(2, -1)[1],
    "expand": lambda x: x.unsqueeze(1).expand(-1, 4, -1, -1),
    "permute": lambda x: x.permute(2, 0, 1),
    "detach": lambda x: x.detach(),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_cost_nothing(name):
    """Only the kernel of the sum over the view remains, which reads each element once."""
    found = kernels(lambda x: VIEWS[name](x).sum())
    assert [p.name.partition(": ")[2] for p in found] == ["sum"]
    half = 2 if name in ("slice", "split") else 1
    assert found[0].read == ARRAY / half
    assert found[0].write == 4


COPIES = {
    "contiguous": (lambda x: x.transpose(0, 1).contiguous(), (ARRAY, ARRAY)),
    "clone": (lambda x: x.clone(), (ARRAY, ARRAY)),
    "cat": (lambda x: torch.cat([x, x, x], -1), (ARRAY, 3 * ARRAY)),
    "to half": (lambda x: x.half(), (ARRAY, ARRAY / 2)),
    "pad": (lambda x: F.pad(x, (0, 16)), (ARRAY, 2 * ARRAY)),
    "reshape of a transpose": (lambda x: x.transpose(1, 2).reshape(x.shape[0], -1), (ARRAY, ARRAY)),
    "zeros": (torch.zeros_like, (0, ARRAY)),
    "row of an array": (lambda x: x[:, 0].clone(), (4 * B * 16, 4 * B * 16)),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_cost_what_they_move(name):
    function, expected = COPIES[name]
    assert moved(function) == expected


def test_a_gather_reads_its_rows_and_indices():
    table = nn.Parameter(torch.zeros(1000, 16))
    taken = moved(lambda x, table: table[x[:, :, 0].long()], table)
    index = 4 * B * N, 8 * B * N  # read to make the index; the index, written
    assert taken == (index[0] + index[1] + ARRAY, index[1] + ARRAY)


def test_a_broadcast_operand_is_read_once():
    gain = nn.Parameter(torch.zeros(16))
    assert moved(lambda x, gain: x * gain, gain) == (ARRAY + 4 * 16, ARRAY)


def test_in_place_operations_read_and_write_their_operand():
    assert moved(lambda x: x.clone().mul_(2)) == (2 * ARRAY, 2 * ARRAY)


def rms_norm(x, gain):
    return gain * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def soft_max(x):
    e = (x - x.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def gelu_written_out(x):
    return 0.5 * x * (1 + torch.tanh(0.79788456 * (x + 0.044715 * x**3)))


def gated(x):
    return F.silu(x) * torch.sigmoid(x + 1)


GAIN = 4 * 16
#: (function, parameters, number of eager kernels, bytes read and bytes written when fused)
FUSED = {
    "rms norm": (rms_norm, [nn.Parameter(torch.zeros(16))], 6, ARRAY + GAIN, ARRAY),
    "softmax": (soft_max, [], 5, ARRAY, ARRAY),
    "gelu": (gelu_written_out, [], 8, ARRAY, ARRAY),
    "two branches": (gated, [], 4, ARRAY, ARRAY),
    "residual and norm": (lambda x: F.layer_norm(x + torch.tanh(x), (16,)), [], 3, ARRAY, ARRAY),
    "cast, add, cast": (lambda x: (x.half() + 1).float(), [], 3, ARRAY, ARRAY),
    "mask from positions": (
        lambda x: x.masked_fill(torch.arange(16) > 4, 0.0), [], 3, ARRAY, ARRAY,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FUSED)
def test_chains_of_pointwise_operations_and_reductions_fuse_into_one_kernel(name):
    function, parameters, separate, read, write = FUSED[name]
    eager = kernels(function, *parameters)
    assert sum(p.repeats * p.launches for p in eager) == separate
    (one,) = kernels(function, *parameters, fusion="compile")
    # Beyond that, only the gains of a norm or masks of 16 elements are read.
    assert one.read - read in (0, 16, 32)
    assert one.write == write
    flops = sum(sum(p.flops.values()) * p.repeats for p in eager)
    assert sum(one.flops.values()) == flops


def test_a_reduction_over_columns_ends_its_kernel():
    """The mean over batch and positions is known only after all rows were read: the input is read twice."""
    found = kernels(lambda x: x - (2 * x).mean((0, 1)), fusion="compile")
    assert len(found) == 2
    assert sum(p.read for p in found) == 2 * ARRAY + 4 * 16
    assert sum(p.write for p in found) == ARRAY + 4 * 16


def test_operations_before_and_after_a_product_do_not_fuse():
    """An operation whose result the product needs cannot run in the kernel that needs the product."""
    weight = nn.Parameter(torch.zeros(16, 16))
    found = kernels(lambda x, w: torch.exp(x) + torch.tanh(torch.exp(x) @ w), weight, fusion="compile")
    assert [p.kernel for p in found].count("gemm") == 1
    assert len(found) == 3  # exp for the product; the product; exp again, tanh and sum

    def used_by_both(x, w):
        e = torch.exp(x)
        return e + torch.tanh(e @ w)

    joined = kernels(used_by_both, weight, fusion="compile")
    assert len(joined) == 3
    assert sum(p.read for p in joined if p.kernel == "stream") == ARRAY + 2 * ARRAY
    assert sum(p.write for p in joined if p.kernel == "stream") == 2 * ARRAY


def test_fused_kernels_write_the_results_that_backward_needs():
    """tanh's gradient needs tanh(x), so the fused kernel of sigmoid(tanh(x)) writes both results."""
    found = kernels(lambda x: torch.sigmoid(torch.tanh(x)), fusion="compile", direction="fwd+bwd")
    forward, backward = found
    assert (forward.read, forward.write) == (ARRAY, 2 * ARRAY)
    assert (backward.read, backward.write) == (3 * ARRAY, ARRAY)  # both results, the gradient


def test_unknown_operations_are_listed_and_charged():
    """torch.linalg.qr has no kernel model: it is charged for reading and writing its operands, and listed."""
    model = from_torch(module_of(lambda x: torch.linalg.qr(x).Q @ x), rows(3, 16), dims={"batch": (0, 0)})
    (missing,) = model.unmapped
    assert (missing.op, missing.count, missing.flops_share) == ("linalg_qr", 1, 0.0)
    (phase,) = [p for p in model.forward() if "linalg_qr" in p.name]
    assert phase.read == 4 * B * 16 * 16
    assert phase.write == 2 * 4 * B * 16 * 16


def test_an_unknown_operation_is_listed_with_its_share_of_torchs_flops(monkeypatch):
    from costmodel.capture import _parts  # noqa: PLC0415

    monkeypatch.setattr(_parts, "SOLID", {k: v for k, v in _parts.SOLID.items() if k != "bmm"})
    monkeypatch.setattr("costmodel.capture._build.SOLID", _parts.SOLID)
    weight = nn.Parameter(torch.zeros(16, 48))
    model = from_torch(
        module_of(lambda x, w: torch.bmm(x @ w, x.new_zeros(x.shape[0], 48, 16)), weight), rows(3, 6)
    )
    (missing,) = model.unmapped
    assert missing.op == "bmm"
    assert missing.flops_share == 0.5


@pytest.mark.parametrize(
    ("function", "op", "borrowed"),
    [
        (F.relu, "relu", False),
        (F.gelu, "gelu", False),
        (lambda x: F.gelu(x, approximate="tanh"), "gelu", True),
        (lambda x: x * 3.0, "elementwise_mul_scalar", False),
        (lambda x: x + x.flip(-1), "elementwise_add", False),
        (lambda x: x.exp(), "elementwise_mul_scalar", True),
        (lambda x: F.conv1d(x, torch.ones(6, 6, 1)), "gemm", True),
    ],
)
def test_operations_without_measurements_borrow_the_constants_of_similar_ones(function, op, borrowed):
    """An exponential borrows those of a product with a scalar, a convolution those of a matrix product.

    The measured GELU is the exact one, with erf.
    """
    last = kernels(function)[-1]
    assert (last.op, last.borrowed) == (op, borrowed)


def test_a_fused_kernel_borrows_its_constants():
    (fused,) = kernels(lambda x: F.relu(x * 3.0), fusion="compile")
    assert fused.borrowed
