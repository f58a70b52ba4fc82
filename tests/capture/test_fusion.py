"""Which operations run as one kernel, on small functions whose kernels are known by hand."""

import pytest

from costmodel.capture import from_torch

torch = pytest.importorskip("torch", reason="from_torch needs torch")

from .test_traffic import ARRAY, B, N, module_of  # noqa: E402
from .zoo import BATCH_FIRST, rows  # noqa: E402

nn, F = torch.nn, torch.nn.functional


def square():
    return nn.Parameter(torch.zeros(16, 16))


def vector():
    return nn.Parameter(torch.zeros(16))


def captured(function, *parameters, direction="fwd"):
    given = rows(3, 6).requires_grad_(direction != "fwd")
    return from_torch(
        module_of(function, *parameters), given, dims=BATCH_FIRST, fusion="compile", direction=direction
    )


def names(phases):
    """Return the operations of each kernel."""
    return [phase.name.partition(": ")[2] or phase.kernel for phase in phases]


# -- kernels between others --------------------------------------------------------------------


def skipping_a_product(x, w):
    e = torch.exp(x)
    return e + e @ w


def skipping_two_products(x, w):
    e = torch.exp(x)
    return e + e @ w @ w


def behind_a_product_first(x, w):
    """The kernel that waits for a product comes before the one it is merged with."""
    e = torch.exp(x)
    a = torch.sin(e @ w)
    return (a + torch.tanh(x)) * e


def behind_a_product_last(x, w):
    e = torch.exp(x)
    t = torch.tanh(x)
    return (torch.sin(e @ w) + t) * e


def read_before_the_merge(x, w):
    """The product reads a kernel that is merged with a later one."""
    e = torch.exp(x)
    p = e @ w
    return (e + torch.tanh(x)) * p


@pytest.mark.parametrize(
    ("function", "kernels", "dependent"),
    [
        (skipping_a_product, 3, 3),
        (skipping_two_products, 4, 4),
        (behind_a_product_first, 3, 3),
        (behind_a_product_last, 3, 3),
        (read_before_the_merge, 3, 3),
    ],
)
def test_nothing_is_fused_around_a_kernel_that_has_to_run_between(function, kernels, dependent):
    model = captured(function, square())
    assert (sum(p.repeats for p in model.phases()), model.dependent) == (kernels, dependent)


def test_a_product_waits_for_the_kernel_that_its_operand_was_merged_into():
    def two_results(x, w):
        e = torch.exp(x)
        return e @ w, e + torch.tanh(x)

    model = captured(two_results, square())
    merged, product = sorted(model.phases(), key=lambda phase: phase.kernel == "gemm")
    assert names([merged, product]) == ["exp + tanh + add", "product"]
    assert (merged.read, merged.write) == (ARRAY, 2 * ARRAY)
    assert model.dependent == 2


def test_kernels_merge_in_the_order_of_their_operations():
    model = captured(lambda x: (torch.exp(x).sin() + torch.tanh(x)) * torch.cos(x))
    assert names(model.phases()) == ["exp + sin + tanh + add + 2 more"]


def test_what_was_merged_can_be_joined_by_each_result():
    def again(x):
        e = torch.exp(x)
        return (e + torch.tanh(x)).sin() * e.cos()

    (one,) = captured(again).phases()
    assert (one.read, one.write) == (ARRAY, ARRAY)


# -- sums --------------------------------------------------------------------------------------


def test_a_merged_kernel_still_passes_over_the_rows_that_either_reduced():
    def root_of_a_row_sum(x):
        e = torch.exp(x)
        total = e.sum(-1)
        return e + torch.tanh(x), total.sqrt()

    (one,) = captured(root_of_a_row_sum).phases()
    assert (one.read, one.write) == (ARRAY, ARRAY + 4 * B * N)


def test_a_sum_over_columns_is_late_in_a_merged_kernel_too():
    def centred(x):
        e = torch.exp(x)
        mean = e.mean((0, 1))
        return (e + torch.tanh(x)) - mean

    model = captured(centred)
    assert names(model.phases()) == ["exp + mean + tanh + add", "sub"]
    assert model.dependent == 2


def test_what_reads_a_late_sum_is_not_merged_with_the_kernel_that_makes_it():
    """The third operation reads results of both, and could join either."""

    def weighted(x):
        e = torch.exp(x)
        return (x - e.mean((0, 1))) * e

    model = captured(weighted)
    assert names(model.phases()) == ["exp + mean", "sub + mul"]
    assert model.dependent == 2


def test_a_gradient_of_a_gain_is_late_and_that_of_the_input_is_not():
    """The gain is made of the input, so that its gradient adds to the input's."""
    model = captured(lambda x: F.layer_norm(x, (16,), x.mean((0, 1))), direction="fwd+bwd")
    assert names(model.backward()) == ["layer norm gradient", "div + add"]
    plain = captured(lambda x: F.layer_norm(x.tanh(), (16,)), direction="fwd+bwd")
    assert names(plain.backward()) == ["native_layer_norm_backward + tanh_backward"]


def test_statistics_of_rows_are_not_late():
    def scaled(x):
        y, _, deviation = torch.native_layer_norm(x, (16,), None, None, 1e-5)
        return y * deviation

    assert len(captured(scaled).phases()) == 1


# -- sizes -------------------------------------------------------------------------------------


def test_only_pointwise_kernels_are_computed_again_for_a_larger_table():
    pointwise = captured(lambda x, g: x * torch.exp(g).sin(), vector())
    assert len(pointwise.phases()) == 1

    def by_hand(x, g):
        e = torch.exp(g)
        return x * (e / e.sum())

    reduced = captured(by_hand, vector())
    assert names(reduced.phases()) == ["exp + sum + div", "mul"]


def test_a_kernel_with_a_larger_table_is_not_joined_by_an_operation_on_another_size():
    def two_sizes(x, g, p):
        e = torch.exp(g)
        return x * e, e + p

    found = captured(two_sizes, vector(), nn.Parameter(torch.zeros(6, 16)))
    assert names(found.phases()) == ["exp + mul", "add"]


def test_a_generated_value_that_a_product_reads_too_is_generated_in_the_kernel():
    def ones(x, w):
        z = x.new_ones(16)
        return x * z, z @ w

    found = names(captured(ones, square()).phases())
    assert sum("ones" in name for name in found) == 1
    assert any("ones" in name and "mul" in name for name in found)


def test_a_table_of_which_a_slice_is_read_too_is_read_once():
    (one,) = captured(lambda x: x.tanh() * x[:, :, :1].exp()).phases()
    assert (one.read, one.write) == (ARRAY, ARRAY)


def test_both_halves_of_a_table_are_read():
    """A gated activation on one product's result, as models with one matrix for gate and values have it."""
    (one,) = captured(lambda x: F.silu(x[:, :, :8]) * x[:, :, 8:]).phases()
    assert (one.read, one.write) == (ARRAY, ARRAY / 2)


def test_both_halves_of_a_mask_are_read():
    """A byte for each element."""

    def both(x):
        mask = x > 0
        return mask[:, :, :8] & mask[:, :, 8:]

    layer = from_torch(module_of(both), rows(3, 6), dims=BATCH_FIRST, fusion="eager")
    compared, joined = layer.phases()
    assert (compared.write, joined.read, joined.write) == (ARRAY / 4, ARRAY / 4, ARRAY / 8)


def test_views_that_overlap_are_no_more_than_the_table():
    (one,) = captured(lambda x: x[:, 1:] - x[:, :-1]).phases()
    assert one.read.subs({B: 3, N: 6}) == ARRAY.subs({B: 3, N: 6})


@pytest.mark.parametrize("fusion", ["eager", "compile"])
def test_parts_of_an_input_count_as_inputs(fusion):
    layer = from_torch(
        module_of(lambda x: F.silu(x[:, :, :8]) * x[:, :, 8:]), rows(3, 6), dims=BATCH_FIRST, fusion=fusion
    )
    assert layer.tensors().inputs == ARRAY


def test_nothing_joins_a_scatter():
    def added(x, target):
        index = torch.tensor([0, 1, 2, 3, 4, 5])
        return torch.index_add(x.exp(), 2, index, x[:, :, :6].sin()).tanh()

    found = names(captured(added, vector()).phases())
    assert "index_add" in found
    assert "tanh" in found
