"""The vocabulary of sizes, with one SymPy symbol each, and the functions that counts are written with.

SymPy symbols with the same name but different assumptions do not cancel, so
all other modules take their symbols from here.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from costmodel.errors import unknown_name


@dataclass(frozen=True)
class Size:
    """A size of a layer.

    Attributes
    ----------
    name : str
        Its name as a keyword, as a ``-D`` define and as a column.
    latex : str
        The letter that its paper uses.
    meaning : str
        One line for the glossary.
    largest : float
        Larger values are refused as mistakes.
    """

    name: str
    latex: str
    meaning: str
    largest: float = 2.0**40

    @property
    def symbol(self) -> sp.Symbol:
        """The symbol of this size."""
        return _SYMBOLS[self.name]


GLOSSARY = {
    s.name: s
    for s in (
        Size("batch", "B", "sequences processed together"),
        Size("seq", "n", "length of the sequence: queries, tokens or time steps of one sequence"),
        Size("seq_kv", r"n_{kv}", "keys and values attended to, including the queries' own (default seq)"),
        Size("heads", "h", "query heads"),
        Size("kv_heads", r"h_{kv}", "key and value heads, fewer in grouped-query attention (default heads)"),
        Size("head_dim", "d_h", "width of one head"),
        Size("value_dim", "d_v", "width of one head's values (default head_dim)"),
        Size("d_model", "d", "width of the model"),
        Size("d_ff", r"d_{ff}", "inner width of the feed-forward layer (default 4 d_model)"),
        Size("hidden", "H", "width of the recurrent state"),
        Size("input", "I", "width of a recurrent layer's input (default hidden)"),
        Size("projection", "P", "width of an LSTM's projected output"),
        Size("num_layers", "L", "stacked layers (default 1)"),
        Size("vocab", "V", "entries of the vocabulary"),
        Size("window", "w", "positions that a query sees, up to and including its own"),
        Size("block", "b", "side of a block, or length of a chunk"),
        Size("experts", "E", "experts of a mixture"),
        Size("top_k", r"k_{top}", "experts, or keys, chosen for a token"),
        Size("state", "N_s", "entries of the state per channel"),
        Size("m", "M", "rows of a product or table"),
        Size("n", "N", "columns of a product or table"),
        Size("k", "K", "inner dimension of a product; width of a convolution"),
        Size("sram", r"S_{sram}", "on-chip memory that one tile may use [bytes] (from the device)"),
        Size("onchip", r"S_{chip}", "on-chip memory of the whole device [bytes] (from the device)"),
        Size("rank", "R", "rank of a low-rank product: positions that Linformer keeps; rank of Mamba's Δ"),
        Size("features", r"m_{\phi}", "random features that approximate the exponential (default 256)"),
        Size("devices", "p", "devices that work together", 2.0**24),
        Size("node", r"p_{node}", "devices of one node, joined by the fast link (default devices)", 2.0**24),
        Size("params", "N_p", "parameters that an optimiser updates", 2.0**50),
        Size("tensors", "N_t", "tensors that hold these parameters (default 1)"),
        Size("read_bytes", "b_r", "bytes that a pass reads (default written_bytes)", 2.0**60),
        Size("written_bytes", "b_w", "bytes that a pass writes", 2.0**60),
        Size(
            "least_bytes",
            "b_l",
            "bytes that it reads in any case, if operands may be one or rows repeat (default read_bytes)",
            2.0**60,
        ),
        Size(
            "least_written_bytes",
            "b_{lw}",
            "bytes that it writes in any case, if rows may go to one place (default written_bytes)",
            2.0**60,
        ),
        Size("taps", "T", "places of a convolution's window: width, or width × height (default 1)"),
        Size("streams", r"n_{hc}", "parallel residual streams of a hyper-connection"),
        Size("stride", "l", "distance between positions that a strided pattern sees; length of its blocks"),
        Size("summary", "c", "positions at a block's end that later blocks see"),
        Size("globals", "g", "tokens that attend to all others, and all others to them"),
        Size("random", "r", "random tokens that a query attends to"),
        Size("density", "s", "share of the blocks of scores that are kept [%]", largest=100.0),
        Size("edges", "m_E", "edges of a graph: (query, key) pairs"),
        Size("degree", "k_G", "edges per node, on average"),
        Size("store", "S", "entries of the searched memory"),
        Size("lists", r"n_{list}", "lists that an index divides the memory into"),
        Size("rounds", "n_r", "rounds of hashing"),
        Size("probes", r"n_{probe}", "lists that are searched per query"),
        Size("splits", "S_p", "parts that the keys are split into"),
        Size("q_rank", "d_c'", "width of the compressed query of MLA (default 12 head_dim)"),
        Size("kv_rank", "d_c", "width of the compressed keys and values of MLA (default 4 head_dim)"),
        Size("rope_dim", "d_h^R", "width of the rotated part of a head of MLA (default head_dim / 2)"),
    )
}
_SYMBOLS = {name: sp.Symbol(name, positive=True, integer=True) for name in GLOSSARY}
LATEX_NAMES = {_SYMBOLS[name]: size.latex for name, size in GLOSSARY.items()}

#: Sizes that the device provides if the user does not.
DEVICE_SIZES = ("sram", "onchip")


def symbol(name: str) -> sp.Symbol:
    """Return the symbol of a size.

    Raises
    ------
    UnknownNameError
        If the vocabulary has no size with this name.
    """
    if name not in _SYMBOLS:
        raise unknown_name("size", name, _SYMBOLS)
    return _SYMBOLS[name]


def symbols(names: str) -> tuple[sp.Symbol, ...]:
    """Return several symbols: ``batch, seq = symbols("batch seq")``."""
    return tuple(symbol(name) for name in names.split())


def _raised(text: str, exponent: str) -> str:
    """Return the LaTeX of a function, raised to a power if there is one."""
    return rf"\left({text}\right)^{{{exponent}}}" if exponent else text


def as_symbols(text: str | int) -> sp.Expr:
    """Return an expression in sizes, such as a layer's default ``heads*head_dim``, in their symbols."""
    return sp.sympify(text, locals=_SYMBOLS)


class CeilLog2(sp.Function):  # type: ignore[misc]
    """⌈log₂ x⌉, the depth of a balanced tree over x ≥ 1 leaves.

    It is a separate function because ``ceiling(log(x, 2))``, once compiled, is
    wrong at 2²⁹, 2³¹, 2³⁹, …: the quotient of two logarithms is not exact.
    """

    nargs = 1
    is_integer = True
    is_nonnegative = True

    @classmethod
    def eval(cls, x: sp.Expr) -> sp.Expr | None:
        """Evaluate numbers exactly."""
        if x.is_Rational and x >= 1:
            return sp.Integer((int(sp.ceiling(x)) - 1).bit_length())
        return None

    def _latex(self, printer: object, exp: str = "") -> str:
        x = printer._print(self.args[0])  # type: ignore[attr-defined]
        return _raised(rf"\lceil\log_2 {x}\rceil", exp)

    def _numpycode(self, printer: object) -> str:
        # A function of `costmodel.evaluate`.
        return f"ceil_log2({printer._print(self.args[0])})"  # type: ignore[attr-defined]


class CeilDiv(sp.Function):  # type: ignore[misc]
    """⌈a/b⌉, the number of tiles of size b that cover a.

    It is a separate function because ``ceiling(a/b)``, once compiled, multiplies by
    1/b: 75 · (1/75) rounds up, which 75/75 does not, and counts a tile too many.
    """

    nargs = 2
    is_integer = True

    def _eval_is_positive(self) -> bool | None:
        """Return True if a is positive: the result is then at least 1, as b is always positive."""
        return True if self.args[0].is_positive else None

    def _eval_is_nonnegative(self) -> bool | None:
        """Return True if a is nonnegative."""
        return True if self.args[0].is_nonnegative else None

    @classmethod
    def eval(cls, a: sp.Expr, b: sp.Expr) -> sp.Expr | None:
        """Evaluate numbers exactly; for integers, ⌈a/1⌉ is a and ⌈1/b⌉ is 1."""
        if a.is_Rational and b.is_Rational:
            return sp.ceiling(a / b)
        if a == 1 and b.is_integer and b.is_positive:
            return sp.Integer(1)
        return a if b == 1 and a.is_integer else None

    def _latex(self, printer: object, exp: str = "") -> str:
        a, b = (printer._print(x) for x in self.args)  # type: ignore[attr-defined]
        return _raised(rf"\left\lceil\frac{{{a}}}{{{b}}}\right\rceil", exp)

    def _numpycode(self, printer: object) -> str:
        a, b = (printer._print(x) for x in self.args)  # type: ignore[attr-defined]
        return f"ceil(({a})/({b}))"


def ceil_div(a: sp.Expr, b: sp.Expr) -> sp.Expr:
    """Return ⌈a/b⌉, the number of tiles of size b that cover a."""
    return CeilDiv(sp.sympify(a), sp.sympify(b))


class CeilLog(sp.Function):  # type: ignore[misc]
    """⌈log_b x⌉ for x ≥ 1, the levels of a b-ary tree over x leaves.

    Exact, as `CeilLog2` is: the quotient of two logarithms is corrected by
    comparing with the neighbouring powers.
    """

    nargs = 2
    is_integer = True
    is_nonnegative = True

    @classmethod
    def eval(cls, x: sp.Expr, base: sp.Expr) -> sp.Expr | None:
        """Evaluate whole numbers exactly."""
        if not (x.is_Integer and base.is_Integer and x >= 1 and base >= 2):
            return None
        levels, reached = 0, 1
        while reached < x:
            levels, reached = levels + 1, reached * int(base)
        return sp.Integer(levels)

    def _latex(self, printer: object, exp: str = "") -> str:
        x, base = (printer._print(a) for a in self.args)  # type: ignore[attr-defined]
        return _raised(rf"\lceil\log_{{{base}}} {x}\rceil", exp)

    def _numpycode(self, printer: object) -> str:
        x, base = (f"({printer._print(a)})" for a in self.args)  # type: ignore[attr-defined]
        levels = f"ceil(log({x})/log({base}))"
        return f"({levels} - ({base}**({levels} - 1.0) >= {x}) + ({base}**{levels} < {x}))"


class ChunkPairs(sp.Function):  # type: ignore[misc]
    """Pairs of a position with itself or an earlier one in its chunk, in n positions in chunks of c.

    Σ c_i (c_i + 1)/2 over ⌈n/c⌉ chunks, the last of which holds the remaining positions. It is a separate
    function because its growth, n·c, cannot be read off that sum.
    """

    nargs = 2
    is_integer = True
    is_positive = True

    @classmethod
    def eval(cls, n: sp.Expr, c: sp.Expr) -> sp.Expr | None:
        """Evaluate whole numbers exactly."""
        if not (n.is_Integer and c.is_Integer and n >= 1 and c >= 1):
            return None
        whole, left = divmod(int(n), int(c))
        return sp.Integer((whole * int(c) * (int(c) + 1) + left * (left + 1)) // 2)

    def _latex(self, printer: object, exp: str = "") -> str:
        n, c = (printer._print(a) for a in self.args)  # type: ignore[attr-defined]
        return _raised(rf"\operatorname{{pairs}}\left({n}, {c}\right)", exp)

    def _numpycode(self, printer: object) -> str:
        n, c = (f"({printer._print(a)})" for a in self.args)  # type: ignore[attr-defined]
        left = f"({n} - {c}*floor({n}/{c}))"
        return f"(({n} - {left})*({c} + 1.0) + {left}*({left} + 1.0))/2.0"


class CausalTiles(sp.Function):  # type: ignore[misc]
    """Tiles of c keys visited by the last n of n_kv positions, where each sees itself and all before it.

    Σ ⌈j/c⌉ over n_kv − n < j ≤ n_kv. It is a separate function because its growth, at most n·⌈n_kv/c⌉, cannot
    be read off the difference of two sums that it equals.
    """

    nargs = 3
    is_integer = True
    is_positive = True

    @classmethod
    def eval(cls, n: sp.Expr, n_kv: sp.Expr, c: sp.Expr) -> sp.Expr | None:
        """Evaluate whole numbers exactly."""
        if not (n.is_Integer and n_kv.is_Integer and c.is_Integer and n_kv >= n >= 1 and c >= 1):
            return None

        def up_to(last: int) -> int:
            whole, left = divmod(last, int(c))
            return (whole + 1) * (int(c) * whole + 2 * left) // 2

        return sp.Integer(up_to(int(n_kv)) - up_to(int(n_kv) - int(n)))

    def _latex(self, printer: object, exp: str = "") -> str:
        n, n_kv, c = (printer._print(a) for a in self.args)  # type: ignore[attr-defined]
        return _raised(rf"\operatorname{{tiles}}\left({n}, {n_kv}, {c}\right)", exp)

    def _numpycode(self, printer: object) -> str:
        n, n_kv, c = (f"({printer._print(a)})" for a in self.args)  # type: ignore[attr-defined]

        def up_to(last: str) -> str:
            return f"(floor({last}/{c}) + 1.0)*({last} - {c}*floor({last}/{c})/2.0)"

        return f"({up_to(n_kv)} - {up_to(f'({n_kv} - {n})')})"


class Factors(sp.Function):  # type: ignore[misc]
    """Sum of p factors, powers of two as equal as possible, of the least power of two that is at least x.

    Σ 2^⌊(⌈log₂ x⌉ + i)/p⌋ over 0 ≤ i < p; with p = 1 the power of two itself. It is a separate function
    because its growth, at most 2·p·x^(1/p), cannot be read off these powers.
    """

    nargs = 2
    is_integer = True
    is_positive = True

    @classmethod
    def eval(cls, x: sp.Expr, p: sp.Expr) -> sp.Expr | None:
        """Evaluate whole numbers exactly."""
        if not (x.is_Rational and p.is_Integer and x >= 1 and p >= 1):
            return None
        return sp.Add(*(2 ** ((CeilLog2(x) + i) // p) for i in range(int(p))))

    def _latex(self, printer: object, exp: str = "") -> str:
        x, p = (printer._print(a) for a in self.args)  # type: ignore[attr-defined]
        if self.args[1] == 1:
            return _raised(rf"2^{{\lceil\log_2 {x}\rceil}}", exp)
        return _raised(rf"\operatorname{{factors}}_{{{p}}}\left({x}\right)", exp)

    def _numpycode(self, printer: object) -> str:
        x = f"ceil_log2({printer._print(self.args[0])})"  # type: ignore[attr-defined]
        p = int(self.args[1])
        return f"({' + '.join(f'2.0**floor(({x} + {i}.0)/{p}.0)' for i in range(p))})"


class Distinct(sp.Function):  # type: ignore[misc]
    """Expected number of distinct items out of n after draws of k distinct ones: n·(1 − (1 − k/n)^draws).

    Cardenas, Communications of the ACM 18 (1975): rows of a table, or experts of a mixture, if every choice
    is equally likely. It is a separate function because the difference, once compiled, loses all digits for
    large n, and because its growth, at most n, cannot be read off the power.
    """

    nargs = 3
    is_positive = True

    @classmethod
    def eval(cls, n: sp.Expr, k: sp.Expr, draws: sp.Expr) -> sp.Expr | None:
        """Evaluate certain cases (k = n, one draw), and numbers exactly if they are small."""
        if n == k:
            return n
        if draws == 1:
            return k
        small = draws.is_Integer and 1 <= draws <= 4096
        if small and n.is_Integer and k.is_Integer and n >= 1:
            return n * (1 - (1 - k / n) ** draws)
        return None

    def _latex(self, printer: object, exp: str = "") -> str:
        n, k, draws = (printer._print(a) for a in self.args)  # type: ignore[attr-defined]
        return _raised(rf"{n}\left(1 - \left(1 - \frac{{{k}}}{{{n}}}\right)^{{{draws}}}\right)", exp)

    def _numpycode(self, printer: object) -> str:
        n, k, draws = (f"({printer._print(a)})" for a in self.args)  # type: ignore[attr-defined]
        # At k = n the logarithm would be that of 0: the largest number below 1 stands in for 1.
        missed = f"{draws}*log1p(-minimum({k}/{n}, {1 - 2.0**-53!r}))"
        return f"maximum({k}, -{n}*expm1({missed}))"


class Largest(sp.Max):  # type: ignore[misc]
    """The maximum of many arguments.

    It is a separate function because ``Max`` compares every pair of arguments whenever it is built or
    rebuilt, which for the memory of a model's parts would take longer than everything else.
    """

    def __new__(cls, *args: sp.Expr) -> sp.Expr:
        """Evaluate numbers only; leave everything else unevaluated."""
        if all(sp.sympify(arg).is_number for arg in args):
            return sp.Max(*args)
        return super().__new__(cls, *args, evaluate=False)

    def _latex(self, printer: object) -> str:
        text: str = printer._print(sp.Max(*self.args, evaluate=False))  # type: ignore[attr-defined]
        return text


def tree_depth(terms: sp.Expr) -> sp.Expr:
    """Return the depth of a dot product of `terms` terms: one multiply and ⌈log₂⌉ adds."""
    return 1 + CeilLog2(terms)
