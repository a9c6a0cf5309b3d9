"""The one error that is the user's to mend."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line that names the argument, what was given and what is accepted. The command line
    prints that line alone and exits with status 2; in Python it is an ordinary ``ValueError``.
    """
