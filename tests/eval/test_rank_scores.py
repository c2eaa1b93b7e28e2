"""Scores equal the naive loop: the whole model on every (prompt, choice), one at a time."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    M2M100Tokenizer,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from eval.encoding import QuestionEncoder
from eval.loading import LoadedModel, decoder_start_ids
from eval.ranking import (
    ChoiceScore,
    Question,
    SharedCrossAttention,
    predict,
    score_choices,
    shared_prefix_length,
)
from metro_t0.hf import MetroT5Config, MetroT5ForConditionalGeneration

END = 2


def naive_scores(model: PreTrainedModel, question: Question, start: list[int]) -> list[float]:
    """Straight from the definition, in float64 sums of float32 log-probabilities."""
    scores = []
    for choice in question.choices:
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([question.source]),
                decoder_input_ids=torch.tensor([[*start, *choice[:-1]]]),
                use_cache=False,  # with it FSMT sees the future
            ).logits[0, len(start) - 1 :]
        log_p = torch.log_softmax(logits.double(), -1)
        scores.append(math.fsum(log_p[t, token].item() for t, token in enumerate(choice)))
    return scores


def random_questions(count: int, seed: int) -> list[Question]:
    """Prompts of 1 to 40 tokens; 1 to 6 choices, some sharing beginnings, some equal, some empty, some prefixes."""
    draw = random.Random(seed)

    def words(longest: int) -> tuple[int, ...]:
        return tuple(draw.randrange(4, 120) for _ in range(draw.randint(0, longest)))

    questions = []
    for _ in range(count):
        beginning = words(3)
        choices = [(*beginning, *words(5), END) for _ in range(draw.randint(1, 5))]
        choices += draw.choice([[], [choices[0]], [(END,)], [(*choices[0][:-1], 7, END)]])
        questions.append(Question([*words(40), END], choices))
    return questions


@pytest.fixture(scope="module", params=["t5", "t5v1.1", "bart", "mt5", "metro"])
def model(request: pytest.FixtureRequest, model_directories: dict[str, Path]) -> PreTrainedModel:
    if request.param == "metro":
        torch.manual_seed(2)
        sizes = {"d_model": 32, "num_heads": 4, "ffn_dim": 64, "encoder_layers": 2, "decoder_layers": 2}
        metro = MetroT5ForConditionalGeneration(MetroT5Config(vocab_size=200, max_positions=64, **sizes)).eval()
        with torch.no_grad():
            for weight in metro.parameters():
                weight += 0.2 * torch.randn_like(weight)  # away from initial values, where biases are zero
        return metro
    if request.param == "mt5":
        torch.manual_seed(1)
        config = MT5Config(
            vocab_size=200, d_model=32, d_kv=8, num_heads=4, d_ff=64, num_layers=2, decoder_start_token_id=0
        )
        return MT5ForConditionalGeneration(config).eval()
    return AutoModelForSeq2SeqLM.from_pretrained(model_directories[request.param]).eval()


@pytest.mark.parametrize("max_tokens", [1, 100, 100_000])
def test_scores_equal_the_naive_loop(model: PreTrainedModel, max_tokens: int) -> None:
    questions = random_questions(16, seed=0)
    start = decoder_start_ids(model)
    for question, row in zip(questions, score_choices(model, questions, start, 1, max_tokens), strict=True):
        assert [s.log_probability for s in row] == pytest.approx(naive_scores(model, question, start), abs=1e-4)
        assert [s.num_tokens for s in row] == [len(choice) for choice in question.choices]


def test_beginning_shared_by_all_choices_of_the_batch(model: PreTrainedModel) -> None:
    """The tokens decoded once per prompt differ from prompt to prompt and still count."""
    questions = [
        Question([9, 8, END], [(11, 12, 13, END), (11, 12, 14, 15, END)]),
        Question([9, 9, 9, 9, END], [(21, 22, 23, END), (21, 22, 24, END), (21, 22, END)]),
    ]
    start = decoder_start_ids(model)
    for question, row in zip(questions, score_choices(model, questions, start, 1, 1000), strict=True):
        assert [s.log_probability for s in row] == pytest.approx(naive_scores(model, question, start), abs=1e-4)


def test_scores_do_not_depend_on_the_batch(model: PreTrainedModel) -> None:
    """Neither on its size, nor on padding, nor on the order of rows."""
    questions = random_questions(20, seed=1)
    start = decoder_start_ids(model)
    together = score_choices(model, questions, start, 1, 10_000)
    order = random.Random(2).sample(range(20), 20)
    shuffled = score_choices(model, [questions[i] for i in order], start, 1, 50)
    alone = [score_choices(model, [question], start, 1, 10_000)[0] for question in questions]
    for position, i in enumerate(order):
        expected = [s.log_probability for s in together[i]]
        assert [s.log_probability for s in shuffled[position]] == pytest.approx(expected, rel=1e-6, abs=2e-5)
        assert [s.log_probability for s in alone[i]] == pytest.approx(expected, rel=1e-6, abs=2e-5)


@pytest.mark.parametrize("max_tokens", [1, 300, 100_000])
def test_models_without_fused_attention_score_the_same(model: PreTrainedModel, max_tokens: int) -> None:
    """Their prompts' keys and values are copied for every choice instead of shared."""
    questions = random_questions(12, seed=3)
    start = decoder_start_ids(model)
    fused = score_choices(model, questions, start, 1, max_tokens)
    before = model.config._attn_implementation
    assert before == "sdpa"
    model.set_attn_implementation("eager")
    try:
        eager = score_choices(model, questions, start, 1, max_tokens)
    finally:
        model.set_attn_implementation(before)
    for row, expected in zip(eager, fused, strict=True):
        values = [score.log_probability for score in expected]
        assert [score.log_probability for score in row] == pytest.approx(values, rel=1e-6, abs=2e-5)


@settings(deadline=None, max_examples=40)
@given(
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    heads=st.sampled_from([1, 4]),
    rows_of_mask=st.sampled_from(["one", "all", "none"]),
    queries_of_mask=st.sampled_from([1, 3]),
)
def test_shared_keys_give_what_repeated_keys_give(
    counts: list[int], heads: int, rows_of_mask: str, queries_of_mask: int
) -> None:
    torch.manual_seed(len(counts))
    prompt_C = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    q = torch.randn(sum(counts), 4, 3, 8)
    k, v = torch.randn(2, len(counts), 4, 7, 8)
    mask = {
        "one": torch.randn(1, heads, queries_of_mask, 7),
        "all": torch.randn(sum(counts), heads, queries_of_mask, 7),
        "none": None,
    }[rows_of_mask]
    attention = torch.nn.functional.scaled_dot_product_attention
    expected = attention(q, k[prompt_C], v[prompt_C], attn_mask=mask, scale=1.0)
    with SharedCrossAttention(prompt_C):
        shared = attention(q, k, v, attn_mask=mask, scale=1.0)
        alone = attention(q, q, q)
    torch.testing.assert_close(shared, expected)
    torch.testing.assert_close(alone, attention(q, q, q))


def test_keys_of_a_prompt_are_not_copied_for_its_choices(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 choices of a prompt and 3 of another attend to two rows of keys."""
    questions = [
        Question([9, 8, 7, END], [(11 + i, 12, 13, END) for i in range(20)]),
        Question([9, 9, END], [(11 + i, 14, END) for i in range(3)]),
    ]
    rows: list[tuple[int, int]] = []
    original = SharedCrossAttention._attend

    def note(self: SharedCrossAttention, q: torch.Tensor, k: torch.Tensor, *rest: Any, **settings: Any) -> torch.Tensor:
        rows.append((q.size(0), k.size(0)))
        return original(self, q, k, *rest, **settings)

    monkeypatch.setattr(SharedCrossAttention, "_attend", note)
    score_choices(model, questions, decoder_start_ids(model), 1, 100_000)
    assert set(rows) == {(23, 2)}


def test_bart_reads_its_forced_first_token_without_scoring_it(model_directories: dict[str, Path]) -> None:
    bart = AutoModelForSeq2SeqLM.from_pretrained(model_directories["bart"])
    t5 = AutoModelForSeq2SeqLM.from_pretrained(model_directories["t5"])
    assert decoder_start_ids(bart) == [2, 0]
    assert decoder_start_ids(t5) == [1]


def test_equal_choices_tie_and_the_first_wins(model: PreTrainedModel) -> None:
    question = Question([5, 6, END], [(7, END), (8, 9, 10, END), (8, 9, 10, END), (7, END)])
    (row,) = score_choices(model, [question], decoder_start_ids(model), 1, 1)
    assert row[1] == row[2]
    assert row[0] == row[3]
    assert predict(row) in (0, 1)


def test_length_normalization_compares_means() -> None:
    scores = [ChoiceScore(-4.0, 2), ChoiceScore(-4.5, 5)]
    assert predict(scores) == 0
    assert predict(scores, length_normalized=True) == 1
    close = [ChoiceScore(-4.9, 3), ChoiceScore(-4.2, 3), ChoiceScore(-4.7, 3)]
    assert predict(close) == predict(close, length_normalized=True) == 1


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5))
def test_shared_prefix_is_common_and_leaves_a_token_of_each(choices: list[list[int]]) -> None:
    length = shared_prefix_length(choices)
    assert all(choice[:length] == choices[0][:length] and len(choice) > length for choice in choices)
    longer = [choice[: length + 1] for choice in choices]
    assert min(map(len, choices)) == length + 1 or any(choice != longer[0] for choice in longer)


def test_a_choice_ends_with_its_end_token(tmp_path: Path) -> None:
    """Wherever the tokenizer puts it: mBART's writes the code of the language behind it."""
    text = Tokenizer(models.WordLevel({"</s>": 0, "<unk>": 1, "yes": 2, "en_XX": 3}, unk_token="<unk>"))
    text.post_processor = processors.TemplateProcessing("$A </s> en_XX", special_tokens=[("</s>", 0), ("en_XX", 3)])
    fast = PreTrainedTokenizerFast(tokenizer_object=text, eos_token="</s>", unk_token="<unk>")
    assert QuestionEncoder(fast).encode(["yes"], [["yes"]]) == [Question([2, 0, 3], [(2, 0)])]


def test_a_language_that_generation_is_forced_to_begin_with_is_not_read_twice() -> None:
    """mBART-50 and NLLB write it before the text, and many-to-one models have it as `forced_bos_token_id`, too."""
    text = Tokenizer(models.WordLevel({"</s>": 0, "<unk>": 1, "yes": 2, "en_XX": 3}, unk_token="<unk>"))
    text.post_processor = processors.TemplateProcessing("en_XX $A </s>", special_tokens=[("</s>", 0), ("en_XX", 3)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=text, eos_token="</s>", unk_token="<unk>", additional_special_tokens=["en_XX"]
    )
    forced = QuestionEncoder(fast, begins_by_force=True)
    assert forced.encode(["yes"], [["yes", "no"]])[0].choices == [(2, 0), (1, 0)]
    assert QuestionEncoder(fast).encode(["yes"], [["yes"]])[0].choices == [(3, 2, 0)]


def test_targets_have_the_language_of_sources_where_none_is_named(
    model_directories: dict[str, Path], tmp_path: Path
) -> None:
    """A tokenizer of M2M100 as it is published has no target language, and fails for targets then."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["yes and no"] * 5), model_prefix=str(tmp_path / "sp"), vocab_size=20,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "vocab.json").write_text(json.dumps({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "s": 4}))
    tokenizer = M2M100Tokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "sp.model"), src_lang="en")
    with pytest.raises(KeyError):
        tokenizer(text_target="s")
    loaded = LoadedModel(AutoModelForSeq2SeqLM.from_pretrained(model_directories["t5"]), tokenizer, {})
    assert loaded.tokenizer(text_target="s") == loaded.tokenizer("s")
