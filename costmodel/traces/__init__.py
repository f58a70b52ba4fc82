"""Profiles of torch programs as tables of measured kernels: each call of an operation, its sizes, its time.

``torch.profiler`` writes what ran into a trace (Chrome's trace format, written by Kineto). `read_trace` turns
it into rows that `costmodel.score.score` predicts, and `breakdown` summarises where the time went.
"""

from __future__ import annotations

from costmodel.traces._breakdown import Breakdown, breakdown
from costmodel.traces._table import read_trace

__all__ = ["Breakdown", "breakdown", "read_trace"]
