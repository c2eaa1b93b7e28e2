"""Initialization from statistics of a trained model (Wu, Li and Liang 2022, section 4 and appendix H).

A scheme partitions the tensors of a model into groups. Of every group the mean and the standard deviation over all
its scalars are kept, a few kB in all, and a new model is drawn from them. Groupings are functions of the *role* of
a tensor (`transfer.roles`), so they hold for any depth, for this project's models and for Hugging Face's T5.

Token embeddings, output projections, biases and absolute positions are in no group: they stay as the new model has
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from metro_t0.errors import UserError, unknown
from metro_t0.randomness import keyed_seed
from metro_t0.transfer.roles import ATTENTION, MLP, NORMS, Kind, Role, role_of, roles_of

Assignment = Literal["scale", "mean_sd"]


Grouping = Callable[[Role], str | None]


def _each(kinds: Iterable[Kind]) -> Grouping:
    kept = frozenset(kinds)
    return lambda role: role.key if role.kind in kept else None


def _across_layers(role: Role) -> str | None:
    return "mlp" if role.kind in MLP else role.kind


def _per_layer(role: Role) -> str | None:
    if role.kind in ATTENTION or role.kind in MLP:
        return f"{role.stack}.{role.layer}.matrices"
    return f"{role.stack}.{role.layer}.norms" if role.kind in ("attention_norm", "mlp_norm") else role.key


def _whole_model(role: Role) -> str | None:
    if role.kind in ATTENTION or role.kind in MLP:
        return "matrices"
    return "norms" if role.kind in NORMS else role.kind


@dataclass(frozen=True)
class Scheme:
    """grouping: role -> group, None for tensors left as they are. assignment: how a group is drawn.

    scale: norms become their mean, constant; other tensors N(0, sd^2). mean_sd: everything N(mean, sd^2).
    """

    name: str
    assignment: Assignment
    grouping: Grouping

    def group_of(self, role: Role | None) -> str | None:
        """The group of a tensor; embeddings and output projections never have one."""
        if role is None or role.kind in ("embedding", "head"):
            return None
        return self.grouping(role)


_ALL = _each((*ATTENTION, *MLP, *NORMS, "relative_bias"))
SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("per_param_mean_sd", "mean_sd", _ALL),
        Scheme("per_param_scale", "scale", _ALL),
        Scheme("across_layers_scale", "scale", _across_layers),
        Scheme("per_layer_scale", "scale", _per_layer),
        Scheme("whole_model_scale", "scale", _whole_model),
        Scheme("pre_attention_norm_scale", "scale", _each(["attention_norm"])),
        Scheme("attention_scale", "scale", _each(ATTENTION)),
        Scheme("pre_mlp_norm_scale", "scale", _each(["mlp_norm"])),
        Scheme("mlp_scale", "scale", _each(MLP)),
    )
}


def get_scheme(name: str) -> Scheme:
    """The scheme of that name. Raises `UserError` with the nearest names."""
    if name not in SCHEMES:
        raise unknown("initialization scheme", name, SCHEMES)
    return SCHEMES[name]


@dataclass(frozen=True)
class GroupStatistics:
    """Mean and population standard deviation over the `size` scalars of a group; the keys of its tensors."""

    mean: float
    sd: float
    size: int
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Statistics:
    """What a scheme keeps of a model."""

    scheme: str
    assignment: Assignment
    groups: Mapping[str, GroupStatistics]

    def to_json(self) -> dict[str, Any]:
        """Plain values, to be written with `metro_t0.files.write_json`."""
        groups = {
            name: {"mean": group.mean, "sd": group.sd, "n": group.size, "tensors": list(group.tensors)}
            for name, group in self.groups.items()
        }
        return {"scheme": self.scheme, "assignment": self.assignment, "groups": groups}

    @classmethod
    def from_json(cls, values: Any, origin: str) -> Statistics:
        """The inverse of `to_json`. Raises `UserError` naming `origin` where the values are not statistics."""
        try:
            groups = {
                name: GroupStatistics(float(g["mean"]), float(g["sd"]), int(g["n"]), tuple(g["tensors"]))
                for name, g in values["groups"].items()
            }
            assignment = values["assignment"]
            scheme = str(values["scheme"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{origin}: not a statistics file of metro-t0-synthetic init-stats ({error!r})") from None
        if assignment not in ("scale", "mean_sd"):
            raise UserError(f"{origin}: field assignment is {assignment!r}; it must be scale or mean_sd")
        return cls(scheme, assignment, groups)


def collect(tensors: Mapping[str, Tensor], scheme: Scheme, origin: str) -> Statistics:
    """Statistics of a model's tensors, computed in float64.

    Raises `UserError` naming `origin` where a layer lacks a tensor that its neighbors have, where a group is empty of
    variation although noise must be drawn from it, or where a statistic is not finite.
    """
    roles = roles_of(tensors)
    _check_complete(roles, origin)
    members: dict[str, list[str]] = {}
    for name, role in roles.items():
        group = scheme.group_of(role)
        if group is not None:
            members.setdefault(group, []).append(name)
    if not members:
        raise UserError(f"{origin}: holds no tensor of an encoder-decoder that scheme {scheme.name} could use")
    groups = {}
    for group, names in members.items():
        values = torch.cat([tensors[name].detach().double().flatten() for name in names])
        made = GroupStatistics(
            float(values.mean()), float(values.std(correction=0)), values.numel(), tuple(roles[n].key for n in names)
        )
        _check_group(group, made, scheme.assignment, origin)
        groups[group] = made
    return Statistics(scheme.name, scheme.assignment, groups)


def _check_group(name: str, group: GroupStatistics, assignment: Assignment, origin: str) -> None:
    if not (math.isfinite(group.mean) and math.isfinite(group.sd)):
        raise UserError(f"{origin}: group {name} has mean {group.mean} and deviation {group.sd}; the model diverged")
    constant = assignment == "scale" and _is_norm(group.tensors[0])
    if group.sd <= 0 and not constant:
        raise UserError(f"{origin}: all weights of group {name} are equal, so there is no scale to draw from")


def _check_complete(roles: Mapping[str, Role], origin: str) -> None:
    """Every layer of a stack has the tensors that any of its layers has."""
    keys = {role.key for role in roles.values()}
    for stack in ("encoder", "decoder"):
        in_layers = [r for r in roles.values() if r.stack == stack and r.layer is not None and r.site]
        if not in_layers:
            raise UserError(f"{origin}: no layers of the {stack}; a model with encoder and decoder is needed")
        sites = {(r.site, r.kind) for r in in_layers}
        attentions = ("self", "cross") if stack == "decoder" else ("self",)
        needed: tuple[Kind, ...] = (*ATTENTION, "attention_norm")
        sites |= {(site, kind) for site in attentions for kind in needed}
        for layer in range(1 + max(r.layer for r in in_layers if r.layer is not None)):
            for site, kind in sorted(sites):
                key = Role(kind, stack, layer, site).key
                if key not in keys:
                    raise UserError(f"{origin}: tensor {key} is missing, so its group cannot be computed")


def constant_statistics(names: Iterable[str], value: float) -> Statistics:
    """Every pre-attention norm set to one constant: the sweep that uses no checkpoint."""
    roles = [role for role in roles_of(names).values() if role.kind == "attention_norm"]
    groups = {role.key: GroupStatistics(value, 0.0, 0, (role.key,)) for role in roles}
    return Statistics(f"pre_attention_norm={value}", "scale", groups)


@torch.no_grad()
def apply_statistics(tensors: Mapping[str, Tensor], statistics: Statistics, seed: int, origin: str) -> int:
    """Draw the grouped tensors of a model anew, in place; gives how many. The others keep their values.

    The noise of a tensor depends on (seed, its key) alone, not on order or device. Raises `UserError` naming `origin`
    where the statistics belong to a model of other layers.
    """
    by_key = {role.key: name for name, role in roles_of(tensors).items()}
    wanted = {key for group in statistics.groups.values() for key in group.tensors}
    if missing := sorted(wanted - by_key.keys()):
        raise UserError(
            f"{origin}: statistics of another architecture; they have {missing[0]} "
            f"({len(missing)} such tensors) and the model does not"
        )
    if extra := sorted(_expected(statistics, by_key) - wanted):
        raise UserError(
            f"{origin}: statistics of another architecture; the model has {extra[0]} "
            f"({len(extra)} such tensors) and they do not"
        )
    for name, group in statistics.groups.items():
        _check_group(name, group, statistics.assignment, origin)
        for key in group.tensors:
            tensor = tensors[by_key[key]]
            tensor.copy_(_draw(tensor.shape, key, group, statistics.assignment, seed))
    return len(wanted)


def _expected(statistics: Statistics, by_key: Mapping[str, str]) -> set[str]:
    """The keys of the model that the statistics' scheme groups."""
    scheme = SCHEMES.get(statistics.scheme)
    if scheme is None:
        return set()
    return {key for key, name in by_key.items() if scheme.group_of(role_of(name)) is not None}


def _draw(shape: torch.Size, key: str, group: GroupStatistics, assignment: Assignment, seed: int) -> Tensor:
    if assignment == "scale" and _is_norm(key):
        return torch.full(shape, group.mean)
    generator = torch.Generator().manual_seed(keyed_seed("statistics_init", seed, key))
    noise = torch.randn(shape, generator=generator) * group.sd
    return noise + group.mean if assignment == "mean_sd" else noise


def _is_norm(key: str) -> bool:
    return key.rpartition(".")[2] in NORMS
