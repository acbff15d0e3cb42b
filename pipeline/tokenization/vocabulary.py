"""The vocabulary: a gluonnlp.Vocab from token counts, or from a SentencePiece model trained here.

The only file of this stage that imports gluonnlp (and with it mxnet), inside the functions that need it.
"""

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.tokenization import word_vectors
from pipeline.tokenization.encoder import PADDING, PADDING_ID, UNKNOWN, UNKNOWN_ID, VOCABULARY_NAME, Form
from pipeline.tokenization.tokenizers import MODEL_NAME, SentencePieceTokenizer

SPECIAL = (PADDING, UNKNOWN)
# SentencePiece's own settings
TRAINING_LINES = 1_000_000  # a sample of so many is enough, and bounds the memory
LINE_CHARACTERS = 1000  # its BPE trainer aborts the process at words of 65,536 characters
TRAINING_THREADS = 4  # fixed whatever the machine, since the model depends on it


def write_counted(counts: Counter[str], form: Form, folder: Path) -> int:
    """Writes vocabulary.json of the most frequent tokens, equal counts in alphabetical order; returns its size."""
    from gluonnlp import Vocab

    for token in SPECIAL:
        del counts[token]
    size = form.vocabulary_size - len(SPECIAL)  # gluonnlp takes max_size=0 for no limit: `check_size` bars that
    if form.more_words:
        counts = Counter({token: count for token, count in counts.items() if count >= form.min_count})
        room = size - len(counts)
        for token in more_words(Path(form.more_words)) if room > 0 else ():
            token = token.lower() if form.lowercase else token
            if token not in counts and token not in SPECIAL and token.strip() == token != "":
                counts[token] = form.min_count  # behind those of train or among their rarest
                room -= 1
            if room == 0:
                break
    vocabulary = Vocab(
        counts,
        max_size=size,
        min_freq=form.min_count,
        unknown_token=UNKNOWN,
        padding_token=PADDING,
        bos_token=None,
        eos_token=None,
        token_to_idx={PADDING: PADDING_ID, UNKNOWN: UNKNOWN_ID},
    )
    (folder / VOCABULARY_NAME).write_text(vocabulary.to_json(), encoding="utf-8")
    return len(vocabulary)


def more_words(path: Path) -> Iterator[str]:
    """The words of a file: a trained folder's vocabulary.json, or the words of a file of vectors.

    Raises:
        InputError: it is neither, or damaged.
    """
    if path.suffix == ".json":
        try:
            yield from json.loads(path.read_text(encoding="utf-8"))["idx_to_token"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"tokenize.more_words={path} is not a vocabulary of a trained folder ({error})") from None
        return
    for word, _ in word_vectors.entries(path, setting="tokenize.more_words"):
        yield word


def write_sentencepiece(texts: Iterable[str], form: Form, folder: Path) -> int:
    """Trains sentencepiece.model on `texts` and writes its pieces as vocabulary.json; returns their number.

    That is less than `vocabulary_size` where the texts do not hold so many pieces.

    Raises:
        InputError: `vocabulary_size` is too small for the texts' characters, or there is no text.
    """
    import sentencepiece
    from gluonnlp import Vocab

    model = io.BytesIO()
    try:
        sentencepiece.set_random_generator_seed(1)  # of the sample
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=model,
            model_type=form.sentencepiece_model,
            vocab_size=form.vocabulary_size,
            split_digits=form.split_digits,
            hard_vocab_limit=False,
            normalization_rule_name="nmt_nfkc_cf" if form.lowercase else "nmt_nfkc",
            character_coverage=0.9995,
            input_sentence_size=TRAINING_LINES,
            max_sentence_length=64 * LINE_CHARACTERS,  # bytes; longer ones would be left out
            num_threads=TRAINING_THREADS,
            pad_id=PADDING_ID,
            pad_piece=PADDING,
            unk_id=UNKNOWN_ID,
            unk_piece=UNKNOWN,
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(
            f"SentencePiece cannot make a vocabulary of tokenize.vocabulary_size={form.vocabulary_size} "
            f"from the training split: {' '.join(str(error).split())}"
        ) from None
    (folder / MODEL_NAME).write_bytes(model.getvalue())
    pieces = SentencePieceTokenizer(folder / MODEL_NAME).pieces()
    vocabulary = Vocab(
        Counter(pieces[len(SPECIAL) :]),
        unknown_token=UNKNOWN,
        padding_token=PADDING,
        bos_token=None,
        eos_token=None,
        token_to_idx={piece: i for i, piece in enumerate(pieces)},
    )
    (folder / VOCABULARY_NAME).write_text(vocabulary.to_json(), encoding="utf-8")
    return len(vocabulary)


def check_size(form: Form) -> None:
    """Raises InputError where the vocabulary has no room for a token beside the special ones."""
    if form.vocabulary_size <= len(SPECIAL):
        raise InputError(
            f"tokenize.vocabulary_size={form.vocabulary_size} leaves no room beside {' and '.join(SPECIAL)}: "
            f"give at least {len(SPECIAL) + 1}"
        )


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.splitlines():
            for start in range(0, len(line), LINE_CHARACTERS):
                yield line[start : start + LINE_CHARACTERS]
