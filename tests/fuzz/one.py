"""One target under atheris: `python -m tests.fuzz.one TARGET [libFuzzer's options] CORPUS`. See run.py."""

import sys

import atheris

with atheris.instrument_imports(include=["pipeline", "jobs"]):
    from tests.fuzz.targets import targets

    target = targets()[sys.argv.pop(1)]
    for seed in target.seeds():  # imports what is imported late, so that it is followed too
        target.run(seed)

atheris.Setup(sys.argv, target.run)
atheris.Fuzz()
