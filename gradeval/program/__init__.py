"""The command line: one file for each command, with what it shows."""
