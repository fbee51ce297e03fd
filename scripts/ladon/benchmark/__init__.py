"""The toolkit's gain over the published way: both run side by side, in turn, in one process.

- `parts.py`: what can be measured; a further part is one module with a `measure` and its name there
- `pairing.py`: two ways in turn; `results.py`: what was measured, and its JSON file; `table.py`:
  the same for people
- `workload.py`: models with random weights and small data in the real layouts
- `published.py`: an evaluation as the paper's code does it
- `suite.py`, `suite_report.py`: tests and parts on a GPU, each with a time limit (`gpu.py`)
"""
