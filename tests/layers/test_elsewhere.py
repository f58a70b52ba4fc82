"""Names that frameworks and papers use for layers, in the error that says what they are called here."""

import pytest

from costmodel.errors import UnknownNameError
from costmodel.layers import available, get
from costmodel.layers._elsewhere import _MEANT


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("gemm", "matmul"),
        ("Linear", "matmul"),
        ("scaled-dot-product-attention", "attention"),
        ("sdpa", "tiled-attention"),
        ("GQA", "tiled-attention"),
        ("LayerNorm", "norm"),
        ("all_reduce", "collective"),
        ("AdamW", "optimizer-step"),
        ("paged-attention", "decode-attention"),
        ("SSD", "mamba-2"),
        ("KDA", "kimi-delta-attention"),
    ],
)
def test_the_layer_that_is_meant_is_suggested(name, layer):
    with pytest.raises(UnknownNameError, match=f"did you mean .*{layer}"):
        get(name)


def test_every_name_is_of_layers_that_exist_and_of_none_itself():
    assert {layer for layers in _MEANT.values() for layer in layers} <= set(available())
    assert not set(_MEANT) & set(available())


@pytest.mark.parametrize("name", ["conv2d", "Conv3d", "resnet-50"])
def test_modules_without_a_layer_are_to_be_captured(name):
    with pytest.raises(UnknownNameError, match="from_torch"):
        get(name)
