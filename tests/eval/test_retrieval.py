"""Retrieval: exact nearest passages whatever the shards, resumed index, and the file MMLU reads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from eval.cli import main
from eval.mmlu import load_passages, question_key
from metro_t0.errors import UserError
from metro_t0.prompts.datasets import load_rows

pytest.importorskip("faiss")
sentence_transformers = pytest.importorskip("sentence_transformers")

from eval.passages import FileCollection, HubCollection  # noqa: E402
from eval.retrieval import ShardedIndex, TextEncoder  # noqa: E402


@pytest.fixture(scope="module")
def encoder_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers model of a random two-layer BERT."""
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("encoder")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {piece: i for i, piece in enumerate([*special, *"abcdefghijklmnopqrstuvwxyz0123456789."])}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(root / "bert")
    tokenizer.save_pretrained(root / "bert")
    transformer = Transformer(str(root / "bert"))
    pooling = Pooling(transformer.get_embedding_dimension())
    sentence_transformers.SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(root / "model"))
    return root / "model"


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("collection") / "passages.tsv.gz"
    draw = np.random.default_rng(0)
    with gzip.open(path, "wt") as stream:
        for i in range(53):
            stream.write(f"p{i}\t{' '.join(''.join(draw.choice(list('abcdefg'), 4)) for _ in range(6))}\n")
    return path


@pytest.mark.parametrize("shard_size", [7, 53, 100])
def test_search_over_shards_is_exact(
    encoder_directory: Path, collection: Path, tmp_path: Path, shard_size: int
) -> None:
    encoder = TextEncoder(str(encoder_directory), batch_size=16, device="cpu")
    index = ShardedIndex(tmp_path, FileCollection(collection), shard_size)
    assert index.build(encoder) == 53
    assert len(list(tmp_path.glob("shard-*.faiss"))) == -(-53 // shard_size)
    texts = [passage.text for passage in FileCollection(collection)]
    queries = encoder(["abba cafe", texts[17], "ggg"])
    scores, positions = index.search(queries, 5)
    products = queries @ encoder(texts).T
    np.testing.assert_allclose(scores, -np.sort(-products, axis=1)[:, :5], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(products, positions, axis=1), scores, rtol=1e-5)
    assert products[0].std() > 1e-3, "the encoder must tell passages apart"
    assert positions[1, 0] == 17
    assert index.passages_at({17, 3})[17].id == "p17"


def test_interrupted_index_goes_on_and_belongs_to_its_collection(
    encoder_directory: Path, collection: Path, tmp_path: Path
) -> None:
    encoder = TextEncoder(str(encoder_directory), batch_size=16, device="cpu")
    index = ShardedIndex(tmp_path, FileCollection(collection), 20)
    index.build(encoder)
    first, last = tmp_path / "shard-00000.faiss", tmp_path / "shard-00002.faiss"
    then, whole = first.stat().st_mtime_ns, last.read_bytes()
    last.unlink()
    index.build(encoder)
    assert first.stat().st_mtime_ns == then
    assert last.read_bytes() == whole
    with pytest.raises(UserError, match=r"shard_size 20 -> 10.*give another --index"):
        ShardedIndex(tmp_path, FileCollection(collection), 10).build(encoder)


def test_command_writes_what_mmlu_reads(
    encoder_directory: Path, collection: Path, data_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "passages.jsonl"
    common = ["--encoder", str(encoder_directory), "--collection", str(collection), "--index", str(tmp_path / "index")]
    more = ["--data-dir", str(data_dir), "--output", str(output), "--top-k", "3", "--device", "cpu"]
    assert main(["retrieve", *common, *more]) == 0
    passages = load_passages(output)
    rows = load_rows("mmlu", None, "validation", data_dir)
    assert set(passages) == {question_key(row) for row in rows}
    assert {len(found) for found in passages.values()} == {3}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "1\tone\nno tab\n", "a.tsv:2: is not id, tab, text"),
        ("a.jsonl", '{"text": "x"}\n{"txt": 1}\n', "a.jsonl:2: has no field text, which must be text"),
    ],
)
def test_bad_collections_name_the_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        list(FileCollection(tmp_path / name))


def test_encoder_that_is_none(
    tmp_path: Path, collection: Path, capsys: pytest.CaptureFixture[str], data_dir: Path
) -> None:
    arguments = ["--encoder", str(tmp_path / "no"), "--collection", str(collection), "--index", str(tmp_path / "i")]
    assert main(["retrieve", *arguments, "--data-dir", str(data_dir), "--output", str(tmp_path / "o.jsonl")]) == 2
    assert json.dumps(str(tmp_path / "no"))[1:-1] in capsys.readouterr().err


@pytest.mark.parametrize("columns", [("_id", "text"), ("passage_id", "passage")])  # of BEIR, of sentence-transformers
def test_a_data_set_is_a_collection(
    encoder_directory: Path, collection: Path, data_dir: Path, tmp_path: Path, columns: tuple[str, str]
) -> None:
    passages = list(FileCollection(collection))
    rows = {columns[0]: [each.id for each in passages], columns[1]: [each.text for each in passages]}
    titles = {"title": [""] * len(passages)} if columns[0] == "_id" else {}
    (tmp_path / "set").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({**rows, **titles}), tmp_path / "set" / "corpus.parquet")
    found = {}
    for name in (str(collection), f"hf:{tmp_path / 'set'}"):
        given = ["--encoder", str(encoder_directory), "--collection", name, "--data-dir", str(data_dir)]
        output = tmp_path / f"passages-{len(found)}.jsonl"
        given += ["--index", str(tmp_path / f"index-{len(found)}"), "--output", str(output), "--device", "cpu"]
        assert main(["retrieve", *given, "--shard-size", "20"]) == 0
        found[name] = output.read_text()
    assert len(set(found.values())) == 1


def test_titles_come_first_and_other_data_sets_are_refused(tmp_path: Path) -> None:
    for name, row in (("beir", {"_id": "7", "title": "Rain", "text": "It falls."}), ("other", {"body": "no"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(json.dumps(row) + "\n")
    read = HubCollection(f"hf:{tmp_path / 'beir'}", tmp_path / "index.json")
    assert [(each.id, each.text) for each in read] == [("7", "Rain It falls.")]
    with pytest.raises(UserError, match="row 0 has no text in text or passage, of body"):
        list(HubCollection(f"hf:{tmp_path / 'other'}", tmp_path / "index.json"))
