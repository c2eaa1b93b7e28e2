"""The one error type whose message is meant for the person at the keyboard."""


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, in which file or field, and what to do.

    Every command prints it without a traceback and exits with status 2 (see `metro_t0.command`).
    """
