"""Sources that come with Duplet: the standard library's functions and prose, numbers and drawn scenes."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.base import Format, Positive, Settings


class DocstringsSource(Settings):
    """Python functions of the running environment: a docstring's first paragraph asks, the code answers."""

    format: Literal["docstrings"] = Format
    packages: tuple[str, ...] = Field(
        default=("stdlib",),
        description="Installed packages whose functions are read; stdlib is the standard library.",
        examples=[["stdlib", "numpy"]],
    )
    min_query_tokens: Positive = Field(
        default=3,
        description="Minimum number of words of a docstring's first paragraph; functions with fewer are left out.",
    )
    min_document_lines: Positive = Field(
        default=2, description="Minimum number of lines of code that are not blank; shorter functions are left out."
    )
    max_pairs: Positive | None = Field(
        default=None, description="Maximum number of pairs, chosen by hash, for quick tests. null: all."
    )


class PythonSource(Settings):
    """Python code as text for tasks of one text; no download. All of the standard library, but for package.

    code: whole modules, a record per some lines; prose: a docstring per record; kinds: lines of code, each
    token tagged with what it is; package: functions of some installed packages, labelled with the one they stand in.
    """

    format: Literal["python"] = Format
    of: Literal["code", "prose", "package", "kinds"] = Field(
        description="What a record is. code: some lines of a module. prose: a docstring. package: a function, labelled "
        "with its package. kinds: a line of code, each token tagged with what it is."
    )
    lines_per_record: Positive = Field(default=50, description="code: lines in one record.")
    max_records: Positive | None = Field(
        default=None,
        description="Maximum number of records, chosen by hash (code: the first ones), for quick tests. null: all.",
    )


class NumbersSource(Settings):
    """Numbers and dates in digits with the same in English words: made up, no download."""

    format: Literal["numbers"] = Format
    direction: Literal["to_words", "to_digits"] = Field(
        default="to_words", description="What is translated into what: digits to words, or words to digits."
    )
    count: Annotated[int, Field(gt=0, le=100_000)] = Field(default=4000, description="Pairs that are made.")


class ScenesSource(Settings):
    """Drawn scenes of coloured shapes with their captions: made up, no download."""

    format: Literal["scenes"] = Format
    count: Annotated[int, Field(gt=0, le=100_000)] = Field(default=3000, description="Scenes that are drawn.")


class SceneQuestionsSource(Settings):
    """Drawn scenes with a question about each and its answer: made up, no download."""

    format: Literal["scene_questions"] = Format
    count: Annotated[int, Field(gt=0, le=100_000)] = Field(default=6000, description="Scenes, each with a question.")
