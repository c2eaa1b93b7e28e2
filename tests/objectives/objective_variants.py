"""The objectives of the config, each as a user would configure it, with texts and a small model to run them on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from metro_t0.modeling import MetroT5, ModelConfig
from metro_t0.objectives.batches import MetroBatches, MetroTarget
from metro_t0.objectives.masking import MaskingConfig, WordIds
from metro_t0.randomness import Stream

PAD, BOS, EOS = 1, 0, 2
WORDS = WordIds(pad_id=PAD, mask_id=60, first_word=4, end_of_words=60)
VOCAB_SIZE = 84
STREAM = Stream(seed=3, epoch=2)
EXAMPLES = [11, 4, 7]
TINY = ModelConfig(
    vocab_size=VOCAB_SIZE, d_model=16, ffn_dim=24, num_heads=2, head_dim=8, encoder_layers=2, decoder_layers=2,
    auxiliary_layers=1, max_positions=64, dropout=0.0, attention_dropout=0.0,
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One objective as a user would configure it."""

    model: dict[str, Any] = field(default_factory=dict)
    target: MetroTarget = "masked_loss"
    weighted: bool = False
    masking: MaskingConfig = MaskingConfig(mask_ratio=0.3)


METRO_VARIANTS = {
    "metro": Variant(),
    "shared_tokens_only": Variant({"auxiliary_sharing": "tokens"}),
    "linear_rtd_head": Variant({"rtd_head": "linear"}),
    "no_rtd": Variant({"rtd": "none"}),
    "all_tokens": Variant(target="all_tokens"),
    "masked_only": Variant(target="masked_only"),
    "copy": Variant({"clm_head": "copy"}),
    "copy_all_tokens": Variant({"clm_head": "copy"}, target="all_tokens"),
    "rtd_on_decoder": Variant({"rtd": "decoder"}),
    "rtd_on_decoder_projection": Variant({"rtd": "decoder", "clm_head": "projection"}),
    "projection": Variant({"clm_head": "projection"}),
    "span_masks": Variant(masking=MaskingConfig(mask_ratio=0.3, mask_pattern="span")),
    "weighted": Variant(weighted=True),
    "weighted_copy_all_tokens": Variant({"clm_head": "copy"}, target="all_tokens", weighted=True),
    "keep_and_random": Variant(masking=MaskingConfig(mask_ratio=0.5, keep_ratio=0.3, random_ratio=0.3)),
}


def texts(lengths: tuple[int, ...] = (23, 9, 16), seed: int = 0) -> list[np.ndarray]:
    """`<s>` pieces `</s>`, of different lengths."""
    generator = np.random.default_rng(seed)
    return [np.array([BOS, *generator.integers(4, 60, length), EOS]) for length in lengths]


def make_model(variant: Variant) -> MetroT5:
    """Weights of a size at which no term of a loss hides behind another; float64 but for losses and sampling."""
    torch.manual_seed(1)
    model = MetroT5(TINY.replace(**variant.model, attention_backend="sdpa"), PAD).double().eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.add_(0.2 * noise)
    return model


def batches_of(variant: Variant, probe: bool = False) -> MetroBatches:
    return MetroBatches(variant.masking, WORDS, WORDS.mask_id, variant.target, probe_unmasked=probe)
