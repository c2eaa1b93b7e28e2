"""The model's code as a handful of files beside its weights, for people who do not have this package.

`transformers` loads such files with `trust_remote_code=True`. They must lie flat in one directory and import each
other relatively, so the package's own modules are copied with their imports rewritten: there is no second
implementation to keep in step.
"""

from __future__ import annotations

import importlib
import inspect
import re
from importlib.metadata import version
from pathlib import Path

from metro_t0.files import read_json, write_json, write_text

DISTRIBUTION = "metro-t0"
MODEL_MODULE = "metro_t0.hf.modeling"
CONFIG_MODULE = "metro_t0.hf.configuration"
PIPELINE_MODULE = "metro_t0.hf.pipeline"
HEADS_MODULE = "metro_t0.hf.task_heads"
ROOTS = (MODEL_MODULE, PIPELINE_MODULE, HEADS_MODULE)
IMPORT = re.compile(r"^from (metro_t0[\w.]*) import ", flags=re.MULTILINE)
AUTO_CLASSES = {
    "AutoConfig": (CONFIG_MODULE, "MetroT5Config"),
    "AutoModel": (MODEL_MODULE, "MetroT5Model"),
    "AutoModelForSeq2SeqLM": (MODEL_MODULE, "MetroT5ForConditionalGeneration"),
    "AutoModelForTextEncoding": (MODEL_MODULE, "MetroT5EncoderModel"),
    "AutoModelForSequenceClassification": (HEADS_MODULE, "MetroT5ForSequenceClassification"),
    "AutoModelForQuestionAnswering": (HEADS_MODULE, "MetroT5ForQuestionAnswering"),
    "AutoModelForTokenClassification": (HEADS_MODULE, "MetroT5ForTokenClassification"),
}
PIPELINES = {"text2text-generation": (PIPELINE_MODULE, "Text2TextGenerationPipeline")}


def write_code(directory: Path) -> list[str]:
    """Write the model's code into a directory that has a config.json, and point to it there. Gives the file names."""
    names = []
    for module, source in module_sources().items():
        names.append(f"{flat_name(module)}.py")
        header = f"# Copied from {module} of metro-t0 {version(DISTRIBUTION)}; change it there.\n"
        footer = _pointers() if module == CONFIG_MODULE else ""
        write_text(directory / names[-1], header + IMPORT.sub(_relative, source) + footer)
    config = read_json(directory / "config.json")
    config["auto_map"] = {auto: f"{flat_name(module)}.{name}" for auto, (module, name) in AUTO_CLASSES.items()}
    config["custom_pipelines"] = {
        task: {"impl": f"{flat_name(module)}.{name}", "pt": ["AutoModelForSeq2SeqLM"]}
        for task, (module, name) in PIPELINES.items()
    }
    write_json(directory / "config.json", config)
    return names


def _pointers() -> str:
    """Imports that never run: transformers saves a model with the files that its class's module imports, no others.

    Every class imports the configuration, so that from there all files are found that config.json points to.
    """
    why = "# Never run. transformers copies the files that these lines name with this one; config.json points to them."
    return f"\n\n{why}\nif False:\n" + "".join(f"    from .{flat_name(module)} import *\n" for module in ROOTS)


def module_sources() -> dict[str, str]:
    """Model, pipeline and all modules of this package that they import, directly or not: name -> source."""
    sources: dict[str, str] = {}
    waiting = [*ROOTS]
    while waiting:
        name = waiting.pop()
        if name not in sources:
            sources[name] = inspect.getsource(importlib.import_module(name))
            waiting += IMPORT.findall(sources[name])
    return dict(sorted(sources.items()))


def flat_name(module: str) -> str:
    """metro_t0.modeling.attention -> attention_metro_t5."""
    return f"{module.rpartition('.')[2]}_metro_t5"


def _relative(match: re.Match[str]) -> str:
    return f"from .{flat_name(match[1])} import "
