"""Predictions for texts, rows and files."""
