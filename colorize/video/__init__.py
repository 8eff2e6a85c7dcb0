"""Films: decoding, colouring along time, and encoding with all that came with the frames."""

import os

from colorize.runtime.errors import missing_packages_told


def require_packages() -> None:
    """Make sure that PyAV and OpenCV, the extra `video`, are there; raise UserError where they are not."""
    with missing_packages_told():
        import av
        import cv2
    cv2.setNumThreads(1)  # the stages of a film have threads of their own, and its waiting ones would take their cores
    av.logging.set_level(None)  # what is wrong with a film is said once, by us
    os.environ.setdefault("SVT_LOG", "1")  # which writes its settings to the terminal otherwise
