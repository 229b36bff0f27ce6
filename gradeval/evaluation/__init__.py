"""REPORT: `evaluate`, the run behind it and the run's folder."""
