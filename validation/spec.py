"""Measure a spec for a device that has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from costmodel.files import write_text
from costmodel.validation.microbench import microbenchmarks
from costmodel.validation.spec_cpu import cpu_name, cpu_spec
from costmodel.validation.spec_gpu import gpu_name, gpu_spec
from costmodel.validation.torch_env import Machine


def spec_name(machine: Machine) -> str:
    """Return the name of a machine's measured spec."""
    return gpu_name(machine) if machine.kind == "cuda" else cpu_name(machine)


def measure_spec(machine: Machine) -> dict[str, Any]:
    """Return the content of a spec file for this machine's device.

    Raises
    ------
    UnavailableError
        If the system does not report what cannot be measured: caches, clock, architecture.
    """
    make = gpu_spec if machine.kind == "cuda" else cpu_spec
    return make(machine, microbenchmarks(machine))


def write(content: dict[str, Any], path: Path, *, overwrite: bool = False) -> Path:
    """Write a spec as YAML; `costmodel.files.write_whole` says which errors it raises."""
    text = "# Measured by `costmodel validate`.\n" + yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True
    )
    write_text(path, text, overwrite=overwrite)
    return path
