"""`colorize photo.jpg`, `colorize COMMAND key=value …`: what the words mean stands in `colorize.cli.front_door`."""

import runpy
import sys

from colorize.cli.front_door import command_line


def main() -> None:
    """Run a command, as `python -m colorize.COMMAND` does, processes that it starts included."""
    name, sys.argv[1:] = command_line(sys.argv[1:])
    runpy.run_module(f"colorize.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
