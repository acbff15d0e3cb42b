"""One configuration trained with several seeds on the same splits: the runs under one MLflow run, and their means.

A seed decides the start, the order of the examples and the dropout, so its spread is what a single figure may be off
by; the intervals of a run's own table are another thing, what other test examples would have given.
"""

import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from pipeline.config import Config, load_config
from pipeline.core import atomic_files
from pipeline.core.errors import InputError
from pipeline.orchestration import flow
from pipeline.reporting.tables import plain
from pipeline.tracking import Tracking

MOST = 100


class Spread(NamedTuple):
    """A figure over N seeds."""

    mean: float
    low: float  # of the 95 % interval of the mean, by Student's t with N - 1 degrees of freedom
    high: float
    deviation: float  # of the seeds, with N - 1
    values: list[float]  # one of each seed


def spread(values: list[float]) -> Spread:
    """The mean of two or more figures and its interval.

    >>> [round(value, 3) for value in spread([1.0, 2.0, 3.0])[:4]]
    [2.0, -0.484, 4.484, 1.0]
    """
    from scipy import stats

    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return Spread(mean, mean - half, mean + half, deviation, values)


class Seeds:
    """A configuration and how many seeds it is run with: its own and those after it."""

    def __init__(self, path: str, overrides: list[str], count: int, say: flow.Say) -> None:
        """Raises InputError where the number is out of range or a setting is wrong."""
        if not 2 <= count <= MOST:
            raise InputError(f"--seeds {count}: give a number of runs from 2 to {MOST}")
        self.path, self.overrides, self.say = path, overrides, say
        first = load_config(path, overrides)
        self.configs = [self._config(first, first.seed + i) for i in range(count)]

    def _config(self, first: Config, seed: int) -> Config:
        fixed = [f"seed={seed}", f"ingest.split.seed={first.split_seed}"]
        return load_config(self.path, [*self.overrides, *fixed])

    def run(self) -> dict[str, Any]:
        """Runs what is not up to date; writes table.txt and results.json under ROOT/seeds.

        Returns:
            run_id of the whole, seeds, metrics (name -> Spread as a mapping), table, folder.

        Raises:
            DupletError or a subclass: a run's own sentence; the same command goes on with what is left.
        """
        config, command = self.configs[0], " ".join([self.path, *self.overrides])
        tracking = Tracking.of(config, f"{config.name}: {len(self.configs)} seeds", self.say)
        ended, results = "FAILED", []
        try:
            tracking.tags({"duplet.seeds": str(len(self.configs)), "duplet.command": command})
            for seed_config in self.configs:
                self.say(f"seed {seed_config.seed}")
                again = f"{command} seed={seed_config.seed} ingest.split.seed={seed_config.split_seed}"
                result = flow.run(seed_config, again, "evaluate", self.say)
                results.append(result)
            spreads = {
                name: spread([result.metrics[name] for result in results])
                for name in results[0].metrics
                if all(name in result.metrics for result in results)
            }
            keys = [Path(result.stages["evaluate"]["folder"]).name for result in results]
            folder = self._write(spreads, keys, [result.run_id for result in results])
            tracking.metrics({name: value.mean for name, value in spreads.items()})
            tracking.metrics({f"{name}/deviation": value.deviation for name, value in spreads.items()})
            table = (folder / "table.txt").read_text(encoding="utf-8")
            tracking.describe(
                "The result over all seeds; each has a run below this one:", table, [folder / "table.txt"]
            )
            tracking.artifact(folder / "results.json")
            ended = "FINISHED"
        finally:
            tracking.close(ended)
        return {
            "run_id": tracking.run_id,
            "seeds": [seed_config.seed for seed_config in self.configs],
            "metrics": {name: value._asdict() for name, value in spreads.items()},
            "table": table,
            "folder": str(folder),
        }

    def _write(self, spreads: dict[str, Spread], keys: list[str], runs: list[str | None]) -> Path:
        config, seeds = self.configs[0], [seed_config.seed for seed_config in self.configs]
        folder = config.local_root / "seeds" / f"{config.name}-{atomic_files.digest(keys)[:12]}"
        atomic_files.owners_folder(folder)
        atomic_files.write_text(folder / "table.txt", table_of(config, seeds, spreads))
        metrics = {name: value._asdict() for name, value in spreads.items()}
        results = {"seeds": seeds, "runs": runs, "evaluations": keys, "metrics": metrics}
        atomic_files.write_text(folder / "results.json", atomic_files.as_json(results, indent=1))
        return folder


def table_of(config: Config, seeds: list[int], spreads: dict[str, Spread]) -> str:
    """A line per system and metric: mean, interval, deviation, and the first five seeds' figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = f"{config.name}: test split, {len(seeds)} seeds"
    table.add_column("", no_wrap=True)
    for name in ("mean", "95 % interval", "deviation", *(f"seed {seed}" for seed in seeds[:5])):
        table.add_column(name, justify="right", no_wrap=True)
    for name, value in spreads.items():
        figures = (f"{figure:.4f}" for figure in value.values[:5])
        table.add_row(
            name, f"{value.mean:.4f}", f"{value.low:.3f} to {value.high:.3f}", f"{value.deviation:.4f}", *figures
        )
    return f"{plain(120, table)}\n\n95 % interval: of the mean over seeds, on the same test data\n"
