"""torch's operations by their memory access, and their arithmetic per element."""

from __future__ import annotations

from collections.abc import Mapping

from costmodel.capture._records import Call
from costmodel.layers._kernels import POINTWISE, POINTWISE_GRADIENT

#: These take no time on a device: allocations, and queries of sizes and conditions.
FREE = frozenset(
    {
        "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided",
        "device", "resize", "set", "_assert_async", "_assert_scalar", "_local_scalar_dense",
        "lift_fresh", "_unsafe_view", "_reshape_alias", "detach", "size", "stride", "dim", "numel",
        "sym_size", "sym_numel", "_version",
    }
)  # fmt: skip

#: These read none of their arguments: they generate values.
CREATION = frozenset(
    {
        "zeros", "ones", "full", "arange", "linspace", "eye", "scalar_tensor", "zeros_like", "ones_like",
        "full_like", "new_zeros", "new_ones", "new_full", "zero", "fill", "rand", "randn", "randint",
        "rand_like", "randn_like", "randint_like", "randperm", "bernoulli", "uniform", "normal",
        "exponential", "tril_indices", "triu_indices", "random",
    }
)  # fmt: skip

#: These read only as much of their first argument as they return, and their indices.
GATHERS = frozenset(
    {
        "embedding",
        "index_select",
        "gather",
        "index",
        "take",
        "_unsafe_index",
        "nll_loss_forward",
        "take_along_dim",
    }
)

#: These add to, or replace, as many elements of an array as they are given.
SCATTERS = frozenset(
    {
        "embedding_dense_backward", "index_put", "_index_put_impl", "_unsafe_index_put", "scatter",
        "scatter_add", "scatter_reduce", "index_add", "index_copy", "nll_loss_backward",
    }
)  # fmt: skip

#: These read their operands and write their results.
MOVES = frozenset(
    {
        "clone", "copy", "_to_copy", "cat", "stack", "constant_pad_nd", "repeat", "flip", "roll", "tril",
        "triu", "slice_scatter", "select_scatter", "slice_backward", "select_backward", "index_fill",
        "unfold_backward", "repeat_interleave", "reflection_pad1d", "reflection_pad2d", "replication_pad1d",
        "replication_pad2d", "upsample_nearest2d", "upsample_bilinear2d", "masked_scatter", "im2col",
        "col2im", "as_strided_scatter", "diagonal_scatter", "diagonal_backward", "pixel_shuffle",
        "nonzero", "masked_select", "split_with_sizes_copy", "expand_copy", "rot90", "as_strided_copy",
        "histc", "bincount", "one_hot", "isin", "searchsorted", "bucketize",
    }
)  # fmt: skip

#: Reductions over some dimensions, and scans, that torch does not tag as reductions.
REDUCTIONS = frozenset(
    {
        "cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "sort", "topk", "argsort", "max", "min",
        "linalg_vector_norm", "native_batch_norm", "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training", "_batch_norm_with_update", "_batch_norm_no_update",
        "native_batch_norm_backward", "batch_norm_backward", "native_group_norm",
        "native_group_norm_backward",
        "max_pool2d_with_indices", "max_pool2d_with_indices_backward", "avg_pool2d", "avg_pool2d_backward",
        "avg_pool1d", "max_pool1d", "_adaptive_avg_pool2d", "_adaptive_avg_pool2d_backward",
        "adaptive_max_pool2d", "logsumexp", "var_mean", "std_mean", "mse_loss", "l1_loss",
        "smooth_l1_loss", "binary_cross_entropy", "aminmax", "equal",
        "kthvalue", "median", "mode", "norm",
    }
)  # fmt: skip

#: Pointwise operations that torch does not tag as such.
UNTAGGED = frozenset(
    {
        "native_dropout", "native_dropout_backward", "mse_loss_backward", "l1_loss_backward",
        "smooth_l1_loss_backward", "binary_cross_entropy_backward", "binary_cross_entropy_with_logits",
        "rrelu_with_noise", "_prelu_kernel", "_prelu_kernel_backward", "glu", "glu_backward",
        "softplus_backward", "floor_divide", "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "polar",
        "complex", "view_as_complex_copy", "view_as_real_copy",
    }
)  # fmt: skip

_UNARY = {
    name: (counts.vector, counts.special)
    for name, counts in POINTWISE.items()
    if name in ("relu", "tanh", "sigmoid", "gelu", "silu")
}
#: FLOP per element on the vector and on the special-function engine, from first principles, as in
#: ``costmodel.layers``; 1 and 0 for operations not listed here.
ARITHMETIC: Mapping[str, tuple[int, int]] = {
    **_UNARY,
    "gelu_backward": (POINTWISE_GRADIENT["gelu"].vector, POINTWISE_GRADIENT["gelu"].special),
    "silu_backward": (POINTWISE_GRADIENT["silu"].vector, POINTWISE_GRADIENT["silu"].special),
    "threshold_backward": (POINTWISE_GRADIENT["relu"].vector, 0),
    "tanh_backward": (3, 0),  # g · (1 − t²), from t
    "sigmoid_backward": (3, 0),  # g · s(1 − s), from s
    **dict.fromkeys(("exp", "log", "erf", "sin", "cos", "tan", "sqrt", "rsqrt", "exp2", "log2"), (0, 1)),
    **dict.fromkeys(("log1p", "expm1"), (1, 1)),
    "pow": (1, 2),  # exp(b · log a)
    "softplus": (1, 2),
    "softplus_backward": (3, 1),
    "elu": (2, 1),
    "elu_backward": (3, 1),
    "leaky_relu": (2, 0),
    "leaky_relu_backward": (2, 0),
    "hardtanh": (2, 0),
    "clamp": (2, 0),
    "addcmul": (3, 0),
    "addcdiv": (3, 0),
    "lerp": (3, 0),
    "mish": (2, 3),
    # An LSTM's 8 and 5, and a GRU's 7 and 3, per unit, divided by its 4 and 3 gates and rounded up.
    "_thnn_fused_lstm_cell": (2, 2),
    "_thnn_fused_gru_cell": (3, 1),
    "native_dropout": (2, 0),
    "native_dropout_backward": (2, 0),
    "logsumexp": (3, 1),
    "var": (3, 0),
    "std": (3, 0),
    "var_mean": (4, 0),
    "std_mean": (4, 0),
    "linalg_vector_norm": (2, 0),
    "mse_loss": (3, 0),
    "native_batch_norm": (8, 0),
    "_native_batch_norm_legit": (8, 0),
    "_native_batch_norm_legit_no_training": (4, 0),
    "native_batch_norm_backward": (13, 0),
    "native_group_norm": (8, 0),
    "native_group_norm_backward": (13, 0),
    **dict.fromkeys(("_to_copy", "clone", "copy", "alias", "view_as_complex_copy"), (0, 0)),
}

#: Operations whose arithmetic was measured; others are named by their number of operands.
MEASURED = {"relu": "relu", "tanh": "tanh", "gelu": "gelu", "silu": "silu"}
#: All operations that were measured on their own, and their names in the measurements.
THEMSELVES = {
    **MEASURED,
    "add": "elementwise_add",
    "mul": "elementwise_mul_scalar",
    "_softmax": "softmax",
    "_safe_softmax": "softmax",
    "native_layer_norm": "layernorm",
    "_fused_rms_norm": "rmsnorm",
}


def kind(call: Call) -> str | None:
    """Return the kind of an operation: ``creation``, ``gather``, …; None if it is unknown."""
    for label, names in (
        ("free", FREE),
        ("creation", CREATION),
        ("gather", GATHERS),
        ("scatter", SCATTERS),
        ("move", MOVES),
        ("reduction", REDUCTIONS),
        ("pointwise", UNTAGGED),
    ):
        if call.op in names:
            return label
    if call.reduction:
        return "reduction"
    return "pointwise" if call.pointwise else None


def arithmetic(name: str, known: str) -> tuple[int, int]:
    """Return an operation's FLOP per element (vector, special)."""
    if name in ARITHMETIC:
        return ARITHMETIC[name]
    return (1, 0) if known in ("pointwise", "reduction", "scatter") else (0, 0)
