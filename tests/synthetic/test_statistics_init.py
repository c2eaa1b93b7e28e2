"""Initialization from statistics: group counts, distributions, what stays, bad input, both namings, both file kinds."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from metro_t0.errors import UserError
from metro_t0.modeling import MetroT5, preset
from metro_t0.synthetic.cli import main
from metro_t0.transfer.roles import copy_weights, role_of
from metro_t0.transfer.statistics import (
    SCHEMES,
    Statistics,
    apply_statistics,
    collect,
    constant_statistics,
    get_scheme,
)

COUNTS = {
    "per_param_mean_sd": 130,
    "per_param_scale": 130,
    "across_layers_scale": 9,
    "per_layer_scale": 28,
    "whole_model_scale": 3,
    "pre_attention_norm_scale": 18,
    "attention_scale": 72,
    "pre_mlp_norm_scale": 12,
    "mlp_scale": 24,
}


def our_t5(layers=6, seed=0, **changes):
    torch.manual_seed(seed)
    width = {"d_model": 64, "ffn_dim": 128, "num_heads": 4, "head_dim": 16, "encoder_layers": layers}
    return MetroT5(preset("t5_tiny", vocab_size=50, decoder_layers=layers, **width, **changes), pad_id=1)


def trained(model, seed=9):
    """Weights that are not those of an initialization: every tensor with its own mean and scale."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for i, tensor in enumerate(model.parameters()):
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise * (0.05 + 0.01 * (i % 13)) + 0.02 * (i % 7))
    return model


def hf_t5(layers=6, **changes):
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=50, d_model=64, d_kv=16, d_ff=128, num_layers=layers, num_heads=4, decoder_start_token_id=0,
        **changes,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


@pytest.mark.parametrize("scheme", COUNTS)
def test_group_counts_for_both_namings(scheme):
    for model in (trained(our_t5()), trained(hf_t5())):
        groups = collect(model.state_dict(), SCHEMES[scheme], "model").groups
        assert len(groups) == COUNTS[scheme]
    assert len(constant_statistics(our_t5().state_dict(), 0.2).groups) == 18


def test_across_layers_pools_what_the_paper_pools():
    groups = collect(trained(our_t5()).state_dict(), SCHEMES["across_layers_scale"], "model").groups
    sizes = {name: len(group.tensors) for name, group in groups.items()}
    assert sizes == {
        "q": 18, "k": 18, "v": 18, "o": 18, "mlp": 24, "mlp_norm": 12, "attention_norm": 18, "final_norm": 2,
        "relative_bias": 2,
    }  # fmt: skip
    assert sum(sizes.values()) == 130


@pytest.mark.parametrize("layers", [1, 2, 12])
def test_any_depth_gated_and_untied(layers):
    model = trained(our_t5(layers, gated_ffn=True, tied_head=False))
    groups = collect(model.state_dict(), SCHEMES["per_param_scale"], "model").groups
    assert len(groups) == layers * 9 + 2 + layers * 14 + 2
    assert not any("head" in name or "embedding" in name for name in groups)
    hf = trained(hf_t5(layers, feed_forward_proj="gated-gelu", tie_word_embeddings=False))
    assert collect(hf.state_dict(), SCHEMES["per_param_scale"], "model").groups.keys() == groups.keys()


def test_metro_models_keep_biases_positions_and_the_auxiliary():
    model = MetroT5(preset("tiny", vocab_size=60, encoder_layers=2, decoder_layers=2, auxiliary_layers=1), pad_id=1)
    source = trained(MetroT5(model.config, pad_id=1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    statistics = collect(source.state_dict(), SCHEMES["per_param_scale"], "model")
    state = model.state_dict()
    count = apply_statistics(state, statistics, 0, "statistics")
    # 8 per encoder layer and 13 per decoder layer, a relative bias per encoder layer; post-LN has no last norm.
    assert count == 2 * 8 + 2 * 13 + 2
    changed = {name for name, tensor in state.items() if not torch.equal(tensor, before[name])}
    assert len(changed) == count
    assert not any("auxiliary" in name or name.endswith("bias") or "positions" in name for name in changed)


def test_roles_agree_between_namings():
    ours = {role_of(name).key for name, _ in our_t5(3).named_parameters()}
    theirs = {role_of(name).key for name, _ in hf_t5(3).named_parameters()}
    assert ours == theirs


@pytest.mark.parametrize("scheme", COUNTS)
def test_realized_statistics_and_untouched_tensors(scheme):
    source, target = trained(our_t5()), our_t5(seed=3)
    statistics = collect(source.state_dict(), SCHEMES[scheme], "model")
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    state = target.state_dict()
    apply_statistics(state, statistics, seed=5, origin="statistics")
    by_key = {role_of(name).key: name for name in state if role_of(name)}
    grouped = set()
    for group in statistics.groups.values():
        for key in group.tensors:
            name = by_key[key]
            grouped.add(name)
            values = state[name].double().flatten()
            if scheme != "per_param_mean_sd" and "norm" in key:
                assert torch.all(state[name] == torch.tensor(group.mean).float())
                continue
            mean = group.mean if scheme == "per_param_mean_sd" else 0.0
            error = group.sd / len(values) ** 0.5
            assert abs(float(values.mean()) - mean) < 5 * error
            assert abs(float(values.std()) - group.sd) < 5 * error
    for name in set(state) - grouped:
        assert torch.equal(state[name], before[name]), name
    assert "main.encoder.embeddings.tokens.weight" not in grouped


def test_noise_depends_on_seed_and_tensor_only():
    statistics = collect(trained(our_t5(2)).state_dict(), SCHEMES["whole_model_scale"], "model")
    ours, theirs, other = our_t5(2), hf_t5(2), our_t5(2)
    apply_statistics(ours.state_dict(), statistics, 1, "s")
    apply_statistics(theirs.state_dict(), statistics, 1, "s")
    apply_statistics(other.state_dict(), statistics, 2, "s")
    q = ours.main.encoder.layers[1].self_attention.q.weight
    assert torch.equal(q, theirs.encoder.block[1].layer[0].SelfAttention.q.weight)
    assert not torch.equal(q, ours.main.encoder.layers[0].self_attention.q.weight)
    assert not torch.equal(q, other.main.encoder.layers[1].self_attention.q.weight)


def test_the_sweep_needs_no_checkpoint():
    model = our_t5(2)
    state = model.state_dict()
    apply_statistics(state, constant_statistics(state, 0.4), 0, "sweep")
    assert torch.all(model.main.decoder.layers[1].cross_attention_norm.weight == 0.4)
    assert torch.all(model.main.decoder.layers[1].feed_forward_norm.weight == 1.0)


def test_full_transfer_with_and_without_embeddings():
    source = trained(our_t5(2))
    for with_embeddings in (False, True):
        target = our_t5(2, seed=4)
        before = target.main.encoder.embeddings.tokens.weight.detach().clone()
        copy_weights(target.state_dict(), source.state_dict(), with_embeddings, "source")
        table = target.main.encoder.embeddings.tokens.weight
        assert torch.equal(table, source.main.encoder.embeddings.tokens.weight if with_embeddings else before)
        assert torch.equal(
            target.main.decoder.layers[1].feed_forward.wo.weight, source.main.decoder.layers[1].feed_forward.wo.weight
        )


def test_bad_input():
    with pytest.raises(UserError, match="per_param_scale"):
        get_scheme("per_parm_scale")
    statistics = collect(trained(our_t5(3)).state_dict(), SCHEMES["per_param_scale"], "m")
    with pytest.raises(UserError, match=r"another architecture; they have .*decoder.2"):
        apply_statistics(our_t5(2).state_dict(), statistics, 0, "s.json")
    statistics = collect(trained(our_t5(2)).state_dict(), SCHEMES["whole_model_scale"], "m")
    with pytest.raises(UserError, match="another architecture; the model has"):
        apply_statistics(our_t5(3).state_dict(), statistics, 0, "s.json")
    state = trained(our_t5(2)).state_dict()
    del state["main.decoder.layers.1.cross_attention.k.weight"]
    with pytest.raises(UserError, match=r"decoder.1.cross.k is missing"):
        collect(state, SCHEMES["per_param_scale"], "m")
    with pytest.raises(UserError, match=r"group encoder.0.self.attention_norm are equal"):
        collect(our_t5(2).state_dict(), SCHEMES["per_param_mean_sd"], "m")
    state = trained(our_t5(2)).state_dict()
    state["main.encoder.layers.0.self_attention.q.weight"][0, 0] = float("nan")
    with pytest.raises(UserError, match="diverged"):
        collect(state, SCHEMES["per_param_scale"], "m")
    with pytest.raises(UserError, match="not a statistics file"):
        Statistics.from_json({"groups": {"a": 1}}, "x.json")
    with pytest.raises(UserError, match="no layers of the encoder"):
        collect({"weight": torch.ones(3)}, SCHEMES["per_param_scale"], "m")


def test_commands_on_a_hugging_face_directory(tmp_path, capsys):
    trained(hf_t5(2)).save_pretrained(tmp_path / "trained")
    hf_t5(2).save_pretrained(tmp_path / "random")
    statistics = tmp_path / "statistics.json"
    assert (
        main(["init-stats", str(tmp_path / "trained"), "--scheme", "per_param_scale", "--output", str(statistics)]) == 0
    )
    assert statistics.stat().st_size < 20_000
    start = tmp_path / "start"
    assert main(["init-apply", str(tmp_path / "random"), "--statistics", str(statistics), "--output", str(start)]) == 0
    model = T5ForConditionalGeneration.from_pretrained(start)
    norm = model.decoder.block[1].layer[1].layer_norm.weight
    group = json.loads(statistics.read_text())["groups"]["decoder.1.cross.attention_norm"]
    assert torch.allclose(norm, torch.tensor(group["mean"]))
    assert main(["init-stats", str(tmp_path / "nothing"), "--scheme", "mlp_scale", "--output", "x.json"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_commands_on_a_fairseq_checkpoint(tmp_path):
    from metro_t0.hf.checkpoints import read_checkpoint, write_checkpoint

    (tmp_path / "dict.txt").write_text("a 1\n")
    for name, model in (("trained", trained(our_t5(2))), ("random", our_t5(2))):
        write_checkpoint(tmp_path / f"{name}.pt", model.config, model.state_dict(), tmp_path / "dict.txt")
    arguments = ["init-apply", str(tmp_path / "random.pt"), "--weights", str(tmp_path / "trained.pt")]
    assert main([*arguments, "--output", str(tmp_path / "start.pt")]) == 0
    start, source = (read_checkpoint(tmp_path / f"{name}.pt").tensors for name in ("start", "trained"))
    random = read_checkpoint(tmp_path / "random.pt").tensors
    assert torch.equal(start["main.decoder.last_norm.weight"], source["main.decoder.last_norm.weight"])
    table = "main.encoder.embeddings.tokens.weight"
    assert torch.equal(start[table], random[table])


def test_weights_of_another_vocabulary_leave_what_belongs_to_ones_own(tmp_path):
    """A METRO checkpoint has the table of its tokens twice, and says which dict.txt its ids are of."""
    from metro_t0.hf.checkpoints import read_checkpoint, write_checkpoint
    from metro_t0.modeling import ModelConfig

    sizes = {"d_model": 16, "num_heads": 2, "head_dim": 8, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1}
    for name in ("trained", "random"):
        model = MetroT5(ModelConfig(vocab_size=50, max_positions=16, **sizes), pad_id=1)
        (tmp_path / f"{name}.txt").write_text(f"{name} 1\n")
        write_checkpoint(
            tmp_path / f"{name}.pt", model.config, trained(model, len(name)).state_dict(), tmp_path / f"{name}.txt"
        )
    arguments = ["init-apply", str(tmp_path / "random.pt"), "--weights", str(tmp_path / "trained.pt")]
    assert main([*arguments, "--output", str(tmp_path / "start.pt")]) == 0
    start, source, random = (read_checkpoint(tmp_path / f"{name}.pt") for name in ("start", "trained", "random"))
    start.check_dictionary(tmp_path / "random.txt")
    for name in ("main.encoder.embeddings.tokens.weight", "auxiliary.stack.embeddings.tokens.weight", "auxiliary.bias"):
        assert torch.equal(start.tensors[name], random.tensors[name])
    assert torch.equal(start.tensors["rtd_head.out.weight"], source.tensors["rtd_head.out.weight"])
