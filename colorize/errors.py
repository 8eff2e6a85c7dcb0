"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A wrong option, path, image, checkpoint or weight file.

    Its message is one clear line that names the offending thing and says what to do. Commands print it without a
    traceback and exit with status 1.
    """
