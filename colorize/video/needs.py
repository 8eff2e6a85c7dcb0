"""The packages behind the extra `video`."""

import os

from colorize.runtime.errors import UserError


def require() -> None:
    """Make sure that PyAV and OpenCV are there.

    Raises:
        UserError: they are not.
    """
    try:
        import av
        import cv2  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"films need a package that is not here ({error.name}): pip install 'colorize[video]'"
        ) from error
    av.logging.set_level(None)  # what is wrong with a film is said once, by us
    os.environ.setdefault("SVT_LOG", "1")  # which writes its settings to the terminal otherwise
