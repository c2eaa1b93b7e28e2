"""`metro-t0-convert`: between fairseq checkpoints, Hugging Face directories and the authors' released checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

from metro_t0.command import Parser, run

DTYPES = ("keep", "float32", "float16", "bfloat16")
DESCRIPTION = "Convert models between fairseq, Hugging Face and the format of the METRO-T0 release."
EXAMPLES = """examples:
  # a checkpoint of fairseq-train -> a directory for transformers; dict.txt and tokenizer.json from the data directory
  metro-t0-convert fairseq checkpoints/checkpoint_last.pt exported --tokenizer data/bin

  # back, to fine-tune it: fairseq-train ... --finetune-from-model for_fairseq/checkpoint.pt
  metro-t0-convert to-fairseq exported for_fairseq

  # the authors' release, from the hub or from a local copy
  metro-t0-convert release gonglinyuan/metro_t0_base metro_t0_base
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command with the given arguments (default: the process's)."""
    arguments = _parser().parse_args(argv)
    return run("metro-t0-convert", lambda: _convert(arguments))


def _convert(arguments: argparse.Namespace) -> None:
    # Importing torch and transformers takes seconds; --help must not wait for them.
    from metro_t0.hf import convert

    if arguments.direction == "fairseq":
        convert.fairseq_to_hugging_face(
            arguments.source, arguments.destination, arguments.tokenizer, arguments.dtype,
            keep_pretraining=arguments.keep_pretraining, with_code=arguments.code,
        )  # fmt: skip
    elif arguments.direction == "to-fairseq":
        convert.hugging_face_to_fairseq(arguments.source, arguments.destination)
    else:
        convert.release_to_hugging_face(
            arguments.source, arguments.destination, arguments.dtype, with_code=arguments.code
        )


def _parser() -> Parser:
    parser = Parser(prog="metro-t0-convert", description=DESCRIPTION, epilog=EXAMPLES)
    directions = parser.add_subparsers(dest="direction", required=True, parser_class=Parser)
    exported = directions.add_parser(
        "fairseq",
        help="fairseq checkpoint -> Hugging Face directory",
        description="Write the main model of a fairseq checkpoint as a Hugging Face directory. A vanilla T5 (t5_*) "
        "becomes transformers' own T5ForConditionalGeneration.",
        epilog=EXAMPLES,
    )
    exported.add_argument("source", type=Path, metavar="SRC", help="checkpoint file (.pt)")
    _add_destination(exported)
    exported.add_argument(
        "--tokenizer", type=Path, metavar="DIR",
        help="directory with dict.txt and tokenizer.json or sp.model (default: the run's data directory)",
    )  # fmt: skip
    exported.add_argument(
        "--keep-pretraining", action="store_true",
        help="keep auxiliary and pretraining heads too, in pretraining.safetensors; to-fairseq reads them back",
    )  # fmt: skip
    back = directions.add_parser(
        "to-fairseq",
        help="Hugging Face directory -> fairseq checkpoint",
        description="Write DST/checkpoint.pt for fairseq-train --finetune-from-model, and the vocabulary beside it.",
        epilog=EXAMPLES,
    )
    back.add_argument("source", type=Path, metavar="SRC", help="directory written by `fairseq` or `release`")
    back.add_argument("destination", type=Path, metavar="DST", help="directory to write")
    released = directions.add_parser(
        "release",
        help="the authors' released checkpoint -> Hugging Face directory",
        description="Convert a METRO-T0 checkpoint as its authors released it (model type fairseq_t5). Its remote "
        "code is neither downloaded nor run.",
        epilog=EXAMPLES,
    )
    released.add_argument("source", metavar="SRC", help="directory, or OWNER/NAME on the hub")
    _add_destination(released)
    return parser


def _add_destination(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("destination", type=Path, metavar="DST", help="directory to write")
    parser.add_argument("--dtype", choices=DTYPES, default="keep", help="dtype of the written weights (default: keep)")
    parser.add_argument(
        "--no-code", dest="code", action="store_false",
        help="do not put the model's code into DST (then it loads only where this package is imported)",
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
