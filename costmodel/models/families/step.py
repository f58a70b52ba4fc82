"""Step 3.5 and 3.7: Llama's layers with more heads where there is a window, a gate per head, and experts.

Lists of a configuration may have entries of multi-token prediction behind those of the layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from costmodel.errors import CostmodelError
from costmodel.models._family import Family
from costmodel.models._fields import PER_LAYER, Field, Fields, overridden
from costmodel.models.families.llama import CUT, LAYER_TYPES, LEFT_OUT, MLP_TYPES, STEP, parts
from costmodel.models.families.llama import FIELDS as COMMON

WHOLE, LOCAL = LAYER_TYPES
DENSE, SPARSE = MLP_TYPES


def _trimmed(name: str) -> Callable[[Fields], list[Any]]:
    """Return a field that is a list without the entries of multi-token prediction."""

    def entries(c: Fields) -> list[Any]:
        found = list(getattr(c, name))
        return found[: c.layers] if len(found) == c.layers + c.modules else found

    return entries


def _mlp_types(c: Fields) -> list[str]:
    """Return which layers have experts: as listed, or those of the enumerated numbers.

    Raises
    ------
    CostmodelError
        If these are not numbers.
    """
    if c.said_mlp_types or not c.enumerated:
        return _trimmed("said_mlp_types")(c)
    try:
        sparse = {int(number) for number in c.enumerated.split(",")}
    except ValueError:
        raise CostmodelError(f"moe_layers_enum: wanted numbers of layers, got {c.enumerated!r}") from None
    return [SPARSE if i in sparse else DENSE for i in range(c.layers)]


def _rotation(kind: str) -> Callable[[Fields], dict[str, Any]]:
    """Return a default: what the listed shares say of the rotation in layers of a type, which agree."""

    def said(c: Fields) -> dict[str, Any]:
        pairs = zip(c.said_layer_types, c.rotary_shares, strict=False)
        return next(({"partial_rotary_factor": share} for name, share in pairs if name == kind), {})

    return said


FIELDS = {
    "modules": Field(("num_nextn_predict_layers", "num_mtp_layers"), 0),
    "said_layer_types": COMMON["layer_types"],
    "said_mlp_types": COMMON["mlp_types"],
    "enumerated": Field(("moe_layers_enum",), "", str),
    "rotary_shares": Field(("partial_rotary_factors",), (), list),
    "other": Field(("attention_other_setting",), {}, dict),
    "per_layer": PER_LAYER,
    **COMMON,
    "kv_heads": Field(("num_attention_groups", "num_key_value_heads")),
    "experts": Field(("moe_num_experts", "n_routed_experts")),
    "top_k": Field(("moe_top_k", "num_experts_per_tok")),
    "d_shared": Field(("share_expert_dims", "share_expert_dim")),
    "rope_whole": Field((WHOLE,), _rotation(WHOLE), dict),
    "rope_local": Field((LOCAL,), _rotation(LOCAL), dict),
    "layer_types": Field((), _trimmed("said_layer_types")),
    "mlp_types": Field((), _mlp_types),
    "local_heads": Field(
        ("num_sliding_attention_heads",),
        overridden("num_attention_heads", lambda c: c.other.get("num_attention_heads", c.heads)),
    ),
}

#: Defaults of Step3p7TextConfig (transformers, configuration_step3p7.py).
_TEXT = {
    "vocab_size": 128815,
    "hidden_size": 4096,
    "intermediate_size": 11264,
    "num_hidden_layers": 45,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "n_routed_experts": 288,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 1280,
    "share_expert_dim": 1280,
    "first_k_dense_replace": 3,
    "max_position_embeddings": 128000,
}

STEP_FLASH = Family(
    types=STEP,
    fields=FIELDS,
    parts=parts,
    source="Hugging Face transformers, modeling_step3p7.py (the text model)",
    left_out=LEFT_OUT,
    cut=CUT,
    alternates=True,
    left_to_defaults=dict.fromkeys(STEP, _TEXT),
    nested="rope_parameters",
)
