"""The Hugging Face config: the fields of `ModelConfig` that describe the main model, and the special tokens' ids."""

from typing import Any, ClassVar

from transformers import PreTrainedConfig

from metro_t0.modeling.config import WITHOUT_PRETRAINING, AttentionBackend, ModelConfig, fields_of

CODE_POINTERS = ("auto_map", "custom_pipelines")
ARCHITECTURE = {name: field.default for name, field in fields_of("model").items()}


class MetroT5Config(PreTrainedConfig):
    """`config.json` of a METRO-T5 directory. Every architecture field of `ModelConfig` is an attribute of it.

    Ids are fairseq's: `<s>` 0, `<pad>` 1, `</s>` 2; decoders start with `</s>`. An architecture field that is absent
    has the default of `ModelConfig`. Raises `UserError` from `model_config` where a field has an impossible value.
    """

    model_type = "metro_t5"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "encoder_layers",
        "max_position_embeddings": "max_positions",
    }

    bos_token_id: int | None = 0
    pad_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 2
    is_encoder_decoder: bool = True
    use_cache: bool = True
    # Encoder and decoder always share their token table; whether the head is tied too is `tied_head`.
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        for name, default in ARCHITECTURE.items():
            setattr(self, name, kwargs.pop(name, default))
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        values: dict[str, Any] = super().to_dict()
        if type(self).__module__.startswith("metro_t0."):
            # These point to code beside the file they were read from; saved elsewhere they would promise absent files.
            for name in CODE_POINTERS:
                values.pop(name, None)
        return values

    @classmethod
    def from_model_config(cls, config: ModelConfig, **settings: Any) -> "MetroT5Config":
        """The config of a model's main part; `settings` are further Hugging Face fields, such as `dtype`."""
        return cls(**{name: getattr(config, name) for name in ARCHITECTURE}, **settings)

    def model_config(self) -> ModelConfig:
        """What the modules of `metro_t0.modeling` are built from: no auxiliary and no pretraining heads."""
        backend: AttentionBackend = "eager" if self._attn_implementation == "eager" else "sdpa"
        architecture = {name: getattr(self, name) for name in ARCHITECTURE}
        return ModelConfig(**architecture, **WITHOUT_PRETRAINING, attention_backend=backend)
