"""The METRO-T0 authors' released checkpoints (model type `fairseq_t5`) as models of this project.

Their layout, from the names in the files: T5's block structure with biases, learned positions, a norm on the
embeddings, a relative bias in every encoder layer and none in the decoder. Queries are scaled by head_dim ** -0.5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor

from metro_t0.errors import UserError, first_line
from metro_t0.files import read_json
from metro_t0.hf.loading import directory_tensors
from metro_t0.modeling import ModelConfig
from metro_t0.tensor_names import our_name

MODEL_TYPE = "fairseq_t5"
FILES = ("config.json", "model.safetensors", "pytorch_model.bin", "sp.model", "dict.txt")
TOKEN_TABLE = "shared.weight"
TIED_TO_TOKENS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
# fairseq counts positions from pad id + 1; rows before are never read.
FIRST_POSITION = 2
# Distance at which the last bucket begins, by number of buckets: base and base++, large++, and the release's
# architecture default. Their config.json does not hold it.
MAX_DISTANCES = {32: 128, 64: 128, 128: 256}
NOT_RELEASED = ("decoder.relative_biases.", "encoder.last_norm.", "decoder.last_norm.", "head.")


def fetch(source: str) -> Path:
    """A local directory as it is, or the known files of a repository on the hub (nothing else is downloaded)."""
    if Path(source).is_dir():
        return Path(source)
    if Path(source).exists() or source.count("/") != 1 or source.startswith((".", "/")):
        raise UserError(f"{source}: neither a directory nor the name of a repository on the hub (OWNER/NAME)")
    try:
        return Path(snapshot_download(source, allow_patterns=list(FILES)))
    except Exception as error:  # network, permission, a portal's page: many types of several libraries
        raise UserError(f"{source}: not found on the hub, or no connection ({first_line(error)})") from None


def read_release(directory: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Config and `main.*` tensors of a released checkpoint, in the dtype of its file.

    Raises `UserError` where the directory is of another kind, a name is unknown, or embeddings are not tied.
    """
    settings = read_json(directory / "config.json", dict[str, Any])
    if settings.get("model_type") != MODEL_TYPE:
        raise UserError(f"{directory}/config.json: model_type is {settings.get('model_type')!r}, not {MODEL_TYPE!r}")
    released = directory_tensors(directory)
    if TOKEN_TABLE not in released:
        raise UserError(f"{directory}: no tensor {TOKEN_TABLE}; not a checkpoint of the METRO-T0 release")
    for name in TIED_TO_TOKENS:
        if name in released and not torch.equal(released.pop(name), released[TOKEN_TABLE]):
            raise UserError(f"{directory}: {name} differs from {TOKEN_TABLE}; in the release they are tied")
    state: dict[str, Tensor] = {}
    for name, tensor in released.items():
        for ours in _our_names(name, directory):
            state[ours] = tensor[FIRST_POSITION:].contiguous() if name.endswith("pos_embed.weight") else tensor
    return _model_config(settings, state, directory), state


def _our_names(name: str, directory: Path) -> list[str]:
    """Where a released tensor goes; the token table goes to both sides."""
    if name == TOKEN_TABLE:
        return [f"main.{side}.embeddings.tokens.weight" for side in ("encoder", "decoder")]
    ours = our_name(name)
    if ours is None or ours.startswith(NOT_RELEASED) or ".gate." in ours or ".wi_" in name:
        raise UserError(f"{directory}: unknown tensor {name}; not a checkpoint of the METRO-T0 release")
    return [f"main.{ours}"]


def _model_config(settings: dict[str, object], state: dict[str, Tensor], directory: Path) -> ModelConfig:
    """Sizes are read from the tensors, so that config and weights cannot disagree."""

    def shape(name: str) -> torch.Size:
        if name not in state:
            raise UserError(f"{directory}: no tensor for {name}; not a complete checkpoint of the METRO-T0 release")
        return state[name].shape

    vocab_size, d_model = shape("main.encoder.embeddings.tokens.weight")
    buckets, num_heads = shape("main.encoder.relative_biases.0.table.weight")
    inner_dim = shape("main.encoder.layers.0.self_attention.q.weight")[0]
    if buckets not in MAX_DISTANCES:
        raise UserError(
            f"{directory}: {buckets} relative buckets; the release has {', '.join(map(str, MAX_DISTANCES))}"
        )
    return ModelConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        ffn_dim=shape("main.encoder.layers.0.feed_forward.wi.weight")[0],
        num_heads=num_heads,
        head_dim=inner_dim // num_heads,
        encoder_layers=_num_layers(state, "encoder"),
        decoder_layers=_num_layers(state, "decoder"),
        max_positions=shape("main.encoder.embeddings.positions.weight")[0],
        norm_eps=float(settings.get("layer_norm_epsilon", 1e-5)),  # type: ignore[arg-type]
        relative_buckets=buckets,
        relative_max_distance=MAX_DISTANCES[buckets],
    ).without_pretraining()


def _num_layers(state: dict[str, Tensor], side: str) -> int:
    prefix = f"main.{side}.layers."
    return 1 + max((int(name.split(".")[3]) for name in state if name.startswith(prefix)), default=-1)
