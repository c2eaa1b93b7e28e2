# ruff: noqa: E501 - command lines
"""A small set of every kind of file that the commands read, and what to run on each of them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import eval.cli
import finetune.cli
import metro_t0.analysis.cli
import metro_t0.convert
import metro_t0.data.cli
import metro_t0.synthetic.cli
from metro_t0.command import Program

SECONDS = 60
PROGRAMS: dict[str, Program] = {
    "data": metro_t0.data.cli.main,
    "prompts": finetune.cli.main,
    "eval": eval.cli.main,
    "convert": metro_t0.convert.main,
    "synthetic": metro_t0.synthetic.cli.main,
    "analyze": metro_t0.analysis.cli.main,
}
SUCCESS, ONE_LINE = "success", "one line"


class Hang(BaseException):
    """A command that does not end."""


@dataclass(frozen=True)
class Case:
    """A command line that succeeds in the world as it was made, and the files that it reads."""

    line: str
    reads: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        return self.line.split()


CASES = [
    Case("data tokenizer text.txt --vocab-size 60 --workers 1 --output out", ("text.txt",)),
    Case("data tokenizer rows.jsonl --vocab-size 60 --workers 1 --output out", ("rows.jsonl",)),
    Case("data tokenizer rows.parquet --vocab-size 60 --workers 1 --output out", ("rows.parquet",)),
    Case("data binarize text.txt.gz --tokenizer vocab --valid-fraction 0.2 --workers 1 --output out",
         ("text.txt.gz", "vocab/dict.txt", "vocab/tokenizer.json")),
    Case("data binarize text.txt.zst --tokenizer vocab --valid-fraction 0.2 --workers 1 --output out", ("text.txt.zst",)),
    Case("data binarize text.txt --tokenizer vocab --valid-fraction 0.2 --workers 1 --output bin --overwrite",
         ("bin/info.json",)),
    Case("data inspect bin", ("bin/dict.txt", "bin/tokenizer.json", "bin/train.idx", "bin/train.bin")),
    Case("prompts list --dataset toy --templates templates", ("templates/toy/templates.yaml",)),
    Case("prompts list --mixture mine.yaml --templates templates", ("mine.yaml",)),
    Case("prompts show --dataset toy --data-dir tasks --templates templates", ("tasks/toy/train.jsonl",)),
    Case("prompts build --mixture toy --data-dir tasks --templates templates --tokenizer vocab --workers 1 --output out",
         ("tasks/toy/validation.jsonl",)),
    Case("prompts build --mixture toy --data-dir tasks --templates templates --tokenizer vocab --workers 1 --output built",
         ("built/mixture.json", "built/datasets/toy.json", "built/build.json")),
    Case("prompts score --model metro --prompted built --device cpu",
         ("built/valid/toy_which.source.idx", "built/valid/toy_which.target.bin", "built/dict.txt")),
    Case("eval tasks --tasks eval.yaml --model metro --data-dir tasks --templates templates --device cpu --output out",
         ("eval.yaml", "metro/config.json", "metro/model.safetensors", "metro/tokenizer.json",
          "metro/generation_config.json", "metro/tokenizer_config.json")),
    Case("eval report results --output out", ("results/run.json", "results/plan.json", "results/summary.json",
                                              "results/results/toy/which.json")),
    Case("eval track results --update 5 --to tensorboard:out", ("results/run.json", "results/results/toy/which.json")),
    Case("eval generate --model metro --file pairs.jsonl --beams 1 --max-target-tokens 2 --device cpu --output out",
         ("pairs.jsonl",)),
    Case("eval generate --model metro --file pairs.tsv --beams 1 --max-target-tokens 2 --device cpu --output gen",
         ("pairs.tsv", "gen/predictions.jsonl", "gen/settings.json")),
    Case("eval lm-eval-tasks --tasks eval.yaml --data-dir tasks --templates templates --output out"),
    Case("eval templates --dataset toy --templates templates"),
    Case("convert to-fairseq metro --output out", ("metro/dict.txt",)),
    Case("convert fairseq back/checkpoint.pt --tokenizer back --output out", ("back/checkpoint.pt", "back/dict.txt")),
    Case("synthetic generate set --vocabulary compact:200 --train 20 --valid 5 --length-max 20 --output out"),
    Case("synthetic verify made", ("made/manifest.json", "made/train/set.source.idx", "made/valid/set.target.bin")),
    Case("synthetic verify set.tsv --task set --vocabulary compact:200 --no-task-prefix", ("set.tsv",)),
    Case("synthetic stats set --vocabulary t5 --examples 20"),
    Case("synthetic init-stats metro --scheme per_param_scale --output out.json"),
    Case("synthetic init-apply back/checkpoint.pt --statistics statistics.json --output out.pt", ("statistics.json",)),
    Case("synthetic downstream mtop --data-dir tasks --tokenizer vocab --splits train --output out",
         ("tasks/mtop/train.jsonl",)),
    Case("analyze curves train.log --dict vocab/dict.txt --output out", ("train.log",)),
    Case("analyze efficiency runs.yaml --output out", ("runs.yaml",)),
    Case("analyze activation metro --prompted built --examples 4 --device cpu --output out"),
]  # fmt: skip

TEMPLATES = """
dataset: toy
templates:
  a: !Template
    answer_choices: 'red ||| blue'
    id: a
    jinja: 'Which color is {{ text }}? ||| {{ answer_choices[label] }}'
    metadata: !TemplateMetadata {choices_in_prompt: false, metrics: [Accuracy], original_task: true}
    name: which
    reference: ''
"""


def make_world(place: Path) -> None:
    """Write all files that the cases read, in the working directory `place`."""
    _write_texts(place)
    run("data tokenizer text.txt --vocab-size 60 --workers 1 --output vocab", place)
    run("data binarize text.txt --tokenizer vocab --valid-fraction 0.2 --workers 1 --output bin", place)
    given = "--data-dir tasks --templates templates"
    run(f"prompts build --mixture toy {given} --tokenizer vocab --workers 1 --output built", place)
    _write_models(place)
    run(f"eval tasks --tasks eval.yaml --model metro {given} --device cpu --output results", place)
    run("eval generate --model metro --file pairs.tsv --beams 1 --max-target-tokens 2 --device cpu --output gen", place)
    run("synthetic generate set --vocabulary compact:200 --train 20 --valid 5 --length-max 20 --output made", place)
    run("synthetic init-stats metro --scheme per_param_scale --output statistics.json", place)


def _write_texts(place: Path) -> None:
    import gzip

    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    lines = [f"the color of thing {n} is red or blue" for n in range(40)]
    text = "\n\n".join(lines).encode()
    texts: dict[str, str | bytes] = {
        "text.txt": text,
        "text.txt.gz": gzip.compress(text),
        "text.txt.zst": zstandard.compress(text),
        "rows.jsonl": "".join(json.dumps({"text": line}) + "\n" for line in lines),
        "templates/toy/templates.yaml": TEMPLATES,
        "mine.yaml": "train: [toy]\ntitle: mine\n",
        "eval.yaml": "name: own\ntasks: [{dataset: toy, name: toy}]\n",
        "pairs.jsonl": '{"source": "red", "target": "blue"}\n{"source": "blue", "references": ["red", "x"]}\n',
        "pairs.tsv": "red\tblue\nblue\tred\n",
        "set.tsv": "[100, 101, 100]\t[100, 101]\n",
        "tasks/mtop/train.jsonl": json.dumps({"question": "q", "knowledge": "k", "target": "t"}) + "\n",
        "train.log": "".join(
            f'| train_inner | {{"train_loss": "3", "clm_loss": "{3 - n / 9}", "train_num_updates": "{n}", "wpb": "9", '
            f'"train_wall": "{n}"}}\n' for n in range(1, 9)
        ),
        "runs.yaml": "runs: {a: {log: train.log, checkpoints: {3: results}}}\n",
    }  # fmt: skip
    for split in ("train", "validation"):
        rows = ({"text": f"thing {n}", "label": n % 2} for n in range(6))
        texts[f"tasks/toy/{split}.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows)
    for name, content in texts.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    pq.write_table(pa.table({"text": lines}), place / "rows.parquet")


def _write_models(place: Path) -> None:
    import torch

    from metro_t0.hf.export import save_directory, to_hugging_face
    from metro_t0.modeling import MetroT5, preset
    from metro_t0.tokenization import Tokenizer

    tokenizer = Tokenizer.load(place / "vocab")
    config = preset(
        "demo", vocab_size=len(tokenizer) + 64, d_model=16, ffn_dim=16, num_heads=2, head_dim=8, encoder_layers=1,
        decoder_layers=1, max_positions=512,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MetroT5(config, pad_id=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_directory(to_hugging_face(model), place / "metro", tokenizer)
    run("convert to-fairseq metro --output back", place)


def run(line: str, place: Path) -> None:
    """A command that has to succeed."""
    outcome, said = outcome_of(line.split(), place)
    assert outcome == SUCCESS, f"{line}: {outcome}: {said}"


def outcome_of(arguments: Sequence[str], place: Path) -> tuple[str, str]:
    """How `PROGRAM ARGUMENTS` ends in the directory `place`, in this process, and what it says on standard error.

    "success" and "one line" (a status that is not 0 and one error line) are as it should be.
    """
    out, err = io.StringIO(), io.StringIO()
    before = Path.cwd()
    os.chdir(place)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _time_limit():
            status = PROGRAMS[arguments[0]](list(arguments[1:]))
    except Hang:
        return "hangs", ""
    except BaseException as error:  # whatever a person would see as a traceback
        return f"traceback ({type(error).__name__})", repr(error)[:300]
    finally:
        os.chdir(before)
    said = err.getvalue()
    errors = [line for line in said.splitlines() if ": error: " in line]
    if status == 0 or (status == 1 and arguments[:2] == ["synthetic", "verify"]):
        return SUCCESS, said
    if status == 3 and not errors:
        return ONE_LINE, said  # some data sets failed: each is named in a line of standard output
    if status == 2 and len(errors) == 1 and said.rstrip().endswith(errors[0]):
        return ONE_LINE, errors[0]
    return f"status {status} with {len(errors)} error lines", said[-300:]


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def table(outcomes: Sequence[tuple[str, str]]) -> str:
    """How many of each kind ended how, as Markdown. outcomes: (kind of input, outcome)."""
    from metro_t0.tables import markdown_table

    counts = Counter(outcomes)
    kinds, ends = (sorted({outcome[i] for outcome in outcomes}) for i in (0, 1))
    rows = [(kind, *(str(counts[kind, end]) for end in ends)) for kind in kinds]
    rows.append(("all", *(str(sum(counts[kind, end] for kind in kinds)) for end in ends)))
    return markdown_table(("bad input", *ends), rows)


if __name__ == "__main__":
    sys.exit("this module is used by the tests beside it and by bad_inputs.py")
