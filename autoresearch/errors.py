"""Errors that are the person's to mend: shown as one line, exit code 2, never as a traceback."""


class UserError(ValueError):
    """What was wrong, where, and what to do about it."""


class StudyBusy(UserError):
    """Another process runs this study already."""


class BaselineFails(UserError):
    """The baseline could not be measured in this night; the next one tries it again."""
