"""Many runs of one configuration: every combination of some settings, or a search over ranges, under one MLflow run.

Optuna (Akiba et al. 2019) proposes and remembers; its database lies under ROOT/sweeps, so that a sweep that was killed
resumes. Stages that trials share, ingest above all, are done once, as always.
"""

import json
import math
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich import box
from rich.table import Table

from pipeline.config import Config, load_config, smaller_is_better
from pipeline.config.axes import axes_of
from pipeline.core import atomic_files
from pipeline.core.errors import DupletError, InputError, TryAgain, one_line
from pipeline.orchestration import flow
from pipeline.reporting.tables import plain
from pipeline.tracking import Tracking
from pipeline.tracking.database import address_of

if TYPE_CHECKING:
    import optuna

STUDY = "sweep"  # its name in Optuna's database


class TrialFailed(Exception):
    """A trial that gives no value, for a reason that is noted; the other trials go on."""


class Trial(NamedTuple):
    """One run of a sweep."""

    settings: dict[str, Any]
    value: float | None  # of the validation metric; None: it failed, and `note` says why
    run_id: str | None
    metrics: dict[str, float]
    seconds: float
    note: str = ""
    evaluation: str = ""  # its folder


def _storage(path: Path) -> "optuna.storages.RDBStorage":
    """Optuna's database in a SQLite file of any name; braces are quoted, as Optuna would fill them in."""
    import optuna

    return optuna.storages.RDBStorage(address_of(path).replace("{", "%7B").replace("}", "%7D"))


class Sweep:
    """A configuration, what is varied and how it is searched."""

    def __init__(self, path: str, overrides: list[str], search: str, trials: int | None, say: flow.Say) -> None:
        """Checks everything that can be wrong before a run begins.

        Raises:
            InputError: nothing is varied, a grid over a range, a search without a number of trials, a wrong setting.
        """
        self.path, self.search, self.say = path, search, say
        self.axes, self.fixed = axes_of(overrides)
        if not self.axes:
            raise InputError("nothing is varied: give a setting several values, model.layers=1,2,3, or a range, 0..0.5")
        ranges = [axis.key for axis in self.axes if not axis.values]
        if search == "grid" and ranges:
            raise InputError(f"{ranges[0]} is a range, which a grid cannot cover: add --search random or bayesian")
        if search != "grid" and trials is None:
            raise InputError(f"--search {search} needs --trials N")
        sizes = math.prod(len(axis.values) for axis in self.axes)
        self.trials = sizes if search == "grid" else int(trials or 0)
        first = {axis.key: axis.values[0] if axis.values else axis.low for axis in self.axes}
        self.config = self._config({key: int(v) if self._whole(key) else v for key, v in first.items()})
        if search == "grid":
            for combination in product(*(axis.values for axis in self.axes)):
                self._config(dict(zip([axis.key for axis in self.axes], combination)))
        identity = {"search": search, "axes": [axis._asdict() for axis in self.axes], "fixed": sorted(self.fixed)}
        key = atomic_files.digest({**identity, "config": Path(path).read_text(encoding="utf-8")})[:12]
        self.folder = self.config.local_root / "sweeps" / f"{self.config.name}-{key}"

    def _whole(self, key: str) -> bool:
        return next(axis.whole for axis in self.axes if axis.key == key)

    def _config(self, settings: dict[str, Any]) -> Config:
        return load_config(self.path, [*self.fixed, *(f"{key}={json.dumps(v)}" for key, v in settings.items())])

    def run(self) -> dict[str, Any]:
        """Runs what is left to run; writes table.txt, results.json and plot.png into `folder`.

        Returns:
            run_id of the sweep, metric, best settings, trials.

        Raises:
            InputError: not one trial could be run.
        """
        import optuna

        atomic_files.owners_folder(self.folder)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with atomic_files.lock(self.folder / "lock"):
            study = self._study()
            tracking = Tracking.of(self.config, f"{self.config.name}: sweep", self.say, goes_on=self._before())
            ended = "FAILED"
            try:
                self._keep(tracking.journal)
                tracking.tags({"duplet.sweep": self.search, "duplet.command": " ".join([self.path, *self.fixed])})
                while (done := len(self._finished(study))) < self.trials:
                    self.say(f"trial {done + 1}/{self.trials}: {self.search}")
                    study.optimize(self._trial, n_trials=1, catch=(TrialFailed,))
                report = self._report(study)
                table = (self.folder / "table.txt").read_text(encoding="utf-8")
                told = "The best trials so far; each has a run below this one:"
                tracking.describe(told, table, [self.folder / "table.txt", self.folder / "plot.png"])
                tracking.artifact(self.folder / "results.json")
                ended = "FINISHED"
            finally:
                tracking.close(ended)
                self._keep(tracking.run_id)
        return {"run_id": tracking.run_id, **report}

    def _keep(self, run: str | None) -> None:
        """Notes the journal of the sweep's run, later its id: a sweep that goes on does so in the same one."""
        if run:
            atomic_files.write_text(self.folder / "run_id", run)

    def _before(self) -> list[str]:
        path = self.folder / "run_id"
        return [path.read_text(encoding="utf-8")] if path.exists() else []

    def _study(self) -> "optuna.Study":
        import optuna

        seed, states = self.config.seed, optuna.trial.TrialState
        sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
        if self.search == "bayesian":
            sampler = optuna.samplers.TPESampler(seed=seed)
        smaller = smaller_is_better(self.config.train.metric)
        database = self.folder / "study.db"
        if not database.exists():  # whole or not at all: a kill would leave tables that Optuna cannot use
            with atomic_files.new_database(database) as new:
                direction = optuna.study.StudyDirection.MINIMIZE if smaller else optuna.study.StudyDirection.MAXIMIZE
                optuna.create_study(study_name=STUDY, storage=_storage(new), direction=direction)
        study = optuna.load_study(study_name=STUDY, storage=_storage(database), sampler=sampler)
        trials = study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == states.RUNNING:
                study.tell(trial.number, state=states.FAIL)
        planned = [trial.params for trial in self._finished(study)]
        planned += [trial.system_attrs["fixed_params"] for trial in trials if trial.state == states.WAITING]
        wanted = [trial.params for trial in trials if trial.params]  # killed ones too, whose stages go on
        if self.search == "grid":
            values = ([json.dumps(value) for value in axis.values] for axis in self.axes)
            wanted += [dict(zip([axis.key for axis in self.axes], combination)) for combination in product(*values)]
        for settings in wanted:
            if settings not in planned:
                planned.append(settings)
                study.enqueue_trial(settings)
        return study

    def _finished(self, study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
        """Trials with a value, or with a note on why there is none."""
        return [t for t in study.get_trials(deepcopy=False) if "seconds" in t.user_attrs]

    def _trial(self, trial: "optuna.Trial") -> float:
        settings = {axis.key: axis.suggest(trial) for axis in self.axes}
        shown = " ".join(f"{key}={value}" for key, value in settings.items())
        self.say(f"sweep: {shown}")
        began = time.monotonic()
        try:
            config = self._config(settings)
            result = flow.run(config, " ".join([self.path, *self.fixed, shown]), "evaluate", self.say)
        except TryAgain:  # interrupted, or a full disk: the same command goes on with this trial
            raise
        except DupletError as error:
            trial.set_user_attr("note", one_line(error))
            trial.set_user_attr("seconds", round(time.monotonic() - began, 2))
            self.say(f"warning: this trial failed and is left out: {error}")
            raise TrialFailed from None
        trained = json.loads((Path(result.stages["train"]["folder"]) / "result.json").read_text(encoding="utf-8"))
        value = float(trained[f"valid/{config.train.metric}"])
        trial.set_user_attr("run_id", result.run_id)
        trial.set_user_attr("metrics", result.metrics)
        trial.set_user_attr("evaluation", str(result.stages.get("evaluate", {}).get("folder", "")))
        trial.set_user_attr("seconds", sum(stage["seconds"] for stage in result.stages.values()))
        return value

    def _report(self, study: "optuna.Study") -> dict[str, Any]:
        from pipeline.reporting import plots

        trials = [self._said(trial) for trial in self._finished(study)]
        good = [trial for trial in trials if trial.value is not None]
        if not good:
            raise InputError(f"not one of {len(trials)} trials could be run; the first: {trials[0].note}")
        smaller = smaller_is_better(self.config.train.metric)
        ordered = sorted(good, key=lambda trial: (trial.value or 0.0) * (1 if smaller else -1))
        table = self._table([*ordered, *(trial for trial in trials if trial.value is None)])
        atomic_files.write_text(self.folder / "table.txt", table)
        results = {
            "metric": self.config.train.metric,
            "best": ordered[0].settings,
            "trials": [t._asdict() for t in ordered],
        }
        atomic_files.write_text(self.folder / "results.json", atomic_files.as_json(results, indent=1))
        rows = [{**trial.settings, "value": trial.value} for trial in good]
        logs = {axis.key for axis in self.axes if axis.log}
        plots.sweep(rows, [axis.key for axis in self.axes], logs, self.config.train.metric, self.folder / "plot.png")
        return {**results, "table": table, "folder": str(self.folder)}

    def _said(self, trial: "optuna.trial.FrozenTrial") -> Trial:
        settings = {
            axis.key: json.loads(trial.params[axis.key]) if axis.values else trial.params[axis.key]
            for axis in self.axes
        }
        attributes = trial.user_attrs
        return Trial(
            settings,
            trial.value,
            attributes.get("run_id"),
            attributes.get("metrics", {}),
            attributes["seconds"],
            attributes.get("note", ""),
            attributes.get("evaluation", ""),
        )

    def _table(self, trials: list[Trial]) -> str:
        metric = self.config.train.metric
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in [*(axis.key for axis in self.axes), f"valid {metric}", f"test {metric}", "seconds"]:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("MLflow run")
        for trial in trials:
            test = trial.metrics.get(f"test/{metric}")
            table.add_row(
                *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in trial.settings.values()),
                "–" if trial.value is None else f"{trial.value:.4f}",
                "–" if test is None else f"{test:.4f}",
                f"{trial.seconds:.0f}",
                trial.note or (trial.run_id or "untracked")[:8],
            )
        return plain(160, table) + "\n"
