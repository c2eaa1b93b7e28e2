"""Pretrain METRO-T5 with torch alone: model, masks, batches, losses and schedule of `metro-t0-train`, without fairseq.

  torchrun --nproc_per_node 8 examples/plain_torch.py data-bin --preset base --save runs/plain --bf16 --compile --shard
  python examples/plain_torch.py data-bin --preset tiny --save runs/tiny --updates 1000 --warmup 100 --model dropout=0.0

data-bin is a directory of `metro-t0-data binarize`. Without --shard every process holds the whole model (DDP), with it
a share (FSDP2, `fully_shard`). The same command again continues from the newest checkpoint in --save, to the bit on one
kind of machine; --export writes the result as a Hugging Face directory.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from omegaconf import OmegaConf
from torch.distributed.checkpoint import state_dict as dsd
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from metro_t0.data.token_files import TokenFile
from metro_t0.modeling import PRESETS, MetroT5, PretrainingBatch, preset
from metro_t0.modeling.layers import Layer
from metro_t0.objectives.batches import MetroBatches
from metro_t0.objectives.losses import WEIGHTS, loss_parts, metro_loss
from metro_t0.objectives.masking import MaskingConfig, WordIds
from metro_t0.randomness import Stream, keyed_generator
from metro_t0.rows import pad_rows

BOS, PAD, SPECIALS, MASKING = 0, 1, 4, MaskingConfig()  # fairseq's ids: <s> <pad> </s> <unk>


class Blocks:
    """Texts of up to `longest` tokens: whole lines of one document (fairseq's complete_doc), long lines cut evenly."""

    def __init__(self, file: TokenFile, longest: int) -> None:
        self.file, self.bounds = file, []
        begin = size = 0
        for line in [*file.sizes.tolist(), 1]:  # a line of 1 token, its end, separates documents
            if size and (line == 1 or size + line > longest):
                parts = -(-size // longest) if size > 1 else 0
                self.bounds += [(begin + p * size // parts, begin + (p + 1) * size // parts) for p in range(parts)]
                begin, size = begin + size, 0
            begin, size = (begin + 1, 0) if line == 1 else (begin, size + line)
        self.sizes = np.array([end - begin + 1 for begin, end in self.bounds])

    def __getitem__(self, index: int) -> np.ndarray:
        begin, end = self.bounds[index]
        return np.concatenate([[BOS], self.file.tokens[begin:end]]).astype(np.int64)

    def batches(self, size: int, seed: int, epoch: int) -> list[np.ndarray]:
        """Blocks of similar length together, the batches shuffled: as the plugin and fairseq order them."""
        shuffled = np.argsort(keyed_generator("shuffle", seed).permutation(len(self.sizes)))
        order = shuffled[np.argsort(self.sizes[shuffled], kind="stable")]
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        np.random.RandomState(seed + epoch).shuffle(batches)
        return batches


class Run:
    """Model, optimizer and data of one process, and where the run stands."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.update, self.epoch = args, 0, 0
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.blocks = Blocks(TokenFile(Path(args.data) / "train"), args.tokens_per_sample - 1)
        words = SPECIALS + len((Path(args.data) / "dict.txt").read_text(encoding="utf-8").splitlines())
        self.make_batch = MetroBatches(MASKING, WordIds(PAD, words, SPECIALS, words), words)
        torch.manual_seed(args.seed)
        self.config = preset(args.preset, vocab_size=words + args.tokens_per_sample, **args.model)
        self.model = self._distributed(MetroT5(self.config, PAD).to(self.device))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), args.lr, (0.9, 0.98), 1e-6, 0.01, fused=True)

    def _distributed(self, model: MetroT5) -> torch.nn.Module:
        if not self.args.shard:
            self.exchange_gradients = lambda yes: setattr(self.model, "require_backward_grad_sync", yes)
            return DistributedDataParallel(model)
        policy = MixedPrecisionPolicy(torch.bfloat16 if self.args.bf16 else None, cast_forward_inputs=False)
        mesh = init_device_mesh(self.device.type, (self.world,))
        for part in [*(module for module in model.modules() if isinstance(module, Layer)), model]:
            fully_shard(part, mesh=mesh, mp_policy=policy)
        self.exchange_gradients = model.set_requires_gradient_sync
        return model

    def rate(self, update: int) -> float:
        """Linear warm-up from 0, linear decay to 0."""
        up, total = self.args.warmup, self.args.updates
        return self.args.lr * (update / up if update <= up and up else max(total - update, 0) / max(total - up, 1))

    def batches_of_update(self) -> list[tuple[PretrainingBatch, bool]]:
        """This process's batches, and whether each counts: at the end of an epoch some processes have none left."""
        per_update = self.world * self.args.accumulate
        updates = -(-len(self.blocks.sizes) // self.args.batch_size // per_update)  # per epoch, rounded up
        epoch, number = 1 + self.update // updates, self.update % updates
        if self.epoch != epoch:
            self.epoch, self.order = epoch, self.blocks.batches(self.args.batch_size, self.args.seed, epoch)
        group = self.order[number * per_update : (number + 1) * per_update]
        mine = [(ids, True) for ids in group[self.rank :: self.world]]
        mine += [(self.order[0], False)] * (-(-len(group) // self.world) - len(mine))
        return [(self._batch(ids, Stream(self.args.seed, epoch)), real) for ids, real in mine]

    def _batch(self, ids: np.ndarray, stream: Stream) -> PretrainingBatch:
        fields = vars(self.make_batch(pad_rows([self.blocks[i] for i in ids], PAD), ids, stream))
        return PretrainingBatch(**{k: v.to(self.device) if torch.is_tensor(v) else v for k, v in fields.items()})

    def step(self) -> dict[str, float]:
        """One update. The losses are exact means, in nats, over all processes and accumulated batches."""
        torch.manual_seed(self.args.seed + self.update)  # dropout is a function of the update, also after a restart
        batches = self.batches_of_update()
        masked = torch.tensor(float(sum(len(b.masked_positions) for b, real in batches if real)), device=self.device)
        dist.all_reduce(masked)
        # One divisor for all losses, as in fairseq: the masked positions (docs/pretraining.md, section 3).
        weights = WEIGHTS | {"rtd": WEIGHTS["rtd"] * MASKING.mask_ratio}
        self.optimizer.param_groups[0]["lr"] = self.rate(self.update)
        sums: dict[str, torch.Tensor] = {}
        for number, (batch, real) in enumerate(batches, 1):
            self.exchange_gradients(number == len(batches))  # once per update
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.bf16 and not self.args.shard):
                parts = loss_parts(batch, self.model(batch))
            loss = metro_loss({name: part.total for name, part in parts.items()}, weights) * float(real)
            (loss * self.world / masked.clamp(min=1)).backward()  # DDP and FSDP average over processes
            for name, part in parts.items():
                sums[name] = sums.get(name, 0) + torch.stack([part.total.detach(), part.count]) * float(real)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.clip_norm or float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.update += 1
        dist.all_reduce(table := torch.stack(list(sums.values())))
        return {f"{name}_loss": total / count for name, (total, count) in zip(sums, table.tolist(), strict=True)}

    def save(self) -> None:
        """Every process writes its share; the name appears when all is there."""
        final = Path(self.args.save) / f"update-{self.update:08d}"
        model, optimizer = dsd.get_state_dict(self.model, self.optimizer)
        dcp.save({"model": model, "optimizer": optimizer}, checkpoint_id=final.with_suffix(".part"))
        if self.rank == 0:
            final.with_suffix(".part").rename(final)

    def resume(self) -> None:
        """Continue from the newest checkpoint, if there is one; also with another number of processes."""
        if found := sorted(path for path in Path(self.args.save).glob("update-*") if not path.suffix):
            model, optimizer = dsd.get_state_dict(self.model, self.optimizer)
            dcp.load({"model": model, "optimizer": optimizer}, checkpoint_id=found[-1])
            dsd.set_state_dict(self.model, self.optimizer, model_state_dict=model, optim_state_dict=optimizer)
            self.update = int(found[-1].name.removeprefix("update-"))

    def export(self, directory: Path) -> None:
        """The main model for transformers."""
        from metro_t0.hf.export import save_directory, to_hugging_face
        from metro_t0.tokenization import Tokenizer

        options = dsd.StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = dsd.get_model_state_dict(self.model, options=options)
        if self.rank == 0:
            (model := MetroT5(self.config, PAD)).load_state_dict(weights)
            save_directory(to_hugging_face(model), directory, Tokenizer.load(self.args.data))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="base")
    parser.add_argument("--model", nargs="*", default=[], metavar="FIELD=VALUE", help="fields of ModelConfig")
    numbers = {"batch_size": 32, "accumulate": 1, "tokens_per_sample": 512, "updates": 125_000, "warmup": 10_000,
               "lr": 4e-4, "clip_norm": 0.0, "seed": 1, "save_every": 1000, "log_every": 50, "stop_at": 0}  # fmt: skip
    for name, default in numbers.items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    for name in ("--bf16", "--compile", "--shard"):
        parser.add_argument(name, action="store_true")
    parser.add_argument("--save", required=True)
    parser.add_argument("--export", type=Path)
    args = parser.parse_args()
    args.model = dict(OmegaConf.from_dotlist(args.model))
    args.model["compile_layers"] = args.compile
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    join = {} if "RANK" in os.environ else {"store": dist.TCPStore("localhost", 0, 1, True), "rank": 0, "world_size": 1}
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", **join)
    (run := Run(args)).resume()
    while run.update < (end := args.stop_at or args.updates):
        losses = run.step()
        if run.rank == 0 and run.update % args.log_every == 0:
            print(json.dumps({"update": run.update, **losses}), flush=True)
        if run.update % args.save_every == 0 or run.update == end:
            run.save()
    if args.export:
        run.export(args.export)
    dist.barrier()  # nobody leaves before the first process has written its files
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
