"""Finished runs made readable: `runs` reads, `tables` and `plots` show, `files` writes them.

Everything shown is a list of `runs.RunResult`; a new source of results (published logs, another
method) is one more function that returns such a list.
"""
