"""No measured kernel is faster than the peak that the lower bound uses."""

import pytest
import yaml

from costmodel import units
from costmodel.cost import ENGINES
from costmodel.dtypes import DTYPES
from costmodel.errors import UnavailableError, UnknownNameError
from costmodel.hardware import available, load
from costmodel.hardware.loader import FOLDER

GEMM_DTYPES = {
    "fp32": "fp32",
    "fp16 storage/fp32 math": "fp32",
    "fp16 in/fp32 acc (tensor cores)": "fp16",
}


@pytest.mark.parametrize("name", available())
def test_engine_has_its_own_rate_of_a_format_or_that_of_fp32(name):
    """Against the rates in the YAML file; formats without one run as
    fp32, except on matrix engines and fp64.
    """
    told = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))["compute"]
    device = load(name)
    rates = {
        engine: {dtype: units.parse(figure["value"], "FLOP/s") for dtype, figure in table.items()}
        for engine, table in told.items()
        if engine in ENGINES
    }
    assert set(device.matrix_dtypes) == set(rates.get("matrix", {}))
    for engine, table in rates.items():
        for dtype in DTYPES:
            rate = (
                table.get(dtype) if engine == "matrix" or dtype == "fp64" else table.get(dtype, table["fp32"])
            )
            if rate is None:
                with pytest.raises(UnavailableError):
                    device.peak(dtype, engine)
            else:
                assert device.peak(dtype, engine) == pytest.approx(rate, rel=1e-12)


def test_boost_peak_of_special_functions_is_at_the_highest_clock():
    """32 results per cycle on 28 SM (CUDA C++ Programming Guide, cc 6.1): 1582 MHz stated, 1911 observed."""
    device = load("nvidia/gtx-1080-ti")
    assert device.peak("fp32", "special") == pytest.approx(28 * 32 * 1582e6, rel=1e-3)
    assert device.boost_peak("fp32", "special") == pytest.approx(28 * 32 * 1911e6, rel=1e-3)


@pytest.mark.parametrize("table", ["gemm", "attention"])
def test_recorded_kernels_stay_below_the_boost_peak(shared, table):
    pandas = pytest.importorskip("pandas")
    columns = ["gpu", "dtype", "flops", "latency_s"]
    rows = pandas.read_parquet(shared / "measurements" / f"{table}.parquet", columns=columns)
    rows = rows.dropna(subset=["flops"])
    best = (rows.flops.astype(float) / rows.latency_s).groupby([rows.gpu, rows.dtype]).max()
    assert len(best) >= 4
    share = {key: rate / load(key[0]).boost_peak(key[1]) for key, rate in best.items()}
    assert {key: value for key, value in share.items() if value > 1} == {}


def test_published_gemms_stay_below_the_boost_peak(shared):
    pandas = pytest.importorskip("pandas")
    rows = pandas.read_csv(shared / "reference" / "published_runtimes.csv", low_memory=False)
    rows = rows[(rows.source == "baidu-research/DeepBench") & (rows.op == "gemm")]
    rows = rows[rows.dtype.isin(GEMM_DTYPES) & ~rows.note.fillna("").str.contains("OUTLIER")]
    rate = 2 * rows.M * rows.N * rows.K / (rows.value.astype(float) * 1e-3)
    checked = 0
    for (gpu, dtype), best in rate.groupby([rows.gpu, rows.dtype]).max().items():
        try:
            device = load(gpu)
        except UnknownNameError:  # Xeon Phi
            continue
        checked += 1
        assert best <= device.boost_peak(GEMM_DTYPES[dtype]), (gpu, dtype)
    assert checked >= 10
