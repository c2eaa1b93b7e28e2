"""What the tensors of a main model are for (their roles), and copying weights from role to role.

A role is the same for any depth and for every naming that `metro_t0.tensor_names` knows: this project's models and
Hugging Face's T5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from metro_t0.errors import UserError
from metro_t0.tensor_names import place_of

Kind = Literal[
    "embedding", "head", "q", "k", "v", "o", "attention_norm", "mlp_in", "mlp_gate", "mlp_out", "mlp_norm",
    "final_norm", "relative_bias",
]  # fmt: skip

ATTENTION: tuple[Kind, ...] = ("q", "k", "v", "o")
MLP: tuple[Kind, ...] = ("mlp_in", "mlp_gate", "mlp_out")
NORMS: tuple[Kind, ...] = ("attention_norm", "mlp_norm", "final_norm")


OF_VOCABULARY = ("auxiliary.stack.embeddings.tokens.weight", "auxiliary.bias", "dictionary_fingerprint")
"""Ends of the names of tensors that have no role and mean nothing in another vocabulary. The first is, in memory and in
a checkpoint, the main model's own table."""


@dataclass(frozen=True)
class Role:
    """What a tensor is: its kind, stack (encoder, decoder or empty), layer (None outside layers) and site.

    site: self, cross or mlp within a layer.
    """

    kind: Kind
    stack: str = ""
    layer: int | None = None
    site: str = ""

    @property
    def key(self) -> str:
        """A name that does not depend on who named the tensors, as in `decoder.3.cross.q`."""
        return ".".join(str(part) for part in (self.stack, self.layer, self.site, self.kind) if part not in ("", None))


OTHER_KINDS: dict[str, Kind] = {
    "embeddings.tokens": "embedding", "head": "head", "last_norm": "final_norm", "table": "relative_bias",
}  # fmt: skip
MLP_KINDS: dict[str, Kind] = {"wi": "mlp_in", "gate": "mlp_gate", "wo": "mlp_out"}


def role_of(name: str) -> Role | None:
    """The role of a tensor of the main model; None for what no scheme knows (biases, positions, the auxiliary)."""
    place = place_of(name)
    if place is None or place.kind == "bias":
        return None
    if place.module in ("embeddings.tokens", "head"):
        return Role(OTHER_KINDS[place.module])
    if place.module in OTHER_KINDS:
        return Role(OTHER_KINDS[place.module], place.stack, place.layer)
    sublayer, _, part = place.module.partition(".")
    site = sublayer.removesuffix("_norm")
    if site in ("self_attention", "cross_attention"):
        kind = cast(Kind, part) if part else "attention_norm"
        return Role(kind, place.stack, place.layer, site.removesuffix("_attention"))
    if site == "feed_forward":
        return Role(MLP_KINDS[part] if part else "mlp_norm", place.stack, place.layer, "mlp")
    return None


def roles_of(names: Iterable[str]) -> dict[str, Role]:
    """Tensor name -> role, for the tensors that have one; of several names of one tensor the first counts."""
    found: dict[str, Role] = {}
    seen: set[str] = set()
    for name in names:
        role = role_of(name)
        if role is not None and role.key not in seen:
            seen.add(role.key)
            found[name] = role
    return found


@torch.no_grad()
def copy_weights(target: Mapping[str, Tensor], source: Mapping[str, Tensor], with_embeddings: bool, origin: str) -> int:
    """Copy all weights into a model, in place, what belongs to the vocabulary only on request; gives how many.

    That is the token embedding and output projection, their copies in the auxiliary, and a checkpoint's fingerprint of
    its dict.txt. Tensors are matched by role, those without a role (biases, positions) by name. Raises `UserError`
    naming `origin` where a tensor of the model has no counterpart of its shape.
    """
    by_key = {role.key: name for name, role in roles_of(source).items()}
    copied = 0
    for name, tensor in target.items():
        role = role_of(name)
        of_vocabulary = name.endswith(OF_VOCABULARY) or (role is not None and role.kind in ("embedding", "head"))
        if of_vocabulary and not with_embeddings:
            continue
        found = source.get(by_key.get(role.key, name) if role else name)
        if found is None or found.shape != tensor.shape:
            shape = "no such tensor" if found is None else f"shape {tuple(found.shape)}"
            raise UserError(f"{origin}: {shape} for {name} of shape {tuple(tensor.shape)}; another architecture")
        tensor.copy_(found)
        copied += 1
    return copied
