"""costmodel: why a layer is as fast as it is, where its limit lies, and what would change.

>>> import costmodel as cm
>>> flash = cm.TiledAttention(dtype="bf16", causal=True)
>>> p = cm.predict(flash, "nvidia/h200-sxm", rung="bound", batch=4, heads=32, seq=8192, head_dim=128)
>>> p.bound
'matrix:bf16'
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from costmodel._version import __version__

if TYPE_CHECKING:
    from costmodel import hardware, layers, models, parallel, reports, validation
    from costmodel.capture import from_torch
    from costmodel.crossing import Crossover, crossover
    from costmodel.errors import CostmodelError
    from costmodel.evaluate import evaluate
    from costmodel.explain import elasticities, what_if
    from costmodel.predict import predict
    from costmodel.prediction import Prediction
    from costmodel.sweep import log2_range, sweep

#: Public name → the module that defines it. Modules are imported on first use.
_HOMES = {
    "Crossover": "costmodel.crossing",
    "CostmodelError": "costmodel.errors",
    "Prediction": "costmodel.prediction",
    "crossover": "costmodel.crossing",
    "elasticities": "costmodel.explain",
    "evaluate": "costmodel.evaluate",
    "from_torch": "costmodel.capture",
    "log2_range": "costmodel.sweep",
    "predict": "costmodel.predict",
    "sweep": "costmodel.sweep",
    "what_if": "costmodel.explain",
}
_MODULES = ("hardware", "layers", "models", "parallel", "reports", "validation")

__all__ = [
    "CostmodelError",
    "Crossover",
    "Prediction",
    "__version__",
    "crossover",
    "elasticities",
    "evaluate",
    "from_torch",
    "hardware",
    "layers",
    "log2_range",
    "models",
    "parallel",
    "predict",
    "reports",
    "sweep",
    "validation",
    "what_if",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used; layers are found by their class names."""
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"costmodel.{name}")
    elif not name[0].isupper():
        raise AttributeError(f"module 'costmodel' has no {name!r}")
    else:
        found = {cls.__name__: cls for cls in importlib.import_module("costmodel.layers").classes().values()}
        if name not in found:
            raise AttributeError(
                f"module 'costmodel' has no {name!r}; its layers are {', '.join(sorted(found))}"
            )
        value = found[name]
    globals()[name] = value
    return value


class _Facade(ModuleType):
    """This module's class: ``costmodel.predict`` stays the function when its module is imported.

    Importing a submodule binds it in its package by name, but `predict`, `sweep` and `evaluate` are
    functions in modules of the same name.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        """Bind a name; for a submodule named like its function, bind the function."""
        if isinstance(value, ModuleType) and _HOMES.get(name) == value.__name__:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Facade


def __dir__() -> list[str]:
    """Return the public names, including the layers' classes."""
    from costmodel.layers import classes  # noqa: PLC0415 - listing may import, importing may not

    return sorted({*__all__, *(cls.__name__ for cls in classes().values())})
