"""Compile the plan's Triton kernels for an H200 that need not be present; print each kernel's needs.

This is a process of its own because Triton decides once per process whether kernels are interpreted. The
launches are those of a real call, with arguments specialised in the same way (1 is a constant, divisibility
by 16 is noted); only loading the kernel on a device is left out.
"""

import json
import sys
import types

import torch
import triton
from triton.backends.compiler import GPUTarget

from costmodel.validation import triton_arithmetic, triton_attention, triton_barrier

target = GPUTarget("cuda", int(sys.argv[1]), 32)
driver = types.SimpleNamespace(
    get_current_target=lambda: target, get_current_device=lambda: 0, get_current_stream=lambda _: 0
)
triton.runtime.driver.set_active(driver)
launch, compiled = triton.JITFunction.run, []


def only_compile(kernel, *args, warmup, **options):
    compiled.append(launch(kernel, *args, **{**options, "warmup": True}))


triton.JITFunction.run = only_compile
needs = {}


def note(name):
    (kernel,) = compiled
    compiled.clear()
    needs[name] = {"shared": kernel.metadata.shared, "warps": kernel.metadata.num_warps}


def tensors(heads, kv_heads, seq, width, dtype):
    return (torch.empty(4, count, seq, width, dtype=dtype) for count in (heads, kv_heads, kv_heads))


for schedule, rows, cols in json.loads(sys.argv[2]):
    operands = tensors(16, 16, 2048, 64, torch.bfloat16)
    triton_attention.attention(*operands, schedule=schedule, tile=(rows, cols), precision="ieee")
    note(f"{schedule} {rows} {cols}")
for schedule in ("fa1", "fa2"):  # edge cases: one query, grouped heads, a mask, 4-byte formats
    for seq, dtype, precision in ((1, torch.float16, "ieee"), (99, torch.float32, "tf32")):
        operands = tensors(4, 2, seq, 32, dtype)
        triton_attention.attention(
            *operands, schedule=schedule, tile=(16, 32), causal=True, precision=precision
        )
        note(f"{schedule} {seq} {precision}")
for blocks in (1, 132):
    triton_barrier.chain(torch.zeros(1, dtype=torch.int32), blocks, 64)()
    note(f"barrier {blocks}")
for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
    values = torch.ones(4 * triton_arithmetic.BLOCK, dtype=dtype)
    triton_arithmetic.multiply_adds(values, torch.empty_like(values), 8192)()
    note(f"arithmetic {dtype}")
print(json.dumps(needs))
