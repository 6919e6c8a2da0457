"""The formulas of one job: `performance` and `quality` are pure; `scoring` runs the judges that make their sums."""
