"""The command line: options, generated help, sweeps, and what a command says when it ends."""

import sys

from colorize.runtime import signals

_spec = getattr(sys.modules["__main__"], "__spec__", None)
if _spec is not None and _spec.name.startswith("colorize."):  # python -m colorize.NAME, which imports this first
    signals.while_importing(_spec.name)
