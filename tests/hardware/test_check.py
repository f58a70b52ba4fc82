"""Checking a spec file: every fault is found at once, with its line."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from costmodel.errors import SpecError
from costmodel.hardware import check, load
from costmodel.hardware.plausible import bounds, not_dense, off_the_form
from costmodel.hardware.quantities import Power
from costmodel.hardware.tables import families
from costmodel.units import parse

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


def test_fault_in_a_list_is_on_the_line_of_its_entry(sound, write):
    text = re.sub(r"source: \[(\w+), \w+\]", r"source: [\1,\n\n          NOWHERE]", sound, count=1)
    line = text[: text.index("NOWHERE")].count("\n") + 1
    assert [fault.line for fault in check(write(text)) if "NOWHERE" in fault.message] == [line]


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
        ("name: nvidia/h100-sxm", "name: H100", r"wanted vendor/device in small letters, .*, got 'H100'$"),
        ("status: assumed", "status: sure", r"^wanted 'confirmed', .* or 'measured', got 'sure'$"),
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


@pytest.mark.parametrize(
    ("status", "more", "message"),
    [
        ("confirmed", {"source": ["AIC", "NS"]}, None),
        ("confirmed", {"source": ["AIC"]}, "needs two sources"),
        ("confirmed", {"source": ["AIC", "mem", "calc"]}, "needs two sources"),
        ("single", {"source": ["AIC"]}, None),
        ("single", {"source": ["mem"]}, "'single' needs the key of a source"),
        ("measured", {}, "'measured' needs the key of a source"),
        ("derived", {"note": "7 × 100 W"}, None),
        ("derived", {"source": ["AIC"]}, "needs the arithmetic"),
        ("assumed", {"reason": "as its peers", "range": ["600 W", "800 W"]}, None),
        ("assumed", {"reason": "as its peers", "range": ["700 W", "700 W"]}, None),
        ("assumed", {"reason": "as its peers"}, "needs a reason and a range"),
        ("assumed", {"range": ["600 W", "800 W"]}, "needs a reason and a range"),
        ("memory", {}, None),
        ("memory", {"range": ["600 W", "650 W"]}, "outside its range"),
        ("memory", {"range": ["750 W", "800 W"]}, "outside its range"),
    ],
)
def test_a_status_is_earned(status, more, message):
    given = {"value": "700 W", "status": status, **more}
    if message is None:
        figure = Power(**given)
        with pytest.raises(ValidationError, match="frozen"):
            figure.value = "1 W"
        return
    with pytest.raises(ValidationError, match=message):
        Power(**given)


@pytest.mark.parametrize(
    ("form", "gigabytes"),
    [
        ("1.0 x16", 4.0),
        ("2.0 x16", 8.0),
        ("3.0 x16", 15.75),
        ("4.0 x8", 15.75),
        ("4.0 x16", 31.51),
        ("5.0 x16", 63.02),
        ("6.0 x16", 121.0),
    ],
)
def test_pci_express_gives_what_its_specifications_say(form, gigabytes):
    """PCI-SIG's rates one way; twice as much are both ways, half as much are another generation's."""
    keys, links = ("links", "PCIe", "oneway"), {"PCIe": {"form": form}}
    for times, sound in ((1.0, True), (0.8, True), (0.5, False), (2.0, False)):
        assert (not list(off_the_form({keys: times * gigabytes * 1e9}, links))) == sound


def test_a_figure_is_bounded_by_its_kind_and_by_its_neighbours():
    """A clock lies from 100 MHz to 10 GHz, no base above a boost; L2 is faster, and smaller, than memory."""
    base, boost = ("clocks", "base"), ("clocks", "boost")
    assert bounds(base, {}) == (100e6, 10e9)
    assert bounds(base, {boost: 2e9}) == (100e6, 2e9)
    assert bounds(boost, {base: 1e9, ("clocks", "max"): 3e9}) == (1e9, 3e9)
    hbm, l2, l3 = (("memory", level, "bandwidth") for level in ("hbm", "l2", "l3"))
    assert bounds(hbm, {l2: 5e12, l3: 4e12})[1] == 4e12
    assert bounds(l2, {hbm: 3e12}) == (3e12, 10e15)
    # Neighbours of other figures are none of its own.
    assert bounds(hbm, {("clocks", "max"): 3e9, base: 1e14}) == bounds(hbm, {}) == (1e9, 1e14)
    with pytest.raises(KeyError):
        bounds(("units", "kind"), {})


@pytest.mark.parametrize(
    ("family", "units", "hertz", "dense"),
    [
        # Tera-operations per second of NVIDIA's A100 and B200 datasheets, and of AMD's of MI210.
        ("ampere", 108, 1.41e9, {"tf32": 156, "bf16": 312, "fp16": 312, "int8": 624, "int4": 1248}),
        ("blackwell", 148, 1.85e9, {"bf16": 2250, "fp8": 4500, "fp4": 9000}),
        ("cdna2", 104, 1.7e9, {"fp64": 45.3, "fp16": 181, "bf16": 181}),
    ],
)
def test_rates_of_datasheets_are_dense_and_twice_those_are_not(family, units, hertz, dense):
    made, device = families()[family], {("units", "count"): units, ("clocks", "boost"): hertz}
    for dtype, tera in dense.items():
        keys = ("compute", "matrix", dtype)
        assert list(not_dense(device | {keys: tera * 1e12}, made)) == []
        (found,) = not_dense(device | {keys: 2 * tera * 1e12}, made)
        assert found[0] == keys
        assert "a sparse rate? give the dense one" in found[1]
        said = re.search(r"above the dense (.*) of units", found[1])
        assert said
        assert parse(said[1], "FLOP/s") == pytest.approx(tera * 1e12, rel=0.03)
        slow = list(not_dense(device | {keys: tera * 1e11}, made))
        assert bool(slow) == (dtype not in ("fp64", "int8", "int4"))  # of which some boards have little


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


def test_a_value_of_another_form_is_told_the_form(sound, write):
    """In words of YAML, not of the library that checks."""
    path = write(re.sub(r"(?m)^power:\n(  .*\n)+", "power: 700 W\n", sound))
    assert [f.message for f in check(path)] == ["wanted a mapping with keys among tdp, got '700 W'"]
    path = write(re.sub(r"source: \[[^\]]+\]", "source: mem", sound, count=1))
    assert "wanted a list, such as [mem], got 'mem'" in [f.message for f in check(path)]


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
        ("a: \x07\n", "not YAML: .*not allowed"),
        ("[" * 5000, "nested deeper"),
        ("a: !!python/object/apply:os.system [true]\n", "unknown key"),
        ("a: !!python/name:os.system x\n", "plain text"),
        ("<<: {name: x}\n", "unknown key"),
        ("? [a, b]\n: c\n", "unknown key"),
    ],
)
def test_text_that_is_no_spec_has_faults(write, text, message):
    faults = check(write(text))
    assert any(re.search(message, fault.message) for fault in faults), [str(f) for f in faults]


@pytest.mark.parametrize(
    ("text", "line"), [("a:\n\tb: 1\n", 2), ("a: 1\n\nb: }\n", 3), ("a: 1\nb:\n- " + "[" * 30, 3)]
)
def test_text_that_is_not_yaml_has_its_fault_where_reading_ended(write, text, line):
    assert [fault.line for fault in check(write(text)) if fault.keys == ()] == [line]


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


def paths(told: object, above: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Yield the path of every entry of a file."""
    for key, value in told.items() if isinstance(told, dict) else ():
        yield (*above, key)
        yield from paths(value, (*above, key))


@pytest.mark.parametrize("other", [5, "x", None, [{}]], ids=repr)
def test_entry_of_another_kind_causes_no_crash(sound, write, other):
    """Every section and every figure in turn is what its key does not lead one to expect."""
    told = yaml.safe_load(sound)
    told["compute"] = {engine: dict(list(rates.items())[:1]) for engine, rates in told["compute"].items()}
    assert check(write(yaml.safe_dump(told))) == []
    for *above, key in list(paths(told)):
        section = told
        for each in above:
            section = section[each]
        kept, section[key] = section[key], other
        assert check(write(yaml.safe_dump(told))) or other != [{}], (*above, key)
        section[key] = kept


@given(st.text(max_size=200))
def test_any_text_has_faults_and_causes_no_crash(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "spec.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    assert check(path)
