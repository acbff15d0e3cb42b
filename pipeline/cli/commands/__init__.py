"""The verbs of the command line, a module each: `arguments(parser)` declares its options, `run(args)` does the work.

`pipeline.cli.main` holds their table and imports the one that is asked for. `run` returns the exit code, or raises a
DupletError, whose sentence and code become the command's own.
"""
