"""What written text keeps of its kind's layout: environments and braces that close, snippets that parse.

A recurrent net learns layout, not logic; so the same is counted in as much real text, which is cut as the written one
is and so does not reach 100 % either.
"""

import ast
import re
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

_ENVIRONMENT = re.compile(r"\\(begin|end)\s*\{([^{}\n]*)\}")
# what a brace in it does not count: a comment, a string, a character
_NOT_CODE = re.compile(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])+'", re.DOTALL)
_SNIPPET = re.compile(r"^(?:def |class |async def |@)")
_CONTINUES = re.compile(r"[\s)\]}#]|(?:else|elif|except|finally)\b")


class Count(NamedTuple):
    good: int  # that close, or parse
    total: int

    @property
    def share(self) -> float:
        """In [0, 1]; not a number where there is nothing to count."""
        return self.good / self.total if self.total else float("nan")

    def interval(self) -> tuple[float, float]:
        """The share's 95 % interval (Wilson 1927).

        >>> [round(end, 3) for end in Count(8, 10).interval()]
        [0.49, 0.943]
        """
        if not self.total:
            return float("nan"), float("nan")
        from scipy import stats  # takes long

        ends = stats.binomtest(self.good, self.total).proportion_ci(0.95, "wilson")
        return float(ends.low), float(ends.high)


def latex_environments(text: str) -> Count:
    r"""How many of the environments that begin also end, each inside of the one that it began in.

    >>> latex_environments(r"\begin{proof} \begin{align} \end{align} \end{lemma} \end{proof} \begin{lemma}")
    Count(good=2, total=3)
    """
    opened: list[str] = []
    closed = total = 0
    for verb, name in _ENVIRONMENT.findall(text):
        if verb == "begin":
            opened.append(name)
            total += 1
        elif name in opened:  # those begun since then stay open
            while opened.pop() != name:
                pass
            closed += 1
    return Count(closed, total)


def c_braces(text: str) -> Count:
    """How many of the opening braces of C code are closed; none of comments, strings and characters.

    >>> c_braces('int f() { if (x) { puts("}"); } /* } */')
    Count(good=1, total=2)
    """
    depth = closed = total = 0
    for brace in re.findall(r"[{}]", _NOT_CODE.sub(" ", text)):
        if brace == "{":
            depth, total = depth + 1, total + 1
        elif depth:
            depth, closed = depth - 1, closed + 1
    return Count(closed, total)


def python_snippets(text: str) -> Count:
    """How many functions and classes at the left margin parse; the last of a text, which may be cut, does not count.

    >>> python_snippets("def f(x):\\n    return x\\n\\ndef g(:\\n    pass\\n\\ndef h(x):\\n    re")
    Count(good=1, total=2)
    """
    snippets: list[list[str]] = []
    inside = False
    for line in text.split("\n"):
        if _SNIPPET.match(line):
            if not (inside and snippets[-1][-1].startswith("@")):  # a decorator belongs to what it decorates
                snippets.append([])
            snippets[-1].append(line)
            inside = True
        elif inside and (not line or _CONTINUES.match(line)):
            snippets[-1].append(line)
        else:
            inside = False
    finished = snippets[:-1] if inside else snippets
    return Count(sum(_parses("\n".join(lines)) for lines in finished), len(finished))


def _parses(code: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


KINDS: dict[str, tuple[str, Callable[[str], Count]]] = {
    "latex": ("environments closed", latex_environments),
    "c": ("braces closed", c_braces),
    "python": ("snippets that parse", python_snippets),
}


def counted(kind: str, texts: Sequence[str]) -> Count:
    """The count of a kind over several texts, each by itself."""
    counts = [KINDS[kind][1](text) for text in texts]
    return Count(sum(count.good for count in counts), sum(count.total for count in counts))


def lines(kind: str, written: Count, real: Count) -> str:
    """Both counts as lines of a report, ending in a line feed."""
    rows = []
    for name, count in (("written", written), ("real text", real)):
        low, high = count.interval()
        figure = f"{count.share:.3f} ({low:.3f}–{high:.3f})" if count.total else "–"
        rows.append(f"  {name:<10} {figure:<22} {count.good:,} of {count.total:,}\n")
    return f"{KINDS[kind][0]}, in texts of the same length (95 % intervals)\n" + "".join(rows)
