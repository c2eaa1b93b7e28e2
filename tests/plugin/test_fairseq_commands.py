"""fairseq's other commands on our checkpoints: generate, interactive, validate; and --store-ema."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import start, statuses
from transformers import PreTrainedModel

from metro_t0.hf.checkpoints import read_checkpoint
from metro_t0.hf.export import from_main_state
from metro_t0.tokenization import Tokenizer
from metro_t0.tokenization.training import BpeSettings, train_bpe

Train = Callable[..., list[dict[str, Any]]]
REPOSITORY = Path(__file__).resolve().parents[2]
PROMPTS = "--task prompt_finetuning --user-dir fairseq_plugins --tokens-per-sample 32 --cpu --num-workers 0"
SOURCES = ["what is the color of green", "color of thing", "red"]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary, pairs to train on, and three to generate for."""
    directory = tmp_path_factory.mktemp("prompts")
    words = ["what", "is", "the", "color", "of", "thing", "red", "green", "blue", "yellow"]
    train_bpe(Counter(dict.fromkeys(words, 50)), BpeSettings(vocab_size=40, lowercase=True), directory)
    for name, sources in {"train": [f"what is {word}" for word in words * 3], "valid": SOURCES}.items():
        pairs = [{"source": source, "target": words[-1 - i % 4]} for i, source in enumerate(sources)]
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return directory


@pytest.fixture(scope="module")
def checkpoint(prompts: Path, tmp_path_factory: pytest.TempPathFactory, common_options: str) -> Path:
    """A model that has learned for four updates: it says much, and little sense."""
    directory = tmp_path_factory.mktemp("run")
    more = f"--task prompt_finetuning --criterion prompt_cross_entropy --save-dir {directory} --max-update 4"
    assert statuses(start(1, [str(prompts), *common_options.split(), *more.split()])) == [0]
    return directory / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def converted(checkpoint: Path) -> PreTrainedModel:
    """The same model in transformers."""
    read = read_checkpoint(checkpoint)
    return from_main_state(read.config, read.main_tensors()).eval()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command of fairseq prints."""
    monkeypatch.chdir(REPOSITORY)

    def run(name: str, *arguments: Any, typed: str = "") -> str:
        module = import_module(f"fairseq_cli.{name}")
        monkeypatch.setattr(sys, "argv", [f"fairseq-{name}", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
        capfd.readouterr()
        module.cli_main()
        return capfd.readouterr().out

    return run


def lines(output: str, kind: str) -> dict[int, str]:
    """Number of the example -> what fairseq printed last of it in lines of that kind."""
    found = [line.split("\t") for line in output.splitlines() if line.startswith(f"{kind}-")]
    return {int(fields[0][2:]): fields[-1] for fields in found}


@torch.no_grad()
def expected(model: PreTrainedModel, tokenizer: Tokenizer, source: str) -> list[int]:
    """Tokens that transformers generates, up to 12 and without the end."""
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(source), tokenizer.eos_id]])
    (made,) = model.generate(ids, min_new_tokens=4, max_new_tokens=12, suppress_tokens=[tokenizer.pad_id]).tolist()
    return [token for token in made[1:] if token not in (tokenizer.eos_id, tokenizer.pad_id)]


def test_generate_gives_the_tokens_of_the_converted_model(
    command: Callable[..., str], prompts: Path, checkpoint: Path, converted: PreTrainedModel
) -> None:
    options = f"{PROMPTS} --gen-subset valid --beam 1 --min-len 4 --max-len-b 12 --batch-size 2".split()
    output = command("generate", prompts, *options, "--path", checkpoint)
    tokenizer = Tokenizer.load(prompts)
    made, texts = lines(output, "H"), lines(output, "D")
    assert made.keys() == {0, 1, 2}  # fairseq would leave out what is no full batch
    for number, source in enumerate(SOURCES):
        tokens = expected(converted, tokenizer, source)
        pieces = [tokenizer.to_fast(32).id_to_token(token) for token in tokens]
        assert made[number].split() == pieces
        assert texts[number] == tokenizer.decode(tokens)
    assert any(made.values())


def test_interactive_answers_what_is_typed(
    command: Callable[..., str], prompts: Path, checkpoint: Path, converted: PreTrainedModel
) -> None:
    options = f"{PROMPTS} --beam 1 --min-len 4 --max-len-b 12 --buffer-size 4 --batch-size 4".split()
    output = command("interactive", prompts, *options, "--path", checkpoint, typed="\n".join(SOURCES) + "\n")
    tokenizer = Tokenizer.load(prompts)
    for number, text in lines(output, "D").items():
        assert text == tokenizer.decode(expected(converted, tokenizer, SOURCES[number]))


def test_a_search_of_several_beams_uses_the_caches(
    command: Callable[..., str], prompts: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairseq.sequence_generator import EnsembleModel

    options = f"{PROMPTS} --gen-subset valid --beam 3 --nbest 3 --max-len-b 12".split()
    cached = command("generate", prompts, *options, "--path", checkpoint)
    monkeypatch.setattr(EnsembleModel, "has_incremental_states", lambda self: False)
    recomputed = command("generate", prompts, *options, "--path", checkpoint)
    hypotheses = [line.split("\t")[2] for line in cached.splitlines() if line.startswith("H-")]
    assert len(hypotheses) == 9
    assert hypotheses == [line.split("\t")[2] for line in recomputed.splitlines() if line.startswith("H-")]


def test_validate_measures_all_of_a_small_set(command: Callable[..., str], prompts: Path, checkpoint: Path) -> None:
    output = command(
        "validate", prompts, *PROMPTS.split(), "--path", checkpoint, "--batch-size", 8, "--log-format", "json"
    )
    record = json.loads(output[output.rindex("{") :])
    assert 0 < float(record["valid_nll_loss"]) < 10


def test_pretraining_says_which_command_generates(
    command: Callable[..., str], train: Train, token_directory: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(f"--save-dir {tmp_path} --max-update 1")
    options = PROMPTS.replace("prompt_finetuning", "metro_pretraining").split()
    with pytest.raises(SystemExit) as exit_:
        command(
            "generate", token_directory, *options, "--gen-subset", "valid", "--path", tmp_path / "checkpoint_last.pt"
        )
    assert exit_.value.code == 2
    assert "give --task prompt_finetuning" in capfd.readouterr().err


def test_the_average_is_made_at_the_same_updates_after_a_restart() -> None:
    from fairseq.dataclass.configs import EMAConfig

    from fairseq_plugins.averaging import WeightAverage

    model = torch.nn.Linear(2, 2)
    config = EMAConfig(ema_decay=0.5, ema_update_freq=3, ema_fp32=False)
    made = [WeightAverage(model, config) for _ in range(2)]
    for update in range(1, 7):
        if update == 5:
            halted = made[1].get_model().state_dict()
            made[1] = WeightAverage(model, config)
            made[1].restore(halted)
        with torch.no_grad():
            model.weight.fill_(update)
        for average in made:
            average.step(model, update)
    assert torch.equal(*(average.get_model().weight for average in made))


@pytest.mark.parametrize("precision", ["", "--ema-fp32", "--bf16"])
def test_the_stored_average_is_one_of_every_weight(precision: str, train: Train, tmp_path: Path) -> None:
    averaged = f"--store-ema --ema-decay 0.5 {precision} --save-interval-updates 1"
    train(f"--save-dir {tmp_path} --max-update 1 {precision.replace('--ema-fp32', '')}")  # it may begin later
    train(f"--save-dir {tmp_path} --max-update 3 {averaged}")
    train(f"--save-dir {tmp_path} --max-update 4 {averaged}")
    read = [torch.load(next(tmp_path.glob(f"checkpoint_*_{n}.pt")), weights_only=True) for n in (2, 3, 4)]
    stored = "ema_fp32_params" if precision else "ema"  # the other one is rounded to 16 bits
    for before, after in pairwise(read):
        for name, new in after["extra_state"][stored].items():
            old, weight = before["extra_state"][stored][name], after["model"][name]
            if weight.is_floating_point():
                assert torch.allclose(new, (old + weight.float()) / 2, atol=1e-6), name
