"""Tokens back to text: what `tokenizers` took apart, as far as it can be known."""

import re
from collections.abc import Sequence

from pipeline.tokenization.tokenizers import END_OF_LINE, HAN, KANA

_SPACE = "\u2581"  # which SentencePiece writes for a blank
_NO_BLANK_BEFORE = re.compile(r" (?=[.,;:!?%)\]}’。，、；：！？）」』])")
_NO_BLANK_AFTER = re.compile(r"(?<=[(\[{（「『]) ")
_BETWEEN_CJK = re.compile(f"(?<=[{HAN}{KANA}]) (?=[{HAN}{KANA}])|(?<=[。，、；：！？）」』]) (?=[{HAN}{KANA}])")


def joined(kind: str, tokens: Sequence[str]) -> str:
    """The text that these tokens of a tokenizer of this kind most likely stand for.

    Characters and SentencePiece's pieces give the text exactly. Words get blanks between them, but none before closing
    and after opening punctuation, nor between Han characters or kana.

    >>> joined("sentencepiece", ["\u2581two", "\u2581men", "."])
    'two men.'
    >>> joined("word", ["two", "men", "(", "old", ")", ",", "东", "京"])
    'two men (old), 东京'
    """
    if kind == "sentencepiece":
        return "".join(tokens).replace(_SPACE, " ").strip()
    if kind in ("character", "verbatim", "whole"):
        return "".join(tokens)
    if kind == "whitespace":
        return " ".join("\n" if token == END_OF_LINE else token for token in tokens)
    text = _NO_BLANK_BEFORE.sub("", " ".join(tokens))
    return _BETWEEN_CJK.sub("", _NO_BLANK_AFTER.sub("", text))
