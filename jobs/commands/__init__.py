"""The verbs about jobs; see `pipeline.commands`."""
