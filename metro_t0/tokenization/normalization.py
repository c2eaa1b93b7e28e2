"""Text normalization as Rust normalizers, so that one tokenizer.json holds all of it.

The word rules are those of the METRO-T0 release: quotes and dashes become ASCII, text is split at white space,
punctuation is split off both ends of a word (inside a word it stays), and the contractions 's 'm 'd 't 'll 're 've
that this tears apart are joined again. Punctuation is every ASCII symbol and every character of the Unicode
categories P*. What is not a fixed replacement is written as an insertion or deletion of one space at a place that
look-around finds, because a `Replace` cannot refer to what it matched.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, normalizers, pre_tokenizers

WORD_MARK = "▁"
# What str.split() splits at; the White_Space property that Rust knows lacks the four separators 1C..1F.
WHITE_SPACE = r"\x09-\x0D\x1C-\x20\x{0085}\x{00A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
PUNCTUATION = r"\p{P}$+<=>^`|~"
SINGLE_QUOTES = "'‘’´"
CONTRACTIONS = "[smdtSMDT]|ll|re|ve|LL|RE|VE"
# Python's \b after a letter; written out because Oniguruma counts other characters as parts of a word.
WORD_END = r"(?![\p{L}\p{N}_])"


def word_rules() -> list[normalizers.Normalizer]:
    """The rules that are the same for all vocabularies, in order."""

    def replace(pattern: str, by: str) -> normalizers.Normalizer:
        return normalizers.Replace(Regex(pattern), by)

    not_punctuation = rf"[^{PUNCTUATION} ]"
    return [
        replace("``|''", '"'),
        replace(f"[{SINGLE_QUOTES[1:]}]", "'"),
        replace("[“”]", '"'),
        replace("[—–]", "-"),
        replace(f"[{WHITE_SPACE}]+", " "),
        normalizers.Strip(),
        replace(rf"(?:\A| )[{PUNCTUATION}]+\K(?={not_punctuation})", " "),
        replace(rf"(?<={not_punctuation})(?=[{PUNCTUATION}]+(?: |\z))", " "),
        # An upper-case contraction is cut from what follows it, a lower-case one is not.
        replace(r"(?<=' LL|' RE|' VE)(?=[^ \p{L}\p{N}_])", " "),
        replace(rf"(?<=') (?=(?:{CONTRACTIONS}){WORD_END})", ""),
    ]


def build_normalizer(characters: Sequence[normalizers.Normalizer], lowercase: bool) -> normalizers.Normalizer:
    """The whole normalization: word rules, optional lower-casing, a map of characters, then `▁` before each word.

    characters: what maps single characters (NFKC of our own vocabularies, the table inside an sp.model).
    """
    steps = word_rules()
    if lowercase:
        steps.append(normalizers.Lowercase())
    return normalizers.Sequence(
        [
            *steps,
            *characters,
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Replace(Regex(rf"\A +|[ {WORD_MARK}]+\z"), ""),
            normalizers.Replace(" ", WORD_MARK),
            normalizers.Prepend(WORD_MARK),
        ]
    )


def nfkc() -> list[normalizers.Normalizer]:
    """The character map of our own vocabularies: SentencePiece's default, NFKC without control characters."""
    return [normalizers.Nmt(), normalizers.NFKC()]


def word_splitter() -> pre_tokenizers.PreTokenizer:
    """Cut normalized text before each word mark; no piece crosses such a cut."""
    return pre_tokenizers.Split(WORD_MARK, behavior="merged_with_next")
