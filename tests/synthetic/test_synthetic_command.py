"""`metro-t0-synthetic` from end to end: files of every format, checking them, bad input, downstream data, figure 6."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
from collections import Counter

import pytest
import torch

from metro_t0.errors import UserError
from metro_t0.modeling import MetroT5, preset
from metro_t0.synthetic import storage
from metro_t0.synthetic import tasks as synthetic_tasks
from metro_t0.synthetic.cli import main
from metro_t0.synthetic.vocabulary import compact_vocabulary
from metro_t0.tokenization import Tokenizer
from metro_t0.tokenization.settings import BpeSettings
from metro_t0.tokenization.training import train_bpe
from metro_t0.transfer.downstream import DOWNSTREAM_TASKS, pairs

SHORT = ["--vocabulary", "compact:100", "--length-min", "4", "--length-max", "12"]


def generate(output, *more):
    return main(
        ["generate", "set,count,lime", *SHORT, "--train", "1500", "--valid", "40", "--output", str(output), *more]
    )


@pytest.mark.parametrize("kind", ["fairseq", "tsv", "parquet"])
def test_generate_and_verify(tmp_path, capsys, kind):
    assert generate(tmp_path / "a", "--format", kind, "--deduplicate") == 0
    assert main(["verify", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.count("1500 examples") == 5
    # The same command writes the same bytes.
    assert generate(tmp_path / "b", "--format", kind, "--deduplicate") == 0
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file() and kind != "parquet":
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


@pytest.mark.parametrize("kind", ["fairseq", "tsv"])
def test_the_finished_command_does_nothing_and_a_missing_file_is_made_again(tmp_path, capsys, kind):
    def files():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    assert generate(tmp_path, "--format", kind, "--deduplicate") == 0
    before, printed = files(), capsys.readouterr().out
    assert "duplicate sources left out" in printed
    assert generate(tmp_path, "--format", kind, "--deduplicate") == 0
    assert (files(), capsys.readouterr().out) == (before, printed)
    next((tmp_path / "train").glob("set.*")).unlink()
    assert generate(tmp_path, "--format", kind, "--deduplicate") == 0
    assert files().keys() == before.keys()


def test_fairseq_files_are_what_the_prompt_stage_reads(tmp_path):
    from metro_t0.prompts.mixing import load_task_examples

    generate(tmp_path / "a")
    task = load_task_examples(tmp_path / "a", "train")[0]
    assert len(task) == 1500
    assert task.sources[0][-1] == 2
    shares = {task.name: len(task.epoch_indices(1, 1)) for task in load_task_examples(tmp_path / "a", "train")}
    assert shares == {"set": 1500, "count": 1500, **dict.fromkeys(("lime_induct", "lime_deduct", "lime_abduct"), 500)}


def test_files_of_a_tokenizer_have_its_dictionary(tmp_path):
    """A checkpoint of that dictionary would be refused with another."""
    words = Counter("".join(letters) for letters in itertools.product("acgt", repeat=4))
    train_bpe(words, BpeSettings(300), tmp_path)
    options = ["--vocabulary", str(tmp_path), "--no-task-prefix", "--train", "8", "--valid", "8", "--length-max", "12"]
    assert main(["generate", "identity", *options, "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/dict.txt").read_bytes() == (tmp_path / "dict.txt").read_bytes()
    (tmp_path / "build.json").write_text("{}")  # a mixture of metro-t0-prompts build
    assert main(["generate", "identity", *options, "--output", str(tmp_path)]) == 2
    assert not (tmp_path / "manifest.json").exists()


def test_the_prompt_stage_reads_no_ids_of_t5(tmp_path):
    """Their </s> is fairseq's padding."""
    options = ["--vocabulary", "t5", "--train", "64", "--valid", "8"]
    assert main(["generate", "identity", *options, "--output", str(tmp_path)]) == 0
    assert not (tmp_path / "mixture.json").exists()


def test_too_few_different_sources_end_the_search_for_more(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(storage, "FRUITLESS_BLOCKS", 4)
    options = ["--vocabulary", "compact:10", "--length-min", "2", "--length-max", "4", "--deduplicate"]
    assert main(["generate", "identity", *options, "--train", "300000", "--valid", "8", "--output", str(tmp_path)]) == 2
    assert "different sources to train on; ask for fewer" in capsys.readouterr().err


def test_a_tokenizer_that_cannot_write_the_answers_is_refused(tmp_path, capsys):
    """Yes and no, the names of tasks and all numbers would be the same <unk>."""
    words = Counter("".join(letters) for letters in itertools.product("acgt", repeat=4))
    train_bpe(words, BpeSettings(300), tmp_path)
    where = ["--vocabulary", str(tmp_path), "--length-max", "30"]
    for task, message in (("search", "cannot write yes and no"), ("count", "cannot write '0'")):
        assert main(["inspect", task, *where, "--no-task-prefix"]) == 2
        assert message in capsys.readouterr().err
    assert main(["inspect", "reverse", *where]) == 2
    assert "no prefix for task reverse; turn the task prefix off" in capsys.readouterr().err
    assert main(["inspect", "reverse", *where, "--no-task-prefix"]) == 0


def test_verify_reports_the_first_wrong_line(tmp_path, capsys):
    generate(tmp_path / "a", "--format", "tsv")
    path = tmp_path / "a" / "train" / "set.tsv"
    lines = path.read_text().splitlines()
    source, target = lines[6].split("\t")
    wrong = json.loads(target)
    lines[6] = f"{source}\t{[wrong[0] + 1, *wrong[1:]]}"
    path.write_text("\n".join(lines) + "\n")
    assert main(["verify", str(tmp_path / "a")]) == 1
    assert "line 7: the target is" in capsys.readouterr().out
    path.write_text("\n".join(lines[:3]) + "\n")  # copied in part
    assert main(["verify", str(tmp_path / "a")]) == 1
    assert "3 examples, manifest.json says 1500" in capsys.readouterr().out
    path.write_text("\n".join([*lines[:3], "[1, 2] [3]"]) + "\n")
    assert main(["verify", str(tmp_path / "a")]) == 2
    assert "line 4 is not two lists" in capsys.readouterr().err
    generate(tmp_path / "b")
    (tmp_path / "b" / "train" / "set.source.bin").write_bytes(b"\0\0")
    assert main(["verify", str(tmp_path / "b")]) == 2
    assert "set.source.bin: has 2 bytes" in capsys.readouterr().err


def test_verify_a_single_file_of_the_authors_layout(tmp_path, capsys):
    path = tmp_path / "records.tsv"
    path.write_text("[7211, 32099, 5, 6, 7]\t[7, 6, 5]\n[7211, 32099, 8, 9]\t[9, 8]\n")
    arguments = ["verify", str(path), "--task", "reverse", "--vocabulary", "t5"]
    assert main(arguments) == 0
    assert main([*arguments[:2], "--task", "identity", "--vocabulary", "t5"]) == 1
    assert main(["verify", str(path)]) == 2
    assert "give --task" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "sets", *SHORT], "unknown synthetic task 'sets'; did you mean set"),
        (["inspect", "set", "--vocabulary", "t6"], "neither t5"),
        (["inspect", "delete", "--vocabulary", "t5", "--length-max", "15"], "twice the minimum"),
        (["inspect", "union", "--vocabulary", "compact:20"], "too few"),
        (["inspect", "nonsense_summary", "--vocabulary", "compact:20"], "too few for"),
        (["inspect", "length", "--vocabulary", "t5"], "the number 0 are not known"),
        (["inspect", "set", *SHORT, "--num-tokens", "1"], "num_tokens is 1"),
        (["verify", "nowhere"], "nowhere: no such file or directory"),
    ],
)
def test_bad_input(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_inspect_and_stats(capsys):
    assert main(["inspect", "reverse", *SHORT, "--examples", "3", "--task-prefix"]) == 0
    rows = [line.split("│")[2:4] for line in capsys.readouterr().out.splitlines() if "reverse" in line]
    assert len(rows) == 3
    for source, target in rows:
        assert source.split() == target.split()[::-1]
        assert source.split()[0] == "a"
    assert main(["stats", "set:1,search:1", *SHORT, "--examples", "300"]) == 0


def test_downstream_rows():
    def convert(name, row):
        return next(iter(pairs(DOWNSTREAM_TASKS[name], [row])))

    squad = {"question": "Who?", "context": "It was (she).", "answers": {"text": ["she", "She."]}}
    assert convert("squad", squad).source == "question: Who? context: It was (she)."
    assert convert("squad_padded", squad).source == "question : Who ? context : It was ( she ) ."
    assert convert("squad", squad).references == ("she", "She.")
    news = {"article": "A Man walked.", "highlights": "One.\nTwo ."}
    assert convert("cnndm_10k", news).references == ("one . two .",)
    assert convert("cnndm_10k", news).source == "summarize: a man walked."
    parse = {"question": "call mum", "knowledge": "IN:CALL: CONTACT", "target": "[IN:CALL [SL:CONTACT mum ] ]"}
    assert convert("mtop", parse).source == "call mum ; structured knowledge: IN:CALL: CONTACT"
    with pytest.raises(UserError, match="row 1 has no column knowledge"):
        convert("webqsp", {"question": "x"})
    with pytest.raises(UserError, match="row 1 has no answer"):  # SQuAD 2, and test splits
        convert("squad", {**squad, "answers": {"text": []}})
    with pytest.raises(UserError, match="row 1: answers: must be a mapping"):  # SQuAD's own JSON
        convert("squad", {**squad, "answers": [{"text": "she"}]})
    with pytest.raises(UserError, match="row 1: answers: text: must be a list, is 'she'"):
        convert("squad", {**squad, "answers": {"text": "she"}})
    with pytest.raises(UserError, match="row 1: knowledge: must be text, is nothing"):
        convert("mtop", {**parse, "knowledge": None})


def test_downstream_command_on_real_data(real_data, tmp_path):
    where = ["--data-dir", str(real_data / "tasks"), "--tokenizer", str(real_data / "vocab" / "vocab_32k")]  # sp.model
    assert main(["downstream", "code_translation", *where, "--splits", "test", "--output", str(tmp_path / "out")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "test.jsonl").read_text().splitlines()]
    assert len(rows) == 1000
    assert rows[0]["references"] == [rows[0]["target"]]
    assert len(Tokenizer.load(tmp_path / "out")) == 32_768
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_norm_figure(tmp_path):
    from metro_t0.hf.checkpoints import write_checkpoint

    model = MetroT5(preset("t5_tiny", vocab_size=20, d_model=32, num_heads=2, head_dim=16, ffn_dim=64), pad_id=1)
    with torch.no_grad():
        model.main.decoder.layers[2].cross_attention_norm.weight.fill_(0.25)
    (tmp_path / "dict.txt").write_text("a 1\n")
    write_checkpoint(tmp_path / "m.pt", model.config, model.state_dict(), tmp_path / "dict.txt")
    assert main(["plot-norms", f"mine={tmp_path / 'm.pt'}", "--output", str(tmp_path / "norms.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "norms.csv").open()))
    assert len(rows) == 12
    low = [row for row in rows if float(row["mean"]) != 1.0]
    assert [(row["stack"], row["site"], row["layer"], float(row["mean"])) for row in low] == [
        ("decoder", "cross", "2", 0.25)
    ]
    assert (tmp_path / "norms.png").read_bytes().startswith(b"\x89PNG")


def test_a_task_that_is_registered_later_moves_no_id(tmp_path, monkeypatch, capsys):
    """Neither of data made before, which stays readable, nor of the other tasks in a mixture with the new one."""

    def generate(tasks, directory):
        options = [
            "--vocabulary",
            "compact:50",
            "--format",
            "tsv",
            "--train",
            "32",
            "--valid",
            "8",
            "--length-max",
            "20",
        ]
        return main(["generate", tasks, *options, "--output", str(tmp_path / directory)])

    before = compact_vocabulary(50, synthetic_tasks.SYNTHETIC_TASKS)
    assert generate("set", "before") == 0
    new = dataclasses.replace(synthetic_tasks.SYNTHETIC_TASKS["identity"], name="aaa", authors_name="")
    monkeypatch.setitem(synthetic_tasks.SYNTHETIC_TASKS, "aaa", new)
    after = compact_vocabulary(50, synthetic_tasks.SYNTHETIC_TASKS)
    assert after.names.items() - before.names.items() == {("aaa", (before.size,))}
    assert (after.extra(0), after.reserved, after.yes) == (before.extra(0), before.reserved, before.yes)
    assert after.fingerprint == "compact:50+aaa"
    assert compact_vocabulary(50, ["set"]).describe == before.describe
    assert main(["verify", str(tmp_path / "before")]) == 0
    assert generate("set", "again") == generate("set:1,aaa:1", "both") == 0
    rows = [(tmp_path / name / "train" / "set.tsv").read_text() for name in ("before", "again", "both")]
    assert rows[0] == rows[1] == rows[2]
    assert main(["verify", str(tmp_path / "both")]) == 0
    assert "compact:50+aaa" in (tmp_path / "both" / "manifest.json").read_text()
