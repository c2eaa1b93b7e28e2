"""Initial weights.

metro: linear weights normal with variance 1 / (fan_in + fan_out), embeddings and positions normal with deviation 0.02,
relative biases zero, the auxiliary as BERT (normal, 0.02), the last layer of the RTD head zero. The paper gives none.
released, the authors': variance 1 / (2 fan_out) for linear layers and for token embeddings, which are tied to one;
positions uniform with deviation 1 / sqrt(2 d_model); relative biases of the auxiliary with 0.02 (docs/pretraining.md).
t5: the distributions of T5X, in which the published T5 models and their random baselines start.
"""

from __future__ import annotations

from torch import Tensor, nn

from metro_t0.modeling.attention import Attention, RelativeBias
from metro_t0.modeling.config import ModelConfig
from metro_t0.modeling.encoder_decoder import T5
from metro_t0.modeling.heads import LogitHead
from metro_t0.modeling.layers import FeedForward

EMBEDDING_DEVIATION = 0.02
CUT_NORMAL_DEVIATION = 0.87962566103423978  # of a standard normal distribution cut at -2 and 2


def initialize(model: nn.Module, config: ModelConfig) -> None:
    """Draw all weights of a model anew, in place, from torch's global generator."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=(module.in_features + module.out_features) ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=EMBEDDING_DEVIATION)
    if config.initialization == "t5":
        _initialize_t5(model, config)
        return
    if config.initialization == "released":
        _initialize_released(model)
    for module in model.modules():
        if isinstance(module, RelativeBias):
            nn.init.zeros_(module.table.weight)
        if isinstance(module, LogitHead):
            nn.init.zeros_(module.out.weight)


def initialize_as_bert(auxiliary: nn.Module, config: ModelConfig) -> None:
    """The auxiliary's linear layers, with `released` its relative biases too: normal with deviation 0.02 (BERT)."""
    for module in auxiliary.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=EMBEDDING_DEVIATION)
        if isinstance(module, RelativeBias) and config.initialization == "released":
            nn.init.normal_(module.table.weight, std=EMBEDDING_DEVIATION)


def _initialize_released(model: nn.Module) -> None:
    tokens = {module.encoder.embeddings.tokens for module in model.modules() if isinstance(module, T5)}
    for module in model.modules():
        if isinstance(module, nn.Linear) or module in tokens:
            nn.init.normal_(module.weight, std=(2 * len(module.weight)) ** -0.5)
        elif isinstance(module, nn.Embedding):
            bound = (3 / (2 * module.embedding_dim)) ** 0.5
            nn.init.uniform_(module.weight, -bound, bound)


def _initialize_t5(model: nn.Module, config: ModelConfig) -> None:
    """Wu, Li and Liang 2022, appendix: queries carry the missing 1 / sqrt(head_dim), embeddings have unit variance.

    Feed-forward weights and an untied projection: normal, cut at two deviations, with variance 1 / fan_in after the
    cut. Relative biases: uniform with variance 2 / (heads + buckets).
    """
    for module in model.modules():
        if isinstance(module, Attention):
            nn.init.normal_(module.q.weight, std=(config.d_model * config.head_dim) ** -0.5)
            nn.init.normal_(module.k.weight, std=config.d_model**-0.5)
            nn.init.normal_(module.v.weight, std=config.d_model**-0.5)
            nn.init.normal_(module.o.weight, std=config.inner_dim**-0.5)
        elif isinstance(module, FeedForward):
            for linear in filter(None, (module.wi, module.gate, module.wo)):
                _cut_normal(linear.weight, linear.in_features**-0.5)
        elif isinstance(module, T5) and not config.tied_head:
            _cut_normal(module.head.weight, config.d_model**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0)
    for module in model.modules():
        if isinstance(module, RelativeBias):
            bound = (3 * 2 / sum(module.table.weight.shape)) ** 0.5
            nn.init.uniform_(module.table.weight, -bound, bound)


def _cut_normal(weight: Tensor, deviation: float) -> None:
    """Normal, cut at two of its deviations, scaled so that `deviation` is left after the cut."""
    scale = deviation / CUT_NORMAL_DEVIATION
    nn.init.trunc_normal_(weight, std=scale, a=-2 * scale, b=2 * scale)
