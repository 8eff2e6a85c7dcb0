"""The log of this program, which `colorize.cli.command` prints on stderr."""

import logging

log = logging.getLogger("colorize")
