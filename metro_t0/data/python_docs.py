"""The embedded corpus: English documentation found in the running Python installation.

Language reference topics (pydoc), the doc strings and comments of the standard library and of installed packages,
and the descriptions of installed distributions. Files are read as text; nothing is imported or executed. The result
is the same for the same installation.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from metro_t0.errors import UserError, unknown

NAME = "python-docs"
DEFAULT_MAX_MB = 24.0
SPEC = re.compile(r"builtin:(?P<name>[^?]*)(?:\?max_mb=(?P<max_mb>\d+(?:\.\d+)?))?")
MAX_SOURCE_BYTES = 2 << 20  # longer sources are generated tables
MIN_DOCUMENT_CHARACTERS = 150
MIN_PARAGRAPH_CHARACTERS = 40
MIN_LETTER_SHARE = 0.78
# The lexical grammar of Python as far as it decides where a comment or a string begins and ends.
LITERAL = re.compile(
    r"\#[^\n]*(?:\n[ \t]*\#[^\n]*)*"
    r'|"""([^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*)"""'
    r"|'''([^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*)'''"
    r'|"[^"\\\n]*(?:\\.[^"\\\n]*)*"'
    r"|'[^'\\\n]*(?:\\.[^'\\\n]*)*'",
    re.DOTALL,
)
COMMENT_MARK = re.compile(r"^[ \t]*#+[:!]?", re.MULTILINE)
DOC_STRING_PREFIXES = frozenset(("", "r", "R", "u", "U"))
ROLE = re.compile(r":[\w:+-]+:`~?!?([^`<]*?)(?:\s*<[^`]*>)?`")
LITERAL_MARKS = re.compile(r"``([^`]*)``|`([^`]*)`_{0,2}|\*\*([^*\s][^*]*)\*\*|(?<!\w)\*([^*\s][^*]*)\*(?!\w)")
FIELD = re.compile(r"^(?::\w[^:]*:|@\w+|\.\. |>>> |\.\.\. |[-=~^*#+]{3,}|\||- \[)")
CODE = re.compile(r"[{}<>|\\=@_$]|\(\)|://")
FUNCTION_WORDS = frozenset(
    (
        "the",
        "a",
        "an",
        "of",
        "to",
        "in",
        "is",
        "are",
        "that",
        "for",
        "and",
        "this",
        "it",
        "be",
        "with",
        "as",
        "if",
        "on",
    )
)


def check_spec(spec: str) -> float:
    """The size limit, in MB of text, that a `builtin:` input names. Raises `UserError` where it is not one."""
    match = SPEC.fullmatch(spec)
    if not match:
        raise UserError(f"{spec}: write builtin:{NAME} or builtin:{NAME}?max_mb=24")
    if match["name"] != NAME:
        raise unknown("embedded corpus", match["name"], [NAME])
    return float(match["max_mb"] or DEFAULT_MAX_MB)


def documents(spec: str = f"builtin:{NAME}") -> Iterator[list[str]]:
    """Documents, each a list of paragraphs on one line, until the size limit is reached.

    A document is a topic, a source file or the description of a distribution. Paragraphs are prose (mostly letters,
    some English function words) and occur once in the whole corpus.
    """
    room = check_spec(spec) * 1e6
    seen: set[bytes] = set()
    for text in _texts():
        lines = []
        for paragraph in _prose(text):
            digest = hashlib.blake2b(paragraph.encode(), digest_size=8).digest()
            if digest not in seen:
                seen.add(digest)
                lines.append(paragraph)
        size = sum(len(line.encode()) + 1 for line in lines)
        if size < MIN_DOCUMENT_CHARACTERS:
            continue
        if size > room:
            return
        room -= size
        yield lines


def _texts() -> Iterator[str]:
    paths = sysconfig.get_paths()
    stdlib, site = Path(paths["stdlib"]), {Path(paths["purelib"]), Path(paths["platlib"])}
    yield from _topics(stdlib / "pydoc_data" / "topics.py")
    for path in _sources(stdlib):
        yield "\n\n".join(_doc_strings(path))
    for directory in sorted(site):
        for path in sorted(directory.glob("*.dist-info/METADATA")):
            _, _, description = _read(path).partition("\n\n")
            yield description
    for directory in sorted(site):
        for path in _sources(directory):
            yield "\n\n".join(_doc_strings(path))


def _topics(path: Path) -> Iterator[str]:
    if not path.is_file():
        return
    for node in ast.walk(ast.parse(_read(path))):
        if isinstance(node, ast.Dict):
            for value in node.values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value.value


def _sources(root: Path) -> list[Path]:
    """Python sources below a directory, without tests and without packages installed below the standard library."""
    skipped = {"site-packages", "dist-packages", "test", "tests", "testing"}
    found = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if not skipped.intersection(parts) and not parts[-1].startswith("test_"):
            found.append(path)
    return sorted(found)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_SOURCE_BYTES:
            return ""
        return path.read_text(encoding="utf-8", errors="strict")
    except (OSError, UnicodeDecodeError):
        return ""  # not ours to repair: an unreadable source is no documentation


def _doc_strings(path: Path) -> Iterator[str]:
    """Triple-quoted strings and comments that begin a line, found by lexing alone (far faster than parsing)."""
    source = _read(path)
    for match in LITERAL.finditer(source):
        before = source[source.rfind("\n", 0, match.start()) + 1 : match.start()].strip()
        if match[0][0] == "#":
            if not before:
                yield COMMENT_MARK.sub("", match[0])
        elif before in DOC_STRING_PREFIXES and (text := match[1] or match[2]):
            yield inspect.cleandoc(text)


def _prose(text: str) -> Iterator[str]:
    for block in re.split(r"\n[ \t]*\n", text):
        lines = [line.strip() for line in block.splitlines()]
        if any(FIELD.match(line) for line in lines):
            continue
        plain = LITERAL_MARKS.sub(_marked, ROLE.sub(r"\1", " ".join(lines)))
        paragraph = " ".join(plain.split())
        if len(paragraph) >= MIN_PARAGRAPH_CHARACTERS and _is_prose(paragraph):
            yield paragraph


def _marked(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None)


def _is_prose(paragraph: str) -> bool:
    letters = sum(map(str.isalpha, paragraph)) + paragraph.count(" ")
    words = paragraph.lower().split()
    return (
        paragraph[0].isalpha()
        and letters >= MIN_LETTER_SHARE * len(paragraph)
        and 30 * len(CODE.findall(paragraph)) <= len(paragraph)
        and 10 * sum(word in FUNCTION_WORDS for word in words) >= len(words)
    )
