"""Runs grouped by setting, and whether their differences are real."""
