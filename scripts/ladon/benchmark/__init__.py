"""What the toolkit gains over the published way: both run side by side, in turn, in one process.

- `parts.py`: what can be measured; a further part is one module with a `measure` and one line there
- `pairing.py`: alternating repeats of two ways, their spread and ratio
- `results.py`: the measurements and their JSON file; `table.py`: the same for people
- `workload.py`: models with random weights and small data in the real layouts
- `published.py`: an evaluation as the paper's code does it
- `suite.py`: tests and parts on a GPU, each with a time limit, and one file about all (`gpu.py`)
"""
