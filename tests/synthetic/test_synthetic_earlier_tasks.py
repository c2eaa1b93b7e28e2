"""LIME, Dyck and Nonsense Summary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metro_t0.spans import raw_length, restore
from metro_t0.synthetic import dyck, lime, nonsense, nonsense_lexicon
from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.dyck import corrupt
from metro_t0.synthetic.ragged import Ragged
from metro_t0.synthetic.settings import StreamSettings
from metro_t0.synthetic.tasks import SYNTHETIC_TASKS
from metro_t0.synthetic.vocabulary import compact_vocabulary, t5_vocabulary

FULL = compact_vocabulary(31_998, SYNTHETIC_TASKS)


def test_lime_substitution_of_the_paper():
    rule, case = list("A*A+B=C"), {"A": ["a"], "B": ["b"], "C": ["d", "+", "e"]}
    assert "".join(lime.substitute(rule, case)) == "a*a+b=d+e"


@pytest.mark.parametrize("mode", ["induct", "deduct", "abduct"])
def test_lime_defects(mode):
    mixture = StreamSettings(f"lime_{mode}", seed=0).mixture(t5_vocabulary())
    vocabulary = t5_vocabulary()
    marks = lime.Marks.of(vocabulary)
    assert (marks.colon, marks.separator, marks.upper, marks.closing) == (32000, 32001, 32002, 32006)
    examples = mixture.block("train", 0)
    source, target = examples.sources[0].tolist(), examples.targets[0].tolist()
    assert lime.defect(mode, source, target, vocabulary) is None
    assert lime.defect(mode, source, target[:-1], vocabulary) is not None
    assert lime.defect(mode, [*source, 32001], target, vocabulary) is not None
    # UPPER, letters, LOWER, 24 symbols, MATH, 20 symbols, separator: all different.
    header = source[: source.index(marks.separator)]
    assert len(set(header)) == len(header)
    assert header.index(marks.math) - header.index(marks.lower) == 25


def test_lime_lengths_stay_in_the_theoretical_bounds():
    bounds = {"induct": (73, 213, 11, 29), "deduct": (67, 140, 17, 99), "abduct": (78, 180, 6, 60)}
    for mode, (low, high, target_low, target_high) in bounds.items():
        mixture = StreamSettings(f"lime_{mode}", seed=0).mixture(FULL)
        for number in range(4):
            block = mixture.block("train", number)
            assert low <= block.sources.lengths.min() <= block.sources.lengths.max() <= high
            assert target_low <= block.targets.lengths.min() <= block.targets.lengths.max() <= target_high


def test_dyck_sentences_are_balanced_and_follow_the_published_statistics():
    rows = dyck.sentences(Draws("dyck"), FULL, 20_000, zipf=False)
    assert all(dyck.nesting_defect(row.tolist(), FULL, whole=True) is None for row in list(rows)[:4000])
    assert rows.lengths.min() >= 6
    assert rows.lengths.max() <= 62
    assert rows.lengths.mean() == pytest.approx(23.2, abs=0.3)
    depths, distances = [], []
    for row in list(rows)[:4000]:
        stack, deepest = [], 0
        for position, token in enumerate(row.tolist()):
            if (token - FULL.universe_low) % 2 == 0:
                stack.append(position)
                deepest = max(deepest, len(stack))
            else:
                distances.append(position - stack.pop())
        depths.append(deepest)
    assert np.mean(depths) == pytest.approx(3.6, abs=0.1)
    assert np.mean(distances) == pytest.approx(3.15, abs=0.12)
    assert np.mean(np.array(distances) == 1) == pytest.approx(0.63, abs=0.01)


def test_dyck_walk_has_the_distribution_of_the_stack():
    """Shapes of three pairs: open with probability 0.4 where something is open and pairs are left."""
    shapes = {"000111": 0.16, "001011": 0.24 * 0.4, "001101": 0.24 * 0.6, "010011": 0.24, "010101": 0.36}
    tokens = dyck._walk(Draws("shapes"), np.zeros(90_000, dtype=np.int64), np.full(30_000, 3))
    found = ["".join(map(str, row)) for row in tokens.reshape(-1, 6).tolist()]
    counts = [found.count(shape) for shape in shapes]
    assert sum(counts) == len(found)
    assert stats.chisquare(counts, np.array([*shapes.values()]) * len(found)).pvalue > 1e-4


def test_segmentations_are_equally_likely():
    sizes = dyck._segment_sizes(Draws("segments"), np.full(20_000, 6), np.full(20_000, 3)).reshape(-1, 3)
    assert (sizes.sum(1) == 6).all()
    counts = np.unique(sizes, axis=0, return_counts=True)[1]
    assert len(counts) == 10  # ways to write 6 as a sum of three positive numbers
    assert stats.chisquare(counts).pvalue > 1e-4


def test_zipf_pairs_are_skewed():
    rows = dyck.sentences(Draws("zipf"), FULL, 20_000, zipf=True)
    heads = (rows.values.astype(int) - FULL.universe_low) // 2
    counts = np.bincount(heads, minlength=15_999)
    assert counts[0] / counts[1] == pytest.approx(2.0, rel=0.1)
    assert counts[0] / counts[9] == pytest.approx(10.0, rel=0.15)


def test_unbalanced_sentences_are_refused():
    low = FULL.universe_low
    assert dyck.nesting_defect([low, low + 2, low + 3, low + 1], FULL, whole=True) is None
    for tokens in ([low, low + 2, low + 1, low + 3], [low, low], [low + 1]):
        assert dyck.nesting_defect(tokens, FULL, whole=True) is not None
    for tokens in ([low, low], [low + 1], [low + 1, low + 2, low + 3]):
        assert dyck.nesting_defect(tokens, FULL, whole=False) is None
    assert dyck.nesting_defect([low + 1, low, low + 3], FULL, whole=False) is not None


def test_lengths_of_span_corruption():
    assert raw_length(512) == (568, 114)
    assert raw_length(256) == (284, 58)


@settings(deadline=None)
@given(st.lists(st.integers(2, 600), min_size=1, max_size=5), st.integers(0, 2**32))
def test_span_corruption_is_invertible(lengths, seed):
    rng = np.random.default_rng(seed)
    rows = Ragged.from_lists([rng.integers(10, 30_000, length).tolist() for length in lengths])
    examples = corrupt(Draws(seed), rows, 32_099)
    for row, length, source, target in zip(rows, lengths, examples.sources, examples.targets, strict=True):
        assert restore(source.tolist(), target.tolist(), 32_099, step=-1) == row.tolist()
        assert target[0] == 32_099
        noise = (target < 32_000).sum()
        assert noise == min(max(round(0.15 * length), 1), length - 1)
        sentinels = source >= 32_000
        assert not (sentinels[1:] & sentinels[:-1]).any()


def test_dyck_chunks_fit_t5():
    block = StreamSettings("dyck", seed=0).mixture(FULL).block("train", 0)
    assert block.sources.lengths.max() + 1 <= 512
    assert block.targets.lengths.max() + 1 <= 114


def test_nonsense_words():
    assert [nonsense_lexicon.nonsense_word(i) for i in (0, 1, 25, 26, 4999)] == ["aaa", "baa", "zaa", "aba", "hkh"]
    assert len(set(nonsense_lexicon.lexicon())) == len(nonsense_lexicon.lexicon())


def test_nonsense_lengths():
    examples = nonsense.sample_words(Draws("lengths"), 3000)
    assert examples.sources.lengths.mean() == pytest.approx(111.5, abs=2)
    assert examples.targets.lengths.mean() == pytest.approx(49.0, abs=2.5)
    assert examples.sources.lengths.min() >= 45


def words(text):
    index = {word: i for i, word in enumerate(nonsense_lexicon.lexicon())}
    return [index[word] for word in text.split()]


@pytest.mark.parametrize(
    ("name", "document", "outputs"),
    [
        ("d3", "aaa __d3__key2__ baa . caa .", ["aaa __d3__key2__ baa ."]),
        ("d6", "__d6__key7__ aaa . caa . baa __d6__key1__ .", ["baa __d6__key1__ . __d6__key7__ aaa ."]),
        ("d7", "aaa __d7__begin__ baa caa __d7__end__ daa .", ["baa caa ."]),
        ("d7", "aaa __d7__begin__ baa . __d7__end__ daa .", ["baa ."]),
        ("d8", "aaa . __d8__bullet__ baa caa .", ["baa caa ."]),
        ("d10", "aaa __d10__bad3__ .", ["the tone of this text is negative ."]),
        ("d11", "aaa __d11__b2__ baa .", ["aaa __d11__b__ baa ."]),
        ("d12", "__d12__one__ . __d12__two__ . __d12__two__ .", ["mark two is more frequent ."]),
        ("d13", "aaa __d13__c0__ . baa . caa __d13__a1__ .",
         ["section __d13__a__ caa __d13__a1__ . section __d13__b__ section __d13__c__ aaa __d13__c0__ ."]),
        ("d14", "aaa __d14__50__ .", ["this value is at or above fifty ."]),
        ("d16", "__d16__7__ . __d16__61__ .", ["the largest number here is 61 ."]),
        ("d18", "aaa __d18__source4__ .", [f"aaa __d18__variant4_{j}__ ." for j in range(3)]),
        ("d19", "aaa __d19__join3__ baa caa . daa __d19__join0__ eaa .",
         ["several parts are joined here : __d19__join3__ baa caa __d19__join0__ eaa ."]),
        ("d20", "aaa __d20__break1__ baa __d20__break0__ caa .",
         ["aaa __d20__break1__ baa . aaa __d20__break0__ caa ."]),
        ("d21", "aaa baa __d21__cut5__ caa .", ["aaa baa ."]),
    ],
)  # fmt: skip
def test_nonsense_operation(name, document, outputs):
    operation = {operation.name: operation for operation in nonsense.OPERATIONS}[name]
    sentences = nonsense.split_sentences(words(document))
    marks = nonsense.find_marks(sentences)[name]
    found = [operation.output(marks, choice) for choice in range(operation.choices)]
    assert found == [words(output) for output in outputs]


def test_nonsense_copies_in_any_order():
    sentences = nonsense.split_sentences(words("__d5__key0__ . __d5__key1__ . __d5__key2__ ."))
    operation = {operation.name: operation for operation in nonsense.OPERATIONS}["d5"]
    marks = nonsense.find_marks(sentences)["d5"]
    assert len({tuple(operation.output(marks, choice)) for choice in range(operation.choices)}) == 6


def test_nonsense_defects():
    examples = nonsense.sample_words(Draws("defects"), 50)
    for source, target in zip(examples.sources, examples.targets, strict=True):
        source, target = source.tolist(), target.tolist()
        assert nonsense.defect_of_words(source, target) is None
        assert nonsense.defect_of_words(source, [*target, 3]) is not None
    assert "0 operations" in str(nonsense.defect_of_words(words("aaa ."), words("aaa .")))
