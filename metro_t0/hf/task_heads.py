"""Classifiers and extractive question answering on METRO-T5, as transformers has them on T5.

The text is read by the encoder and, shifted right, by the decoder; the classifier looks at the decoder's state where
it reads the last `</s>`, question answering at all of its states. Labels of tokens come from the encoder alone.
Shapes: B batch, S source length, D model width, L labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.initialization import guard_torch_init_functions
from transformers.modeling_outputs import (
    Seq2SeqModelOutput,
    Seq2SeqQuestionAnsweringModelOutput,
    Seq2SeqSequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import can_return_tuple

from metro_t0.hf.configuration import MetroT5Config
from metro_t0.hf.modeling import MetroT5EncoderModel, MetroT5Model, MetroT5PreTrainedModel, beside_the_state
from metro_t0.rows import shift_right

HEAD_DEVIATION = 0.02


class _WithHead(MetroT5PreTrainedModel):
    """A head beside `main`, which alone begins at random when a pretrained directory is loaded."""

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Draw what no checkpoint gave; the head as BERT's: normal, 0.02."""
        super().initialize_weights()
        with guard_torch_init_functions():
            for name, module in self.named_modules():
                if isinstance(module, nn.Linear) and not name.startswith("main."):
                    nn.init.normal_(module.weight, std=HEAD_DEVIATION)
                    nn.init.zeros_(module.bias)


class _DecoderHead(_WithHead, MetroT5Model):
    def _read(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
    ) -> Seq2SeqModelOutput:
        """The text through encoder and decoder; padding may be on either side."""
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        start = self.config.decoder_start_token_id
        shifted = shift_right(input_ids, start).where(shift_right(real, 0).bool(), start)
        read: Seq2SeqModelOutput = MetroT5Model.forward(
            self, input_ids, attention_mask, shifted, attention_mask, use_cache=False,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        return read


class ClassificationHead(nn.Module):
    """dropout, dense, tanh, dropout, linear: (B, D) -> (B, L)."""

    def __init__(self, config: MetroT5Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(getattr(config, "classifier_dropout", 0.0))
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, D) -> (B, L)."""
        logits: Tensor = self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(hidden)))))
        return logits


class MetroT5ForSequenceClassification(_DecoderHead):
    """A label, several labels or a number per text: `config.num_labels` and `config.problem_type` say which."""

    def __init__(self, config: MetroT5Config) -> None:
        super().__init__(config)
        self.classification_head = ClassificationHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> Seq2SeqSequenceClassifierOutput:
        """input_ids, attention_mask (B, S), labels (B,) or (B, L) -> logits (B, L). Every row needs a `</s>`."""
        read = self._read(input_ids, attention_mask, output_attentions, output_hidden_states)
        ends = input_ids == self.config.eos_token_id
        if not torch.compiler.is_compiling() and not bool(ends.any(1).all()):
            raise ValueError("a text without </s>: the classifier reads the state at the last one of every row")
        last = (torch.arange(input_ids.size(1), device=input_ids.device) * ends).argmax(1)
        states = read.last_hidden_state
        logits = self.classification_head(states[torch.arange(len(states), device=states.device), last])
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return Seq2SeqSequenceClassifierOutput(loss=loss, logits=logits, **beside_the_state(read))


class MetroT5ForQuestionAnswering(_DecoderHead):
    """Begin and end of an answer in a text."""

    def __init__(self, config: MetroT5Config) -> None:
        super().__init__(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> Seq2SeqQuestionAnsweringModelOutput:
        """input_ids, attention_mask (B, S); positions (B,) -> start_logits and end_logits (B, S)."""
        read = self._read(input_ids, attention_mask, output_attentions, output_hidden_states)
        start, end = self.qa_outputs(read.last_hidden_state).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(start, end, start_positions, end_positions)
        return Seq2SeqQuestionAnsweringModelOutput(
            loss=loss, start_logits=start, end_logits=end, **beside_the_state(read)
        )


class MetroT5ForTokenClassification(_WithHead, MetroT5EncoderModel):
    """A label per token, from the encoder. Loads from a full model's directory."""

    def __init__(self, config: MetroT5Config) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(getattr(config, "classifier_dropout", 0.0))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> TokenClassifierOutput:
        """input_ids (B, S) or inputs_embeds (B, S, D), labels (B, S), -100 not counted -> logits (B, S, L)."""
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        read = super().forward(input_ids, attention_mask, inputs_embeds, **asked, return_dict=True)
        logits = self.classifier(self.dropout(read.last_hidden_state))
        loss = None if labels is None else self.loss_function(logits=logits, labels=labels, config=self.config)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=read.hidden_states, attentions=read.attentions
        )
