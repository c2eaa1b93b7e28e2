"""METRO-T5 in `transformers`. Importing this package makes its Auto classes know the model type `metro_t5`."""

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from metro_t0.hf.configuration import MetroT5Config
from metro_t0.hf.modeling import MetroT5EncoderModel, MetroT5ForConditionalGeneration, MetroT5Model
from metro_t0.hf.pipeline import Text2TextGenerationPipeline
from metro_t0.hf.tokenization import MetroT5TokenizerFast

AutoConfig.register(MetroT5Config.model_type, MetroT5Config, exist_ok=True)
AutoModel.register(MetroT5Config, MetroT5Model, exist_ok=True)
AutoModelForSeq2SeqLM.register(MetroT5Config, MetroT5ForConditionalGeneration, exist_ok=True)
AutoTokenizer.register(MetroT5Config, fast_tokenizer_class=MetroT5TokenizerFast, exist_ok=True)

__all__ = [
    "MetroT5Config",
    "MetroT5EncoderModel",
    "MetroT5ForConditionalGeneration",
    "MetroT5Model",
    "MetroT5TokenizerFast",
    "Text2TextGenerationPipeline",
]
