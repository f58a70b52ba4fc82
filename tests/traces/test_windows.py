"""Pooling, resampling and padding: bytes against torch's own tensors, and which places windows touch."""

import importlib
from itertools import product

import pandas as pd
import pytest
from recorded import fp32, number, op, record, write

from costmodel.traces import read_trace
from costmodel.traces._spans import Span


def _functional():
    return importlib.import_module("torch.nn.functional")


SIDES = (9, 10, 7)
#: Operation → the call on an image with as many sides as its name says.
FORWARD = {
    "aten::max_pool2d_with_indices": lambda f, x: f.max_pool2d(x, 3, 2, 1, return_indices=True),
    "aten::max_pool2d_with_indices ceil": lambda f, x: f.max_pool2d(
        x, 2, 2, ceil_mode=True, return_indices=True
    ),
    "aten::max_pool2d_with_indices sides": lambda f, x: f.max_pool2d(
        x, (3, 2), (2, 1), (1, 0), (2, 3), return_indices=True
    ),
    "aten::max_pool3d_with_indices": lambda f, x: f.max_pool3d(x, 2, return_indices=True),
    "aten::avg_pool2d": lambda f, x: f.avg_pool2d(x, 3, 1, 1),
    "aten::avg_pool2d ceil": lambda f, x: f.avg_pool2d(x, 4, 3, 1, ceil_mode=True),
    "aten::avg_pool3d": lambda f, x: f.avg_pool3d(x, (2, 3, 2)),
    "aten::_adaptive_avg_pool2d": lambda f, x: f.adaptive_avg_pool2d(x, (3, 4)),
    "aten::adaptive_max_pool2d": lambda f, x: f.adaptive_max_pool2d(x, (2, 3), return_indices=True),
    "aten::upsample_nearest2d": lambda f, x: f.interpolate(x, scale_factor=2),
    # A last place of each side is skipped: 10 · (1/1.15) = 8.7.
    "aten::upsample_nearest2d factor": lambda f, x: f.interpolate(x, scale_factor=1.15),
    "aten::upsample_nearest2d smaller": lambda f, x: f.interpolate(x, size=(4, 3)),
    "aten::upsample_bilinear2d": lambda f, x: f.interpolate(x, size=(20, 15), mode="bilinear"),
    "aten::upsample_trilinear3d": lambda f, x: f.interpolate(x, scale_factor=1.5, mode="trilinear"),
    "aten::reflection_pad2d": lambda f, x: f.pad(x, (1, 2, 3, 0), "reflect"),
    "aten::replication_pad3d": lambda f, x: f.pad(x, (1, 2, 3, 0, 2, 2), "replicate"),
}


def _rows(table: pd.DataFrame, name: str) -> list[dict]:
    rows = table[(table["torch_op"] == name) & table["op"].str.startswith("pass_")].to_dict("records")
    return [{key: value for key, value in row.items() if not pd.isna(value)} for row in rows]


@pytest.mark.parametrize("case", FORWARD)
def test_bytes_are_those_of_the_images(torch, tmp_path, case):
    name, functional = case.split()[0], _functional()
    x = torch.randn(2, 3, *SIDES[: 3 if "3d" in name else 2])
    result = FORWARD[case](functional, x)
    results = result if isinstance(result, tuple) else (result,)
    path = record(tmp_path / "cpu.json", lambda: FORWARD[case](functional, x))
    (row,) = _rows(read_trace(path, gpu="cpu/xeon-8480plus"), name)
    assert row["read_bytes"] == x.nbytes
    assert row["written_bytes"] == sum(each.nbytes for each in results)
    assert row["m"] * row["n"] == results[0].numel()
    assert row["least_bytes"] <= _read_in_any_case(torch, lambda image: FORWARD[case](functional, image), x)


def test_one_number_stands_for_all_dimensions_and_none_for_the_widths(tmp_path):
    """``max_pool2d``'s stride is its widths unless it is given: 9 × 10 places have 3 × 3 windows of 3 × 3."""
    rest = (number("[3]"), number("[]"), number("[0]"), number("[1]"), number("False"))
    call = op("aten::max_pool2d_with_indices", 0, 9, 1, fp32(2, 3, 9, 10), *rest)
    (row,) = read_trace(write(tmp_path / "cpu.json", [call]), gpu="cpu/xeon-8480plus").to_dict("records")
    assert row["written_bytes"] == 2 * 3 * 3 * 3 * (4 + 8)
    assert row["least_bytes"] == 2 * 3 * 9 * 9 * 4


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_an_image_of_one_position_is_read_whole(torch, tmp_path, mode):
    x = torch.randn(2, 3, 1, 1)
    path = record(tmp_path / "cpu.json", lambda: _functional().interpolate(x, size=(4, 5), mode=mode))
    (row,) = _rows(read_trace(path, gpu="cpu/xeon-8480plus"), f"aten::upsample_{mode}2d")
    assert row["least_bytes"] == row["read_bytes"] == x.nbytes


def _read_in_any_case(torch, call, x) -> int:
    """Return the bytes of the places that change some result if they are not a number."""
    touched = torch.zeros(x.shape[2:], dtype=torch.bool)
    for place in product(*map(range, x.shape[2:])):
        image = torch.zeros_like(x)
        image[(..., *place)] = 1e30
        result = call(image)
        touched[place] = bool((result[0] if isinstance(result, tuple) else result).abs().sum() > 0)
    return int(touched.sum()) * x.element_size() * x.shape[0] * x.shape[1]


@pytest.mark.parametrize(
    "case", [name for name in FORWARD if name.split()[0] not in ("aten::upsample_trilinear3d",)]
)
def test_gradients_read_gradients_and_write_an_image(torch, tmp_path, case):
    functional, name = _functional(), case.split()[0]
    x = torch.randn(2, 3, *SIDES[: 3 if "3d" in name else 2], requires_grad=True)

    def program() -> None:
        result = FORWARD[case](functional, x)
        one = result[0] if isinstance(result, tuple) else result
        one.backward(torch.ones_like(one))

    result = FORWARD[case](functional, x)
    read = sum(each.nbytes for each in (result if isinstance(result, tuple) else (result,)))
    path = record(tmp_path / "cpu.json", program)
    (row,) = _rows(read_trace(path, gpu="cpu/xeon-8480plus"), f"{name}_backward")
    assert (row["read_bytes"], row["least_bytes"], row["written_bytes"]) == (read, read, x.nbytes)


@pytest.mark.parametrize("ceil", [False, True])
def test_windows_are_as_many_as_torchs_and_touch_what_a_loop_says(torch, ceil):
    for length, width, stride, padding, dilation in product(
        (11, 12), (1, 2, 3), (1, 2, 3, 5), (0, 1), (1, 2, 4)
    ):
        if 2 * padding > width:
            continue
        x, span = torch.zeros(1, 1, length), Span(length, width, stride, padding, dilation)
        outputs = span.outputs(ceil=ceil)
        result = _functional().max_pool1d(x, width, stride, padding, dilation, ceil)
        assert outputs == result.shape[-1]
        places = {o * stride - padding + t * dilation for o in range(outputs) for t in range(width)}
        assert span.touched(outputs) == len(places & set(range(length)))


def test_padding_that_cuts_sides_off_is_not_described(tmp_path):
    """What is cut off need not be read."""
    for pads, described in (("[1, 2, 0, 0]", True), ("[-1, 2, 0, 0]", False)):
        call = op("aten::reflection_pad2d", 0, 9, 1, fp32(2, 3, 9, 10), number(pads))
        (row,) = read_trace(write(tmp_path / "cpu.json", [call]), gpu="cpu/xeon-8480plus").to_dict("records")
        assert (row["op"] == "pass_copy") == described


def test_a_window_larger_than_its_side_is_none():
    with pytest.raises(ValueError, match="larger"):
        Span(3, 5).outputs()


@pytest.mark.parametrize(
    ("span", "meets"),
    [
        (Span(8, 3, padding=1), True),
        (Span(8, 3, padding=2), True),
        (Span(8, 3, padding=3), False),  # the first window lies in the padding
        (Span(8, 1, padding=1), False),
        (Span(2, 3, padding=5, dilation=5), False),  # the image fits between two taps
        (Span(2, 3, padding=4, dilation=2), True),
    ],
)
def test_windows_that_meet_padding_only_are_told(span, meets):
    """Against a loop over the windows."""
    every = all(
        any(
            0 <= window * span.stride - span.padding + tap * span.dilation < span.length
            for tap in range(span.width)
        )
        for window in range(span.outputs())
    )
    assert every or not span.meets
    assert span.meets == meets
