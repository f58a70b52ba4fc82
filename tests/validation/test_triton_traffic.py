"""Elements that the hand-written attention loads and stores, against the traffic stated by its layer."""

import itertools
from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="measuring needs torch: pip install 'costmodel[validation]'")
triton = pytest.importorskip("triton", reason="needs Triton: pip install triton")

from costmodel import evaluate  # noqa: E402
from costmodel.layers import get  # noqa: E402
from costmodel.validation.triton_attention import attention  # noqa: E402

if not triton.knobs.runtime.interpret:
    pytest.skip(
        "counts in Triton's interpreter; there: TRITON_INTERPRET=1 CUDA_VISIBLE_DEVICES= "
        "pytest tests/validation/test_triton_traffic.py",
        allow_module_level=True,
    )

BATCH, WIDTH = 1, 32


class Ledger:
    """Bytes that kernels load and store, without masked elements, by the tensor they belong to."""

    def __init__(self, patch):
        self.moved, self.places = Counter(), {}
        builder = triton.runtime.interpreter.InterpreterBuilder
        load, store = builder.create_masked_load, builder.create_masked_store

        def loaded(build, pointers, mask, *more):
            self._note(pointers, mask)
            return load(build, pointers, mask, *more)

        def stored(build, pointers, value, mask, *more):
            self._note(pointers, mask)
            return store(build, pointers, value, mask, *more)

        patch.setattr(builder, "create_masked_load", loaded)
        patch.setattr(builder, "create_masked_store", stored)

    def _note(self, pointers, mask):
        touched = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
        width = pointers.get_element_ty().primitive_bitwidth // 8
        for name, (first, last) in self.places.items():
            self.moved[name] += width * np.count_nonzero((touched >= first) & (touched < last))
        self.moved["all"] += width * touched.size

    def of(self, *, schedule, tile, causal, heads, seq):
        """Run attention in fp16 and return the bytes moved: of Q, of K, of V, of all tensors."""
        shapes = {"q": heads[0], "k": heads[1], "v": heads[1]}
        tensors = {name: torch.randn(BATCH, n, seq, WIDTH).half() for name, n in shapes.items()}
        self.places = {
            name: (x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()) for name, x in tensors.items()
        }
        self.moved.clear()
        attention(*tensors.values(), schedule=schedule, tile=tile, causal=causal, precision="ieee")
        return self.moved


@pytest.fixture
def ledger(monkeypatch):
    return Ledger(monkeypatch)


@pytest.mark.parametrize("seq", [50, 64])
@pytest.mark.parametrize("heads", [(2, 2), (4, 2)], ids=["own keys", "shared keys"])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("tile", [(16, 16), (16, 64), (64, 16)], ids=str)
@pytest.mark.parametrize("schedule", ["fa1", "fa2"])
def test_stated_traffic_is_what_the_schedule_moves(schedule, tile, causal, heads, seq, ledger):
    """Exactly: K and V come from main memory once, and from cache whenever they are read again."""
    moved = ledger.of(schedule=schedule, tile=tile, causal=causal, heads=heads, seq=seq)
    layer = get("tiled-attention")(dtype="fp16", schedule=schedule, tile=tile, causal=causal)
    stated = evaluate(
        layer, batch=BATCH, heads=heads[0], kv_heads=heads[1], seq=seq, head_dim=WIDTH, sram=2**17
    )
    keys, once = moved["k"] + moved["v"], 2 * 2 * BATCH * heads[1] * seq * WIDTH
    assert stated["hbm_bytes"] == moved["all"] - keys + once
    if schedule == "fa2":
        assert stated["l2_bytes"] == keys
    else:  # heads that share keys walk over them at the same time
        assert keys == once * heads[0] // heads[1]


def test_traffic_falls_as_the_tile_grows(ledger):
    """Dao et al. 2022, Theorem 2: streamed operands are read once per
    tile of the resident one, n²d²/M in all.
    """
    by_tile = {
        (schedule, tile): ledger.of(schedule=schedule, tile=tile, causal=False, heads=(1, 1), seq=256).copy()
        for schedule, tile in itertools.product(("fa1", "fa2"), ((16, 16), (64, 64)))
    }
    for schedule, passing in (("fa1", "q"), ("fa2", "k")):
        small, large = (by_tile[schedule, tile][passing] for tile in ((16, 16), (64, 64)))
        assert small == 4 * large
    # FA-1 also streams O and its statistics, all but the first time; FA-2 writes them once.
    small, large = (by_tile["fa1", tile]["all"] for tile in ((16, 16), (64, 64)))
    assert 4 * 0.9 < small / large < 4 * 1.1
