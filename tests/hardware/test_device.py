"""What a device answers: peaks, memory, provenance and what-ifs."""

import math
import pickle

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import costmodel as cm
from costmodel import units
from costmodel.dtypes import DTYPES
from costmodel.errors import CostmodelError, NoRateError, SpecError, UnavailableError, UnknownNameError
from costmodel.hardware import available, load, parse_device_set
from costmodel.hardware.whatif import bounds
from costmodel.layers import get as get_layer


def test_fp32_peak_is_that_of_the_fastest_engine_without_tf32():
    # AMD MI210 data sheet: 22.6 TFLOP/s vector, 45.3 matrix. NVIDIA has no FP32 matrix rate.
    assert load("amd/mi210").peak("fp32") == 45.3e12
    assert load("amd/mi210").peak("fp32", "vector") == 22.6e12
    assert load("nvidia/a100-sxm-80gb").peak("fp32") == 19.5e12
    assert load("nvidia/a100-sxm-80gb").peak("tf32") == 156e12


def test_peaks_are_dense():
    # Each vendor's sparse figure is twice these.
    assert load("nvidia/h100-sxm").peak("bf16") == 989.4e12
    assert load("nvidia/a100-sxm-40gb").peak("fp16") == 312e12
    assert load("amd/mi300x").peak("fp8") == 2614.9e12
    assert load("nvidia/gb200").peak("bf16") == 2500e12


@pytest.mark.parametrize(
    ("name", "dtype", "has"),
    [
        ("nvidia/v100-sxm2-16gb", "bf16", "fp16"),
        ("nvidia/v100-sxm2-16gb", "tf32", "fp32"),
        ("nvidia/p100-sxm2-16gb", "bf16", "fp16"),
        ("google/tpu-v5e", "fp16", "bf16"),
        ("amd/mi210", "tf32", "fp32"),
    ],
)
def test_format_that_a_device_lacks_is_refused_with_those_it_has(name, dtype, has):
    with pytest.raises(UnavailableError, match=rf"{name} has no {dtype} rate; it has .*{has}"):
        load(name).peak(dtype)


@pytest.mark.parametrize("name", available())
def test_format_suggested_instead_is_one_that_the_device_has(name):
    device = load(name)
    for dtype in set(DTYPES) - set(device.formats):
        with pytest.raises(NoRateError) as refused:
            device.peak(dtype)
        # Workers of a sweep send their errors pickled.
        sent = pickle.loads(pickle.dumps(refused.value))
        assert (str(sent), sent.instead) == (str(refused.value), refused.value.instead)
        assert sent.instead in device.formats


def test_fp16_peak_without_tensor_cores_is_packed_or_that_of_fp32():
    # P100: twice the fp32 rate. GTX 1080 Ti: 1/64 of it, so software computes in fp32.
    assert load("nvidia/p100-sxm2-16gb").peak("fp16") == pytest.approx(2 * 10.6e12)
    assert load("nvidia/gtx-1080-ti").peak("fp16") == load("nvidia/gtx-1080-ti").peak("fp32")


def test_elementwise_work_in_a_format_without_a_vector_rate_runs_in_fp32():
    h200 = load("nvidia/h200-sxm")
    assert h200.peak("fp8", "vector") == h200.peak("fp32", "vector")
    assert h200.peak("bf16", "special") == h200.peak("fp32", "special")
    with pytest.raises(UnavailableError):
        load("google/tpu-v4").peak("fp64", "vector")
    with pytest.raises(
        UnavailableError, match=r"no fp4 matrix rate; it has fp64, tf32, bf16, fp16, fp8, int8$"
    ):
        h200.peak("fp4", "matrix")


def test_special_functions_are_16_per_unit_and_clock():
    # CUDA C++ programming guide, throughput of native arithmetic: 16 per SM and clock on 9.0.
    assert load("nvidia/h100-sxm").peak("fp32", "special") == pytest.approx(132 * 16 * 1.98e9, rel=1e-3)


@pytest.mark.parametrize("name", [name for name in available() if name.startswith("google/")])
def test_fp32_products_are_passes_of_bf16_on_a_tpu(name):
    """Precision "highest" takes six passes; a bound allows the three of "high", which is less than fp32."""
    tpu = load(name)
    assert tpu.engine("fp32") == "matrix"
    assert tpu.peak("fp32") == tpu.peak("fp32", "matrix") == pytest.approx(tpu.peak("bf16") / 6, rel=2e-3)
    assert tpu.boost_peak("fp32") == pytest.approx(tpu.boost_peak("bf16") / 3, rel=3e-3)
    # Other fp32 work runs on the vector unit.
    assert tpu.peak("fp32", "vector") == tpu.spec.compute.vector["fp32"].si < tpu.peak("fp32")


def test_unknown_dtype_and_engine_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'bf16'"):
        load("nvidia/h200-sxm").peak("bf17")
    with pytest.raises(UnknownNameError, match="unknown engine 'tensor'"):
        load("nvidia/h200-sxm").peak("bf16", "tensor")


# MHz of the stated matrix peak, and the highest boost (vendor tables via hardware.csv).
CLOCKS = [
    ("nvidia/h100-sxm", 1830, 1980),
    ("nvidia/h200-sxm", 1830, 1980),
    ("nvidia/a100-sxm-80gb", 1410, 1410),
    ("nvidia/b200-sxm", 1856, 1965),
    ("nvidia/l40s", 2490, 2520),
]


@pytest.mark.parametrize(("name", "stated", "boost"), CLOCKS)
def test_boost_peak_scales_the_stated_peak_by_the_clocks(name, stated, boost):
    device = load(name)
    assert device.peak_clock_ratio == pytest.approx(boost / stated)
    assert device.boost_peak("bf16") == pytest.approx(device.peak("bf16") * boost / stated)
    assert device.boost_peak("fp32") == pytest.approx(device.peak("fp32"))


@pytest.mark.parametrize("engine", [None, "matrix", "vector", "special"])
@pytest.mark.parametrize("name", ["nvidia/p4", "amd/mi210", "google/tpu-v5e", "cpu/i9-13900k"])
def test_has_agrees_with_peak(name, engine):
    device = load(name)
    for dtype in DTYPES:
        if device.has(dtype, engine):
            assert device.peak(dtype, engine) > 0
        else:
            with pytest.raises(UnavailableError, match=dtype):
                device.peak(dtype, engine)


@pytest.mark.parametrize("name", available())
def test_boost_is_never_below_the_stated_peak(name):
    device = load(name)
    assert device.peak_clock_ratio >= 1
    for engine in ("matrix", "vector", "special"):
        for dtype in getattr(device.spec.compute, engine):
            assert device.boost_peak(dtype, engine) >= device.peak(dtype, engine) > 0


def test_boost_peak_of_an_assumed_rate_is_the_end_of_its_range():
    """An unpublished rate must not limit a measurement: TPU v6e's vector unit has 4 units' width, or 16."""
    v6e, v5e = load("google/tpu-v6e"), load("google/tpu-v5e")
    rate = v6e.spec.compute.vector["fp32"]
    assert v6e.peak("fp32", "vector") == rate.si
    assert v6e.boost_peak("fp32", "vector") == rate.ends[1] > rate.si
    assert v5e.boost_peak("fp32", "vector") == v5e.peak("fp32", "vector")
    # A what-if of all rates keeps their range; one of the rate itself has none.
    assert v6e.replace(units=2).boost_peak("fp32") == pytest.approx(2 * v6e.boost_peak("fp32"))
    assert v6e.replace(fp32="8 TFLOP/s").boost_peak("fp32", "matrix") == 8e12


NATIVE = {
    "nvidia/k80": None,
    "nvidia/titan-xp": None,
    "nvidia/p100-pcie-16gb": "fp16",
    "nvidia/v100-sxm2-16gb": "fp16",
    "nvidia/t4": "fp16",
    "nvidia/a100-sxm-80gb": "bf16",
    "amd/mi25": "fp16",
    "amd/mi300x": "bf16",
    "google/tpu-v4": "bf16",
    "cpu/epyc-9654": "bf16",
    "cpu/i9-13900k": None,
}


@pytest.mark.parametrize(("name", "dtype"), NATIVE.items())
def test_native_16bit_format(name, dtype):
    assert load(name).native_16bit == dtype


@pytest.mark.parametrize(
    ("name", "raised"),
    [
        ("rtx-3090", 1.12), ("rtx-4090", 1.116), ("rtx-5090", 1.142), ("rtx-a6000", 1.083),
        ("l40s", 1), ("l20", 1), ("a10g", 1), ("h200-sxm", 1),
    ],
)  # fmt: skip
def test_geforce_and_rtx_boards_raise_their_clock_halfway_to_the_drivers_ceiling(name, raised):
    """By hand, from each spec's boost and highest clock; boards of data centres do not."""
    assert load(name).raised == pytest.approx(raised, abs=2e-3)


def test_clock_that_is_set_is_not_raised_and_a_multiple_is():
    geforce = load("rtx-4090")
    assert geforce.replace(clock="2.52 GHz").raised == 1
    assert geforce.replace(clock="2x").raised == pytest.approx(geforce.raised)
    held = geforce.replace(clock="2.52 GHz")
    assert held.boost_peak("fp16") == held.peak("fp16") == pytest.approx(geforce.peak("fp16"))


@pytest.mark.parametrize("name", ["b100", "i9-13900k"])
def test_highest_clock_that_is_no_drivers_ceiling_raises_nothing(name):
    """B100's only bounds an assumed boost; a 13900K reaches its on two cores alone."""
    device = load(name)
    assert device.spec.clocks.max.si > device.clock_hz
    assert device.raised == 1


@pytest.mark.parametrize(
    ("name", "dtype", "engine"),
    [
        ("p100-pcie-16gb", "fp16", "fp32"),
        ("v100-pcie-32gb", "fp16", "fp16"),
        ("p100-pcie-16gb", "fp64", "fp64"),
    ],
)
def test_products_without_tensor_cores_are_no_faster_than_their_sums(name, dtype, engine):
    """P100's 16-bit products run at 9 to 10 TFLOP/s in torch (torch-performance-test-data, issue 174)."""
    device = load(name)
    assert device.product_peak(dtype) == device.peak(engine)


def test_other_names_of_a_format_have_the_same_engine():
    device = load("h200-sxm")
    assert device.engine("torch.bfloat16") == "matrix"
    assert device.product_peak("bfloat16") == device.peak("bf16", "matrix")


def test_formats_are_those_with_a_rate():
    assert load("p100-pcie-16gb").formats == ("fp64", "fp32", "fp16")
    assert set(load("h200-sxm").matrix_dtypes) < set(load("h200-sxm").formats)


def test_memory_capacities_are_those_of_the_datasheets():
    h100 = load("nvidia/h100-sxm")
    assert h100.hbm_capacity == 80e9
    assert h100.l2_capacity == h100.llc_capacity == 50 * 2**20
    assert (h100.shared_per_unit, h100.registers_per_unit) == (228 * 2**10, 256 * 2**10)
    assert h100.onchip_capacity == 132 * (228 + 256) * 2**10
    mi300x = load("amd/mi300x")
    assert (mi300x.l2_capacity, mi300x.llc_capacity) == (32 * 2**20, 256 * 2**20)
    # The chip's software-managed memory, divided among its cores.
    assert load("google/tpu-v5p").shared_per_unit == 64 * 2**20
    assert load("google/tpu-v5p").l2_capacity == 0
    assert load("google/tpu-v5p").l2_bandwidth is None
    assert load("cpu/epyc-9654").shared_per_unit == 2**20


def test_missing_and_assumed_figures_are_named():
    tpu, h100 = load("google/tpu-v7"), load("nvidia/h100-sxm")
    assert {"clock_base", "l2_capacity", "l2_bandwidth", "tdp", "special_fp32"} <= set(tpu.missing)
    assert h100.missing == ()
    assert "clocks.boost" in tpu.assumed
    assert h100.assumed == ("latency.launch", "latency.step")


def test_devices_compare_hash_and_pickle_by_value():
    one, other = load("nvidia/h200-sxm"), load("H200")
    assert one == other
    assert one not in (load("nvidia/h100-sxm"), one.replace(hbm="2x"), one.name)
    assert len({one, other, load("nvidia/h100-sxm")}) == 2
    assert pickle.loads(pickle.dumps(one)) == one
    assert len(one.spec_hash) == 12
    assert len({load(name).spec_hash for name in available()}) == len(available())


def test_order_of_entries_in_a_file_does_not_matter(sound, write):
    def reversed_(told):
        return {k: reversed_(v) for k, v in reversed(told.items())} if isinstance(told, dict) else told

    other = write(yaml.safe_dump(reversed_(yaml.safe_load(sound)), sort_keys=False))
    assert load(other).spec_hash == load("nvidia/h100-sxm").spec_hash


def test_adding_a_network_keeps_the_devices_name():
    alone = load("nvidia/a100-sxm-80gb")
    joined = alone.replace(network="50 GB/s")
    assert joined.spec.links["network"].oneway.si == 50e9
    assert joined.name == alone.name
    assert joined.spec_hash != alone.spec_hash
    assert joined.replace(hbm="3 TB/s").name == f"{alone.name}*"
    assert alone.replace(hbm="3 TB/s", network="50 GB/s").name == f"{alone.name}*"


def test_network_does_not_replace_links_within_a_node():
    """However fast the port to other nodes, traffic within a node uses the device's own links."""
    alone = load("nvidia/a100-pcie-80gb")
    joined = alone.replace(network="900 GB/s")
    assert joined.link_bandwidth == alone.link_bandwidth == 32e9
    sizes = {"batch": 1, "heads": 32, "head_dim": 128, "seq": 1024, "devices": 8}
    bounds = [cm.predict(get_layer("ring-attention")(), d, rung="bound", **sizes) for d in (alone, joined)]
    assert bounds[0].bound == "link"
    assert bounds[0].seconds == bounds[1].seconds
    cpu = load("cpu/i9-13900k").replace(network="50 GB/s")
    assert cpu.link_bandwidth is None
    assert "link" in cpu.missing


def test_replace_changes_the_named_figures_and_marks_them():
    before = load("nvidia/h200-sxm")
    after = before.replace(hbm="6 TB/s", power="500 W", l2="60 MB", launch="3 us", bf16="1.2 PFLOP/s")
    assert (after.hbm_bandwidth, after.tdp_w, after.l2_capacity) == (6e12, 500, 60e6)
    assert (after.launch_s, after.peak("bf16")) == (3e-6, 1.2e15)
    assert (after.peak("fp16"), after.hbm_capacity) == (before.peak("fp16"), before.hbm_capacity)
    assert after.name == "nvidia/h200-sxm*"
    assert after.replace(step="1 us").name == "nvidia/h200-sxm*"
    assert after.spec_hash != before.spec_hash
    changed = {path for path, figure in after.quantities.items() if figure.reason == "what-if"}
    assert changed == {
        "memory.hbm.bandwidth",
        "memory.l2.capacity",
        "latency.launch",
        "compute.matrix.bf16",
        "power.tdp",
    }
    assert before == load("nvidia/h200-sxm")


def test_replacing_units_or_clock_scales_the_rates():
    h200 = load("nvidia/h200-sxm")
    half = h200.replace(units=66)
    assert half.peak("bf16") == pytest.approx(h200.peak("bf16") / 2)
    assert half.onchip_capacity == h200.onchip_capacity / 2
    # Rates stated at another clock than boost keep their ratio to the boost rate.
    slow = h200.replace(clock="990 MHz")
    assert slow.peak("bf16") == pytest.approx(h200.peak("bf16") / 2)
    assert slow.boost_peak("bf16") == pytest.approx(h200.boost_peak("bf16") / 2)
    assert slow.clock_hz == h200.clock_hz / 2
    for name in ("h200-sxm", "xeon-8480plus", "b100"):
        same = load(name).replace(clock=f"{load(name).clock_hz} Hz")
        assert same.peak("bf16") == pytest.approx(load(name).peak("bf16"))
        assert same.boost_peak("bf16") == pytest.approx(load(name).boost_peak("bf16"))
    assert h200.replace(units=66, bf16="1 PFLOP/s").peak("bf16") == 1e15


def test_replacing_link_changes_the_fastest_link():
    h200 = load("h200-sxm")
    faster = h200.replace(link="2x")
    assert faster.link_bandwidth == 2 * h200.link_bandwidth
    assert (
        faster.spec.links[faster.spec.fastest_link].total is None
    )  # the total of both directions is then unknown
    assert faster.spec.links["pcie"] == h200.spec.links["pcie"]
    assert h200.replace(link="300 GB/s").link_bandwidth == 3e11
    with pytest.raises(SpecError, match="no link within a node is known"):
        load("cpu/i9-13900k").replace(link="2x")


def test_replace_with_nothing_is_the_same():
    assert load("nvidia/h200-sxm").replace() == load("nvidia/h200-sxm")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"hbn": "6 TB/s"}, UnknownNameError, "did you mean 'hbm'"),
        ({"hbm": "6 TB"}, SpecError, "bytes/s"),
        ({"hbm": 6e12}, SpecError, "without a unit"),
        ({"hbm": "10 PB/s"}, SpecError, "impossible value 10 PB/s"),
        ({"l2": "200 GB"}, SpecError, "impossible|above"),
        ({"power": "0 W"}, SpecError, "impossible"),
        ({"power": "-5 W"}, SpecError, "impossible"),
        ({"units": 0}, SpecError, "whole number"),
        ({"units": 2.5}, SpecError, "whole number"),
        ({"units": float("nan")}, SpecError, "whole number"),
        ({"units": "many"}, SpecError, "whole number"),
        ({"clock": "1e400 Hz"}, SpecError, "too large"),
        ({"hbm": "x2"}, SpecError, "'x2'"),
        ({"units": "1.001x"}, SpecError, "whole number"),
        ({"network": "2x"}, SpecError, "figure that the spec lacks"),
    ],
)
def test_replace_refuses_invalid_changes(changes, error, message):
    with pytest.raises(error, match=message) as caught:
        load("nvidia/h200-sxm").replace(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("multiple", "figures"),
    [
        ({"hbm": "2x"}, {"hbm": "9.6 TB/s"}),
        ({"l2": "4 x", "hbm_capacity": "0.5x"}, {"l2": "200 MiB", "hbm_capacity": "70.5 GB"}),
        ({"units": "2x", "clock": "1.2×"}, {"units": 264, "clock": "2.376 GHz"}),
        ({"bf16": "3x"}, {"bf16": "2968.2 TFLOP/s"}),
    ],
)
def test_multiple_is_relative_to_the_figure(multiple, figures):
    h200 = load("nvidia/h200-sxm")
    by_multiple, by_figure = (h200.replace(**changes).quantities for changes in (multiple, figures))
    assert {n: f.si for n, f in by_multiple.items()} == pytest.approx({n: f.si for n, f in by_figure.items()})


@pytest.mark.parametrize(
    ("name", "times"), [("h200-sxm", 2), ("b200-sxm", 2), ("a100-sxm-80gb", 1), ("mi300x", 1), ("a40", 1)]
)
def test_an_all_reduces_bound_halves_only_where_the_switch_adds(name, times):
    """NVSwitch adds from Hopper's on (SHARP); each number is then sent once, not nearly twice."""
    device = load(name)
    assert device.sum_bandwidth == times * device.link_bandwidth
    assert (device.switch_sums > 0) == (times == 2)


@pytest.mark.parametrize(
    "of", ["nvidia/a100-sxm-80gb", "nvidia/h100-sxm"]
)  # the second states L2's bandwidth
@pytest.mark.parametrize("name", ["hbm", "hbm_capacity", "l2", "link", "launch", "power", "bf16"])
def test_figure_may_be_changed_as_far_as_its_bounds_and_no_further(name, of):
    unit = {"hbm": "B/s", "link": "B/s", "launch": "s", "power": "W", "bf16": "FLOP/s"}.get(name, "B")
    device = load(of)
    ends = bounds(device.spec, [name])[name]
    for end, beyond in zip(ends, (0.99, 1.01), strict=True):
        device.replace(**{name: f"{end!r} {unit}"})
        with pytest.raises(SpecError, match=r"impossible|above"):
            device.replace(**{name: f"{end * beyond!r} {unit}"})


def test_format_that_no_engine_has_is_given_to_the_matrix_engine():
    faster = load("nvidia/h200-sxm").replace(fp4="4 PFLOP/s")
    assert faster.peak("fp4", "matrix") == faster.peak("fp4") == 4e15
    assert faster.engine("fp4") == "matrix"


def test_l2_bandwidth_is_raised_to_the_memorys_unless_given():
    h100 = load("nvidia/h100-sxm")
    faster = h100.replace(hbm="2x")
    assert faster.l2_bandwidth == faster.hbm_bandwidth == 2 * h100.hbm_bandwidth > h100.l2_bandwidth
    assert "memory.l2.bandwidth" in faster.assumed
    assert h100.replace(hbm="1.1x").l2_bandwidth == h100.l2_bandwidth
    assert h100.replace(hbm="2x", l2_bandwidth="11 TB/s").l2_bandwidth == 11e12
    with pytest.raises(SpecError, match="above"):
        h100.replace(hbm="2x", l2_bandwidth="6 TB/s")


@given(st.floats(1e11, 5e13), st.floats(10, 5000), st.integers(1, 1000))
def test_replacing_back_restores_the_ridge(bandwidth, power, count):
    a100 = load("nvidia/a100-sxm-80gb")
    text = units.render(bandwidth, "bytes/s", digits=17)
    device = a100.replace(hbm=text, power=f"{power!r} W", units=count)
    assert math.isclose(device.hbm_bandwidth, bandwidth, rel_tol=1e-12)
    assert (device.tdp_w, device.units) == (power, count)
    assert device.ridge("bf16") == pytest.approx(312e12 * count / 108 / bandwidth, rel=1e-8)
    back = device.replace(hbm="2039 GB/s", power="400 W", units=108)
    assert back.ridge("bf16") == pytest.approx(a100.ridge("bf16"), rel=1e-8)


def test_device_set_is_parsed_from_the_command_line():
    assert parse_device_set(["hbm=6 TB/s", "power = 500 W"]) == {"hbm": "6 TB/s", "power": "500 W"}
    for bad, message in [("hbm", "NAME=VALUE"), ("hbm=", "NAME=VALUE"), ("hbn=1 TB/s", "did you mean 'hbm'")]:
        with pytest.raises(CostmodelError, match=message):
            parse_device_set([bad])
    with pytest.raises(CostmodelError, match="twice"):
        parse_device_set(["hbm=6 TB/s", "hbm=5 TB/s"])


def test_llc_distinct_is_half_of_a_cache_in_two_partitions():
    """A100's whitepaper: each partition caches for the units connected to it."""
    assert load("nvidia/a100-sxm-80gb").llc_distinct == 20 * 2**20
    assert load("nvidia/l40s").llc_distinct == load("nvidia/l40s").l2_capacity


@pytest.mark.parametrize("factor", [1.02, 0.5, 0.05])
@pytest.mark.parametrize("name", available())
def test_replacing_a_rate_changes_that_format_alone(name, factor):
    """Below the vector rate too: an H200 of 100 TFLOP/s in bf16 once had its vector units' 133.8."""
    device = load(name)
    rates = {
        (engine, dtype): rate.si
        for engine, table in device.spec.compute
        if engine in ("matrix", "vector")
        for dtype, rate in table.items()
    }
    for dtype in {dtype for _, dtype in rates}:
        given = factor * device.peak(dtype)
        changed = device.replace(**{dtype: f"{given / 1e12!r} TFLOP/s"})
        assert changed.peak(dtype) == pytest.approx(given, rel=1e-12)
        for (engine, other), rate in rates.items():
            assert other == dtype or changed.peak(other, engine) == rate
    alike = device.replace(fp32=f"{device.peak('fp32') / 1e12!r} TFLOP/s")
    assert alike.peak("fp32") == pytest.approx(device.peak("fp32"), rel=1e-12)
