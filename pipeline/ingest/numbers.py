"""Numbers and dates in digits and the same in English words: as many short texts with one right answer as needed."""

import random
from collections.abc import Iterator

from pipeline.config import Config
from pipeline.config.sources import NumbersSource, SplitName
from pipeline.ingest.rows import Row

SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
MAX_DIGITS = 6
DATES_SHARE = 0.3
FIRST_YEAR, LAST_YEAR = 1500, 2099


def read(source: NumbersSource, config: Config, limit_bytes: int) -> Iterator[tuple[SplitName | None, Iterator[Row]]]:
    """Rows with `source` and `target`, distinct, in the direction asked for; the seed decides which."""
    yield None, _rows(source, config.split_seed)


def _rows(source: NumbersSource, seed: int) -> Iterator[Row]:
    rng = random.Random(seed)
    seen: set[str] = set()
    while len(seen) < source.count:
        if rng.random() < DATES_SHARE:
            year, month = rng.randint(FIRST_YEAR, LAST_YEAR), rng.randint(1, 12)
            day = rng.randint(1, DAYS[month - 1])
            digits, words = f"{year}-{month:02d}-{day:02d}", date_in_words(year, month, day)
        else:
            length = rng.randint(3, MAX_DIGITS)  # so that long numbers are no more frequent than short ones
            number = rng.randrange(10 ** (length - 1) if length > 3 else 0, 10**length)
            digits, words = str(number), in_words(number)
        if digits in seen:
            continue
        seen.add(digits)
        source_text, target_text = (digits, words) if source.direction == "to_words" else (words, digits)
        yield Row("numbers", len(seen), {"source": source_text, "target": target_text}, f"{digits} {words}")


def in_words(number: int) -> str:
    """A number below a million in British English.

    >>> in_words(40_312), in_words(7_005), in_words(0)
    ('forty thousand three hundred and twelve', 'seven thousand and five', 'zero')
    """
    thousands, rest = divmod(number, 1000)
    if thousands:
        joint = " " if rest >= 100 else " and "
        return f"{in_words(thousands)} thousand" + (joint + in_words(rest) if rest else "")
    hundreds, rest = divmod(number, 100)
    if hundreds:
        return f"{SMALL[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")
    if number < len(SMALL):
        return SMALL[number]
    tens, ones = divmod(number, 10)
    return TENS[tens] + (f"-{SMALL[ones]}" if ones else "")


def ordinal(number: int) -> str:
    """A number's place in a row.

    >>> ordinal(21), ordinal(12), ordinal(30), ordinal(4)
    ('twenty-first', 'twelfth', 'thirtieth', 'fourth')
    """
    start, dash, last = in_words(number).rpartition("-")
    regular = f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th"
    return start + dash + ORDINALS.get(last, regular)


def year_in_words(year: int) -> str:
    """A year as it is said.

    >>> year_in_words(1984), year_in_words(1905), year_in_words(1900), year_in_words(2004), year_in_words(2013)
    ('nineteen eighty-four', 'nineteen oh five', 'nineteen hundred', 'two thousand and four', 'twenty thirteen')
    """
    if 2000 <= year < 2010:
        return in_words(year)
    century, rest = divmod(year, 100)
    rest_in_words = "hundred" if not rest else f"oh {SMALL[rest]}" if rest < 10 else in_words(rest)
    return f"{in_words(century)} {rest_in_words}"


def date_in_words(year: int, month: int, day: int) -> str:
    """A day as it is said.

    >>> date_in_words(1984, 3, 17)
    'the seventeenth of march nineteen eighty-four'
    """
    return f"the {ordinal(day)} of {MONTHS[month - 1]} {year_in_words(year)}"
