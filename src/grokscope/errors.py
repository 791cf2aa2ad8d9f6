"""The one exception a user may see: a sentence, not a traceback."""


class InputError(ValueError):
    """Bad input. The message names the field, the value and what is allowed; the CLI exits with 2."""
