"""Samplers and streams: every target recomputed, distributions, determinism, disjointness, golden hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from metro_t0.errors import UserError
from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.iterable import SyntheticIterableDataset, hugging_face_dataset
from metro_t0.synthetic.settings import BLOCK, VALID_BLOCKS, StreamSettings
from metro_t0.synthetic.stream import parse_rates
from metro_t0.synthetic.tasks import SYNTHETIC_TASKS, FunctionTask
from metro_t0.synthetic.vocabulary import compact_vocabulary, t5_vocabulary

FULL = compact_vocabulary(31_998, SYNTHETIC_TASKS)
GOLDEN = Path(__file__).parent / "golden_streams.json"
NAMES = sorted(SYNTHETIC_TASKS)


def stream(name, vocabulary=FULL, **settings):
    return StreamSettings(name, **{"seed": 0, **settings}).mixture(vocabulary)


def blocks(name, count, split="train", vocabulary=FULL, **settings):
    mixture = stream(name, vocabulary, **settings)
    return [mixture.block(split, i) for i in range(count)]


@pytest.mark.parametrize("profile", ["authors", "paper"])
@pytest.mark.parametrize("name", NAMES)
def test_every_target_and_bound(name, profile):
    mixture = stream(name, profile=profile)
    distribution = mixture.streams[0].distribution
    examples = mixture.streams[0]._draw("train", 3, 0)
    assert len(examples) == BLOCK
    allowed = {FULL.task_divider, FULL.word_divider, FULL.separator, FULL.empty, *distribution.prefix}
    for source, target in zip(examples.sources, examples.targets, strict=True):
        assert SYNTHETIC_TASKS[name].defect(source.tolist(), target.tolist(), distribution) is None
        if isinstance(SYNTHETIC_TASKS[name], FunctionTask):
            body = source[len(distribution.prefix) :]
            assert 10 <= len(body) <= 220
            assert len(target) >= 1
            assert all(FULL.in_universe(t) or t in allowed for t in body.tolist())


@pytest.mark.parametrize("name", ["delete", "search", "set", "sort", "union", "count", "replace", "longest_word"])
def test_small_vocabulary_and_short_lengths(name):
    """Chance repeats and chance occurrences are frequent here, and the examples must still be right."""
    vocabulary = compact_vocabulary(6, SYNTHETIC_TASKS)
    longest = 12 if name == "union" else 13
    distribution = stream(name, vocabulary, length_min=3, length_max=longest).streams[0].distribution
    examples = SYNTHETIC_TASKS[name].draw(Draws(name), distribution, 2048)
    for source, target in zip(examples.sources, examples.targets, strict=True):
        assert SYNTHETIC_TASKS[name].defect(source.tolist(), target.tolist(), distribution) is None


# Means of length and target, share of empty targets: 30,000 examples of an independent simulation.
MEANS = {
    "set": (115.0, 57.8, 0.0),
    "sort": (167.8, 109.7, 0.0),
    "union": (115.4, 49.4, 0.0),
    "set1_minus_set2": (115.4, 17.0, 0.085),
    "set2_minus_set1": (115.4, 16.9, 0.085),
    "intersect": (115.4, 15.5, 0.035),
    "longest_word": (164.9, 8.0, 0.0),
    "lime_induct": (137.0, 20.0, 0.0),
    "lime_deduct": (105.0, 51.9, 0.0),
    "lime_abduct": (124.6, 32.4, 0.0),
}


@pytest.mark.parametrize("name", sorted(MEANS))
def test_means_of_the_distributions(name):
    parts = blocks(name, 10)
    prefix = len(stream(name).streams[0].distribution.prefix)
    sources = np.concatenate([p.sources.lengths for p in parts]) - prefix
    targets = np.concatenate([p.targets.lengths for p in parts]).astype(float)
    empty = np.concatenate([[len(t) == 1 and t[0] == FULL.empty for t in p.targets] for p in parts])
    targets[empty] = 0
    for values, mean in ((sources, MEANS[name][0]), (targets, MEANS[name][1])):
        assert abs(values.mean() - mean) < 5 * values.std() / np.sqrt(len(values)) + 0.05
    assert abs(empty.mean() - MEANS[name][2]) < 0.012


def test_branches_of_search_and_delete():
    """The bound on the whole example changes the shares of the authors' branches; the paper's are exact."""
    yes = [np.mean([t.tolist() == list(FULL.yes) for p in blocks("search", 20, profile=profile) for t in p.targets])
           for profile in ("authors", "paper")]  # fmt: skip
    assert yes[0] == pytest.approx(0.598, abs=0.015)
    assert yes[1] == pytest.approx(0.75, abs=0.015)
    planted = []
    prefix = len(stream("delete").streams[0].distribution.prefix)
    for part in blocks("delete", 20):
        for source, target in zip(part.sources, part.targets, strict=True):
            body = source[prefix:].tolist()
            planted.append(body.index(FULL.separator) != len(target))
    assert np.mean(planted) == pytest.approx(0.821, abs=0.012)


def test_counts_are_uniform_and_their_places_exchangeable():
    """Copies are planted one by one with a probability of their own per example: U{0..n} copies, anywhere."""
    parts = blocks("count", 20, length_min=12, length_max=12)
    prefix = len(stream("count").streams[0].distribution.prefix)
    bodies = np.array([source[prefix:] for part in parts for source in part.sources])
    hits = bodies[:, :10] == bodies[:, -1:]
    assert stats.chisquare(np.bincount(hits.sum(1), minlength=11)).pvalue > 1e-4
    assert stats.chisquare(hits[hits.sum(1) == 3].sum(0)).pvalue > 1e-4


def test_group_sizes_are_multinomial():
    """deduplicate with l = 12: the first of two groups has 1 + Binomial(10, 1/2) tokens."""
    parts = blocks("deduplicate", 40, length_min=12, length_max=12)
    prefix = len(stream("deduplicate").streams[0].distribution.prefix)
    pairs = [s[prefix:] for part in parts for s, t in zip(part.sources, part.targets, strict=True) if len(t) == 2]
    first = np.array([(body == body[0]).sum() for body in pairs])
    inner = (first > 2) & (first < 10)  # the outermost sizes are too rare for a chi-square test
    wanted = stats.binom.pmf(np.arange(2, 9), 10, 0.5)
    counts = np.bincount(first[inner] - 3, minlength=7)
    assert stats.chisquare(counts, wanted / wanted.sum() * inner.sum()).pvalue > 1e-4
    assert inner.mean() == pytest.approx(wanted.sum(), abs=0.02)


def test_tokens_and_lengths_are_uniform():
    parts = blocks("identity", 40)
    lengths = np.concatenate([p.targets.lengths for p in parts])
    assert stats.chisquare(np.bincount(lengths, minlength=221)[10:]).pvalue > 1e-4
    tokens = np.concatenate([t for p in parts for t in p.targets]).astype(int) - FULL.universe_low
    assert tokens.min() >= 0
    assert tokens.max() < 31_998
    assert stats.chisquare(np.bincount(tokens // 100)[:-1]).pvalue > 1e-4
    assert len(np.unique(tokens)) > 31_900


def test_shuffled_rows_are_uniform_permutations():
    labels = np.broadcast_to(np.arange(4), (24_000, 4))
    rows = Draws("permutations").shuffled(labels, np.full(24_000, 4)).reshape(-1, 4)
    counts = np.unique(rows @ np.array([64, 16, 4, 1]), return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("name", ["identity", "set", "lime", "set:2,lime:1,reverse:0.5"])
def test_blocks_are_independent_of_history(name):
    one, other = stream(name), stream(name)
    later = [other.block("train", i) for i in (7, 2, 5)]
    for i, block in zip((7, 2, 5), later, strict=True):
        again = one.block("train", i)
        assert digest([again]) == digest([block])
    assert digest([one.block("train", 0)]) != digest([one.block("train", 1)])
    assert digest([one.block("train", 0)]) != digest([stream(name, seed=1).block("train", 0)])


def digest(parts):
    hashed = hashlib.sha256()
    for part in parts:
        for side in (part.sources, part.targets):
            hashed.update(side.lengths.astype("<i8").tobytes())
            hashed.update(side.values.astype("<u2").tobytes())
    return hashed.hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_golden_hash(name):
    """The first 10,240 training examples of every task and profile, on any platform and numpy."""
    golden = json.loads(GOLDEN.read_text())
    found = {profile: digest(blocks(name, 10, profile=profile)) for profile in ("authors", "paper")}
    assert found == golden[name]


def test_train_never_shows_a_validation_source():
    """With three tokens and inputs of at most six, half of all sources are in the validation set."""
    vocabulary = compact_vocabulary(9, SYNTHETIC_TASKS)
    mixture = stream("identity", vocabulary, length_min=1, length_max=5)
    held = {s.tobytes() for i in range(VALID_BLOCKS) for s in mixture.block("valid", i).sources}
    drawn = [s.tobytes() for i in range(4) for s in mixture.block("train", i).sources]
    assert len(drawn) == 4 * BLOCK
    assert not held & set(drawn)
    raw = [s.tobytes() for s in mixture.streams[0]._draw("train", 0, 0).sources]
    assert held & set(raw)  # so the filter had something to do


def test_no_training_sources_left():
    mixture = stream("identity", compact_vocabulary(2, SYNTHETIC_TASKS), length_min=1, length_max=3)
    with pytest.raises(UserError, match="too few different sources"):
        mixture.block("train", 0)


def test_vocabulary_too_small_for_distinct_tokens():
    with pytest.raises(UserError, match="too few"):
        stream("union", compact_vocabulary(20, SYNTHETIC_TASKS)).block("valid", 0)


def test_mixture_rates_are_exact_and_tasks_are_labeled():
    mixture = stream("set:1,identity:2,length:0.5")
    counts = np.zeros(3)
    seen = []
    for number in range(7):
        examples, labels = mixture.labeled_block("train", number)
        counts += np.bincount(labels, minlength=3)
        seen += [s.tobytes() for s, label in zip(examples.sources, labels, strict=True) if label == 0]
        for source, label in zip(examples.sources, labels.tolist(), strict=True):
            prefix = mixture.streams[label].distribution.prefix
            assert tuple(source[: len(prefix)].tolist()) == prefix
    assert np.abs(counts - 7 * BLOCK * np.array([2, 4, 1]) / 7).max() <= 1
    alone = [s.tobytes() for i in range(2) for s in stream("set").block("train", i).sources]
    assert sorted(seen) == sorted(alone[: len(seen)])


def test_rates():
    assert {k: float(v) for k, v in parse_rates("set:3,lime:1").items()} == {
        "set": 0.75,
        "lime_induct": pytest.approx(1 / 12),
        "lime_deduct": pytest.approx(1 / 12),
        "lime_abduct": pytest.approx(1 / 12),
    }
    with pytest.raises(UserError, match="rate of 'set:-1'"):
        parse_rates("set:-1")
    with pytest.raises(UserError, match="1/512"):
        stream("set:1000,identity:1")


SMALL = compact_vocabulary(100, SYNTHETIC_TASKS)


def items(dataset, count, workers=0):
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers)
    return [batch["input_ids"].tolist() for batch, _ in zip(loader, range(count), strict=False)]


def test_workers_ranks_and_resume_do_not_change_the_stream():
    def dataset(**settings):
        mixture = stream("set,reverse", SMALL, length_min=2, length_max=12)
        return SyntheticIterableDataset(mixture, batch_size=48, **settings)

    alone = items(dataset(), 50)
    assert items(dataset(), 50, workers=3) == alone
    by_rank = [items(dataset(rank=rank, world_size=2), 25) for rank in range(2)]
    assert [batch for pair in zip(*by_rank, strict=True) for batch in pair] == alone

    first = dataset()
    head = [batch["input_ids"].tolist() for batch, _ in zip(first, range(20), strict=False)]
    second = dataset()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    # zip took one item more than it gave, so the state stands after item 21.
    assert head + alone[20:21] + items(second, 29) == alone
    other = SyntheticIterableDataset(stream("set", SMALL, length_min=2, length_max=12))
    with pytest.raises(UserError, match="a stream of other"):
        other.load_state_dict(first.state_dict())


def test_a_state_is_a_place_in_the_stream_whatever_the_batches():
    mixture = stream("set,reverse", SMALL, length_min=2, length_max=12)
    rows = items(SyntheticIterableDataset(mixture, examples=100), 100)
    first = SyntheticIterableDataset(mixture, batch_size=10)
    for _ in zip(range(6), first, strict=False):
        pass
    for settings, begin in (({"batch_size": 5}, 60), ({"batch_size": 7, "rank": 1, "world_size": 4}, 56 + 7), ({}, 60)):
        second = SyntheticIterableDataset(mixture, **settings)
        second.load_state_dict(first.state_dict())
        found = next(iter(second))["input_ids"].reshape(settings.get("batch_size", 1), -1)[0].tolist()
        assert found[: len(rows[begin])] == rows[begin]
    with pytest.raises(UserError, match="belongs to split train, this is valid"):
        SyntheticIterableDataset(mixture, "valid", batch_size=10).load_state_dict(first.state_dict())


def test_sources_begin_as_models_of_the_vocabulary_read_them():
    for vocabulary, front in ((SMALL, [0]), (t5_vocabulary(), [])):
        mixture = stream("set", vocabulary, length_min=2, length_max=12)
        source = [*front, *next(iter(mixture.block("train", 0).sources)).tolist(), vocabulary.eos]
        one, batch = (next(iter(SyntheticIterableDataset(mixture, batch_size=size))) for size in (None, 4))
        assert one["input_ids"].tolist() == source
        assert batch["input_ids"][0].tolist()[: len(source)] == source
        assert batch["attention_mask"][0].sum() == len(source)
        assert next(iter(hugging_face_dataset(mixture, "train", 1)))["input_ids"] == source


def test_validation_ends_and_examples_are_closed():
    dataset = SyntheticIterableDataset(stream("reverse", SMALL, length_min=2, length_max=12), "valid", batch_size=1000)
    batches = list(dataset)
    assert sum(len(batch["labels"]) for batch in batches) == 10_240
    row = batches[0]["labels"][0]
    assert row[row >= 0][-1] == SMALL.eos


def test_hugging_face_flavour_resumes():
    mixture = stream("set,reverse", SMALL, length_min=2, length_max=12)
    whole = [row["input_ids"] for row in hugging_face_dataset(mixture, "train", 2)]
    assert len(whole) == 2 * BLOCK
    dataset = hugging_face_dataset(mixture, "train", 2)
    for i, _ in enumerate(dataset):
        if i == 1499:
            state = dataset.state_dict()
            break
    dataset.load_state_dict(state)
    assert [row["input_ids"] for row in dataset] == whole[1500:]
    read = SyntheticIterableDataset(mixture, examples=10)
    assert [item["input_ids"].tolist() for item in read] == whole[:10]
