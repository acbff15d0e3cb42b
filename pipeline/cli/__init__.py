"""The command line: `main` with the list of verbs, a module per verb in `commands`, `diagnostics` for doctor."""
