"""What an error is told on its way to the user, and what a command that was cut ends with."""

TRY_AGAIN = 75  # the exit status, by convention, of what may succeed when it is called again


def add_note(error: BaseException, note: str) -> None:
    """Say more about `error`: ``error.add_note(note)``, which Python has from 3.11 on.

    Python 3.10 keeps the note too, but prints it with no traceback; pytest and the command line do.

    >>> error = ValueError("no")
    >>> add_note(error, "raised in the model itself (Net)")
    >>> error.__notes__
    ['raised in the model itself (Net)']
    """
    error.__dict__.setdefault("__notes__", []).append(note)
