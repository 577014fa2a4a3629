"""``python -m studies.crash_test``: the command line of `study`."""

from archlab.experiments import command

from . import study

if __name__ == "__main__":
    command(study)
