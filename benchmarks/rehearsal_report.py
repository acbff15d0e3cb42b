"""The table and the picture of `make rehearsal`, from what it saw: `rehearsal_report.py FOLDER`."""

import json
import sys
from pathlib import Path
from typing import Any

MB = 2**20


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: each night that was not ordinary, and the last one."""
    lines = [
        "| night | what is wrong | in the morning | champion of night | messages | last verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row["what"] or row is rows[-1]:
            morning = "no verdict" if row["verdict"] is None else f"exit {row['verdict']}"
            lines.append(f"| {row['night']} | {row['what'] or 'nothing'} | {morning} | {row['champion']} | "
                         f"{len(row['messages'])} | {_last(row)} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def _last(row: dict[str, Any]) -> str:
    made_up = ", made up" if row["last"] == 0 and row["verdict"] != 0 else ""
    return f"exit {row['last']}{made_up}"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Bytes on the disk each morning, and the night whose model is live."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), dpi=90, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    at = [row["night"] for row in rows]
    above.stackplot(at, [row["root_bytes"] / MB for row in rows], [row["mlflow_bytes"] / MB for row in rows],
                    labels=["root", "MLflow's server"], colors=["tab:blue", "lightsteelblue"])  # fmt: skip
    above.set_ylabel("MiB")
    above.legend(loc="upper left", fontsize=7)
    below.step(at, [row["champion"] for row in rows], where="post", color="tab:green", linewidth=1)
    below.set_ylabel("champion of night")
    below.set_xlabel("morning after night")
    before, above_line = "", False
    for row in rows:
        if row["what"]:
            below.plot(row["night"], row["champion"], "X" if row["messages"] else "o", color="tab:red", markersize=6)
        if row["what"] not in ("", before):
            offset, to = ((-4, 8), "right") if above_line else ((4, -8), "left")
            below.annotate(row["what"], (row["night"], row["champion"]), offset, textcoords="offset points", fontsize=7,
                           ha=to, va="center")  # fmt: skip
            above_line = not above_line
        before = row["what"]
    for axis in (above, below):
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=7)
    FigureCanvasAgg(figure).print_png(str(path))


def write(folder: Path) -> str:
    """Writes rehearsal.md and rehearsal.png beside rehearsal.json; returns the table."""
    rows = json.loads((folder / "rehearsal.json").read_text(encoding="utf-8"))
    text = table(rows)
    (folder / "rehearsal.md").write_text(text, encoding="utf-8")
    draw(rows, folder / "rehearsal.png")
    return text


if __name__ == "__main__":
    print(write(Path(sys.argv[1])), end="")
