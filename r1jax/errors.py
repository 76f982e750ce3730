"""Errors that a person made and can mend."""

import errno


class UserError(Exception):
    """One line: what is wrong, where, what to do. The command line prints it and exits with 2."""

    exit_code = 2


def in_one_line(error: BaseException) -> tuple[str, int] | None:
    """(what to say, exit code) where that is all that a person needs; None = show everything."""
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "stopped; what was saved before is kept", 130
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = error.filename or "the workdir's disk"
        return f"no space left for {where}; make room, then the same command goes on", 2
    return None
