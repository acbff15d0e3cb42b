"""The heads: those of Duplet, a file each, and those that installed packages bring (entry points `duplet.heads`)."""

from pipeline.config.head import DotHead, Head
from pipeline.config.heads import bilinear, cosine, cross_attention, dot, late_interaction, mlp
from pipeline.config.plugins import Table

OWN = (
    cosine.Cosine(), dot.Dot(), bilinear.Bilinear(), mlp.Mlp(), late_interaction.LateInteraction(),
    cross_attention.CrossAttention(),
)  # fmt: skip
# Settings and other names of the section `model`, which no head may be named as.
SETTINGS = (
    "cell", "embedding", "vectors", "vectors_tuned_after", "hidden", "layers", "directions", "dropout", "word_dropout",
    "layer_norm", "residual", "pooling", "towers", "head", "kernel", "precision",
    "head_options", "pooled_width", "runs", "scored_by", "steps_by", "vector_width",
)  # fmt: skip


def _problem(head: Head) -> str | None:
    """What is wrong with a head that a package brings."""
    if type(head).features is Head.features or not getattr(head, "summary", ""):
        return "has no features or no summary"
    if head.index not in ("vectors", "tokens", "candidates", "none"):
        return f"has the index {head.index!r}; it is one of vectors, tokens, candidates, none"
    if head.index == "vectors" and (not isinstance(head, DotHead) or head.by_token):
        return "has the index vectors, but is not a DotHead over one vector per text"
    if head.index == "tokens" and not head.by_token:
        return "has the index tokens and compares no tokens"
    return None


HEADS: Table[Head] = Table("head", Head, {head.name: head for head in OWN}, _problem, SETTINGS)
