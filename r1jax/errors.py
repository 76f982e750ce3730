"""Errors that a person made and can mend."""


class UserError(Exception):
    """One line: what is wrong, where, what to do. The command line prints it and exits with 2."""

    exit_code = 2
