"""One run: moments, tables, figures and the report."""
