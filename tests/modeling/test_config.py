"""Presets against the paper, and refusals of what makes no sense."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import get_args

import pytest
import torch

from metro_t0.errors import UserError
from metro_t0.hf.configuration import MetroT5Config
from metro_t0.modeling import PRESETS, T5, MetroT5, ModelConfig, preset
from metro_t0.modeling.config import Scope, fields_of
from metro_t0.modeling.pretraining import PRETRAINING_MODULES
from metro_t0.options import kinds

RENAMED = {"heads": "num_heads"}
TINY = ModelConfig(
    vocab_size=40, d_model=8, ffn_dim=8, num_heads=2, head_dim=4, encoder_layers=1, decoder_layers=1,
    auxiliary_layers=1, max_positions=8,
)  # fmt: skip


@pytest.mark.parametrize("name", ["tiny", "small", "base", "base_pp", "large_pp"])
def test_presets_match_the_paper(name: str, spec_dir: Path) -> None:
    facts = json.loads((spec_dir / "metro_presets.json").read_text())
    for field, value in facts["model"][name].items():
        if field not in ("vocab", "note"):
            assert getattr(PRESETS[name], RENAMED.get(field, field)) == value, field
    assert PRESETS[name].dropout == facts["pretraining"]["all"]["dropout"]
    assert PRESETS[name].attention_dropout == facts["pretraining"]["all"]["attention_dropout"]


# Vocabularies: released dict.txt lines + 4 specials + 512 sentinels.
@pytest.mark.parametrize(
    ("name", "vocab_size", "millions"), [("base", 33_280, 226), ("base_pp", 64_518, 250), ("large_pp", 64_512, 775)]
)
def test_parameter_counts_equal_the_papers_to_one_percent(name: str, vocab_size: int, millions: int) -> None:
    with torch.device("meta"):
        model = T5(preset(name, vocab_size=vocab_size))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(millions * 1e6, rel=0.01)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_configs_survive_a_round_trip(name: str) -> None:
    assert ModelConfig.from_dict(json.loads(json.dumps(PRESETS[name].to_dict()))) == PRESETS[name]


def test_command_line_strings_become_booleans() -> None:
    assert ModelConfig.from_dict({"bias": "false", "gated_ffn": "true"}) == ModelConfig(bias=False, gated_ffn=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auxiliary_layers": 0}, "without an auxiliary no token is replaced"),
        ({"auxiliary_layers": 0, "rtd": "none", "clm_head": "copy"}, "no noised token to copy"),
        ({"relative_positions": "both"}, "symmetric buckets look both ways"),
        ({"tied_head": False}, "tied to the embeddings"),
        ({"norm_placement": "middle"}, "norm_placement is 'middle'; choose one of post, pre"),
        ({"d_model": 0}, "d_model is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"relative_buckets": 30}, "multiple of 4"),
    ],
)
def test_nonsense_is_refused_with_the_reason(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        preset("tiny", **changes)


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown architecture 'larg_pp'; did you mean large_pp"):
        preset("larg_pp")
    with pytest.raises(UserError, match=r"unknown model field .encoder_layer.; did you mean encoder_layers"):
        ModelConfig.from_dict({"encoder_layer": 3})


def test_every_field_says_what_it_describes() -> None:
    """A field that is not classified, or of pretraining without its value in the main model, leaks into exports."""
    for field in dataclasses.fields(ModelConfig):
        assert field.metadata.get("scope") in get_args(Scope), field.name
        assert ("without" in field.metadata) == (field.metadata["scope"] == "pretraining"), field.name


def test_what_belongs_to_pretraining_alone_is_in_no_exported_model() -> None:
    """For every value of every field of pretraining: not in config.json, and no tensor beside the main model."""
    pretraining, choices = (
        fields_of("pretraining"),
        {name: kind.choices for name, kind in kinds(ModelConfig).items() if kind.choices},
    )
    exported = MetroT5Config().to_dict()
    assert fields_of("model").keys() <= exported.keys()
    assert not (pretraining.keys() | fields_of("run").keys()) & exported.keys()
    for name, field in pretraining.items():
        for value in choices.get(name, (1, 2)):
            config = TINY.replace(**{name: value})
            assert getattr(config.without_pretraining(), name) == field.metadata["without"]
            assert MetroT5Config.from_model_config(config).model_config() == config.without_pretraining()
            assert [part for part, _ in MetroT5(config.without_pretraining(), 1).named_children()] == ["main"]
            parts = {part for part, _ in MetroT5(config, 1).named_children()}
            assert parts <= {"main", *PRETRAINING_MODULES}
