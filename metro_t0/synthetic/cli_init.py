"""`metro-t0-synthetic init-stats` and `init-apply`."""

from __future__ import annotations

import argparse
from pathlib import Path

from metro_t0.errors import UserError
from metro_t0.files import read_json, write_json
from metro_t0.modeling.statistics_init import (
    SCHEMES,
    Statistics,
    apply_statistics,
    collect,
    constant_statistics,
    copy_weights,
    get_scheme,
)
from metro_t0.synthetic.weights import read_weights, write_like


def register(commands: argparse._SubParsersAction) -> None:
    """Add both commands."""
    _register_stats(commands)
    _register_apply(commands)


def _register_stats(commands: argparse._SubParsersAction) -> None:
    text = "Write the statistics that an initialization scheme keeps of a trained model: a few kB of JSON."
    example = (
        "example:\n  metro-t0-synthetic init-stats runs/set/checkpoint_best.pt --scheme per_param_scale "
        "--output set.json\n"
    )
    parser = commands.add_parser("init-stats", help=text, description=text, epilog=example)
    parser.add_argument("source", type=Path, help="a fairseq checkpoint, or a Hugging Face directory (T5 or METRO)")
    parser.add_argument("--scheme", required=True, help=f"one of {', '.join(SCHEMES)}")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.set_defaults(body=_stats)


def _stats(options: argparse.Namespace) -> None:
    statistics = collect(read_weights(options.source), get_scheme(options.scheme), str(options.source))
    write_json(options.output, statistics.to_json())
    tensors = sum(len(group.tensors) for group in statistics.groups.values())
    print(f"{options.output}: {len(statistics.groups)} groups of {tensors} tensors, scheme {statistics.scheme}")


def _register_apply(commands: argparse._SubParsersAction) -> None:
    text = "Initialize a model: from statistics, from all weights of a checkpoint, or with constant norms."
    example = (
        "examples:\n"
        "  metro-t0-synthetic init-apply random.pt --statistics set.json --seed 1 --output start.pt\n"
        "  metro-t0-synthetic init-apply random.pt --weights runs/set/checkpoint_best.pt --output start.pt\n"
        "  metro-t0-synthetic init-apply t5-directory --pre-attention-norm 0.2 --output start-directory\n"
    )
    parser = commands.add_parser("init-apply", help=text, description=text, epilog=example)
    parser.add_argument("model", type=Path, help="the freshly initialized model: fairseq checkpoint or directory")
    parser.add_argument("--output", type=Path, required=True, help="model to write, of the same kind")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--statistics", type=Path, help="a JSON file of init-stats")
    what.add_argument("--weights", type=Path, help="a trained model: copy everything but the token embeddings")
    what.add_argument("--pre-attention-norm", type=float, help="set every pre-attention norm to this constant")
    parser.add_argument("--embeddings", action="store_true", help="with --weights: copy the token embeddings too")
    parser.add_argument("--seed", type=int, default=0, help="of the noise drawn from statistics")
    parser.set_defaults(body=_apply)


def _apply(options: argparse.Namespace) -> None:
    tensors = read_weights(options.model)
    if options.embeddings and options.weights is None:
        raise UserError("--embeddings belongs to --weights; statistics never have token embeddings")
    if options.weights is not None:
        count = copy_weights(tensors, read_weights(options.weights), options.embeddings, str(options.weights))
    elif options.statistics is not None:
        statistics = Statistics.from_json(read_json(options.statistics), str(options.statistics))
        count = apply_statistics(tensors, statistics, options.seed, str(options.statistics))
    else:
        constant = constant_statistics(tensors, options.pre_attention_norm)
        count = apply_statistics(tensors, constant, options.seed, "--pre-attention-norm")
    write_like(options.model, tensors, options.output)
    print(f"{options.output}: {count} tensors initialized, {len(tensors) - count} as in {options.model}")
