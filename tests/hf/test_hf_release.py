"""The authors' released format: a directory with exactly their names, random weights, and the real vocabulary."""

from __future__ import annotations

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import sentencepiece
import torch
from hf_helpers import TEXT
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from metro_t0.convert import main
from metro_t0.modeling.attention import symmetric_buckets

WIDTH, INNER, FFN, HEADS, LAYERS, ROWS = 16, 16, 24, 4, 2, 80
SENTINELS = 512
VOCABULARY = 71 + SENTINELS


def released_weights(vocab_size: int) -> dict[str, Tensor]:
    """Random weights under the released names."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.5

    state = {"shared.weight": draw(vocab_size, WIDTH)}
    state |= dict.fromkeys(("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), state["shared.weight"])
    state["lm_head.weight"] = state["shared.weight"]
    for side in ("encoder", "decoder"):
        state[f"{side}.pos_embed.weight"] = draw(ROWS + 2, WIDTH)
        state |= _norm(f"{side}.first_layer_norm", draw)
        for block in range(LAYERS):
            layer = f"{side}.block.{block}.layer"
            state |= _attention(f"{layer}.0.SelfAttention", draw) | _norm(f"{layer}.0.layer_norm", draw)
            if side == "encoder":
                state[f"{layer}.0.SelfAttention.relative_attention_bias.weight"] = draw(32, HEADS)
                last = 1
            else:
                state |= _attention(f"{layer}.1.EncDecAttention", draw) | _norm(f"{layer}.1.layer_norm", draw)
                last = 2
            state |= _linear(f"{layer}.{last}.DenseReluDense.wi", FFN, WIDTH, draw)
            state |= _linear(f"{layer}.{last}.DenseReluDense.wo", WIDTH, FFN, draw)
            state |= _norm(f"{layer}.{last}.layer_norm", draw)
    return state


def _linear(name: str, out: int, into: int, draw) -> dict[str, Tensor]:
    return {f"{name}.weight": draw(out, into), f"{name}.bias": draw(out)}


def _norm(name: str, draw) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + draw(WIDTH), f"{name}.bias": draw(WIDTH)}


def _attention(name: str, draw) -> dict[str, Tensor]:
    inward = _linear(f"{name}.q", INNER, WIDTH, draw) | _linear(f"{name}.k", INNER, WIDTH, draw)
    return inward | _linear(f"{name}.v", INNER, WIDTH, draw) | _linear(f"{name}.o", WIDTH, INNER, draw)


def released_logits(state: dict[str, Tensor], source: Tensor, target: Tensor) -> Tensor:
    """The released model for one unpadded example, written down from its description with the released names."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)

    def attention(name: str, x: Tensor, memory: Tensor, bias: Tensor | float) -> Tensor:
        q, k, v = (linear(f"{name}.{part}", y) for part, y in (("q", x), ("k", memory), ("v", memory)))
        heads = []
        for head, columns in enumerate(torch.arange(INNER).view(HEADS, -1)):
            own_bias = bias[head] if isinstance(bias, Tensor) and bias.dim() == 3 else bias
            scores = (q[:, columns] * (INNER // HEADS) ** -0.5) @ k[:, columns].T + own_bias
            heads.append(scores.softmax(-1) @ v[:, columns])
        return linear(f"{name}.o", torch.cat(heads, dim=-1))

    def embed(side: str, ids: Tensor) -> Tensor:
        positions = torch.arange(len(ids)) + 2  # fairseq: pad id + 1
        x = state["shared.weight"][ids] + state[f"{side}.pos_embed.weight"][positions]
        return norm(f"{side}.first_layer_norm", x)

    x = embed("encoder", source)
    places = torch.arange(len(source))
    buckets = symmetric_buckets(places[None, :] - places[:, None], 32, 128)
    for block in range(LAYERS):
        layer = f"encoder.block.{block}.layer"
        bias = state[f"{layer}.0.SelfAttention.relative_attention_bias.weight"][buckets].permute(2, 0, 1)
        x = norm(f"{layer}.0.layer_norm", x + attention(f"{layer}.0.SelfAttention", x, x, bias))
        hidden = linear(f"{layer}.1.DenseReluDense.wi", x).relu()
        x = norm(f"{layer}.1.layer_norm", x + linear(f"{layer}.1.DenseReluDense.wo", hidden))
    memory, x = x, embed("decoder", target)
    future = torch.full((len(target), len(target)), -torch.inf).triu(1)
    for block in range(LAYERS):
        layer = f"decoder.block.{block}.layer"
        x = norm(f"{layer}.0.layer_norm", x + attention(f"{layer}.0.SelfAttention", x, x, future))
        x = norm(f"{layer}.1.layer_norm", x + attention(f"{layer}.1.EncDecAttention", x, memory, 0.0))
        hidden = linear(f"{layer}.2.DenseReluDense.wi", x).relu()
        x = norm(f"{layer}.2.layer_norm", x + linear(f"{layer}.2.DenseReluDense.wo", hidden))
    return x @ state["lm_head.weight"].T


def write_release(directory: Path, vocabulary: Path, state: dict[str, Tensor], *, safetensors: bool = False) -> Path:
    directory.mkdir()
    for name in ("sp.model", "dict.txt"):
        shutil.copyfile(vocabulary / name, directory / name)
    config = {"model_type": "fairseq_t5", "auto_map": {"AutoConfig": "configuration_fairseq_t5.FairseqT5Config"}}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (directory / "configuration_fairseq_t5.py").write_text("raise SystemExit('executed')", encoding="utf-8")
    if safetensors:
        save_file({name: tensor.clone() for name, tensor in state.items()}, directory / "model.safetensors")
    else:
        torch.save(state, directory / "pytorch_model.bin")
    return directory


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small vocabulary of the released kind: uncased sp.model and dict.txt."""
    directory = tmp_path_factory.mktemp("trained")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.lower().splitlines()), model_prefix=str(directory / "sp"), vocab_size=70,
        model_type="unigram", normalization_rule_name="nmt_nfkc_cf", minloglevel=2,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_file=str(directory / "sp.model"))
    pieces = [model.id_to_piece(index) for index in range(len(model)) if not model.is_control(index)]
    lines = [f"{piece} 1\n" for piece in pieces if piece != "<unk>"]
    (directory / "dict.txt").write_text("".join(lines), encoding="utf-8")
    return directory


@pytest.mark.parametrize("name", ["trained", "vocab_32k", "vocab_64k"])
def test_release_converts_and_computes_the_same(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if name == "trained":
        vocabulary = request.getfixturevalue("trained")
    else:
        vocabulary = request.getfixturevalue("real_data") / "vocab" / name
    cased = name == "vocab_64k"
    lines = len((vocabulary / "dict.txt").read_text(encoding="utf-8").splitlines())
    state = released_weights(4 + lines + SENTINELS)
    source = write_release(tmp_path / "released", vocabulary, state, safetensors=cased)
    assert main(["release", str(source), "--output", str(tmp_path / "hf")]) == 0

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert (tokenizer("Hello")["input_ids"] != tokenizer("hello")["input_ids"]) == cased
    assert tokenizer.convert_tokens_to_ids("<sen000>") == 4 + lines
    assert len(tokenizer) == 4 + lines + SENTINELS

    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf")
    assert model.config.max_positions == ROWS
    texts = ["A short one.", "It's a longer sentence, with many more words than the short one!"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    target = torch.tensor([[2, 17, 300, 5], [2, 99, 4, 70]])
    found = model(**batch, decoder_input_ids=target).logits
    for row, text in enumerate(texts):
        expected = released_logits(state, tokenizer(text, return_tensors="pt")["input_ids"][0], target[row])
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-4)


def test_half_precision_weights_are_kept_or_widened(trained: Path, tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in released_weights(VOCABULARY).items()}
    source = write_release(tmp_path / "released", trained, state)
    assert main(["release", str(source), "--output", str(tmp_path / "half")]) == 0
    assert main(["release", str(source), "--output", str(tmp_path / "full"), "--dtype", "float32"]) == 0
    half = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "half")
    full = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "full")
    assert (half.dtype, full.dtype) == (torch.float16, torch.float32)
    positions = "main.decoder.embeddings.positions.weight"
    assert torch.equal(full.state_dict()[positions], state["decoder.pos_embed.weight"][2:].float())


def test_what_does_not_fit_is_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = released_weights(VOCABULARY)

    def refused(name: str, changed: dict[str, Tensor]) -> str:
        source = write_release(tmp_path / name, trained, changed)
        assert main(["release", str(source), "--output", str(tmp_path / "hf")]) == 2
        assert not (tmp_path / "hf").exists()
        return capsys.readouterr().err

    assert "lm_head.weight differs" in refused("untied", state | {"lm_head.weight": state["shared.weight"] + 1})
    assert "unknown tensor adapter.weight" in refused("unknown", state | {"adapter.weight": torch.ones(1)})
    missing = {name: tensor for name, tensor in state.items() if name != "decoder.block.1.layer.2.layer_norm.bias"}
    assert "decoder.layers.1.feed_forward_norm.bias is missing" in refused("missing", missing)
    wrong = state | {"encoder.block.1.layer.0.SelfAttention.k.weight": torch.ones(3, 3)}
    assert "(3, 3), not (16, 16)" in refused("shape", wrong)
    small = {name: tensor[:60] if tensor.shape[0] == VOCABULARY else tensor for name, tensor in state.items()}
    assert "71 ids, but the model has 60" in refused("vocabulary", small)
    assert "not a table of tensors" in refused("table", {"shared.weight": [1, 2]})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    assert main(["release", str(tmp_path / "other"), "--output", str(tmp_path / "hf")]) == 2
    assert "model_type is 'bert'" in capsys.readouterr().err


def test_a_page_in_the_place_of_the_hub_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Portal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Please log in to this network</html>")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Portal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        assert main(["release", "owner/name", "--output", str(tmp_path / "out")]) == 2
        server.shutdown()
    assert "error: owner/name: not found on the hub, or no connection (" in capsys.readouterr().err
