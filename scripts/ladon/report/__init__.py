"""Finished runs made readable.

`runs` (metrics.json), `logs` (log files) and `published` (the paper's repository) read results;
everything that is shown is a list of `results.RunResult`. `compare` and `bd` set results side by
side, `tables` and `plots` show them, `files` and `readme` write them.
"""
