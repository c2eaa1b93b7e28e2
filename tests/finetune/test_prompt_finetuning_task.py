"""The fairseq task `prompt_finetuning` and its criterion, on a small built mixture."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loader_batches import check_workers_and_restarts
from small_mixture import TEMPLATES, color_rows, write_dataset
from torch.nn import functional

pytest.importorskip("fairseq", reason="fairseq is not installed (see requirements-nodeps.txt)")

from fairseq.utils import import_user_module

# As `--user-dir fairseq_plugins` does, so that later runs in this process find everything registered.
import_user_module(Namespace(user_dir=str(Path(__file__).resolve().parents[2] / "fairseq_plugins")))

from fairseq_plugins.criterions.prompt_cross_entropy import (  # noqa: E402
    PromptCrossEntropyConfig,
    PromptCrossEntropyCriterion,
)
from fairseq_plugins.tasks.prompt_finetuning import (  # noqa: E402
    PromptedDataset,
    PromptFinetuningConfig,
    PromptFinetuningTask,
)
from finetune.cli import main  # noqa: E402
from metro_t0.data.token_files import TokenFileWriter  # noqa: E402
from metro_t0.prompts.mixing import load_task_examples  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = (
    "--d-model 32 --ffn-dim 64 --num-heads 2 --head-dim 16 --encoder-layers 2 --decoder-layers 2 --auxiliary-layers 1"
)
OPTIONS = (
    f"--user-dir fairseq_plugins --task prompt_finetuning --arch metro_t5_demo {MODEL} --tokens-per-sample 32 "
    "--criterion prompt_cross_entropy --optimizer fused_adamw --lr 0.003 --lr-scheduler fixed --cpu --num-workers 0 "
    "--max-tokens 400 --seed 1 --log-interval 1 --log-format json --no-epoch-checkpoints"
)


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> Path:
    """colors (60 rows, 2 tasks) and shapes (30 rows, 2 tasks), with held-out examples of two tasks."""
    root = tmp_path_factory.mktemp("prompted")
    for name, rows in (("colors", 60), ("shapes", 30)):
        write_dataset(root / "data", name, train=color_rows(rows), validation=color_rows(20))
        folder = root / "templates" / name
        folder.mkdir(parents=True)
        (folder / "templates.yaml").write_text(TEMPLATES.replace("dataset: colors", f"dataset: {name}"))
    (root / "both.yaml").write_text("train: [colors, shapes]\n")
    options = ["--mixture", "both.yaml", "--tokenizer", vocabulary, "--output", "built", "--data-dir", "data"]
    options += ["--templates", "templates", "--workers", "1"]
    before = Path.cwd()
    os.chdir(root)
    try:
        assert main(["build", *map(str, options)]) == 0
    finally:
        os.chdir(before)
    return root / "built"


def make_task(directory: Path, **changes: Any) -> PromptFinetuningTask:
    config = PromptFinetuningConfig(data=str(directory), tokens_per_sample=32, seed=1)
    for name, value in changes.items():
        setattr(config, name, value)
    return PromptFinetuningTask.setup_task(config)  # type: ignore[no-any-return]


def load(directory: Path, split: str = "train", **changes: Any) -> PromptedDataset:
    task = make_task(directory, **changes)
    task.load_dataset(split)
    dataset = task.datasets[split]
    assert isinstance(dataset, PromptedDataset)
    return dataset


def test_loader_processes_and_restarts_change_no_batch(prompted: Path) -> None:
    batches = check_workers_and_restarts(lambda: make_task(prompted), max_sentences=60)
    epochs = [
        torch.cat([batch["id"] for batch in batches[len(batches) // 3 * e :][: len(batches) // 3]]) for e in (0, 1)
    ]
    assert sorted(epochs[0].tolist()) == sorted(epochs[1].tolist())
    assert epochs[0].tolist() != epochs[1].tolist()


def test_batches_have_the_published_form(prompted: Path) -> None:
    dataset = load(prompted)
    indices = [0, 20, 100]
    batch = dataset.collater([dataset[index] for index in indices])
    tasks = load_task_examples(prompted, "train")
    pairs = [(s, t) for task in tasks for s, t in zip(task.sources, task.targets, strict=True)]
    net_input = batch["net_input"]
    for row, index in enumerate(indices):
        source, target = (side.tolist() for side in pairs[index])
        length = int(net_input["src_lengths"][row])
        assert net_input["src_tokens"][row, :length].tolist() == [0, *source]
        assert set(net_input["src_tokens"][row, length:].tolist()) <= {1}
        assert net_input["prev_output_tokens"][row, : len(target)].tolist() == [2, *target[:-1]]
        assert batch["target"][row, : len(target)].tolist() == target
        assert target[-1] == 2
    assert batch["ntokens"] == int((batch["target"] != 1).sum())


def test_an_epoch_uses_the_capped_subset_of_every_task(prompted: Path, tmp_path: Path) -> None:
    directory = tmp_path / "capped"
    shutil.copytree(prompted, directory)
    content = json.loads((directory / "mixture.json").read_text())
    caps = {"colors_which": 20, "shapes_which": 7}
    for task in content["tasks"]:
        task["cap"] = caps.get(task["name"])
    (directory / "mixture.json").write_text(json.dumps(content))
    dataset = load(directory)
    seen = []
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        indices = dataset.ordered_indices()
        assert len(set(indices.tolist())) == len(indices)
        starts = dict(zip((task.name for task in dataset.tasks), dataset.starts.tolist(), strict=False))
        for task in dataset.tasks:
            start = starts[task.name]
            chosen = set(indices[(indices >= start) & (indices < start + len(task))].tolist())
            assert len(chosen) == min(caps.get(task.name, len(task)), len(task))
            assert chosen == {start + i for i in task.epoch_indices(1, epoch).tolist()}
        seen.append(indices)
    assert set(seen[0].tolist()) != set(seen[1].tolist())
    dataset.set_epoch(1)
    assert np.array_equal(dataset.ordered_indices(), seen[0])


def test_batches_hold_similar_lengths_within_the_token_budget(prompted: Path) -> None:
    dataset = load(prompted)
    indices = dataset.ordered_indices()
    batches = dataset.batch_by_size(indices, max_tokens=400)
    assert sorted(int(i) for batch in batches for i in batch) == sorted(indices.tolist())
    padding = total = 0
    for batch in batches:
        sizes = dataset.sizes[batch]
        assert sizes.max() * len(batch) <= 400
        padding += sizes[:, 0].max() * len(batch) - sizes[:, 0].sum()
        total += sizes[:, 0].max() * len(batch)
    assert padding / total < 0.15
    mixed = sum(len({int(np.searchsorted(dataset.starts, i, "right")) for i in batch}) > 1 for batch in batches)
    assert mixed > len(batches) / 3


def test_validation_sets_by_name(prompted: Path) -> None:
    assert len(load(prompted, "valid")) == 40
    assert len(load(prompted, "valid_colors")) == len(load(prompted, "valid_shapes_which")) == 20
    dataset = load(prompted, "valid")
    before = dataset.ordered_indices()
    dataset.set_epoch(5)
    assert np.array_equal(dataset.ordered_indices(), before)


@pytest.mark.parametrize(
    ("split", "changes", "message"),
    [
        ("valid_color", {}, "no held-out examples of 'color'; did you mean colors"),
        ("test", {}, "must be train, valid or valid_NAME"),
        ("train", {"max_source_positions": 20}, "--max-source-positions is 20: raise it"),
        ("train", {"max_target_positions": 2}, "--max-target-positions is 2"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    split: str, changes: dict[str, int], message: str, prompted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        load(prompted, split, **changes)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_plain_pairs_of_a_jsonl_file(prompted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("dict.txt", "tokenizer.json"):
        shutil.copy(prompted / name, tmp_path / name)
    lines = [json.dumps({"source": f"what is red {i % 3}", "target": "yes" if i % 2 else "no"}) for i in range(11)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    (tmp_path / "valid.jsonl").write_text("\n".join(lines[:4]))
    assert len(load(tmp_path)) == 11
    assert len(load(tmp_path, "valid")) == 4
    (tmp_path / "train.tsv").write_text("what\tyes\n")
    with pytest.raises(SystemExit):
        load(tmp_path)
    assert "train.jsonl and train.tsv are one split" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("smoothing", "z_loss", "of_examples"),
    [(0.0, 0.0, False), (0.1, 0.0, False), (0.0, 1e-4, True), (0.1, 0.02, False)],
)
def test_the_criterion_against_slow_definitions(
    prompted: Path, smoothing: float, z_loss: float, of_examples: bool
) -> None:
    task = make_task(prompted)
    dataset = load(prompted)
    sample = dataset.collater([dataset[i] for i in (0, 30, 70, 100)])
    target = sample["target"]
    torch.manual_seed(0)
    logits = torch.randn(*target.shape, 80)
    logits[0].scatter_(-1, target[0].unsqueeze(-1), 20.0)  # the first example is predicted in full
    model: Any = lambda **_: (logits, {})  # noqa: E731
    model.get_targets = lambda sample, _: sample["target"]
    config = PromptCrossEntropyConfig(label_smoothing=smoothing, z_loss=z_loss, sentence_avg=of_examples)
    criterion = PromptCrossEntropyCriterion(config, task)
    loss, size, log = criterion(model, sample)
    expected = nll = hits = 0.0
    exact = 0
    for row in range(len(target)):
        right = []
        for place in range(target.shape[1]):
            label = int(target[row, place])
            if label != 1:
                log_probs = functional.log_softmax(logits[row, place].double(), -1)
                nll -= float(log_probs[label])
                expected += float(-(1 - smoothing) * log_probs[label] - smoothing * log_probs.mean())
                expected += z_loss * math.log(logits[row, place].double().exp().sum()) ** 2
                right.append(int(logits[row, place].argmax()) == label)
        hits += sum(right)
        exact += all(right)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert log["nll_loss"].item() == pytest.approx(nll, rel=1e-5)
    assert size == log["sample_size"] == (4 if of_examples else sample["ntokens"])
    assert int(log["token_hits"]) == hits
    assert int(log["example_hits"]) == exact == 1


Run = Callable[[str], None]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """fairseq-train inside the test process."""
    monkeypatch.chdir(REPOSITORY)

    def train(options: str) -> None:
        from fairseq_cli.train import cli_main

        monkeypatch.setattr(sys, "argv", ["fairseq-train", *options.split()])
        cli_main()

    return train


def weights(save: Path) -> dict[str, torch.Tensor]:
    state = torch.load(save / "checkpoint_last.pt", weights_only=False)
    return state["model"]  # type: ignore[no-any-return]


def assert_same(expected: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> None:
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_training_killed_and_resumed_equals_training_undisturbed(prompted: Path, tmp_path: Path, run: Run) -> None:
    """Over several epochs' ends, each with its own order and subset."""
    options = f"{prompted} {OPTIONS} --save-interval-updates 10 --disable-validation"
    save = tmp_path / "killed"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "fairseq_cli.train",
            *options.split(),
            "--max-update",
            "100000",
            "--save-dir",
            str(save),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(save.glob("checkpoint_*_20.pt")):
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = next(save.glob("checkpoint_*_10.pt"))  # whole for certain, as a later one had begun
    for later in save.glob("checkpoint_*"):
        if later != saved:
            later.unlink()
    run(f"{options} --max-update 30 --save-dir {save} --restore-file {saved}")
    run(f"{options} --max-update 30 --save-dir {tmp_path / 'whole'}")
    assert_same(weights(tmp_path / "whole"), weights(save))


def test_fine_tuning_starts_from_the_main_model_of_a_pretraining(
    prompted: Path, tmp_path: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    """Auxiliary and RTD head are left behind; with learning rate 0 everything else stays as it was pretrained."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    shutil.copy(prompted / "dict.txt", corpus)
    with TokenFileWriter(corpus / "train") as writer:
        for _ in range(8):
            writer.add([*range(4, 30), 2])
    pretraining = OPTIONS.replace("prompt_finetuning", "metro_pretraining").replace("prompt_cross_entropy", "metro")
    pretraining = f"{corpus} {pretraining} --disable-validation --max-update 2 --save-dir {tmp_path / 'pretrained'}"
    run(pretraining)
    checkpoint = tmp_path / "pretrained/checkpoint_last.pt"
    tuning = OPTIONS.replace("--lr 0.003", "--lr 0")
    tuning += f" --disable-validation --max-update 1 --finetune-from-model {checkpoint}"
    run(f"{prompted} {tuning} --save-dir {tmp_path / 'tuned'}")
    before, after = weights(tmp_path / "pretrained"), weights(tmp_path / "tuned")
    left_behind = before.keys() - after.keys()
    assert any("auxiliary" in name for name in left_behind)
    assert any("rtd_head" in name for name in left_behind)
    assert_same({name: before[name] for name in after}, after)

    other = tmp_path / "other"
    shutil.copytree(prompted, other)
    lines = (other / "dict.txt").read_text().splitlines()
    (other / "dict.txt").write_text("\n".join([*lines[1:], lines[0]]) + "\n")
    capfd.readouterr()
    with pytest.raises(SystemExit) as caught:
        run(f"{other} {tuning} --save-dir {tmp_path / 'refused'}")
    assert caught.value.code == 2
    assert "dict.txt is not the one the checkpoint was trained with" in capfd.readouterr().err


def test_training_learns_to_answer_from_the_source(vocabulary: Path, tmp_path: Path, run: Run) -> None:
    """One word among others decides; what is learned holds for unseen examples."""
    for name in ("dict.txt", "tokenizer.json"):
        shutil.copy(vocabulary / name, tmp_path / name)
    generator = np.random.default_rng(0)
    answers = {"red": "yes", "green": "no", "blue": "text", "yellow": "word"}
    for split, count in (("train", 1500), ("valid", 100)):
        lines = []
        for color in generator.choice(list(answers), count):
            words = generator.choice(["say", "tell", "thing", "what", "very", "row"], 6).tolist()
            words.insert(int(generator.integers(7)), color)
            lines.append(json.dumps({"source": " ".join(words), "target": answers[color]}))
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    options = OPTIONS.replace("--max-tokens 400", "--batch-size 32").replace("--d-model 32", "--d-model 64")
    options += " --best-checkpoint-metric exact_match --maximize-best-checkpoint-metric --max-update 120"
    run(f"{tmp_path} {options} --save-dir {tmp_path / 'run'}")
    state = torch.load(tmp_path / "run/checkpoint_last.pt", weights_only=False)
    assert state["extra_state"]["best"] > 90  # percent of the held-out examples
