# ruff: noqa: E501 - command lines
"""Bad inputs of every kind on every command: `python tests/commands/bad_inputs.py` prints how each of them ended.

Arguments: only command lines that hold this text, and only every N-th damage to a file, as in `"eval report" 3`.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from world import CASES, ONE_LINE, SUCCESS, Case, make_world, outcome_of, table

NUMBERS = ("0", "-1", "1e9", "1000000000000000", "nan", "inf", "1.5", "", "x", "0x10", "9" * 5000, "1e21")
NUMBER_OPTIONS = {
    "data tokenizer text.txt --output out": ("--vocab-size", "--max-mb", "--workers", "--character-coverage"),
    "data binarize text.txt --tokenizer vocab --output out": ("--shards", "--workers", "--valid-fraction"),
    "data inspect bin": ("--documents",),
    "prompts build --mixture toy --data-dir tasks --templates templates --tokenizer vocab --workers 1 --output out": (
        "--limit", "--held-out-limit", "--seed", "--max-source-tokens", "--workers"),
    "prompts show --dataset toy --data-dir tasks --templates templates": ("--rows", "--seed"),
    "prompts score --model metro --prompted built": ("--limit",),
    "eval tasks --tasks eval.yaml --model metro --data-dir tasks --templates templates --output out": (
        "--limit", "--max-source-tokens", "--max-choice-tokens", "--max-tokens", "--seed"),
    "eval generate --model metro --file pairs.tsv --output out": (
        "--beams", "--length-penalty", "--max-source-tokens", "--batch-size", "--limit"),
    "eval retrieve --encoder e --collection text.txt --index i --output out": ("--top-k", "--shard-size"),
    "synthetic generate set --vocabulary compact:200 --output out": ("--train", "--valid", "--length-min", "--length-max"),
    "synthetic inspect set --vocabulary compact:200": ("--examples", "--num-tokens", "--seed"),
    "synthetic init-apply back/checkpoint.pt --output out": ("--pre-attention-norm",),
    "analyze activation metro --prompted built --output out": ("--examples", "--max-tokens", "--max-target-tokens"),
}  # fmt: skip
LINES = """
data
data nothing
data tokenizer
data tokenizer text.txt
data tokenizer nowhere.txt --output out
data tokenizer tasks --output out
data tokenizer *.nothing --output out
data tokenizer hf:no/such/data --output out
data tokenizer builtin:nothing --output out
data tokenizer builtin:python-docs?max_mb=x --output out
data tokenizer text.txt --output text.txt
data tokenizer text.txt --vocab-size 50 --output text.txt/below
data tokenizer text.txt --vocabsize 50 --output out
data tokenizer rows.jsonl --field nothing --output out
data binarize text.txt --tokenizer tasks --output out
data binarize text.txt --tokenizer vocab --output text.txt
data binarize text.txt --tokenizer vocab --valid nowhere.txt --output out
data inspect vocab
data inspect bin --split test
data inspect text.txt
prompts list --mixture t4
prompts list --dataset glue/mrpcc
prompts list --dataset toy --templates nowhere
prompts list --mixture nowhere.yaml
prompts show --dataset toy --data-dir tasks --templates templates --split trian
prompts show --dataset toy --data-dir tasks --templates templates --template whihc
prompts show --dataset toy --data-dir nowhere --templates templates
prompts show --dataset ../tasks --data-dir tasks
prompts build --mixture toy --output out
prompts build --mixture toy --data-dir tasks --templates templates --tokenizer vocab --only shape --output out
prompts build --mixture toy --data-dir tasks --templates templates --tokenizer vocab --only , --output out
prompts build --mixture toy --data-dir tasks --templates templates --tokenizer vocab --cap t9 --output out
prompts build --mixture toy --data-dir tasks --templates templates --tokenizer vocab --output text.txt
prompts score --model nowhere --prompted built
prompts score --model metro --prompted nowhere
prompts score --model metro --prompted built --only nothing
prompts score --model metro --prompted built --device xyz
prompts score --model metro --prompted built --device cuda:99
prompts score --model metro --prompted built --device cpu --output tasks
eval t0 --model metro --output out --only rtee
eval t0 --model metro --output out --only rte,copa --data-dir nowhere
eval tasks --tasks nowhere.yaml --model metro --output out
eval tasks --tasks eval.yaml --model nowhere --output out
eval tasks --tasks eval.yaml --model ./nowhere --output out
eval tasks --tasks eval.yaml --model metro --device xyz --output out
eval tasks --tasks eval.yaml --model metro --dtype int8 --output out
eval tasks --tasks eval.yaml --model vocab --data-dir tasks --templates templates --output out
eval mmlu --model metro --split dev --output out
eval mmlu --model metro --passages nowhere.jsonl --output out
eval mmlu --model metro --passages text.txt --output out
eval report
eval report nowhere
eval report results results
eval report tasks
eval track results --update 1 --to nothing:out
eval track nowhere --update 1 --to tensorboard:out
eval generate --model metro --file nowhere.tsv --output out
eval generate --model metro --file text.txt --output out
eval generate --model metro --file pairs.tsv --reference other --output out
eval lm-eval-tasks --tasks nothing --output out
eval templates --dataset nothing/at_all
eval retrieve --encoder nowhere --collection nowhere.tsv --index i --output out
convert
convert fairseq nowhere.pt --output out
convert fairseq metro --output out
convert fairseq text.txt --output out
convert fairseq back/checkpoint.pt --output text.txt
convert fairseq back/checkpoint.pt --tokenizer tasks --output out
convert fairseq back/checkpoint.pt --output metro
convert to-fairseq nowhere --output out
convert to-fairseq vocab --output out
convert release no/such-model --output out
convert release metro --output out
synthetic generate sett --vocabulary t5 --output out
synthetic generate set:x --vocabulary t5 --output out
synthetic generate set:-1 --vocabulary t5 --output out
synthetic generate , --vocabulary t5 --output out
synthetic generate set --vocabulary t6 --output out
synthetic generate set --vocabulary compact:x --output out
synthetic generate set --vocabulary compact:99999999999999 --output out
synthetic generate set --vocabulary compact:1 --output out
synthetic generate set --vocabulary compact:200 --length-min 50 --length-max 10 --output out
synthetic generate set --vocabulary compact:200 --train 5 --valid 5 --output text.txt
synthetic verify nowhere
synthetic verify text.txt
synthetic verify tasks
synthetic verify set.tsv --task set
synthetic verify set.tsv --task set,lime --vocabulary t5
synthetic init-stats metro --scheme nothing --output out
synthetic init-stats nowhere --scheme per_param_scale --output out
synthetic init-apply metro --output out
synthetic init-apply metro --statistics text.txt --output out
synthetic init-apply metro --weights nowhere --output out
synthetic init-apply metro --statistics statistics.json --embeddings --output out
synthetic downstream nothing --tokenizer vocab --output out
synthetic downstream mtop --tokenizer tasks --output out
synthetic plot-norms metro --output out.png
synthetic plot-norms a=nowhere --output out.png
synthetic plot-schemes tasks --output out.png
analyze curves nowhere.log --output out
analyze curves text.txt --output out
analyze curves train.log --metrics nothing --output out
analyze curves train.log train.log --output out
analyze curves train.log --dict text.txt --output out
analyze efficiency nowhere.yaml --output out
analyze efficiency text.txt --output out
analyze activation nowhere --prompted built --output out
analyze activation metro --prompted nowhere --output out
analyze activation metro --prompted built --device xyz --output out
analyze activation text.txt --prompted built --output out
"""
DEEP = "[" * 100_000 + "]" * 100_000
ROOTS = ("null", "[]", "{}", '"text"', "7", DEEP, "9" * 5000, '{"a": NaN}', "", "{", '"\\ud800"')
BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut in half": lambda content: content[: len(content) // 2],
    "cut by one byte": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\x00",
    "first byte changed": lambda content: bytes([content[0] ^ 0x55]) + content[1:],
    "middle byte changed": lambda content: content[: (i := len(content) // 2)] + bytes([content[i] ^ 0x55]) + content[i + 1 :],
    "noise": lambda content: bytes(range(256)) * 8,
    "UTF-16": lambda content: content.decode("latin-1").encode("utf-16"),
    "byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "escapes of a terminal": lambda content: content.replace(b"red", b"\x1b[31mred\x07"),
}  # fmt: skip


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """(kind, arguments) of everything that is wrong on the command line itself."""
    for line in LINES.strip().splitlines():
        yield "arguments", line.split()
    for line, options in NUMBER_OPTIONS.items():
        for option in options:
            for number in NUMBERS:
                yield "numbers in options", [*line.split(), f"{option}={number}"]


def damaged(content: bytes, is_tree: bool, name: str) -> Iterator[tuple[str, bytes | None]]:
    """(kind, content) of everything that is done to a file; None: a directory takes its place."""
    for change in BYTES.values():
        yield "bytes of a file", change(content)
    yield "file-system", None
    if is_tree:
        for root in ROOTS:
            yield "shape of JSON and YAML", root.encode()
        dump = json.dumps if name.endswith(".json") else yaml.safe_dump
        tree = json.loads(content) if name.endswith(".json") else yaml.safe_load(content)
        for changed in other_trees(tree):
            yield "shape of JSON and YAML", dump(changed).encode()


def other_trees(tree: Any) -> Iterator[Any]:
    """The tree with every mapping's values, to a depth of three, absent or of another type."""
    for path in _paths(tree, 3):
        for value in (..., None, [], {}, "text", -1, 1.5, True):
            yield _changed(tree, path, value)


def _paths(tree: Any, depth: int) -> Iterator[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:1]) if isinstance(tree, list) else ()
    for key, value in list(items)[:12] if depth else []:
        yield (key,)
        yield from ((key, *rest) for rest in _paths(value, depth - 1))


def _changed(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = (
        json.loads(json.dumps(tree))
        if all(isinstance(key, str) for key in _keys(tree))
        else yaml.safe_load(yaml.safe_dump(tree))
    )
    at = copy
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return copy


def _keys(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key
            yield from _keys(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _keys(value)


def is_tree(name: str) -> bool:
    """Whether the file is one JSON or YAML value that can be changed as such."""
    return name.endswith((".json", ".yaml")) and not name.endswith("templates.yaml")


def main() -> int:
    """Try them all; gives 1 where one ended otherwise than with success or one line."""
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    every = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    outcomes: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as directory:
        world, work = Path(directory) / "world", Path(directory) / "work"
        world.mkdir()
        make_world(world)

        def attempt(kind: str, arguments: list[str], note: str = "") -> None:
            outcome, said = outcome_of(arguments, work)
            outcomes.append((kind, outcome))
            if outcome not in (SUCCESS, ONE_LINE) or "-v" in sys.argv:
                print(f"{outcome}: {' '.join(arguments)[:150]} {note}: {said}", file=sys.stderr, flush=True)

        def renew() -> None:
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(world, work)

        renew()
        for kind, arguments in command_lines():
            if pattern in " ".join(arguments):
                attempt(kind, arguments)
        for case in CASES:
            if pattern in case.line:
                _damage_all(case, world, work, renew, attempt, every)
    print(table(outcomes))
    return 0 if all(outcome in (SUCCESS, ONE_LINE) for _, outcome in outcomes) else 1


def _damage_all(
    case: Case, world: Path, work: Path, renew: Callable[[], None], attempt: Callable[..., None], every: int
) -> None:
    for name in case.reads:
        for number, (kind, content) in enumerate(damaged((world / name).read_bytes(), is_tree(name), name)):
            if number % every:
                continue
            renew()
            (work / name).unlink()
            if content is None:
                (work / name).mkdir()
            else:
                (work / name).write_bytes(content)
            attempt(kind, case.arguments, f"[{name} {number}: {content[:60] if content else content!r}]")


if __name__ == "__main__":
    sys.exit(main())
