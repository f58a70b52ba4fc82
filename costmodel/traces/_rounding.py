"""The format in which a GPU multiplied fp32 operands, by the names of its kernels.

torch may round fp32 operands to TF32 (``torch.set_float32_matmul_precision("high")``), and a trace does not
record that setting.

- cuBLAS: ``sm80_xmma_gemm_f32f32_tf32f32_…``, ``nvjet_sm120_sss_tf32_mma_…``; kernels of CUTLASS have
  ``s1688gemm``, the instruction for TF32 on operands of fp32, or ``tf32``.
- Tensile (AMD) writes the types of operands and accumulators, here ``S`` and ``S``, then ``M`` and the format
  of the multiplication where it is another: ``Cijk_Alik_Bljk_S_MX_B_…`` is XF32, AMD's TF32.
- Kernels of cuBLAS for tensor cores are called ``nvjet``. One on fp32 operands that does not say ``tf32`` may
  emulate fp32 with bf16 (cuBLAS 12.9 and later, on Blackwell); no known name distinguishes them.
- cuDNN rounds convolutions unless a program forbids it; its kernels in fp32 are ``…sgemm…``, ``…scudnn…`` or
  ``…f32f32_f32f32…``. MIOpen's say ``fp32``; torch's own kernel for depthwise ones does not round.
- torch's memory-efficient attention multiplies fp32 operands three times in TF32 from sm80 on
  (``OpMultiplyAddFastF32`` in its ``gemm_kernel_utils.h``).
"""

from __future__ import annotations

from collections.abc import Iterable

from costmodel.traces._events import Kernel

#: Words in the names of kernels that round fp32 operands to TF32, or to AMD's XF32.
_TF32 = ("tf32", "s1688", "_S_MX_B_")
#: Words in the names of kernels for convolutions that do not.
_FP32 = ("sgemm", "scudnn", "f32f32_f32f32", "ffma", "fp32", "conv_depthwise", "_SB_")


def rounded(kernels: Iterable[Kernel]) -> bool:
    """Return whether kernels round fp32 operands to TF32."""
    return any(word in kernel.name for kernel in kernels for word in _TF32)


def unclear(kernels: Iterable[Kernel]) -> str:
    """Return why it is not known how kernels multiply fp32 operands; empty if it is known."""
    names = [kernel.name for kernel in kernels]
    if any("fmha_cutlass" in name and "_f32_" in name and "sm80" in name for name in names):
        return "torch's memory-efficient attention multiplies fp32 three times in TF32, as no layer here does"
    if any("nvjet" in name and "tf32" not in name for name in names):
        return "the kernel's name (nvjet) does not say in which format tensor cores multiplied fp32"
    return ""


def unclear_convolution(kernels: Iterable[Kernel]) -> str:
    """Return why it is not known how kernels convolve fp32 operands; empty if it is known."""
    if any(word in kernel.name for kernel in kernels for word in _FP32):
        return ""
    return "the kernel's name does not say in which format it multiplied fp32, and cuDNN may round to TF32"
