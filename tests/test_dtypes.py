"""Names of number formats: those of the field and of torch mean the same."""

import pytest

from costmodel.dtypes import DTYPES, dtype
from costmodel.errors import UnknownNameError

#: torch's formats, and ours.
SAME = {
    "float64": "fp64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16",
    "float8_e4m3fn": "fp8", "float8_e5m2": "fp8", "int8": "int8",
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_torchs_names_mean_formats_of_torchs_width(name):
    torch = pytest.importorskip("torch", reason="torch's own widths: pip install 'costmodel[validation]'")
    for text in (name, name.upper(), str(getattr(torch, name))):
        assert dtype(text).name == SAME[name]
    assert dtype(name).bytes == getattr(torch, name).itemsize


def test_torchs_short_names_mean_the_same_formats():
    assert dtype("half") == dtype("torch.half") == dtype("float16")
    assert dtype("double") == dtype("fp64")
    assert dtype("float") == dtype("fp32")


def test_unknown_format_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="bf16"):
        dtype("bf61")
    assert all(dtype(name) is known for name, known in DTYPES.items())
