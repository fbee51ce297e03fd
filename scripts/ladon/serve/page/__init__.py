"""The page at the server's root: a picture goes in, and people see what becomes of it.

`routes` are its paths; `results` says what it shows of a picture, `samples` are pictures to begin
with, and `files` are what the browser gets. It needs nothing from elsewhere.
"""
