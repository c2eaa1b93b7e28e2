"""Every sequence-to-sequence class of the installed transformers is scored as defined, or is none that reads text."""

from __future__ import annotations

import random

import pytest
import torch
from test_rank_scores import naive_scores, random_questions
from tiny_models import CLASSES, END, PAD, VOCABULARY_SIZE, tiny_config, tiny_model
from transformers import PreTrainedModel

from eval.loading import decoder_start_ids
from eval.methods import choose_method
from eval.ranking import Method, Question, score_choices
from metro_t0.errors import UserError

NOT_ENCODER_DECODER = {
    "audioflamingo3", "glmasr", "granite_speech", "granite_speech_plus", "moss_transcribe_diarize", "musicflamingo",
    "nemo_speechlm", "qwen2_audio", "qwen3_asr", "vibevoice_asr", "voxtral", "voxtral_realtime",
}  # fmt: skip
"""Speech models whose language model is a decoder; the command refuses them by their configuration."""
OTHER_METHODS = {
    "fsmt": Method.ONE_AT_A_TIME,  # reads the future where it has a cache
    "prophetnet": Method.ONE_AT_A_TIME,  # takes one token at a time from a cache
    "t5gemma2": Method.COPIED_KEYS,  # one attention over the target and the prompt
}
LONGEST = 100


def questions_of_many_lengths() -> list[Question]:
    draw = random.Random(5)
    long = [*(draw.randrange(4, 120) for _ in range(LONGEST - 1)), END]
    return [*random_questions(5, seed=0), Question(long, [(9, 8, END), (9, 7, 6, END), (END,)])]


def assert_true_scores(model: PreTrainedModel, method: Method) -> None:
    questions, start = questions_of_many_lengths(), decoder_start_ids(model)
    naive = [naive_scores(model, question, start) for question in questions]
    for max_tokens in (1, 10_000):
        found = score_choices(model, questions, start, PAD, max_tokens, method)
        for row, expected in zip(found, naive, strict=True):
            assert [score.log_probability for score in row] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("model_type", CLASSES)
def test_scores_equal_the_naive_loop(model_type: str) -> None:
    if model_type in NOT_ENCODER_DECODER:
        assert not tiny_config(model_type).is_encoder_decoder
        return
    model = tiny_model(model_type)
    method = choose_method(model, decoder_start_ids(model), PAD, END, LONGEST)
    assert method == OTHER_METHODS.get(model_type, Method.SHARED_KEYS)
    assert_true_scores(model, method)


def test_transient_global_attention_is_scored_as_defined() -> None:
    config = tiny_config("longt5")
    config.encoder_attention_type = "transient-global"
    torch.manual_seed(0)
    model = type(tiny_model("longt5"))(config).eval()
    assert_true_scores(model, choose_method(model, [0], PAD, END, LONGEST))


def test_a_model_whose_scores_change_from_call_to_call_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("bart")
    head = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda x: head(x + torch.randn_like(x)))
    with pytest.raises(UserError, match=r"the scores of one prompt differ by \d.* between two calls"):
        choose_method(model, [2], PAD, END, LONGEST)


def test_a_class_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("bart")
    monkeypatch.setattr(model.lm_head, "forward", lambda x: x.no_such_thing)
    with pytest.raises(UserError, match="a text model of this class cannot be scored: 'Tensor' object has no"):
        choose_method(model, [2], PAD, END, LONGEST)


def test_greedy_choices_are_those_that_generation_writes() -> None:
    """Of every method; sampled choices among them, so that some are greedy and most are not."""
    model = tiny_model("t5")
    source = [5, 6, 7, 8, END]
    written = model.generate(
        torch.tensor([source]), max_new_tokens=4, min_new_tokens=4, do_sample=False, num_beams=1
    )[0, 1:].tolist()  # fmt: skip
    choices = [tuple(written[:3]), (*written[:2], (written[2] + 1) % VOCABULARY_SIZE), tuple(written[:1]), (9, 9)]
    for method in Method:
        (row,) = score_choices(model, [Question(source, choices)], [0], PAD, 100, method, with_greedy=True)
        assert [score.is_greedy for score in row] == [True, False, True, False]
