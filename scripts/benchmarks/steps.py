"""A training step of METRO-T5 and of its peers, on random batches; optimizers."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import nn

from metro_t0.modeling import MetroT5, ModelConfig, PretrainingBatch
from metro_t0.objectives.batches import MetroBatches
from metro_t0.objectives.losses import loss_parts, metro_loss
from metro_t0.objectives.masking import MaskingConfig, WordIds
from metro_t0.randomness import Stream

PAD, EOS = 1, 2


def metro_batch(
    config: ModelConfig, batch: int, length: int, device: str, padded: bool = False, documents: bool = False
) -> PretrainingBatch:
    """Random full sequences with a fixed number of masks, so that every batch has the same shapes.

    padded: a third of the last sequence is padding. documents: two in each sequence, attention within them.
    """
    end_of_words = config.vocab_size - length
    words = WordIds(PAD, end_of_words, 4, end_of_words)
    tokens = np.random.default_rng(0).integers(4, end_of_words, (batch, length))
    if padded:
        tokens[-1, -length // 3 :] = PAD
    if documents:
        tokens[:, length // 2 : length // 2 + 2] = EOS
    make = MetroBatches(
        MaskingConfig(fixed_mask_count=True), words, end_of_words, document_end=EOS if documents else None
    )
    made = make(tokens, range(batch), Stream(1, 1))
    moved: dict[str, Any] = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in vars(made).items()
    }
    return PretrainingBatch(**moved)


def metro_loss_of(model: MetroT5, data: PretrainingBatch) -> torch.Tensor:
    """Equation 13 on one batch."""
    output = model(data)
    return metro_loss({name: part.mean for name, part in loss_parts(data, output).items()})


def metro_step(
    config: ModelConfig, batch: int, length: int, device: str, dtype: torch.dtype
) -> tuple[nn.Module, Callable[[], None]]:
    """Our model and one training step on random full sequences."""
    data = metro_batch(config, batch, length, device)
    torch.manual_seed(0)
    model = MetroT5(config, PAD).to(device, dtype)
    return model, training_step(model, lambda: metro_loss_of(model, data))


def t5_step(
    config: ModelConfig, batch: int, length: int, device: str, dtype: torch.dtype, share: float = 1.0
) -> tuple[nn.Module, Callable[[], None]]:
    """Hugging Face's T5 of the same shape and one training step; `share` of the positions have logits and a loss."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    peer = T5Config(
        vocab_size=config.vocab_size, d_model=config.d_model, d_kv=config.head_dim, d_ff=config.ffn_dim,
        num_layers=config.encoder_layers, num_decoder_layers=config.decoder_layers, num_heads=config.num_heads,
        dropout_rate=config.dropout, pad_token_id=PAD, decoder_start_token_id=2,
    )  # fmt: skip
    model = T5ForConditionalGeneration(peer).to(device, dtype).train()
    tokens = torch.randint(4, config.vocab_size, (batch, length), device=device)
    if share == 1:
        return model, training_step(model, lambda: model(input_ids=tokens, labels=tokens).loss)
    positions = torch.randperm(tokens.numel(), device=device)[: round(share * tokens.numel())].sort().values
    shifted = model._shift_right(tokens)

    def loss_of_some() -> torch.Tensor:
        memory = model.encoder(input_ids=tokens).last_hidden_state
        hidden = model.decoder(input_ids=shifted, encoder_hidden_states=memory).last_hidden_state
        logits = model.lm_head(hidden.flatten(0, 1)[positions] * config.d_model**-0.5)
        return nn.functional.cross_entropy(logits.float(), tokens.flatten()[positions])

    return model, training_step(model, loss_of_some)


def training_step(model: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Forward, backward, fused AdamW in fp32, gradients freed."""
    weights: list[torch.Tensor] = list(model.parameters())
    half = weights[0].dtype != torch.float32
    updated: list[torch.Tensor] = [nn.Parameter(weight.detach().float()) for weight in weights] if half else weights
    optimizer = torch.optim.AdamW(updated, lr=1e-4, fused=True)

    def step() -> None:
        loss().backward()
        if half:
            for copy, weight in zip(updated, weights, strict=True):
                copy.grad = None if weight.grad is None else weight.grad.float()
        optimizer.step()
        if half:
            with torch.no_grad():
                torch._foreach_copy_(weights, updated)
        optimizer.zero_grad()
        model.zero_grad()

    return step


def optimizer_makers() -> dict[str, Callable[[nn.Module], torch.optim.Optimizer]]:
    """Optimizers by name; those of fairseq only where it is installed."""
    settings: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01}
    makers: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
        "fused AdamW": lambda model: torch.optim.AdamW(model.parameters(), fused=True, **settings)
    }
    if find_spec("fairseq") is not None:
        from fairseq.optim.adam import Adam

        from fairseq_plugins.optim.muon import MuonWithAdamW
        from metro_t0.modeling.layers import hidden_matrices

        def muon(model: nn.Module) -> torch.optim.Optimizer:
            matrices = list(hidden_matrices(model))
            chosen = set(matrices)
            rest = [p for p in model.parameters() if p not in chosen]
            own = {"lr": 0.02, "momentum": 0.95, "nesterov": True, "weight_decay": 0.0, "ns_steps": 5}
            return MuonWithAdamW(rest, matrices, settings, **own, adjust_lr_fn="original")

        makers |= {"Muon and fused AdamW": muon, "fairseq adam": lambda model: Adam(model.parameters(), **settings)}
    return makers
