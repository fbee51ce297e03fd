"""`python -m ladon COMMAND …`, the same as `ladon COMMAND …`."""

from ladon.commands import run

if __name__ == "__main__":
    run()
