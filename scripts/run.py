"""Any command, a task of your own included: `python scripts/run.py TASK --config …`."""

from ladon.commands import run

if __name__ == "__main__":
    run()
