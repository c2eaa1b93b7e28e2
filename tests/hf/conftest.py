"""A tiny vocabulary and real fairseq checkpoints that several tests convert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hf_helpers import TEXT, TOKENS_PER_SAMPLE, fairseq_train, randomized

from metro_t0.data.token_files import TokenFileWriter
from metro_t0.modeling import MetroT5, ModelConfig, preset
from metro_t0.tokenization import Tokenizer
from metro_t0.tokenization.training import BpeSettings, train_bpe


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """An uncased BPE vocabulary of 120 ids."""
    directory = tmp_path_factory.mktemp("vocabulary")
    return train_bpe(Counter(TEXT.split()), BpeSettings(vocab_size=120, lowercase=True), directory)


@pytest.fixture(scope="session")
def small_config() -> ModelConfig:
    """METRO-T5 with every part, small enough for a test; encoder and decoder differ in depth."""
    return preset(
        "demo", vocab_size=152, d_model=32, ffn_dim=48, num_heads=4, head_dim=8, encoder_layers=3, decoder_layers=2,
        max_positions=64,
    )  # fmt: skip


@pytest.fixture
def pretrained(small_config: ModelConfig) -> MetroT5:
    """A model whose every parameter matters: norms, biases and relative tables are not at their initial values."""
    return randomized(MetroT5(small_config, pad_id=1))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A data directory for fairseq-train: vocabulary and token files."""
    directory = tmp_path_factory.mktemp("data")
    tokenizer.save(directory)
    lines = tokenizer.encode_batch(TEXT.split(" . ") * 8)
    for split in ("train", "valid"):
        with TokenFileWriter(directory / split, dtype=np.uint16) as writer:
            for line in lines:
                writer.add(np.array([*line[: TOKENS_PER_SAMPLE - 2], tokenizer.eos_id]))
    return directory


@pytest.fixture(scope="session")
def metro_checkpoint(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """What `fairseq-train --task metro_pretraining` leaves."""
    directory = tmp_path_factory.mktemp("metro")
    done = fairseq_train(
        data, directory, "--task", "metro_pretraining", "--arch", "metro_t5_demo", "--criterion", "metro"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return directory / "checkpoint_last.pt"


@pytest.fixture(scope="session")
def t5_checkpoint(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """What `fairseq-train --task t5_pretraining` leaves for vanilla T5."""
    directory = tmp_path_factory.mktemp("t5")
    done = fairseq_train(data, directory, "--task", "t5_pretraining", "--arch", "t5_tiny", "--criterion", "metro")
    assert done.returncode == 0, done.stderr[-3000:]
    return directory / "checkpoint_last.pt"
