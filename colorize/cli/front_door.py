"""The words after `colorize`: photos to colour, or a command with its options."""

import difflib
import os
import sys
from collections.abc import Sequence

from colorize.cli.command import exit_statuses
from colorize.cli.refusals import right_form
from colorize.config import SCHEMAS
from colorize.runtime.schema import BadOption, literal
from colorize.runtime.version import __version__

HELP = """\
usage: colorize PHOTOS [-o OUTPUT] [key=value …]
       colorize COMMAND [key=value …]

Colour photos and films:
  colorize photo.jpg                                  writes photo_colour.jpg beside it
  colorize *.jpg -o colour                            several photos or folders, into a folder
  colorize scans -o colour saturation=1.2             a folder with all in it; stronger colours
  colorize photo.jpg checkpoint=mine.safetensors      with a generator of your own
  colorize film.mkv -o film.mp4                       a film
  colorize app                                        a page in the browser, to drop them on

Train a generator of your own, measure it, hand it on:
  colorize pipeline run=mine data=folder data.root=PHOTOS        all four steps of the method
  colorize pipeline recipe=demo run=demo                         the same in minutes, on drawn scenes
  colorize train run=mine phase=gan data=folder data.root=PHOTOS resume=auto       a single step, resumed
  colorize evaluate run=mine data=folder data.root=PHOTOS        scores, with intervals and a gallery
  colorize export checkpoint=runs/mine/gan/checkpoints/best.ckpt output=mine.safetensors

Commands: train generate pipeline evaluate predict export app pack. What each takes: colorize COMMAND --help.
Options of photos are those of predict: colorize predict --help. The version: colorize --version.
"""


def command_line(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the command that `words` ask for, and the words to give it; with the help or the version, exit."""
    with exit_statuses("colorize"):
        if not words or words[0] in ("-h", "--help", "help"):
            print(HELP, end="")
        elif words[0] == "--version":
            print(f"colorize {__version__}")
        else:
            return (words[0], list(words[1:])) if words[0] in SCHEMAS else ("predict", photo_options(words))
    sys.exit(0)


def photo_options(words: Sequence[str]) -> list[str]:
    """Return the options of `colorize.predict` for photos, `-o OUTPUT` and options, in any order; `--` ends the latter.

    Raises BadOption for a flag there is not, no photo, or the name of a command misspelt.
    """
    photos, options, rest = list[str](), list[str](), iter(words)
    for word in rest:
        if word == "--":
            photos += rest
        elif word in ("-o", "--output"):
            if (output := next(rest, None)) is None:
                raise BadOption(f"{word}: give a folder for the results, or a file for a single one's")
            options.append(f"output={literal(output)}")
        elif word.startswith("-"):
            raise BadOption(f"{word}: options are key=value: {right_form('predict', word, next(rest, ''))}")
        else:
            (options if "=" in word and not os.path.lexists(word) else photos).append(word)
    gone = [word for word in photos if not os.path.lexists(word) and not set("*?[") & set(word)]
    if gone[:1] == words[:1] and (like := difflib.get_close_matches(words[0], SCHEMAS, n=1)):
        raise BadOption(f"{words[0]}: there is no such command or photo (did you mean colorize {like[0]}?)")
    if photos[1:] == gone and len(gone) == 1 and os.path.splitext(gone[0])[1]:
        raise BadOption(f"{gone[0]} is not there; for a result of this name: -o {gone[0]}")
    if not photos and not any(word.startswith("input=") for word in options):
        raise BadOption(f"{' '.join(words)}: no photo to colour is given")
    return [*([f"input=[{','.join(map(literal, photos))}]"] if photos else []), *options]
