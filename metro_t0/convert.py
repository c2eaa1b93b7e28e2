"""`metro-t0-convert`: between fairseq checkpoints, Hugging Face directories and the authors' released checkpoints.

It is not in `metro_t0.hf`, because importing that loads torch and transformers, which --help must not wait for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from metro_t0.command import Command, Program
from metro_t0.common_options import output_option
from metro_t0.options import option

Dtype = Literal["keep", "float32", "float16", "bfloat16"]
DESCRIPTION = "Convert models between fairseq, Hugging Face and the format of the METRO-T0 release."


class Conversion(Command):
    """One of the directions.

    examples:
      # a checkpoint of fairseq-train -> a directory for transformers, with the vocabulary of the data directory
      metro-t0-convert fairseq checkpoints/checkpoint_last.pt --tokenizer data/bin --output exported

      # back, to fine-tune it: fairseq-train ... --finetune-from-model for_fairseq/checkpoint.pt
      metro-t0-convert to-fairseq exported --output for_fairseq

      # the authors' release, from the hub or from a local copy
      metro-t0-convert release gonglinyuan/metro_t0_base --output metro_t0_base

      # encoder and decoder as ONNX graphs
      metro-t0-convert onnx exported --output exported_onnx
    """

    output: Path = output_option()


class Written(Conversion):
    """A Hugging Face directory to write."""

    dtype: Dtype = option("keep", "of the written weights")
    code: bool = option(
        True, "do not put the model's code into the directory (then it loads only where this package is imported)"
    )
    license: str = option("mit", "license of the weights in the model card, as the hub names it", metavar="ID")
    evaluation: Path | None = option(
        None, "Markdown to put into the model card: table.md of metro-t0-eval report", metavar="FILE"
    )


class Fairseq(Written):
    """Write the main model of a fairseq checkpoint as a Hugging Face directory; a vanilla T5 (t5_*) becomes
    transformers' own T5ForConditionalGeneration.
    """

    source: Path = option(help="checkpoint file (.pt)", positional=True, metavar="CHECKPOINT")
    tokenizer: Path | None = option(
        None,
        "directory with dict.txt and tokenizer.json or sp.model (default: the run's data directory)",
        metavar="DIR",
    )
    keep_pretraining: bool = option(
        False, "keep auxiliary and pretraining heads too, in pretraining.safetensors; to-fairseq reads them back"
    )

    def run(self) -> None:
        from metro_t0.hf.convert import fairseq_to_hugging_face

        fairseq_to_hugging_face(
            self.source, self.output, self.tokenizer, self.dtype,
            keep_pretraining=self.keep_pretraining, with_code=self.code,
            license_id=self.license, evaluation=self.evaluation,
        )  # fmt: skip


class ToFairseq(Conversion):
    """Write DIR/checkpoint.pt for fairseq-train --finetune-from-model, and the vocabulary beside it."""

    source: Path = option(help="directory written by `fairseq` or `release`", positional=True, metavar="MODEL")

    def run(self) -> None:
        from metro_t0.hf.convert import hugging_face_to_fairseq

        hugging_face_to_fairseq(self.source, self.output)


class Release(Written):
    """Convert a METRO-T0 checkpoint as its authors released it (model type fairseq_t5) to a Hugging Face directory;
    its remote code is neither downloaded nor run.
    """

    source: str = option(help="directory, or OWNER/NAME on the hub", positional=True, metavar="MODEL")

    def run(self) -> None:
        from metro_t0.hf.convert import release_to_hugging_face

        release_to_hugging_face(
            self.source, self.output, self.dtype, with_code=self.code,
            license_id=self.license, evaluation=self.evaluation,
        )  # fmt: skip


class Onnx(Conversion):
    """Write a METRO-T5 directory as ONNX graphs of encoder and decoder, for servers that do not run Python models."""

    source: Path = option(help="directory written by `fairseq` or `release`", positional=True, metavar="MODEL")

    def run(self) -> None:
        from metro_t0.hf.onnx_export import to_onnx

        difference = to_onnx(self.source, self.output)
        print(f"{self.source} -> {self.output}: onnxruntime and the model agree to {difference:.1e} in fp32")


main = Program("metro-t0-convert", DESCRIPTION, (Fairseq, ToFairseq, Release, Onnx))

if __name__ == "__main__":
    raise SystemExit(main())
