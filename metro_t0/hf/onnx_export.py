"""A METRO-T5 directory as two ONNX graphs, for servers and runtimes that know no Python model.

`encoder_model.onnx`: input_ids, attention_mask (B, S) -> last_hidden_state (B, S, D).
`decoder_model.onnx`: input_ids (B, T), encoder_hidden_states (B, S, D), encoder_attention_mask (B, S) -> logits (B, T,
V).
The decoder has no cache: every step reads the whole target so far. All of B, S and T may change from call to call.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim

from metro_t0.errors import UserError
from metro_t0.files import read_json
from metro_t0.hf.convert import TOLERANCE, new_directory, probe
from metro_t0.hf.loading import load_seq2seq
from metro_t0.hf.model_card import make_readable
from metro_t0.hf.modeling import MetroT5ForConditionalGeneration

ENCODER, DECODER = "encoder_model.onnx", "decoder_model.onnx"
BESIDE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "dict.txt", "LICENSE")
LARGEST_FILE = 1 << 30
"""Bytes of weights above which they lie beside the graph: one file cannot hold 2 GB."""
ANY = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}


class EncoderGraph(nn.Module):
    """The encoder with tensors alone as inputs."""

    def __init__(self, model: MetroT5ForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, S), (B, S) -> (B, S, D)."""
        return cast(Tensor, self.model.encoder(input_ids, attention_mask).last_hidden_state)


class DecoderGraph(nn.Module):
    """Decoder and vocabulary projection with tensors alone as inputs."""

    def __init__(self, model: MetroT5ForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor) -> Tensor:
        """(B, T), (B, S, D), (B, S) -> (B, T, V)."""
        output = self.model(
            decoder_input_ids=input_ids, encoder_outputs=(encoder_hidden_states,),
            attention_mask=encoder_attention_mask, use_cache=False,
        )  # fmt: skip
        return cast(Tensor, output.logits)


def to_onnx(source: Path, destination: Path) -> float:
    """Write both graphs and the tokenizer's files; the largest difference of the logits to the model's, in fp32.

    Raises `UserError` where packages are missing, the directory is not of this model, or the graphs compute otherwise.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise UserError(f'{package} is not installed: pip install "metro-t0[onnx]"')
    if read_json(source / "config.json").get("model_type") != "metro_t5":
        raise UserError(f"{source}: not a METRO-T5 (model_type metro_t5); other exporters know transformers' own T5")
    model = load_seq2seq(source).float().eval()
    assert isinstance(model, MetroT5ForConditionalGeneration)
    with new_directory(destination) as written:
        _export(model, written)
        for name in BESIDE:
            if (source / name).is_file():
                shutil.copyfile(source / name, written / name)
        make_readable(written)
        difference = _compare(model, written)
        if not difference <= TOLERANCE:
            raise UserError(f"{source}: logits of the graphs differ by {difference:.2g}; please report it")
    return difference


@torch.no_grad()
def _export(model: MetroT5ForConditionalGeneration, directory: Path) -> None:
    source, mask, target = probe(model.config.vocab_size)
    hidden = EncoderGraph(model)(source, mask.long())
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)  # it tells of every package that it does not find
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _write(EncoderGraph(model), (source, mask.long()), directory / ENCODER, "last_hidden_state")
        _write(DecoderGraph(model), (target, hidden, mask.long()), directory / DECODER, "logits")
    exporter.setLevel(level)


def _write(graph: nn.Module, inputs: tuple[Tensor, ...], path: Path, output: str) -> None:
    names = ["input_ids", "attention_mask"]
    if len(inputs) == 3:
        names = ["input_ids", "encoder_hidden_states", "encoder_attention_mask"]
    size = sum(parameter.nbytes for parameter in graph.parameters())
    torch.onnx.export(
        graph, inputs, path, dynamo=True, verbose=False, external_data=size > LARGEST_FILE, input_names=names,
        output_names=[output], dynamic_shapes=tuple(dict(ANY) for _ in inputs),
    )  # fmt: skip


@torch.no_grad()
def _compare(model: MetroT5ForConditionalGeneration, directory: Path) -> float:
    """On another batch size and other lengths than those that the graphs were made with."""
    import onnxruntime

    def run(name: str, **inputs: Tensor) -> Any:
        session = onnxruntime.InferenceSession(directory / name, providers=["CPUExecutionProvider"])
        return session.run(None, {key: value.numpy() for key, value in inputs.items()})[0]

    source, mask, target = (tensor[:2] for tensor in probe(model.config.vocab_size))
    source, mask, target = source[:, :9], mask[:, :9].long(), target[:, :5]
    hidden = run(ENCODER, input_ids=source, attention_mask=mask)
    logits = run(DECODER, input_ids=target, encoder_hidden_states=torch.from_numpy(hidden), encoder_attention_mask=mask)
    expected = model(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits
    return float((torch.from_numpy(logits) - expected).abs().max())
