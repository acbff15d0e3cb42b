"""A model of an update's time on 1 to 512 GPUs, from measured parts: what it is made of, and the efficiency.

Measured here: what a rank's batch costs (`benchmarks/rank_work.py`), which exchanges follow each other, and their
number. Assumed, and to be given as measured on the cluster at hand: the time to encode and to hand over an update, the
time of a hop between hosts, bandwidth and rate of arithmetic. The matching task with a head that is no late
interaction; distinct tokens by Heaps' law, 30 * tokens ** 0.55, at 80 tokens a pair.

    python benchmarks/scaling_model.py [--plot scaling.png] [--encode-ms 20] [--hop-us 18] [--gb-per-s 10] …
"""

import argparse
from typing import Any

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def update_ms(ranks: int, given: argparse.Namespace) -> dict[str, float]:
    """Milliseconds by part; what runs beside the encoding counts only where it is longer."""
    own = given.pairs * given.accumulate  # of a rank in an update
    pairs = own * ranks
    tokens = min(given.vocabulary, 30 * (80 * pairs) ** 0.55)
    ring = (ranks - 1) / ranks
    per_byte = 1e3 / (given.gb_per_s * 1e9)
    # three exchanges wait for each other: documents, their gradients, the parameters' gradients. Horovod knows their
    # shapes, so each is agreed on by one ring of a few bytes after half a cycle
    agreed = given.cycle_ms / 2 + 2 * (ranks - 1) * given.hop_us / 1e3 if ranks > 1 else 0.0
    vectors = pairs * given.width * 4
    batch = given.batch_ms + given.batch_ms_per_rank * ranks
    # in parts: forward, and forward and backward again, of which a forward pass is a third
    encode = given.encode_ms * given.accumulate * (4 / 3 if given.accumulate > 1 else 1)
    return {
        "encode": encode,
        "beside it": max(0.0, max(given.python_ms, batch) * given.accumulate - encode),
        "loss": 1e3 * 6 * own * pairs * given.width / (given.tflops * 1e12),
        "agreeing": 3 * agreed,
        "documents": 3 * ring * vectors * per_byte,  # gathered once, summed by an all-reduce
        "gradients": 2 * ring * (given.dense_mb * 1e6 + tokens * given.embedding * 4) * per_byte,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, what in (
        ("pairs", 64, "for each rank in an update, or in a part of it"),
        ("accumulate", 1, "train.accumulate: parts of a rank's share"),
        ("encode-ms", 20.0, "both passes of one rank's texts"),
        ("python-ms", 9.0, "handing an update to the device"),
        ("batch-ms", 2.4, "a rank's batch"),
        ("batch-ms-per-rank", 0.01, "and what each other rank adds to it"),
        ("cycle-ms", 1.0, "HOROVOD_CYCLE_TIME"),
        ("hop-us", 18.0, "from one rank to the next"),
        ("gb-per-s", 10.0, "each rank's bandwidth"),
        ("tflops", 13.0, "of the loss's products"),
        ("dense-mb", 9.4, "parameters but for the embedding"),
        ("width", 512, "numbers in a vector"),
        ("embedding", 128, "numbers in an embedding row"),
        ("vocabulary", 50_000, "tokens"),
    ):
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"{what} ({value})")
    parser.add_argument("--plot", help="a picture of the parts, written here")
    given: Any = parser.parse_args()
    found = [update_ms(ranks, given) for ranks in RANKS]
    whole = argparse.Namespace(**{**vars(given), "accumulate": 1})
    alone = sum(update_ms(1, whole).values()) * given.accumulate  # of one GPU that takes no parts
    print("ranks  " + "  ".join(found[0]) + "  update ms  efficiency")
    for ranks, parts in zip(RANKS, found):
        total = sum(parts.values())
        row = "  ".join(f"{value:{len(name)}.1f}" for name, value in parts.items())
        print(f"{ranks:5}  {row}  {total:9.1f}  {alone / total:9.0%}")
    if given.plot:
        from matplotlib.figure import Figure

        axes = (figure := Figure(figsize=(7, 4))).subplots()
        axes.stackplot(RANKS, [[parts[name] for parts in found] for name in found[0]], labels=list(found[0]))
        axes.set(xscale="log", xticks=RANKS, xticklabels=RANKS, xlabel="GPUs", ylabel="ms per update")
        axes.legend(loc="upper left")
        figure.savefig(given.plot)


if __name__ == "__main__":
    main()
