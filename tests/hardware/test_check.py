"""Checking a spec file: every fault is found at once, with its line."""

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costmodel.errors import SpecError
from costmodel.hardware import check, load

BAD = """\
schema: 2
name: nvidia/bad
title: TBD
vendor: NVIDIA
family: hoper
chip: GH100
year: 2022
scope: one GPU
units:
  kind: SM
  count: {value: 132, source: [DBG, NS], status: confirmed}
clocks:
  base: {value: 2590 MHz, source: [DBG], status: single}
  boost: {value: 1980 MHz, source: [DBG, NS], status: confirmed}
compute:
  matrix:
    bf16: {value: 989.4, source: [MLA, AIC], status: confirmed}
    fp16: {value: 989.4 TFLOP/s, source: [MLA, ACI], status: confirmed}
    fp8: {value: 1979 TB/s, source: [MLA, AIC], status: confirmed}
    int9: {value: 1979 TOP/s, source: [MLA], status: single}
  vector:
    fp32: {value: 0 TFLOP/s, source: [DBG], status: single}
memory:
  hbm:
    technology: HBM3
    capacity: {value: 3 B, source: [DBG], status: single}
    bandwith: {value: 3350 GB/s, source: [AIC], status: single}
    bandwidth: {value: 10 PB/s, source: [AIC], status: confirmed}
  l2:
    capacity: {value: "?", source: [DBG], status: single}
  l2:
    capacity: {value: 50 MiB, source: [DBG], status: single}
  shared:
    capacity: {value: -228 KiB, source: [mem], status: memory}
latency:
  launch: {value: 2 us, status: assumed}
  step: {value: 1 us, status: assumed, range: [2 us, 3 us], reason: a guess}
power:
  tdp: {value: null, source: [DBG], status: guessed}
"""

# (line, part of the path, part of the message), counted by hand in the text above.
FAULTS = [
    (1, "schema", "wanted schema version 1, got 2"),
    (3, "title", "placeholder 'TBD'"),
    (5, "family", "did you mean 'hopper'"),
    (13, "clocks.base", "clocks.base of 2.59 GHz is above clocks.boost of 1.98 GHz"),
    (17, "compute.matrix.bf16.value", "got 989.4 without a unit"),
    (18, "compute.matrix.fp16.source.1", "unknown source 'ACI'; did you mean 'AIC'"),
    (19, "compute.matrix.fp8.value", "bytes/s"),
    (20, "compute.matrix.int9", "did you mean 'int8' or 'int4'"),
    (22, "compute.vector.fp32", "impossible value 0 FLOP/s"),
    (26, "memory.hbm.capacity", "impossible value 3 B"),
    (27, "memory.hbm.bandwith", "did you mean 'bandwidth'"),
    (28, "memory.hbm.bandwidth", "impossible value 10 PB/s"),
    (28, "memory.hbm.bandwidth", "'confirmed' needs two sources"),
    (30, "memory.l2.capacity.value", "placeholder '?'"),
    (31, "memory.l2", "duplicate key, first on line 29"),
    (34, "memory.shared.capacity", "impossible value -233.5 kB"),
    (36, "latency.launch", "needs a reason and a range"),
    (37, "latency.step", "outside its range"),
    (39, "power.tdp.value", "placeholder 'null'"),
    (39, "power.tdp.status", "guessed"),
]


def test_every_fault_is_found_at_once_with_its_line(write):
    found = check(write(BAD))
    for line, keys, message in FAULTS:
        matching = [f for f in found if f.line == line and ".".join(f.keys).startswith(keys)]
        assert any(message in fault.message for fault in matching), (line, message, matching)
    # Nothing else is reported, except what follows from a missing value.
    assert len(found) <= len(FAULTS) + 1, [str(f) for f in found]
    assert [fault.line for fault in found] == sorted(fault.line for fault in found)


def test_loading_a_bad_file_names_the_first_fault_and_the_command(write):
    path = write(BAD)
    with pytest.raises(SpecError, match=r"line 1: schema: .* faults in all.*costmodel check") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_valid_file_has_no_fault(sound, write):
    assert check(write(sound)) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # The vendor's figures with 2:4 sparsity.
        ("value: 989.4 TFLOP/s", "value: 1979 TFLOP/s", "sparse"),
        ("value: 1979 TFLOP/s", "value: 3958 TFLOP/s", "sparse"),
        ("value: 494.7 TFLOP/s", "value: 989.4 TFLOP/s", "sparse"),
        ("fp32:\n      value: 66.9 TFLOP/s", "fp32:\n      value: 669 TFLOP/s", "FLOP per clock"),
        ("value: 50 MiB", "value: 500 GB", "impossible"),
        ("value: 80 GB", "value: 80 TB", "impossible"),
        ("value: 3350 GB/s", "value: 3350 GB", "bytes/s"),
        ("value: 3350 GB/s", "value: 3350", "unit|string"),
        ("value: 3350 GB/s", "value: 33500 GB/s", "above"),
        # Capacity and bandwidth are each possible, but not together.
        ("value: 3350 GB/s", "value: 3.35 GB/s", "read 80 GB in 23.88 s, where HBM3 takes 5 ms to 200 ms"),
        ("value: 3350 GB/s", "value: 335 GB/s", "a slip of a unit"),
        ("value: 700 W", "value: 700 kW", "impossible"),
        ("value: 1830 MHz", "value: 2830 MHz", "above"),
        ("year: 2022", "year: soon", "integer"),
        ("kind: SM", "kind: MS", "SM"),
        ("name: nvidia/h100-sxm", "name: H100", "pattern"),
        ("status: assumed", "status: sure", "assumed"),
        # Ten times too low; one-way and total of a link confused; PCI Express with both directions added.
        ("value: 989.4 TFLOP/s", "value: 98.94 TFLOP/s", "far below"),
        ("total: {value: 900 GB/s", "total: {value: 450 GB/s", "not twice"),
        ("value: 450 GB/s", "value: 900 GB/s", "not twice"),
        ("value: 450 GB/s", "value: 1800 GB/s", "not twice"),
        ("value: 63.02 GB/s", "value: 126.04 GB/s", "5.0 x16 has 63.02 GB/s one way"),
        ("value: 63.02 GB/s", "value: 31.51 GB/s", "5.0 x16 has 63.02 GB/s one way"),  # 4.0's
        ("year: 2022", "year: 20240", "wanted 1990 to"),
        ("year: 2022", "year: 1022", "wanted 1990 to"),
        ("vendor: NVIDIA", "vendor: AMD", "wanted NVIDIA, who makes that family"),
        ("name: nvidia/", "name: amd/", "wanted nvidia/…, as its vendor"),
        ("kind: SM", "kind: CU", "units of NVIDIA are SM"),
        ("kind: SM", "kind: SM\n  array: {value: 0, source: [mem], status: memory}", "impossible value 0"),
    ],
)
def test_one_slip_is_found_on_its_line(sound, write, old, new, message):
    assert old in sound
    faults = check(write(sound.replace(old, new, 1)))
    assert any(re.search(message, fault.message) for fault in faults), [str(f) for f in faults]
    if message.startswith(("wanted nv", "wanted NV", "units of")):
        assert len(faults) == 1  # these slips cause no further faults
    # The fault of a figure on several lines may be at any of them.
    line = sound[: sound.index(old)].count("\n") + 1
    assert any(abs(fault.line - line) <= 1 for fault in faults), [str(f) for f in faults]


UNKNOWN_FAMILY = """\
compute:
  matrix:
    tf32: {{value: {tf32} TFLOP/s, source: [mem], status: memory}}
    bf16: {{value: {bf16} TFLOP/s, source: [mem], status: memory}}
    fp16: {{value: {fp16} TFLOP/s, source: [mem], status: memory}}
    fp8: {{value: {fp8} TFLOP/s, source: [mem], status: memory}}

memory:"""


@pytest.mark.parametrize(
    ("rates", "suspect"),
    [
        ({}, None),
        ({"bf16": 1979}, "bf16"),
        ({"fp16": 1979}, "fp16"),
        ({"fp8": 3958}, "fp8"),
        ({"bf16": 1979, "fp16": 1979}, "bf16"),
    ],
)
def test_sparse_rate_is_found_in_an_unknown_family(sound, write, rates, suspect):
    dense = {"tf32": 494.7, "bf16": 989.4, "fp16": 989.4, "fp8": 1979}
    compute = UNKNOWN_FAMILY.format(**{**dense, **rates})
    text = re.sub(r"compute:\n.*?\nmemory:", compute, sound, count=1, flags=re.DOTALL)
    faults = check(write(text.replace("family: hopper", "family: other")))
    assert bool(faults) == bool(suspect), [str(f) for f in faults]
    if suspect:
        assert any(f.keys == ("compute", "matrix", suspect) and "sparse" in f.message for f in faults)


@pytest.mark.parametrize("family", ["hopper", "other"])
def test_unknown_vendor_may_use_any_family_and_name_of_units(sound, write, family):
    """Years from 1990 to the next are valid."""
    text = sound.replace("family: hopper", f"family: {family}").replace("vendor: NVIDIA", "vendor: ACME")
    text = text.replace("name: nvidia/", "name: acme/").replace("kind: SM", "kind: CU")
    for year in (1990, datetime.now(UTC).year + 1):
        assert check(write(text.replace("year: 2022", f"year: {year}"))) == []


def test_yaml_bomb_is_refused_without_expanding_it(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    faults = check(write("\n".join(lines)))
    aliases = [fault for fault in faults if fault.message.startswith("alias *")]
    assert [fault.line for fault in aliases] == list(range(2, 13))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mapping"),
        ("- a\n- b\n", "mapping"),
        ("just text", "mapping"),
        ("{}", "required"),
        ("a: [1, 2\nb: 3\n", "not YAML"),
        ("a:\n\tb: 1\n", "not YAML"),
        ("[" * 5000, "nested deeper"),
        ("a: !!python/object/apply:os.system [true]\n", "unknown key"),
        ("a: !!python/name:os.system x\n", "plain text"),
        ("<<: {name: x}\n", "unknown key"),
        ("? [a, b]\n: c\n", "unknown key"),
    ],
)
def test_text_that_is_no_spec_has_faults(write, text, message):
    faults = check(write(text))
    assert any(message in fault.message for fault in faults), [str(f) for f in faults]


def test_unreadable_files_are_refused(tmp_path, write):
    with pytest.raises(SpecError, match="larger than 256 KiB"):
        check(write("a: b\n" * 100_000))
    with pytest.raises(SpecError, match="No such file"):
        check(tmp_path / "nothing.yaml")
    with pytest.raises(SpecError, match="cannot read"):
        check(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(SpecError, match="UTF-8"):
        check(binary)


@given(st.text(max_size=200))
def test_any_text_has_faults_and_causes_no_crash(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "spec.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    assert check(path)
