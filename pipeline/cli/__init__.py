"""The command line: `main` with the table of verbs, a module per verb in `commands`, `diagnostics` for doctor."""
