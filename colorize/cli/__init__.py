"""The command line: options, generated help, sweeps, and what a command says when it ends."""

import os
import sys

from colorize.runtime import signals

# A command imports this first. It is `python -m colorize.NAME`, `python -m colorize`, or the script of that name.
_spec = getattr(sys.modules["__main__"], "__spec__", None)
_program = (_spec.name if _spec else os.path.basename(sys.argv[0])).removesuffix(".__main__")
if _program.partition(".")[0] == "colorize":
    signals.while_importing(_program)
