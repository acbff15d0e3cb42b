"""The verbs about jobs; see `pipeline.cli.commands`."""
