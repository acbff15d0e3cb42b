"""How good a model is: metrics, rankings, baselines, intervals, tables and pictures."""
