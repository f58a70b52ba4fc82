"""Mamba and Mamba-2: layers that are a selective state space between two products, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from costmodel.errors import CostmodelError
from costmodel.models._blocks import Use, between_ends, repeated, residual
from costmodel.models._family import Family
from costmodel.models._fields import D_MODEL, LAYERS, TIED, VOCAB, Field, Fields, same
from costmodel.models._part import Part
from costmodel.models._state_space import DUAL_CUT, DUAL_FIELDS, Dual, Selective, dual, selective, widened
from costmodel.models.stack import Stack

#: Names of the mixers in mamba-ssm's own configurations, where the first is the default.
MAMBA_1, MAMBA_2 = "Mamba1", "Mamba2"


def _pure(wanted: str) -> Callable[[Fields], bool]:
    """Return a default that checks that all layers are of the wanted mixer, which mamba-ssm leaves open."""

    def default(c: Fields) -> bool:
        others = {
            f"layer {c.mixer}": c.mixer != wanted,
            f"d_intermediate {c.between}": c.between,
            f"attn_layer_idx {c.attending}": c.attending,
        }
        met = [name for name, there in others.items() if there]
        if met:
            raise CostmodelError(
                f"{c.type}: wanted {wanted} in every layer and nothing in between, got {met[0]}"
            )
        return True

    return default


def _padded(c: Fields) -> int:
    """Return the rows of the embedding table: the vocabulary, rounded up to a multiple."""
    return int(-(-c.words // c.multiple) * c.multiple)


def _own(ours: Any, hugging_face: Any) -> Callable[[Fields], Any]:
    """Return a default that differs between mamba-ssm's own configurations and Hugging Face's."""
    return lambda c: hugging_face if c.own is None else ours


def _fields(mixer: str) -> dict[str, Field]:
    """Return the fields that configurations of both mixers have."""
    return {
        "type": Field(("model_type",), kind=str),
        # mamba-ssm's own configurations have `ssm_cfg`, and pad the vocabulary to a multiple of 8 by default.
        "own": Field(("ssm_cfg",), None, dict),
        "multiple": Field(("pad_vocab_size_multiple",), _own(8, 1)),
        "words": VOCAB,
        "vocab": Field((), _padded),
        "mixer": Field(("layer",), _own(MAMBA_1, mixer), str),
        "between": Field(("d_intermediate",), 0),
        "attending": Field(("attn_layer_idx",), None, list),
        "pure": Field((), _pure(mixer)),
        "rms": Field(("rms_norm",), True, bool),
        "d_model": D_MODEL,
        "layers": LAYERS,
        "expand": Field(("expand",), 2),
        "kernel": Field(("conv_kernel", "d_conv"), 4),
        "conv_bias": Field(("use_conv_bias", "conv_bias"), True, bool),
        "bias": Field(("use_bias", "bias"), False, bool),
    }


TIES = (*TIED.names, "tie_embeddings")

FIELDS = {
    **_fields(MAMBA_1),
    "state": Field(("state_size", "d_state"), 16),
    "inner": Field(("intermediate_size", "d_inner"), lambda f: f.expand * f.d_model),
    "rank": Field(("time_step_rank", "dt_rank"), lambda f: -(-f.d_model // 16)),
    "tied": Field(TIES, True, bool),
}


def _heads(c: Fields) -> int:
    """Return the default number of heads: Hugging Face's, or as many as make up the channels."""
    return 128 if c.own is None else c.ssm_width // c.ssm_dim


FIELDS_2 = {
    **_fields(MAMBA_2),
    "ssm_width": Field((), lambda f: f.expand * f.d_model),
    "ssm_dim": Field(("head_dim", "headdim"), 64),
    "ssm_heads": Field(("num_heads", "nheads"), _heads),
    "groups": Field(("n_groups", "ngroups"), _own(1, 8)),
    "ssm_inner": DUAL_FIELDS["ssm_inner"],
    "widened": Field((), widened),
    "state": Field(("state_size", "d_state"), 128),
    "chunk": Field(("chunk_size",), 256),
    "ssm_bias": Field((), same("bias")),
    "ssm_out_bias": Field((), same("bias")),
    "tied": Field(TIES, _own(True, False), bool),
}


def mixer(c: Fields, use: Use) -> Iterator[Part]:
    """Yield Mamba's layer; in Falcon's, Δ, B and C are normed."""
    return selective(use, Selective.of(c, normed="free" if c.type == "falcon_mamba" else "none"))


def parts(c: Fields, use: Use) -> Iterator[Part | Stack]:
    """Return the embedding, the layers, the norm and the logits."""
    kind = "rms" if c.rms else "layer"
    inner = dual(use, Dual.of(c)) if c.type == "mamba2" else mixer(c, use)
    layer = residual(use, "mixer", c.d_model, inner, kind=kind)
    return between_ends(c, use, [repeated(layer, c.layers)], kind=kind)


MAMBA = Family(
    types=("mamba", "falcon_mamba"),
    fields=FIELDS,
    parts=parts,
    source=(
        "Gu & Dao, arXiv 2312.00752, §3.4; Zuo et al., arXiv 2410.05355 (Falcon Mamba); Hugging Face "
        "transformers, modeling_mamba.py and modeling_falcon_mamba.py; mamba-ssm"
    ),
    cut={"inner": "channels"},
    nested="ssm_cfg",
)

MAMBA_2_FAMILY = Family(
    types=("mamba2",),
    fields=FIELDS_2,
    parts=parts,
    source="Dao & Gu, arXiv 2405.21060, §7.1; Hugging Face transformers, modeling_mamba2.py; mamba-ssm",
    cut=DUAL_CUT,
    nested="ssm_cfg",
)
