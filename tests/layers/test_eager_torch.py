"""Passes of eager models against torch: what its dispatcher sees of one layer, forward and backward."""

import math
from collections import Counter

import pytest

from costmodel.layers.eager_transformer import B, D, EagerTransformer, F, H, L, N

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

BATCH, SEQ, WIDTH, HEADS, INNER = 2, 96, 64, 4, 256
HEAD = WIDTH // HEADS
SIZES = {B: BATCH, N: SEQ, D: WIDTH, H: HEADS, F: INNER, L: 1}
PRODUCTS = ("mm", "addmm", "bmm")
#: Dropout is one kernel on a GPU; on the CPU it is four, one of which reads a mask.
MASKED = ("empty_like", "bernoulli_", "div_")


class Numbers(TorchDispatchMode):
    """Count the elements that kernels other than products read and write in activation-sized tables."""

    def __init__(self):
        super().__init__()
        self.read, self.written = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.name().removeprefix("aten::").split(".")[0]
        view = any(r.alias_info and not r.alias_info.is_write for r in function._schema.returns)
        if view or name in (*PRODUCTS, *MASKED, "_unsafe_view"):
            return out
        tables = args[0] if isinstance(args[0], (list, tuple)) and name == "cat" else args
        read = {id(t): t for t in tables if self._is_table(t)}  # x * x reads one table
        self.read += sum(t.numel() for t in read.values())
        outs = out if isinstance(out, (tuple, list)) else (out,)
        self.written += sum(t.numel() for t in outs if self._is_table(t))
        return out

    @staticmethod
    def _is_table(t):
        big = isinstance(t, torch.Tensor) and t.numel() >= BATCH * SEQ * WIDTH
        return big and t.dtype == torch.float32


class Layer(nn.Module):
    """One layer without dropout, whose masks cause reads on the CPU that a GPU does not make."""

    def __init__(self, fused):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        widths = ((WIDTH, 3 * WIDTH),) if fused else ((WIDTH, WIDTH),) * 3
        self.qkv = nn.ModuleList(nn.Linear(*width) for width in widths)
        self.out, self.up = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, INNER)
        self.down = nn.Linear(INNER, WIDTH)

    def heads(self, x):
        return x.view(BATCH, SEQ, HEADS, HEAD).permute(0, 2, 1, 3)

    def joined(self, x):
        return x.permute(0, 2, 1, 3).contiguous().view(BATCH, SEQ, WIDTH)


class GPT2(Layer):
    def forward(self, x):
        q, k, v = (self.heads(t) for t in self.qkv[0](self.norms[0](x)).split(WIDTH, dim=2))
        scores = torch.matmul(q, k.transpose(-1, -2)) / torch.full([], HEAD**0.5)
        seen = torch.ones(SEQ, SEQ, dtype=torch.bool).tril().view(1, 1, SEQ, SEQ)
        scores = torch.where(seen, scores, torch.full([], -1e30))
        x = self.out(self.joined(torch.matmul(functional.softmax(scores, dim=-1), v))) + x
        y = self.up(self.norms[1](x))
        y = 0.5 * y * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * torch.pow(y, 3.0))))
        return x + self.down(y)


class OPT(Layer):
    def forward(self, x):
        y = self.norms[0](x)
        q, k, v = (layer(y) for layer in self.qkv)
        q, k, v = (self.heads(t).contiguous().view(-1, SEQ, HEAD) for t in (q * HEAD**-0.5, k, v))
        scores = torch.bmm(q, k.transpose(1, 2)).view(BATCH, HEADS, SEQ, SEQ)
        scores = torch.max(scores + torch.zeros(1, 1, SEQ, SEQ), torch.tensor(-3e38))
        p = functional.softmax(scores.view(-1, SEQ, SEQ), dim=-1)
        values = torch.bmm(p, v).view(BATCH, HEADS, SEQ, HEAD).transpose(1, 2).reshape(BATCH, SEQ, WIDTH)
        x = self.out(values) + x
        return x + self.down(functional.relu(self.up(self.norms[1](x))))


class BERT(Layer):
    def forward(self, x):
        q, k, v = (self.heads(layer(x)) for layer in self.qkv)
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(HEAD) + torch.zeros(BATCH, 1, 1, SEQ)
        values = self.joined(torch.matmul(functional.softmax(scores, dim=-1), v))
        x = self.norms[0](self.out(values) + x)
        return self.norms[1](self.down(functional.gelu(self.up(x))) + x)


CODE = {"gpt2": (GPT2, True), "opt": (OPT, False), "bert": (BERT, False)}


def _counted(style, direction):
    """Return the elements that our passes over tables read and write, without products."""
    layer = EagerTransformer(dtype="fp32", style=style, direction=direction)
    total = Counter()
    for phase in layer.cost.phases:
        if phase.kernel != "gemm":
            rows, cols, reads, writes = (
                float(phase.sizes[name].subs(SIZES)) for name in ("rows", "cols", "reads", "writes")
            )
            # Only whole tables are counted, as for torch: sums over rows are less than one.
            reads, writes = int(reads), int(writes)
            runs = float(phase.repeats.subs(SIZES)) * rows * cols
            total.update(read=runs * reads, written=runs * writes)
    return total


@pytest.mark.parametrize("style", CODE)
def test_eager_passes_read_and_write_as_much_as_torchs(style):
    code, fused = CODE[style]
    module = code(fused)
    x = torch.randn(BATCH, SEQ, WIDTH, requires_grad=True) * 1.0
    with Numbers() as forward:
        y = module(x)
    gradient = torch.randn_like(y)
    with Numbers() as backward:
        y.backward(gradient)
    ours = _counted(style, "fwd")
    assert ours["read"] == forward.read
    assert ours["written"] == forward.written
    ours = _counted(style, "bwd")
    # The multiplication by 1 that makes `x` is not the layer's: its backward is one pass over a hidden state.
    hidden = BATCH * SEQ * WIDTH
    assert ours["read"] == backward.read - hidden
    assert ours["written"] == backward.written - hidden
