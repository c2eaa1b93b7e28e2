"""Seq2SeqTrainer as a script: `torchrun --nproc_per_node 2 trainer_process.py MODEL OUTPUT`."""

from __future__ import annotations

import sys

import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

import metro_t0.hf  # noqa: F401

if __name__ == "__main__":
    source, output = sys.argv[1:]
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSeq2SeqLM.from_pretrained(source)
    pairs = [("the quick brown fox", "dog"), ("it isn't hard", "rainy"), ("dog", "fox"), ("lazy", "quick dog")]
    rows = [dict(tokenizer(source, text_target=target)) for source, target in pairs]
    settings = Seq2SeqTrainingArguments(
        output, max_steps=4, per_device_train_batch_size=2, learning_rate=1e-3, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True, seed=0, ddp_backend="gloo", lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = Seq2SeqTrainer(
        model, settings, train_dataset=rows, data_collator=DataCollatorForSeq2Seq(tokenizer, model),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    trainer.save_model(output)
    # A process that leaves while gloo's threads hold tensors may end by SIGABRT.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
