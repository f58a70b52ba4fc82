"""Causal convolution with a filter as long as the sequence, by fast Fourier transforms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import sympy as sp

from costmodel.cost import ZERO, Phase, Tensors
from costmodel.errors import CostmodelError
from costmodel.layers._base import Layer
from costmodel.layers._kernels import stream
from costmodel.layers._scan import scan_phase
from costmodel.symbols import CeilLog, CeilLog2, Factors, symbols

B, N, D, BLOCK = symbols("batch seq d_model block")
#: Orders of the decomposition into matrix products that FlashFFTConv has.
ORDERS = (2, 3, 4)
#: Levels of butterflies of a transform of 2n points, and their depth: a complex product and an addition.
LEVELS = 1 + CeilLog2(N)
BUTTERFLY_DEPTH = 3
#: A product of complex numbers: four multiplications and two additions, one after the other.
COMPLEX_FLOPS, COMPLEX_DEPTH = 6, 2
#: Complex numbers in the spectrum of 2n real ones.
SPECTRUM = N + 1
#: Complex points of a fused transform: real neighbours are packed into one, and padded to a power of two.
POINTS = Factors(N, 1)
#: FLOP per complex point that separate the spectra of the packed halves, or pack them again, and the depth.
SPLIT_FLOPS, SPLIT_DEPTH = 7, 4


@dataclass(frozen=True, kw_only=True)
class LongConvolution(Layer):
    """Causal convolution y_t = Σ_j h_j x_{t−j} with a filter of n taps per channel: O(n·log n) FLOP by FFT.

    Sequence and filter are padded to 2n points and transformed, their spectra are multiplied, and the product
    is transformed back. A real transform of 2n points counts 5·n·⌈log₂ 2n⌉ FLOP, half of FFTW's 5·N·log₂ N
    for N = 2n complex points. The lower bound has one multiply-add for each output.

    Parameters
    ----------
    fused : bool
        One kernel for each direction, as FlashFFTConv: a transform is a chain of matrix products on the
        matrix engine, in `dtype`. Otherwise one kernel per operation, in fp32 (fp64 for fp64), as a framework
        runs torch.fft. Either way a kernel transforms up to `block` points on chip, and longer transforms
        pass through memory once more for each factor of `block`.
    order : int
        Number p of factors N_i of a fused transform of N = ΠN_i complex points, 8·N·ΣN_i FLOP: 2, 3 or 4.
    """

    name: ClassVar[str] = "long-convolution"
    family: ClassVar[str] = "convolution"
    source: ClassVar[str] = (
        "Gu et al., arXiv 2111.00396, §2.4 (S4's convolution); Poli et al., arXiv 2302.10866 (fftconv); "
        "Fu et al., arXiv 2311.05908, §3.1 (FlashFFTConv); FFTW's benchFFT (5·N·log₂ N)"
    )
    not_counted: ClassVar[str] = (
        "how the filter is made; the skip connection D·x; normalisation; work saved on the padding's zeros; "
        "at lengths between powers of two, the smaller number of levels; work areas of the FFT library"
    )
    required: ClassVar[tuple[str, ...]] = ("batch", "seq", "d_model")
    defaults: ClassVar[dict[str, str | int]] = {"block": 32768}
    meanings: ClassVar[Mapping[str, str]] = {
        "d_model": "channels",
        "block": "points that a kernel transforms on chip",
    }

    fused: bool = False
    order: int = 3

    def __post_init__(self) -> None:
        """Check the order."""
        super().__post_init__()
        if self.order not in ORDERS:
            raise CostmodelError(f"order of {self.name}: wanted 2, 3 or 4, got {self.order}")

    # -- operands --------------------------------------------------------------------------

    @property
    def _rows(self) -> sp.Expr:
        """Number of sequences of one channel."""
        return B * D

    def _size(self, rows: sp.Expr) -> sp.Expr:
        """Size of n numbers in each row [bytes]."""
        return self.bytes * rows * N

    def _padded(self, rows: sp.Expr) -> sp.Expr:
        """Size of 2n real numbers in each row, in the transform's format [bytes]."""
        return 2 * self.stat_bytes * rows * N

    def _spectrum(self, rows: sp.Expr) -> sp.Expr:
        """Size of the spectrum of each row; a fused kernel's is padded and in the layer's format [bytes]."""
        if self.fused:
            return 2 * self.bytes * rows * (POINTS + 1)
        return 2 * self.stat_bytes * rows * SPECTRUM

    def tensors(self) -> Tensors:
        """The sequence in and out, and n taps per channel."""
        x = self._size(self._rows)
        weights = self.bytes * self.parameters()
        kept = x if self.fused else ZERO
        return Tensors(inputs=x, weights=weights, outputs=x, kept_inputs=kept)

    def parameters(self) -> sp.Expr:
        """N taps per channel."""
        return N * D

    def kept(self) -> sp.Expr:
        """Padded operands and spectra, as autograd does; fused, the sequence and the filter's spectrum."""
        if self.fused:
            return self._size(self._rows) + self._spectrum(D)
        return sp.Add(*(self._padded(rows) + self._spectrum(rows) for rows in (self._rows, D)))

    # -- one kernel per operation ----------------------------------------------------------

    @property
    def _passes(self) -> sp.Expr:
        """Passes over memory of one transform: its 2n points in factors of at most `block`."""
        return CeilLog(2 * N, sp.Max(2, BLOCK))

    def _pass(
        self,
        name: str,
        rows: sp.Expr,
        read: sp.Expr,
        write: sp.Expr,
        *,
        depth: sp.Expr = ZERO,
        workspace: sp.Expr = ZERO,
    ) -> Phase:
        """Return an elementwise pass over n numbers per row, with the bytes it reads and writes."""
        table = self._size(rows)
        moved = {"reads": read / table, "writes": write / table}
        return stream(self, name, rows=rows, cols=N, **moved, depth=depth, workspace=workspace)

    def _pad(self, name: str, rows: sp.Expr) -> Phase:
        """Return the pass that copies n numbers and n zeros in the transform's format."""
        made = self._padded(rows)
        return self._pass(f"padding of {name}", rows, self._size(rows), made, workspace=made)

    def _cut(self, name: str, rows: sp.Expr) -> Phase:
        """Return the pass that copies the first n of 2n numbers in the layer's format."""
        return self._pass(f"first half of {name}", rows, self._padded(rows) / 2, self._size(rows))

    def _transform(self, name: str, rows: sp.Expr, *, back: bool = False) -> Phase:
        """Return a transform of 2n real numbers per row, or one back to them."""
        real, spectrum, more = self._padded(rows), self._spectrum(rows), self._passes - 1
        first, last = (spectrum, real) if back else (real, spectrum)
        flops = 5 * rows * N * LEVELS
        phase = scan_phase(
            self,
            f"transform {'back to' if back else 'of'} {name}",
            chains=rows,
            vector=flops,
            read=first + more * spectrum,
            write=more * spectrum + last,
            pram_depth=BUTTERFLY_DEPTH * LEVELS,
            workspace=last,
            launches=self._passes,
        )
        return replace(phase, spared=phase.flops)

    def _product(self, name: str, *, sums: bool = False) -> Phase:
        """Return the product of two spectra, one of all sequences; `sums` adds the products up over them."""
        wide, one = self._spectrum(self._rows), self._spectrum(D)
        read, write = (2 * wide, one) if sums else (wide + one, wide)
        phase = self._pass(
            name,
            self._rows,
            read,
            write,
            depth=COMPLEX_DEPTH + (CeilLog2(B) if sums else 0),
            workspace=write,
        )
        vector = (COMPLEX_FLOPS + (2 if sums else 0)) * self._rows * SPECTRUM
        key = ("vector", self.accumulate)
        # However it is computed, each output takes a multiply-add.
        return replace(phase, flops={key: vector}, spared={key: vector - 2 * self._rows * N})

    def forward(self) -> tuple[Phase, ...]:
        """Pad, transform, multiply, transform back, cut; or the filter's spectrum and one kernel."""
        if self.fused:
            return self._fused_forward()
        rows = self._rows
        return (
            self._pad("x", rows),
            replace(self._pad("the filter", D), beside=True),
            self._transform("x", rows),
            replace(self._transform("the filter", D), beside=True),
            self._product("product of spectra"),
            self._transform("y", rows, back=True),
            self._cut("y", rows),
        )

    def backward(self) -> tuple[Phase, ...]:
        """The spectrum of dy times those that forward kept, and both products back."""
        if self.fused:
            return self._fused_backward()
        rows = self._rows
        return (
            self._pad("dy", rows),
            self._transform("dy", rows),
            self._product("product with the filter's spectrum"),
            self._product("product with x's spectrum, summed", sums=True),
            self._transform("dx", rows, back=True),
            self._cut("dx", rows),
            self._transform("the filter's gradient", D, back=True),
            self._cut("the filter's gradient", D),
        )

    # -- fused kernels ---------------------------------------------------------------------

    def _fused(
        self, name: str, *, transforms: int, products: int, read: sp.Expr, write: sp.Expr, waits: int
    ) -> Phase:
        """Return one kernel with transforms and products of spectra, of which `waits` and one are in turn.

        If the points do not fit on chip, the outer factors of each transform are passes of their own.
        """
        rows, more = self._rows, self._passes - 1
        outer = transforms * more * 2 * self.bytes * rows * POINTS
        twiddles = COMPLEX_FLOPS * (self.order - 1)
        vector = transforms * (twiddles + SPLIT_FLOPS) * POINTS + products * COMPLEX_FLOPS * (POINTS + 1)
        # Each factor: a complex dot product over N_i terms, and the ⌈log₂ N_i⌉ add up to ⌈log₂ n⌉.
        depth = 2 * self.order + CeilLog2(N) + COMPLEX_DEPTH * (self.order - 1) + SPLIT_DEPTH
        phase = scan_phase(
            self,
            name,
            chains=rows,
            matrix=transforms * 8 * rows * POINTS * Factors(N, sp.Integer(self.order)),
            vector=rows * vector,
            read=read + outer,
            write=write + outer,
            pram_depth=waits * depth + COMPLEX_DEPTH,
            launches=transforms * more + 1,
        )
        least = {("matrix", self.dtype): 2 * products * rows * N}
        spared = {key: count - least.get(key, ZERO) for key, count in phase.flops.items()}
        return replace(phase, spared=spared)

    def _of_filter(self, name: str, *, back: bool, sums: bool) -> Phase:
        """Return the framework's transform of the filter of each channel, or of its gradient, back."""
        taps, spectrum = self._size(D), self._spectrum(self._rows if sums else D)
        added = 2 * self._rows * (POINTS + 1) if sums else ZERO
        phase = scan_phase(
            self,
            name,
            chains=D,
            vector=5 * D * POINTS * LEVELS + added,
            read=spectrum if back else taps,
            write=taps if back else spectrum,
            pram_depth=BUTTERFLY_DEPTH * LEVELS + (CeilLog2(B) if sums else 0),
            workspace=ZERO if back else spectrum,
        )
        return replace(phase, spared=phase.flops)

    def _fused_forward(self) -> tuple[Phase, ...]:
        """The filter's spectrum; then both transforms and the product in one kernel."""
        x, spectrum = self._size(self._rows), self._spectrum(D)
        return (
            self._of_filter("spectrum of the filter", back=False, sums=False),
            self._fused("convolution", transforms=2, products=1, read=x + spectrum, write=x, waits=2),
        )

    def _fused_backward(self) -> tuple[Phase, ...]:
        """x and dy transformed, dx; the filter's gradient of every sequence, as a spectrum; its sum, back."""
        x, every = self._size(self._rows), self._spectrum(self._rows)
        gradients = self._fused(
            "convolution gradients",
            transforms=3,
            products=2,
            read=2 * x + self._spectrum(D),
            write=x + every,
            waits=2,
        )
        return (
            replace(gradients, workspace=every),
            self._of_filter("sum of the filter's gradient, back", back=True, sums=True),
        )
