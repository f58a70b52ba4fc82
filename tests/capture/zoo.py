"""Modules to capture: torch's own layers, and code as users write it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="from_torch needs torch")
nn, F = torch.nn, torch.nn.functional


class Attention(nn.Module):
    """Grouped-query attention by scaled_dot_product_attention."""

    def __init__(self, width=16, heads=4, kv_heads=2, causal=True):
        super().__init__()
        self.heads, self.kv_heads, self.causal = heads, kv_heads, causal
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width // heads * kv_heads)
        self.v = nn.Linear(width, width // heads * kv_heads)
        self.o = nn.Linear(width, width)

    def forward(self, x):
        b, n, width = x.shape
        q = self.q(x).view(b, n, self.heads, -1).transpose(1, 2)
        k = self.k(x).view(b, n, self.kv_heads, -1).transpose(1, 2)
        v = self.v(x).view(b, n, self.kv_heads, -1).transpose(1, 2)
        grouped = self.heads != self.kv_heads
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=grouped)
        return self.o(y.transpose(1, 2).reshape(b, n, width))


class Einsum(nn.Module):
    """A projection to heads and attention scores, written with einsum."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.empty(8, 16, 4))

    def forward(self, x):
        heads = torch.einsum("bnd,kdh->bhnk", x, self.w)
        return torch.einsum("bhnk,bhmk->bhnm", heads, heads)


class Loop(nn.Module):
    """A recurrence as a Python loop over the steps."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        state, states = torch.zeros(x.shape[0], 16, device=x.device), []
        for t in range(x.shape[1]):
            state = torch.tanh(self.a(x[:, t]) + self.b(state))
            states.append(state)
        return torch.stack(states, 1)


class TiedModel(nn.Module):
    """A language model of one layer with tied embeddings, which returns its loss."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Embedding(50, 16), nn.LayerNorm(16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        y = self.head(F.gelu(self.norm(self.embed(ids))))
        return F.cross_entropy(y.flatten(0, 1), ids.flatten())


class GatedFeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(16, 32, bias=False), nn.Linear(16, 32, bias=False)
        self.down = nn.Linear(32, 16, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Twice(nn.Module):
    """An encoder and a decoder that read the same sequence."""

    def __init__(self):
        super().__init__()
        self.model = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)

    def forward(self, x):
        return self.model(x, x)


class SelfAttention(nn.Module):
    """nn.MultiheadAttention of a sequence with itself."""

    def __init__(self, *, weights):
        super().__init__()
        self.attention, self.weights = nn.MultiheadAttention(16, 4, batch_first=True), weights

    def forward(self, x):
        return self.attention(x, x, x, need_weights=self.weights)[0]


class ConvOverSequence(nn.Module):
    """nn.Conv1d over (batch, seq, channels)."""

    def __init__(self, out=24, **options):
        super().__init__()
        self.conv = nn.Conv1d(16, out, 3, padding=1, **options)

    def forward(self, x):
        return self.conv(x.transpose(1, 2))


@dataclass
class Specimen:
    """How to make a module, its symbolic dimensions, and an input of given sizes."""

    make: Callable[[], Any]
    dims: dict[str, tuple[int, int]]
    inputs: Callable[[int, int], Any]
    fixed: int | None = None  # the length, if the code fixes it


BATCH_FIRST = {"batch": (0, 0), "seq": (0, 1)}
SEQ_FIRST = {"seq": (0, 0), "batch": (0, 1)}


def tokens(batch, seq):
    return torch.zeros(batch, seq, dtype=torch.long)


def rows(batch, seq):
    return torch.zeros(batch, seq, 16)


def columns(batch, seq):
    return torch.zeros(seq, batch, 16)


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, **options)


def encoder(*, evaluated):
    made = nn.TransformerEncoder(encoder_layer(batch_first=True), 3, enable_nested_tensor=False)
    return made.eval() if evaluated else made


def image_classifier():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


ZOO = {
    "linear": Specimen(lambda: nn.Linear(16, 8), BATCH_FIRST, rows),
    "gated feed-forward": Specimen(GatedFeedForward, BATCH_FIRST, rows),
    "encoder layer": Specimen(lambda: encoder_layer(batch_first=True), BATCH_FIRST, rows),
    "encoder layer, norm first": Specimen(
        lambda: encoder_layer(norm_first=True, activation="gelu"), SEQ_FIRST, columns
    ),
    "encoder": Specimen(lambda: encoder(evaluated=False), BATCH_FIRST, rows),
    "encoder, evaluated": Specimen(lambda: encoder(evaluated=True), BATCH_FIRST, rows),
    "transformer": Specimen(lambda: Twice().eval(), BATCH_FIRST, rows),
    "multi-head attention": Specimen(lambda: SelfAttention(weights=False), BATCH_FIRST, rows),
    "multi-head attention, weights": Specimen(lambda: SelfAttention(weights=True), BATCH_FIRST, rows),
    "attention": Specimen(lambda: Attention(kv_heads=4), BATCH_FIRST, rows),
    "attention, not causal": Specimen(lambda: Attention(kv_heads=4, causal=False), BATCH_FIRST, rows),
    "grouped attention": Specimen(Attention, BATCH_FIRST, rows),
    "lstm": Specimen(lambda: nn.LSTM(16, 8, 2, batch_first=True), BATCH_FIRST, rows),
    "projected lstm": Specimen(lambda: nn.LSTM(16, 8, 2, proj_size=4), SEQ_FIRST, columns),
    "gru, both ways": Specimen(lambda: nn.GRU(16, 8, bidirectional=True), SEQ_FIRST, columns),
    "rnn": Specimen(lambda: nn.RNN(16, 8, 2, nonlinearity="relu"), SEQ_FIRST, columns),
    "lstm cell": Specimen(lambda: nn.LSTMCell(16, 8), {"batch": (0, 0)}, lambda b, _: torch.zeros(b, 16)),
    "einsum": Specimen(Einsum, BATCH_FIRST, rows),
    "loop": Specimen(Loop, BATCH_FIRST, rows, fixed=6),
    "tied model": Specimen(TiedModel, BATCH_FIRST, tokens),
    "convolution": Specimen(ConvOverSequence, BATCH_FIRST, rows),
    "strided convolution": Specimen(lambda: ConvOverSequence(stride=2), BATCH_FIRST, rows),
    "grouped convolution": Specimen(lambda: ConvOverSequence(16, groups=4), BATCH_FIRST, rows),
    "depthwise convolution": Specimen(lambda: ConvOverSequence(16, groups=16), BATCH_FIRST, rows),
    "image classifier": Specimen(
        image_classifier, {"batch": (0, 0)}, lambda b, _: torch.zeros(b, 3, 33, 33)
    ),
    "transposed convolution": Specimen(
        lambda: nn.ConvTranspose2d(3, 8, 4, stride=2), {"batch": (0, 0)}, lambda b, _: torch.zeros(b, 3, 9, 9)
    ),
    "rms norm": Specimen(lambda: nn.Sequential(nn.RMSNorm(16), nn.Linear(16, 16)), BATCH_FIRST, rows),
    "softmax": Specimen(lambda: nn.Sequential(nn.Linear(16, 8), nn.Softmax(-1)), BATCH_FIRST, rows),
}  # fmt: skip
