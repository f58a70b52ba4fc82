"""Whole models: layers put together, from a configuration, a catalogue, or a torch module.

>>> import costmodel as cm
>>> llama = cm.models.load("llama-2-7b")
>>> f"{llama.parameters:,}"
'6,738,415,616'
>>> cm.predict(llama.decode(), "nvidia/h200-sxm", rung="bound", batch=1, seq_kv=2048).bound
'hbm'
"""

from __future__ import annotations

from costmodel.models._model import Model
from costmodel.models._part import Part
from costmodel.models.architecture import Architecture
from costmodel.models.config import architectures, available, from_config, load, title

__all__ = ["Architecture", "Model", "Part", "architectures", "available", "from_config", "load", "title"]
