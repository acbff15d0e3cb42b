"""Text to tokens: words, characters, SentencePiece pieces, and Chinese words by jieba."""

import functools
import re
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.errors import InputError

MODEL_NAME = "sentencepiece.model"
END_OF_LINE = "<eos>"


class Tokenizer(Protocol):
    def tokens(self, text: str) -> list[str]:
        """The tokens of any text without lone surrogates; none for blank text."""


def normalize(text: str) -> str:
    """NFKC (full-width forms, ligatures and decomposed accents become the usual ones), without invisible characters.

    Format characters (joiners, direction marks, soft hyphens, byte order marks) and variation selectors vanish; the
    zero-width space and control characters separate, as a space does.

    >>> normalize("ｆｕｌｌ\u200b\ufb01x co\u00adop cafe\u0301")
    'full fix coop café'
    """
    if text.isascii():
        return _controls().sub(" ", text)
    return unicodedata.normalize("NFKC", _invisible().sub("", _controls().sub(" ", text)))


class WordTokenizer:
    """Runs of letters and marks, runs of digits, and single symbols; no space and no underscore.

    Identifiers are split where their case changes; Han, kana and bopomofo characters stand alone, since those scripts
    put no space between words. Thai and Khmer do not either, and come as long runs: prefer `sentencepiece` for them.
    Lower-casing happens after the split.

    >>> WordTokenizer(lowercase=False).tokens("parseHTTPHeader_2(URLs) isn't 東京タワー")
    ['parse', 'HTTP', 'Header', '2', '(', 'URLs', ')', 'isn', "'", 't', '東', '京', 'タ', 'ワ', 'ー']
    """

    def __init__(self, lowercase: bool) -> None:
        self.lowercase = lowercase
        self._find = _words().findall

    def tokens(self, text: str) -> list[str]:
        tokens = self._find(normalize(text))
        # together, as that is faster: a line end, which no token holds, keeps each from changing its neighbour's form
        return "\n".join(tokens).lower().split("\n") if self.lowercase and tokens else tokens


class CharacterTokenizer:
    """Single code points after normalization; runs of space become one space, none at the ends.

    >>> CharacterTokenizer(lowercase=True).tokens(" Né  2 ")
    ['n', 'é', ' ', '2']
    """

    def __init__(self, lowercase: bool) -> None:
        self.lowercase = lowercase

    def tokens(self, text: str) -> list[str]:
        text = normalize(text)
        return list(" ".join((text.lower() if self.lowercase else text).split()))


class WhitespaceTokenizer:
    """What stands between blanks, as it is; the end of a line is the token <eos>, as in language models of words.

    >>> WhitespaceTokenizer(lowercase=True).tokens("The <unk> N \\n end")
    ['the', '<unk>', 'n', '<eos>', 'end']
    """

    def __init__(self, lowercase: bool) -> None:
        self.lowercase = lowercase

    def tokens(self, text: str) -> list[str]:
        text = (text.lower() if self.lowercase else text).replace("\n", f" {END_OF_LINE} ")
        return text.split()


class VerbatimTokenizer:
    """Every character as it is, line ends and blanks included.

    >>> VerbatimTokenizer(lowercase=False).tokens("a  b\\n")
    ['a', ' ', ' ', 'b', '\\n']
    """

    def __init__(self, lowercase: bool) -> None:
        self.lowercase = lowercase

    def tokens(self, text: str) -> list[str]:
        return list(text.lower() if self.lowercase else text)


class WholeTokenizer:
    """The whole text is one token: a label.

    >>> WholeTokenizer(lowercase=False).tokens("very good")
    ['very good']
    """

    def __init__(self, lowercase: bool) -> None:
        self.lowercase = lowercase

    def tokens(self, text: str) -> list[str]:
        return [text.lower() if self.lowercase else text] if text else []


class LettersTokenizer:
    """Every character of the words between blanks, with one blank between words.

    >>> LettersTokenizer(lowercase=False).tokens("To  be")
    ['T', 'o', ' ', 'b', 'e']
    """

    def __init__(self, lowercase: bool) -> None:
        self.lowercase = lowercase

    def tokens(self, text: str) -> list[str]:
        return list(" ".join((text.lower() if self.lowercase else text).split()))


class JiebaTokenizer:
    """As WordTokenizer, but runs of Han characters are cut into words by jieba's dictionary and hidden Markov model.

    >>> JiebaTokenizer(lowercase=True).tokens("我来到北京清华大学 CamelCase")
    ['我', '来到', '北京', '清华大学', 'camel', 'case']
    """

    def __init__(self, lowercase: bool) -> None:
        self.lowercase = lowercase
        self._find = _words(han_runs=True).findall
        self._cut = _jieba().lcut

    def tokens(self, text: str) -> list[str]:
        tokens: list[str] = []
        for run in self._find(normalize(text)):
            if len(run) > 1 and _is_han(run[0]):
                tokens.extend(self._cut(run))
            else:
                tokens.append(run.lower() if self.lowercase else run)
        return tokens


class SentencePieceTokenizer:
    """Pieces of a trained model, which holds its own normalization (NFKC, and case folding where asked for).

    Kudo and Richardson, "SentencePiece: a simple and language independent subword tokenizer", EMNLP 2018.

    Raises:
        InputError: the model's file is missing or damaged.
    """

    def __init__(self, model: Path) -> None:
        import sentencepiece

        try:
            content = model.read_bytes()
            if not content:  # which SentencePiece takes for no model
                raise OSError("empty")
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=content)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{model} is not a readable SentencePiece model ({error}): delete its folder and run `duplet tokenize`"
            ) from None

    def tokens(self, text: str) -> list[str]:
        return self._processor.encode(text, out_type=str) if text.strip() else []

    def pieces(self) -> list[str]:
        """All pieces, in the order of their ids."""
        return [self._processor.id_to_piece(i) for i in range(len(self._processor))]

    def scores(self) -> dict[str, float]:
        """Each piece's score; of BPE, the higher, the earlier it is merged."""
        return {piece: self._processor.get_score(i) for i, piece in enumerate(self.pieces())}


def tokenizer_of(kind: str, lowercase: bool, folder: Path) -> Tokenizer:
    """The tokenizer of a kind; SentencePiece's model is read from `folder`."""
    if kind == "sentencepiece":
        return SentencePieceTokenizer(folder / MODEL_NAME)
    kinds: dict[str, Callable[[bool], Tokenizer]] = {
        "word": WordTokenizer,
        "character": CharacterTokenizer,
        "jieba": JiebaTokenizer,
        "whitespace": WhitespaceTokenizer,
        "verbatim": VerbatimTokenizer,
        "whole": WholeTokenizer,
        "letters": LettersTokenizer,
    }
    return kinds[kind](lowercase)


# --- character classes ------------------------------------------------------------------------------------------------
HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = (
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\U0001aff0-\U0001b16f"
)

PLANE_0, PLANE_1 = range(0x10000), range(0x10000, 0x20000)


def _is_han(character: str) -> bool:
    return _han().match(character) is not None


@functools.cache
def _han() -> re.Pattern[str]:
    return re.compile(f"[{HAN}]")


@functools.cache
def _controls() -> re.Pattern[str]:
    return re.compile("[\x00-\x1f\x7f-\x9f\u200b\u2028\u2029]")


@functools.cache
def _invisible() -> re.Pattern[str]:
    formats = _class(("Cf",), PLANE_0) + _class(("Cf",), PLANE_1)
    return re.compile(f"[{formats}\u180b-\u180f\ufe00-\ufe0f\U000e0000-\U000e01ef]")


@functools.cache
def _words(han_runs: bool = False) -> re.Pattern[str]:
    """Python's `re` has no classes by Unicode category, so they are written out as ranges.

    Classes with characters above U+FFFF are searched range by range, so they come last, and case is known below that
    only (what has case above are historic scripts, and mathematical letters that NFKC undoes).
    """
    cjk = re.compile(f"[{HAN}{KANA}]")
    upper, lower = _class(("Lu", "Lt"), PLANE_0), _class(("Ll",), PLANE_0)
    mark = _class(("Mn", "Mc", "Me", "Lm"), PLANE_0, but=cjk)  # modifier letters continue a word, as marks do
    other = _class(("Lo", "Nl", "No"), PLANE_0, but=cjk)  # letters without case: Arabic, Hebrew, Devanagari, Hangul, …
    other += _class(("Lu", "Lt", "Ll", "Lm", "Lo", "Nl", "No"), PLANE_1, but=cjk)
    other_mark = mark + _class(("Mn", "Mc", "Me"), PLANE_1)
    return re.compile(
        f"[{lower}][{lower}{mark}]*"  # parse; the most frequent come first
        f"|[{upper}][{mark}]*[{lower}][{lower}{mark}]*"  # Header
        r"|\d+"
        r"|[^\w\s]"  # symbols, and marks on nothing
        f"|[{upper}][{upper}{mark}]+s(?![{lower}{mark}])"  # URLs
        f"|[{upper}][{upper}{mark}]*(?=[{upper}][{mark}]*[{lower}])"  # HTTP of HTTPHeader
        f"|[{upper}][{upper}{mark}]*"
        r"|(?=[^\W_])(?:"
        f"[{HAN}]{'+' if han_runs else ''}"
        f"|[{KANA}][{mark}]*"
        f"|[{other}][{other}{other_mark}]*"
        r"|.)"
    )


def _class(categories: tuple[str, ...], among: range, but: re.Pattern[str] | None = None) -> str:
    """The inside of a regular expression's class: ranges of the characters of these general categories, without those
    that `but` matches."""
    ranges: list[tuple[int, int]] = []
    for c in among:
        character = chr(c)
        if unicodedata.category(character) not in categories or (but and but.match(character)):
            continue
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1] = (ranges[-1][0], c)
        else:
            ranges.append((c, c))
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


@functools.cache
def _jieba() -> Any:
    """jieba's segmenter over its own dictionary, without its messages and without its cache file.

    That cache is a file of a fixed name in the temporary folder that all users share, trusted whatever it holds;
    building the dictionary in memory takes about a second per process instead.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pkg_resources, and of its own regular expressions
        import jieba
    segmenter = jieba.Tokenizer()
    segmenter.FREQ, segmenter.total = segmenter.gen_pfdict(segmenter.get_dict_file())
    segmenter.initialized = True
    return segmenter
