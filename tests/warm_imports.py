"""Imported once by the process that `warm` forks others from: what every run imports."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a library's, about a library
    from ladon.config.validate.registries import load_libraries

    load_libraries()
