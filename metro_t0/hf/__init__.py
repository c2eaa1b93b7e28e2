"""METRO-T5 in `transformers`. Importing this package makes its Auto classes know the model type `metro_t5`."""

import transformers
from transformers import AutoConfig, AutoTokenizer

from metro_t0.hf.configuration import MetroT5Config
from metro_t0.hf.modeling import MetroT5EncoderModel, MetroT5ForConditionalGeneration, MetroT5Model
from metro_t0.hf.pipeline import Text2TextGenerationPipeline
from metro_t0.hf.task_heads import (
    MetroT5ForQuestionAnswering,
    MetroT5ForSequenceClassification,
    MetroT5ForTokenClassification,
)
from metro_t0.hf.tokenization import MetroT5TokenizerFast

AutoConfig.register(MetroT5Config.model_type, MetroT5Config, exist_ok=True)
for _auto, _model in {
    "AutoModel": MetroT5Model,
    "AutoModelForSeq2SeqLM": MetroT5ForConditionalGeneration,
    "AutoModelForTextEncoding": MetroT5EncoderModel,
    "AutoModelForSequenceClassification": MetroT5ForSequenceClassification,
    "AutoModelForQuestionAnswering": MetroT5ForQuestionAnswering,
    "AutoModelForTokenClassification": MetroT5ForTokenClassification,
}.items():
    getattr(transformers, _auto).register(MetroT5Config, _model, exist_ok=True)
AutoTokenizer.register(MetroT5Config, fast_tokenizer_class=MetroT5TokenizerFast, exist_ok=True)

__all__ = [
    "MetroT5Config",
    "MetroT5EncoderModel",
    "MetroT5ForConditionalGeneration",
    "MetroT5ForQuestionAnswering",
    "MetroT5ForSequenceClassification",
    "MetroT5ForTokenClassification",
    "MetroT5Model",
    "MetroT5TokenizerFast",
    "Text2TextGenerationPipeline",
]
