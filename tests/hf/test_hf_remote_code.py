"""A directory that carries its own code, loaded where this package cannot be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hf_helpers import randomized
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from metro_t0.hf.export import save_directory, to_hugging_face
from metro_t0.modeling import MetroT5, ModelConfig
from metro_t0.tokenization import Tokenizer

PROGRAM = """
import json, sys, warnings

class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("metro_t0", "fairseq"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoPackage())
warnings.simplefilter("error")
import torch, transformers
transformers.utils.logging.disable_progress_bar()
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

directory, again = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
model = AutoModelForSeq2SeqLM.from_pretrained(directory, trust_remote_code=True)
batch = tokenizer(["the quick brown fox", "dog"], padding=True, return_tensors="pt")
logits = model(**batch, decoder_input_ids=torch.tensor([[2, 9], [2, 40]])).logits
body = AutoModel.from_pretrained(directory, trust_remote_code=True)
model.save_pretrained(again)
tokenizer.save_pretrained(again)
reloaded = AutoModelForSeq2SeqLM.from_pretrained(again, trust_remote_code=True)
texts = pipeline("text2text-generation", model=directory, trust_remote_code=True)(
    ["the quick brown fox", "dog"], batch_size=2, max_new_tokens=5
)
print(json.dumps({
    "ids": batch["input_ids"].tolist(),
    "logits": logits.tolist(),
    "generated": model.generate(**batch, max_new_tokens=5).tolist(),
    "reloaded": reloaded.generate(**batch, max_new_tokens=5).tolist(),
    "texts": texts,
    "classes": [type(x).__name__ for x in (model, body, reloaded)],
    "own": sorted(name for name in sys.modules if name.startswith("metro_t0")),
}))
"""


@pytest.fixture(scope="module")
def directory(small_config: ModelConfig, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model"
    save_directory(to_hugging_face(randomized(MetroT5(small_config, pad_id=1))), path, tokenizer)
    return path


def test_loads_and_computes_the_same_without_the_package(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "program.py", str(directory), str(tmp_path / "again")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    # torchao, which transformers imports where it is, names the CUDA libraries that a CPU build of torch cannot load.
    assert [line for line in done.stderr.splitlines() if "torchao" not in line and "_pytree" not in line] == []
    found = json.loads(done.stdout)
    assert found["own"] == []
    saved = json.loads((tmp_path / "again" / "config.json").read_text(encoding="utf-8"))
    pointers = [*saved["auto_map"].values(), *(made["impl"] for made in saved["custom_pipelines"].values())]
    assert {f"{pointer.partition('.')[0]}.py" for pointer in pointers} <= set(os.listdir(tmp_path / "again"))
    assert found["classes"] == ["MetroT5ForConditionalGeneration", "MetroT5Model", "MetroT5ForConditionalGeneration"]

    model = AutoModelForSeq2SeqLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    batch = tokenizer(["the quick brown fox", "dog"], padding=True, return_tensors="pt")
    assert found["ids"] == batch["input_ids"].tolist()
    logits = model(**batch, decoder_input_ids=torch.tensor([[2, 9], [2, 40]])).logits
    torch.testing.assert_close(torch.tensor(found["logits"]), logits, rtol=0, atol=1e-5)
    generated = model.generate(**batch, max_new_tokens=5)
    assert found["generated"] == found["reloaded"] == generated.tolist()
    texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
    assert found["texts"] == [[{"generated_text": text}] for text in texts]


def test_the_package_saves_no_pointer_to_code_that_is_not_there(directory: Path, tmp_path: Path) -> None:
    assert json.loads((directory / "config.json").read_text(encoding="utf-8"))["auto_map"]
    AutoModelForSeq2SeqLM.from_pretrained(directory).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert not {"auto_map", "custom_pipelines"} & saved.keys()
