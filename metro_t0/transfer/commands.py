"""`metro-t0-synthetic init-stats` and `init-apply`."""

from __future__ import annotations

from pathlib import Path

from metro_t0.command import Command
from metro_t0.common_options import output_option, seed_option
from metro_t0.errors import UserError
from metro_t0.files import read_json, write_json
from metro_t0.options import option


class InitStats(Command):
    """Write the statistics that an initialization scheme keeps of a trained model: a few kB of JSON.

    example:
      metro-t0-synthetic init-stats runs/set/checkpoint_best.pt --scheme per_param_scale --output set.json
    """

    source: Path = option(
        help="a fairseq checkpoint, or a Hugging Face directory (T5 or METRO)", positional=True, metavar="MODEL"
    )
    scheme: str = option(help="what is kept, as per_param_scale or whole_model_scale (docs/synthetic.md)")
    output: Path = output_option(help="JSON file to write", metavar="FILE")

    def run(self) -> None:
        from metro_t0.transfer.statistics import collect, get_scheme
        from metro_t0.transfer.weight_files import read_weights

        scheme = get_scheme(self.scheme)
        statistics = collect(read_weights(self.source), scheme, str(self.source))
        write_json(self.output, statistics.to_json())
        tensors = sum(len(group.tensors) for group in statistics.groups.values())
        print(f"{self.output}: {len(statistics.groups)} groups of {tensors} tensors, scheme {statistics.scheme}")


class InitApply(Command):
    """Initialize a model: from statistics, from all weights of a checkpoint, or with constant norms.

    examples:
      metro-t0-synthetic init-apply random.pt --statistics set.json --seed 1 --output start.pt
      metro-t0-synthetic init-apply random.pt --weights runs/set/checkpoint_best.pt --output start.pt
      metro-t0-synthetic init-apply t5-directory --pre-attention-norm 0.2 --output start-directory
    """

    model: Path = option(
        help="the freshly initialized model: fairseq checkpoint or directory", positional=True, metavar="MODEL"
    )
    output: Path = output_option(help="model to write, of the same kind", metavar="PATH")
    statistics: Path | None = option(None, "a JSON file of init-stats", metavar="FILE")
    weights: Path | None = option(None, "a trained model: copy everything but the token embeddings", metavar="MODEL")
    pre_attention_norm: float | None = option(
        None, "set every pre-attention norm to this constant", at_least=-1e6, at_most=1e6
    )
    embeddings: bool = option(False, "with --weights: copy the token embeddings too")
    seed: int = seed_option("the noise drawn from statistics")

    def __post_init__(self) -> None:
        starts = (self.statistics, self.weights, self.pre_attention_norm)
        if sum(start is not None for start in starts) != 1:
            raise UserError("give one of --statistics, --weights and --pre-attention-norm")
        if self.embeddings and self.weights is None:
            raise UserError("--embeddings belongs to --weights; statistics never have token embeddings")

    def run(self) -> None:
        from metro_t0.transfer.roles import copy_weights
        from metro_t0.transfer.statistics import Statistics, apply_statistics, constant_statistics
        from metro_t0.transfer.weight_files import read_weights, write_like

        tensors = read_weights(self.model)
        if self.weights is not None:
            count = copy_weights(tensors, read_weights(self.weights), self.embeddings, str(self.weights))
        elif self.statistics is not None:
            statistics = Statistics.from_json(read_json(self.statistics), str(self.statistics))
            count = apply_statistics(tensors, statistics, self.seed, str(self.statistics))
        else:
            assert self.pre_attention_norm is not None
            constant = constant_statistics(tensors, self.pre_attention_norm)
            count = apply_statistics(tensors, constant, self.seed, "--pre-attention-norm")
        write_like(self.model, tensors, self.output)
        print(f"{self.output}: {count} tensors initialized, {len(tensors) - count} as in {self.model}")


COMMANDS = (InitStats, InitApply)
