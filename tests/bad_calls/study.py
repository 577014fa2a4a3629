"""A small study, which is asked for wrongly."""

ROWS = ["a"]
PRESETS = ("smoke",)


def cell(row, preset, seed, scratch):
    return {"value": seed}


def report(rows, folder):
    pass
