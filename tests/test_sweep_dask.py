"""Sweeps on a Dask cluster: the same file bit for bit, and nothing lost with a worker."""

import logging
import os
import signal
import warnings

import numpy as np
import pandas as pd
import pytest

import costmodel as cm
from costmodel.errors import UnavailableError
from costmodel.sweep import Engine, best, engines, front, make_grid, stream
from costmodel.sweep import grid as grids

distributed = pytest.importorskip("distributed", reason="needs the extra costmodel[dask]")
# Dask closes its sockets and event loops late, and its imports warn.
pytestmark = [pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def cluster():
    """Start two workers, each a process that a nanny restarts when it dies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        ) as started:
            yield started


@pytest.fixture(scope="module")
def grid() -> grids.Grid:
    # Workers have their own module: the grid has to be large to have several chunks there too.
    return make_grid(
        [cm.LSTM(), cm.GRU()],
        "h200-sxm",
        rung="bound",
        batch=range(1, 701),
        seq=np.arange(1, 1001),
        hidden=64,
    )


COLUMNS = ["layer", "seq", "batch", "seconds"]


def test_file_is_the_same_bit_for_bit_as_without_a_cluster(cluster, grid, tmp_path):
    assert len(grid.chunks) >= 6
    stream(grid, tmp_path / "here.parquet", columns=COLUMNS, engine=Engine(workers=1))
    there = Engine("dask", cluster=cluster.scheduler_address)
    assert stream(grid, tmp_path / "there.parquet", columns=COLUMNS, engine=there) == grid.points
    assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "there.parquet").read_bytes()
    pd.testing.assert_frame_equal(
        best(grid, "energy", by=["layer", "batch"], engine=there), best(grid, "energy", by=["layer", "batch"])
    )
    pd.testing.assert_frame_equal(
        front(grid, "seconds", "-batch", engine=there), front(grid, "seconds", "-batch")
    )


def test_a_worker_that_dies_loses_nothing(cluster, grid, tmp_path):
    stream(grid, tmp_path / "here.parquet", columns=COLUMNS)
    there = Engine("dask", cluster=cluster.scheduler_address)
    killed = []

    def kill_one(_: int) -> None:
        if len(killed) < 2:
            with distributed.Client(cluster.scheduler_address) as client:
                workers = client.run(os.getpid)
            killed.append(next(iter(workers.values())))
            os.kill(killed[-1], signal.SIGKILL)

    stream(grid, tmp_path / "there.parquet", columns=COLUMNS, engine=there, progress=kill_one)
    assert len(killed) == 2
    assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "there.parquet").read_bytes()


def test_a_worker_with_other_versions_is_refused(cluster, grid, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "_versions", lambda: ("0.0.1", "1.0", "1.0"))
    with pytest.raises(UnavailableError, match="install the same there"):
        stream(grid, tmp_path / "x.parquet", engine=Engine("dask", cluster=cluster.scheduler_address))


def test_missing_cluster_is_one_clear_line(grid, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "_CONNECT_S", 0.5)
    with pytest.raises(UnavailableError, match=r"no Dask cluster at tcp://127\.0\.0\.1:9"):
        stream(grid, tmp_path / "x.parquet", engine=Engine("dask", cluster="tcp://127.0.0.1:9"))
