"""The one error that bad data raises."""


class DataError(ValueError):
    """The text cannot be used: one line that says which file, what is wrong and what to do."""
