"""Every shipped spec is valid, and has the figures of the tables it was written from."""

import csv

import pytest

from costmodel.hardware import available, check, load, resolve
from costmodel.hardware.loader import FOLDER
from costmodel.hardware.quantities import Quantity
from costmodel.hardware.tables import families, sources

SPECS = sorted(p for p in FOLDER.glob("*/*.yaml") if not p.name.endswith(".calibration.yaml"))

REQUIRED = [
    "google/tpu-v2",
    "google/tpu-v3",
    "google/tpu-v4",
    "google/tpu-v5e",
    "google/tpu-v5p",
    "google/tpu-v6e",
    "google/tpu-v7",
    "nvidia/k80",
    "nvidia/p100-sxm2-16gb",
    "nvidia/p100-pcie-16gb",
    "nvidia/a100-sxm-40gb",
    "nvidia/a100-sxm-80gb",
    "nvidia/a100-pcie-40gb",
    "nvidia/a100-pcie-80gb",
    "nvidia/h100-sxm",
    "nvidia/h100-pcie",
    "nvidia/h200-sxm",
    "nvidia/b200-sxm",
    "nvidia/gb200",
    "amd/mi100",
    "amd/mi210",
    "amd/mi250x",
    "amd/mi300x",
    "amd/mi325x",
    "amd/mi355x",
    "intel/gaudi-2",
    "intel/gaudi-3",
    "cpu/xeon-8480plus",
    "cpu/epyc-9654",
]


@pytest.mark.parametrize("path", SPECS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_spec_is_valid_and_complete(path):
    assert check(path) == []
    device = load(path)
    assert device.name == f"{path.parent.name}/{path.stem}"
    assert device.family in families()
    # More than a peak and a bandwidth: units, clock, two rates, memory, latency.
    assert len(device.quantities) >= 10
    assert device.units >= 1
    assert device.clock_hz > 0


@pytest.mark.parametrize("path", SPECS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_figure_has_a_source_or_a_reason(path):
    for name, figure in load(path).quantities.items():
        assert set(figure.source) <= set(sources()), name
        if figure.status == "assumed":
            assert isinstance(figure, Quantity)
            assert figure.range
            assert figure.reason
        else:
            assert figure.source, name


def test_required_devices_are_shipped():
    assert len(available()) >= 45
    assert set(REQUIRED) <= set(available())


def test_every_source_is_explained():
    assert all(len(citation) > 10 for citation in sources().values())


def test_names_and_aliases_are_unique():
    seen: dict[str, str] = {}
    for name in available():
        device = load(name)
        for label in (name, name.split("/")[1], *device.spec.aliases):
            assert seen.setdefault(label.lower(), name) == name, label
            assert resolve(label) == name


def test_specs_of_two_gpu_boards_say_which_part_they_describe():
    assert "board" in load("nvidia/k80").scope
    assert "half" not in load("nvidia/k80").scope
    assert "one GPU of a two-GPU board" in load("nvidia/k80-gpu").scope
    assert "two dies" in load("amd/mi250x").scope
    assert "one die of two" in load("amd/mi250-gcd").scope
    half, board = load("nvidia/k80-gpu"), load("nvidia/k80")
    assert half.units * 2 == board.units
    assert half.hbm_bandwidth * 2 == pytest.approx(board.hbm_bandwidth, rel=0.01)
    assert half.peak("fp32") * 2 == pytest.approx(board.peak("fp32"), rel=0.01)


# Dense 16-bit peak over bandwidth, as printed in ../shared/reference/formulas.md, section 9.
RIDGES = [
    ("nvidia/v100-sxm2-16gb", "fp16", 138.9),
    ("nvidia/a100-sxm-40gb", "bf16", 200.6),
    ("nvidia/a100-sxm-80gb", "bf16", 153.0),
    ("nvidia/h100-sxm", "bf16", 295.3),
    ("nvidia/h200-sxm", "bf16", 206.1),
    ("nvidia/b200-sxm", "bf16", 281.3),
    ("amd/mi300x", "bf16", 246.7),
    ("nvidia/l40s", "bf16", 419),
    ("nvidia/t4", "fp16", 203),
    ("nvidia/rtx-4090", "bf16", 163.9),
    ("google/tpu-v5e", "bf16", 240.5),
    ("google/tpu-v4", "bf16", 229),
    ("google/tpu-v5p", "bf16", 166),
    ("google/tpu-v6e", "bf16", 560),
]


@pytest.mark.parametrize(("name", "dtype", "ridge"), RIDGES)
def test_ridge_points_are_the_printed_ones(name, dtype, ridge):
    # Half a unit of the last digit printed.
    tolerance = 0.05 if isinstance(ridge, float) else 0.5
    assert load(name).ridge(dtype) == pytest.approx(ridge, abs=tolerance + 1e-9)


# hardware.csv field → where the spec has it, and the factor to SI units.
FIELDS = {
    "units": (("units.count",), 1),
    "mxu_dim": (("units.array",), 1),
    "clock_base_mhz": (("clocks.base",), 1e6),
    "clock_boost_mhz": (("clocks.boost",), 1e6),
    "tensor_clock_mhz": (("clocks.matrix",), 1e6),
    "fp64_tflops": (("compute.vector.fp64",), 1e12),
    "fp64_tensor_tflops": (("compute.matrix.fp64",), 1e12),
    "fp32_tflops": (("compute.vector.fp32",), 1e12),
    "fp32_matrix_tflops": (("compute.matrix.fp32",), 1e12),
    "tf32_tflops": (("compute.matrix.tf32",), 1e12),
    "bf16_tflops": (("compute.matrix.bf16", "compute.vector.bf16"), 1e12),
    "fp16_tflops": (("compute.matrix.fp16", "compute.vector.fp16"), 1e12),
    "fp8_tflops": (("compute.matrix.fp8",), 1e12),
    "fp4_tflops": (("compute.matrix.fp4",), 1e12),
    "int8_tops": (("compute.matrix.int8",), 1e12),
    "int4_tops": (("compute.matrix.int4",), 1e12),
    "mem_gb": (("memory.hbm.capacity",), 1e9),
    "mem_bw_gbs": (("memory.hbm.bandwidth",), 1e9),
    "l2_mb": (("memory.l2.capacity",), 2**20),
    "l2_bw_gbs": (("memory.l2.bandwidth",), 1e9),
    "l3_mb": (("memory.l3.capacity",), 2**20),
    "smem_kb_per_unit": (("memory.shared.capacity",), 2**10),
    "lds_kb_per_unit": (("memory.shared.capacity",), 2**10),
    "rf_kb_per_unit": (("memory.registers.capacity",), 2**10),
    "vmem_mb": (("memory.vmem.capacity",), 2**20),
    "sram_mb": (("memory.sram.capacity",), 1e6),
    "tdp_w": (("power.tdp",), 1),
}

# Where a spec departs from hardware.csv on purpose.
DEPARTURES = {
    (
        "MI25",
        "mem_bw_gbs",
    ): "the vendor's 484 GB/s, given in the table's note; a bound needs the higher",
    ("Gaudi3", "clock_boost_mhz"): "1750 MHz, which its stated peak needs; the table notes it",
    ("i9-13900K", "fp32_tflops"): "efficient cores counted too; the table's note gives their share",
    # "NVIDIA RTX PRO 6000 Blackwell Server Edition", datasheet of December 2025, product brief SP-12355-001.
    ("RTX-PRO-6000-Server", "mem_bw_gbs"): "1597 GB/s, its datasheet's, which the table's note has, too",
    ("RTX-PRO-6000-Server", "clock_boost_mhz"): "2430 MHz, its brief's; the table notes that it runs at them",
    ("RTX-PRO-6000-Server", "clock_base_mhz"): "1852 MHz, its brief's",
    ("GB200", "units"): "152 by device queries, which its stated fp32 rate needs at the table's 2062 MHz",
}


def test_specs_have_the_figures_of_the_reference_table(shared):
    with open(shared / "reference" / "hardware.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["field"] in FIELDS and row["value"]]
    wrong = []
    for row in rows:
        figures = load(row["chip"]).quantities
        paths, scale = FIELDS[row["field"]]
        wanted = float(row["value"]) * scale
        held = [figures[path].si for path in paths if path in figures]
        if wanted not in [pytest.approx(value, rel=1e-9) for value in held]:
            wrong.append((row["chip"], row["field"]))
    assert len(rows) > 650
    assert set(wrong) == set(DEPARTURES)


def test_figures_of_the_server_edition_agree_with_each_other():
    """Memory transfers twice a clock (12,481 MHz by its driver) over 512 bits; no clock is above 2,430."""
    server = load("nvidia/rtx-pro-6000-server")
    assert server.hbm_bandwidth == pytest.approx(2 * 12481e6 * 512 / 8, rel=1e-3)
    assert server.peak("bf16") == pytest.approx(188 * 1024 * 2430e6, rel=1e-3)
    assert server.clock_hz == server.matrix_clock_hz == 2430e6


# FLOP per SM and clock in 16 bits with fp32 accumulation. GA10x and AD10x have 1,024 ("NVIDIA Ampere GA102
# GPU Architecture", Table 3), GeForce boards, A10G and L20 half of that; Hopper has 4,096, H20 a quarter.
PER_CYCLE = {
    "a10": 1024, "a10g": 512, "a40": 1024, "rtx-a6000": 1024,
    "rtx-3060-12gb": 512, "rtx-3080-10gb": 512, "rtx-3090": 512, "rtx-3090-ti": 512,
    "l40s": 1024, "l20": 512, "rtx-6000-ada": 1024,
    "rtx-4060-ti-16gb": 512, "rtx-4070-super": 512, "rtx-4080": 512, "rtx-4090": 512,
    "rtx-5060-ti-16gb": 512, "rtx-5070": 512, "rtx-5080": 512, "rtx-5090": 512,
    "a800-pcie-80gb": 2048, "h100-pcie": 4096, "h100-nvl": 4096, "h800-pcie": 4096, "h20": 1024,
}  # fmt: skip


@pytest.mark.parametrize(("name", "per_cycle"), PER_CYCLE.items())
def test_tensor_rates_are_whole_halves_or_quarters_of_the_architectures(name, per_cycle):
    device = load(name)
    cycles = device.units * device.matrix_clock_hz
    assert device.peak("bf16", "matrix") / cycles == pytest.approx(per_cycle, rel=8e-3)
    assert device.peak("fp16", "matrix") == device.peak("bf16", "matrix")
    assert device.peak("tf32", "matrix") == pytest.approx(device.peak("bf16", "matrix") / 2, rel=1.2e-2)
    assert device.peak("fp32", "vector") / (device.units * device.clock_hz) == pytest.approx(
        128 if device.family == "ampere" else 256, rel=8e-3
    )


@pytest.mark.parametrize(
    ("name", "bits", "per_second"),
    [
        # Width of the memory and transfers a second of each pin, as the boards' vendors state them.
        ("rtx-a6000", 384, 16e9), ("rtx-6000-ada", 384, 20e9), ("l20", 384, 18e9), ("a10g", 384, 12.5e9),
        ("rtx-3060-12gb", 192, 15e9), ("rtx-3080-10gb", 320, 19e9), ("rtx-3090-ti", 384, 21e9),
        ("rtx-4060-ti-16gb", 128, 18e9), ("rtx-4070-super", 192, 21e9), ("rtx-4080", 256, 22.4e9),
        ("rtx-5060-ti-16gb", 128, 28e9), ("rtx-5070", 192, 28e9), ("rtx-5080", 256, 30e9),
        ("h20", 6144, 2 * 2619e6), ("h100-nvl", 6016, 2 * 2619e6), ("a800-pcie-80gb", 5120, 2 * 1512e6),
    ],
)  # fmt: skip
def test_bandwidths_are_the_memorys_width_times_its_rate(name, bits, per_second):
    assert load(name).hbm_bandwidth == pytest.approx(bits * per_second / 8, rel=1e-3)


def test_boards_cut_for_export_and_clouds_have_their_drivers_limit_of_power():
    """What nvidia-smi shows, not the 275, 150, 400 and 250 W of tables."""
    assert [load(name).tdp_w for name in ("l20", "a10g", "h20", "a800-pcie-80gb")] == [350, 300, 500, 300]


@pytest.mark.parametrize("name", ["nvidia/gb200", "nvidia/gb300"])
def test_superchips_have_the_fp32_rate_of_152_units(name):
    superchip = load(name)
    assert superchip.units == 152
    assert superchip.peak("fp32") == pytest.approx(152 * 256 * superchip.clock_hz, rel=5e-3)


def test_every_label_of_the_measurements_is_a_device(shared):
    with open(shared / "reference" / "device_names.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert [(row["label"], load(row["label"]).name) for row in rows] == [
        (row["label"], row["device"]) for row in rows
    ]


# (chip, field) of spec_disagreements.csv with the verdict WRONG and one number → device and figure.
PEERS = {
    ("GH200", "bf16 TFLOP/s"): ("nvidia/gh200-96gb", "compute.matrix.bf16", 1e12),
    ("B100", "bf16 TFLOP/s"): ("nvidia/b100", "compute.matrix.bf16", 1e12),
    ("GB200", "bf16 TFLOP/s"): ("nvidia/gb200", "compute.matrix.bf16", 1e12),
    ("A10", "mem GB"): ("nvidia/a10", "memory.hbm.capacity", 1e9),
    ("V100-SXM2-16GB", "mem GB"): ("nvidia/v100-sxm2-16gb", "memory.hbm.capacity", 1e9),
    ("MI100", "int8 TOP/s"): ("amd/mi100", "compute.matrix.int8", 1e12),
    ("MI210", "int8 TOP/s"): ("amd/mi210", "compute.matrix.int8", 1e12),
    ("MI250", "int8 TOP/s"): ("amd/mi250-gcd", "compute.matrix.int8", 0.5e12),
    ("MI250X", "int8 TOP/s"): ("amd/mi250x", "compute.matrix.int8", 1e12),
    ("MI210", "L2 MB"): ("amd/mi210", "memory.l2.capacity", 2**20),
    ("MI210", "104*4*256*2*1.4 GHz"): ("amd/mi210", "compute.matrix.fp16", 1e12),
    ("MI300X", "mem GB/s"): ("amd/mi300x", "memory.hbm.bandwidth", 1e9),
    ("A100 PCIe 80", "L2 MB"): ("nvidia/a100-pcie-80gb", "memory.l2.capacity", 2**20),
    ("L4", "SMs"): ("nvidia/l4", "units.count", 1),
    ("MI300X", "fp16 TFLOP/s"): ("amd/mi300x", "compute.matrix.fp16", 1e12),
    ("MI355X", "Infinity Cache MB"): ("amd/mi355x", "memory.l3.capacity", 2**20),
}


def test_specs_do_not_have_other_projects_wrong_values(shared):
    with open(shared / "reference" / "spec_disagreements.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["verdict"].startswith("WRONG")]
    numeric = {}
    for row in rows:
        try:
            numeric[row["chip"], row["field"]] = float(row["peer_value"]), row["reference_value"]
        except ValueError:
            continue
    assert set(numeric) == set(PEERS)
    for key, (peer, reference) in numeric.items():
        name, path, scale = PEERS[key]
        held = load(name).quantities[path].si / scale
        assert held != pytest.approx(peer, rel=0.02), key
        assert held == pytest.approx(float(reference.split()[0]), rel=0.02), key


def test_specs_do_not_have_wrong_values_of_several_figures():
    """The remaining rows with the verdict WRONG: MI300A (no spec), MI325X, L40S."""
    mi325x, l40s = load("amd/mi325x"), load("nvidia/l40s")
    assert (mi325x.hbm_capacity, mi325x.hbm_bandwidth) == (256e9, 6000e9)
    assert (l40s.l2_capacity, l40s.tdp_w) == (96 * 2**20, 350)
