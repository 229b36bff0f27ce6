"""Two runs: the baseline file, the tests of change, and their formats."""
