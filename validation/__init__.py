"""Validation on a real device: measure, compare with predictions, calibrate.

>>> import costmodel as cm
>>> frame = cm.validation.run("cpu", budget_s=240)  # doctest: +SKIP

All code that uses torch is here, and imports it only when a kernel runs.
"""

from costmodel.validation.measuring import measure, run

__all__ = ["measure", "run"]
