"""What the name of a tensor means, here and in models of T5's block structure (Hugging Face's T5, METRO-T0's release).

Our names are those of `modeling.T5`: `encoder.layers.3.self_attention.q.weight`. Theirs number the parts of a block:
`encoder.block.3.layer.0.SelfAttention.q.weight`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

THEIR_BLOCK = re.compile(r"(?:^|\.)(encoder|decoder)\.block\.(\d+)\.layer\.(\d\.[\w.]+)\.(weight|bias)$")
THEIR_RELATIVE_BIAS = "0.SelfAttention.relative_attention_bias"
THEIR_OTHER = {
    "final_layer_norm": "last_norm",
    "embed_tokens": "embeddings.tokens",
    "pos_embed": "embeddings.positions",
    "first_layer_norm": "embeddings.norm",
}
"""Modules of their stacks outside of blocks -> ours."""
THEIR_SHARED = {
    "shared.weight": "encoder.embeddings.tokens.weight",
    "lm_head.weight": "head.weight",
}
OURS = re.compile(
    r"(?:^|\.)(encoder|decoder)\.(?:(?:layers|relative_biases)\.(\d+)\.)?([a-z_]+(?:\.[a-z_]+)?)\.(weight|bias)$"
)


@dataclass(frozen=True)
class Place:
    """Where a tensor of the main model is: `module` as in `self_attention.q`, `last_norm` or `embeddings.tokens`."""

    stack: str
    """encoder or decoder; empty for the output projection."""
    layer: int | None
    """From 0; None outside of layers."""
    module: str
    kind: str
    """weight or bias."""


def block_modules(is_decoder: bool, gated: bool) -> dict[str, str]:
    """Our modules of a layer -> theirs, with the number of their part of the block."""
    names = {f"self_attention.{part}": f"0.SelfAttention.{part}" for part in "qkvo"}
    names["self_attention_norm"] = "0.layer_norm"
    if is_decoder:
        names |= {f"cross_attention.{part}": f"1.EncDecAttention.{part}" for part in "qkvo"}
        names["cross_attention_norm"] = "1.layer_norm"
    last = 2 if is_decoder else 1
    dense = {"gate": "wi_0", "wi": "wi_1", "wo": "wo"} if gated else {"wi": "wi", "wo": "wo"}
    names |= {f"feed_forward.{ours}": f"{last}.DenseReluDense.{theirs}" for ours, theirs in dense.items()}
    names["feed_forward_norm"] = f"{last}.layer_norm"
    return names


OUR_MODULES = {
    stack: {
        theirs: ours
        for gated in (False, True)
        for ours, theirs in block_modules(is_decoder=stack == "decoder", gated=gated).items()
    }
    for stack in ("encoder", "decoder")
}
"""Stack -> module of their blocks -> ours. Without a gate they call `wi` what is `wi_1` beside one."""


def our_name(name: str) -> str | None:
    """Our name, from `encoder.`, `decoder.` or `head.` on, of a tensor with one of their names; None for any other."""
    if name in THEIR_SHARED:
        return THEIR_SHARED[name]
    if match := THEIR_BLOCK.search(name):
        stack, number, module, kind = match.groups()
        if module == THEIR_RELATIVE_BIAS:
            return f"{stack}.relative_biases.{number}.table.{kind}"
        ours = OUR_MODULES[stack].get(module)
        return ours and f"{stack}.layers.{number}.{ours}.{kind}"
    stack, _, rest = name.partition(".")
    module, _, kind = rest.rpartition(".")
    if stack in ("encoder", "decoder") and module in THEIR_OTHER:
        return f"{stack}.{THEIR_OTHER[module]}.{kind}"
    return None


def place_of(name: str) -> Place | None:
    """Where a tensor of either naming is; None for what is not in the main model (auxiliary, heads of pretraining)."""
    if "auxiliary." in name:
        return None
    ours = our_name(name) or name
    if match := OURS.search(ours):
        stack, layer, module, kind = match.groups()
        return Place(stack, None if layer is None else int(layer), module, kind)
    if re.search(r"(?:^|\.)head\.weight$", ours):
        return Place("", None, "head", "weight")
    return None
