"""Spans marked by tags such as B-PER, I-PER and O: which they are, and how many were found (seqeval)."""

from seqeval.metrics import f1_score


def are_spans(names: list[str]) -> bool:
    """Whether these tags mark spans: each is O or begins with B-, I-, E-, S- or L-, U-.

    >>> are_spans(["O", "B-PER", "I-PER"]), are_spans(["NOUN", "VERB"])
    (True, False)
    """
    return any(name != "O" for name in names) and all(
        name == "O" or (name[:1] in "BIESLU" and name[1:2] == "-" and len(name) > 2) for name in names
    )


def span_f1(true_tags: list[list[str]], predicted: list[list[str]]) -> float:
    """Micro F1 of whole spans, type and both ends right.

    >>> span_f1([["B-PER", "I-PER", "O"]], [["B-PER", "O", "O"]])
    0.0
    """
    return float(f1_score(true_tags, predicted, zero_division=0))
