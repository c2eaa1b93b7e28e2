"""What a shared directory owes its reader beside weights and code: a model card, a license, readable files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from metro_t0.errors import UserError
from metro_t0.files import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DISTRIBUTION = "metro-t0"
CARD_NAME, LICENSE_NAME = "README.md", "LICENSE"
MOST_NEW_TOKENS = 256
"""Longest target of prompt-finetuning (paper, table 6): what `generate()` stops at where nothing else is said."""
SETS = ("valid", "train")
"""Sets whose last losses a checkpoint keeps, the most telling first."""
ABOUT = {
    "metro_t5": "A METRO-T5 (Gong et al., ACL 2023): an encoder-decoder pretrained with model-generated signals.",
    "t5": "A T5 encoder-decoder, as transformers' own class.",
}
USE = """```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(PATH{trust})
model = AutoModelForSeq2SeqLM.from_pretrained(PATH{trust})
batch = tokenizer(["a text"], return_tensors="pt")
print(tokenizer.batch_decode(model.generate(**batch), skip_special_tokens=True))
```"""


def default_new_tokens(max_positions: int) -> int:
    """`max_new_tokens` of a model's generation config."""
    return min(MOST_NEW_TOKENS, max_positions)


def training_facts(state: Mapping[str, Any]) -> dict[str, str]:
    """How a fairseq checkpoint was trained, for people: label -> value. Of paths only the last part is told."""
    cfg: Mapping[str, Any] = state.get("cfg") or {}

    def section(name: str) -> Mapping[str, Any]:
        part = cfg.get(name)
        return part if isinstance(part, Mapping) else {}

    history = state.get("optimizer_history") or [{}]
    facts = {
        "architecture": section("model").get("_name"),
        "task": section("task").get("_name"),
        "data": ", ".join(Path(part).name for part in str(section("task").get("data") or "").split(":") if part),
        "updates": history[-1].get("num_updates"),
        "batch": _batch(section("dataset"), section("optimization"), section("distributed_training")),
        "tokens per sample": section("task").get("tokens_per_sample"),
        "optimizer": section("optimizer").get("_name"),
        "peak learning rate": ", ".join(map(str, section("optimization").get("lr") or [])),
        "schedule": section("lr_scheduler").get("_name"),
        "started from": Path(str(section("checkpoint").get("finetune_from_model") or "")).name,
    }
    return {label: str(value) for label, value in facts.items() if value} | _losses(state)


def _batch(data: Mapping[str, Any], optimization: Mapping[str, Any], distributed: Mapping[str, Any]) -> str:
    times = math.prod([(optimization.get("update_freq") or [1])[0], distributed.get("distributed_world_size") or 1])
    if data.get("batch_size"):
        return f"{data['batch_size'] * times} examples"
    return f"up to {data['max_tokens'] * times} tokens" if data.get("max_tokens") else ""


def _losses(state: Mapping[str, Any]) -> dict[str, str]:
    """The losses and accuracies of the validation set at the last validation, or else of the running epoch."""
    meters: Mapping[str, Any] = (state.get("extra_state") or {}).get("metrics") or {}
    for name in SETS:
        found = {}
        for _, key, _, values in meters.get(name) or ():
            count = float(values.get("count") or 0)
            if count and key.endswith(("loss", "accuracy", "exact_match", "_recall", "_specificity")):
                found[f"{key} ({name})"] = f"{float(values['sum']) / count:.4f}"
        if found:
            return found
    return {}


def write_card(
    directory: Path,
    model: PreTrainedModel,
    facts: Mapping[str, str],
    license_id: str = "mit",
    evaluation: Path | None = None,
) -> None:
    """Write README.md and LICENSE, and make every file readable by others.

    evaluation: a file of Markdown (`table.md` of `metro-t0-eval report`). Raises `UserError` where it is missing.
    """
    kind = model.config.model_type
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text2text-generation",
        "license": license_id,
        "tags": [kind, DISTRIBUTION],
    }
    trust = "" if kind == "t5" else ", trust_remote_code=True"
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {directory.name}",
        f"{ABOUT[kind]} {model.num_parameters():,} parameters; a vocabulary of {model.config.vocab_size:,} ids.",
        USE.format(trust=trust).replace("PATH", repr(directory.name)),
    ]
    if facts:
        rows = "\n".join(f"| {label} | {value} |" for label, value in facts.items())
        parts.append(f"## Training\n\n| | |\n|---|---|\n{rows}\n\nLosses are in nats.")
    if evaluation is not None:
        if not evaluation.is_file():
            raise UserError(f"{evaluation}: no such file; give table.md of `metro-t0-eval report`")
        parts.append(f"## Evaluation\n\n{evaluation.read_text(encoding='utf-8').strip()}")
    if kind != "t5":
        parts.append(
            f"The `*_metro_t5.py` files are code of [{DISTRIBUTION}]({_url()}) under the license in {LICENSE_NAME}."
        )
    write_text(directory / CARD_NAME, "\n\n".join(parts) + "\n")
    if text := _license():
        write_text(directory / LICENSE_NAME, text)
    make_readable(directory)


def make_readable(directory: Path) -> None:
    """rw-r--r-- for every file: safetensors writes them for their owner alone."""
    for path in directory.iterdir():
        if path.is_file():
            path.chmod(0o644)
    directory.chmod(0o755)


def _license() -> str:
    """The license of this project's code, as installed."""
    try:
        return distribution(DISTRIBUTION).read_text("licenses/LICENSE") or ""
    except PackageNotFoundError:
        return ""


def _url() -> str:
    urls = distribution(DISTRIBUTION).metadata.get_all("Project-URL") or []
    named = dict(url.split(", ", 1) for url in urls)
    return str(named.get("Repository", ""))
