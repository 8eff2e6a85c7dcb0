"""The one exception that means "the user can mend this", and exceptions as one line."""


class UserError(Exception):
    """A wrong option, path, image, checkpoint or weight file.

    Its message is one clear line that names the offending thing and says what to do. Commands print it without a
    traceback and exit with status 1.
    """


def one_line(error: Exception) -> str:
    """What `error` says, for stderr: its message, or the system's with the names of the files."""
    if isinstance(error, OSError) and error.strerror:
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return f"{error.strerror}: {names}" if names else error.strerror
    return str(error) or type(error).__name__
