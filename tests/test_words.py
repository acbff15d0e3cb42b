"""Sentences that readers whose English is a second language found hard stay out of the docs, help texts and errors."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
# A distinctive piece of each sentence that was rewritten. `\b`: "is no" would be in "is not" otherwise.
HARD = (
    # README and docs, as a reader who is new to Duplet quoted them
    "named by a hash of what went into it",
    "imports only from its left",
    "goes on where it was: repeat the command",
    "what a task is to the loop",
    "what the stages have in common",
    "the table of verbs",
    "engine was at hand: GPUs",
    "the real tokens per second of",
    "tells what is missing",
    "Ids that the source does not have are made",
    "is cut out of `train`",
    "cut out of train",
    "if they quote",
    "is refused whole",
    "sources made to do harm",
    "its gradient with respect to its own",
    "by a number that only the device sees",
    "equal within 1e-4 of themselves",
    "the one that most others do not agree with",
    "the device leaves the update out",
    "the score loses without words",
    "one file without anything from elsewhere",
    "unless it names others",
    "only compare pairs: they re-rank",
    "leaves 0 out",
    "good to about a twentieth",
    "and turn the signs",
    "goes one further",
    "at an update that was written down before",
    "is thinned where they stand closest",
    "is said once and passed over",
    "is the word that it is wanted",
    "lines of stdin, or a page in the browser",
    "has not got yet",
    "were not finite, computed again",
    "recurrent net written out in NumPy",
    "whose name hides it",
    "of a new index: encoded at a time",
    "where stage folders and mlflow.db lie",
    "what differs between runs",
    # errors, docstrings and docs, as a review of the code quoted them
    "is for a configuration, and",
    "ended without a word",
    "mend what it names",
    "has its ends the wrong way round",
    "makes no sense",
    "is still at work, this one leaves",
    "came no further than update",
    "is no trained folder to start from",
    "it is kept for later",
    "What a full disk ends with",
    "Lets go of the pages",
    "every second of those that stand no farther",
    "what it is at since which update",
    "and its host among those with as many ranks",
    "ended the keeping of the best one",
    "what is said goes anywhere",
    "Takes leave of the other ranks",
    "had wholly is MLflow's",
    "takes what it takes",
    "somebody more important comes",
    "Bytes that are no text",
    "a query and a document above all",
    "only what changed is done again",
    "hand the model to people without MXNet",
    "What came out",
    "Run for real",
)
# "X is no YAML": the pattern in messages, not one sentence. "There is no file" is plain.
IS_NO = re.compile(
    r"(?<!here )\b(?:is|are) no (?:address|archive|array|Arrow|boolean|configuration|date|exported|field|file|finished|"
    r"finite|folder|graph|image|index|integer|interface|job|JSON|label|list|mail|mapping|MLflow|name|number|Parquet|path|"
    r"range|readable|secret|table|task|text|valid|vocabulary|whole|YAML|UTF-8)\b"
)


def texts() -> Iterator[tuple[str, str]]:
    """Each page, and each text in the code (errors, help, docstrings), with its place; white space is one blank."""
    pages = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").rglob("*.md"))]
    for path in [*pages, *sorted((PROJECT / "configs").rglob("*.yaml"))]:
        yield str(path.relative_to(PROJECT)), " ".join(path.read_text(encoding="utf-8").split())
    for path in sorted([*(PROJECT / "pipeline").rglob("*.py"), *(PROJECT / "jobs").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(PROJECT)}:{node.lineno}", " ".join(node.value.split())


@pytest.fixture(scope="module")
def everything() -> list[tuple[str, str]]:
    return list(texts())


def test_no_hard_sentence_is_left(everything: list[tuple[str, str]]) -> None:
    left = [f"{place}: {piece}" for place, text in everything for piece in HARD if piece.lower() in text.lower()]
    assert not left, "\n".join(left)


def test_a_thing_is_not_valid_rather_than_no_thing(everything: list[tuple[str, str]]) -> None:
    left = [f"{place}: {match[0]}" for place, text in everything for match in IS_NO.finditer(text)]
    assert not left, "\n".join(left)


def test_a_file_that_the_docs_name_is_there() -> None:
    """Names with a folder that end as our files do, at their place in the project or in `pipeline/`."""
    pages = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").rglob("*.md"))]
    named = {
        (str(page.relative_to(PROJECT)), name)
        for page in pages
        for name in re.findall(
            r"`([a-z_]+(?:/[a-z_0-9]+)+\.(?:py|sh|yaml|txt|toml))(?:::\w+)?`", page.read_text("utf-8")
        )
    }
    assert len(named) > 40
    gone = [one for one in sorted(named) if not any((top / one[1]).exists() for top in (PROJECT, PROJECT / "pipeline"))]
    assert not gone
