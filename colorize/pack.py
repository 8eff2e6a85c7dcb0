"""Pack photos into tars with an index, for data=shards: training on millions of them.

python -m colorize.pack data.root=PHOTOS output=SHARDS
python -m colorize.pack data.root=PHOTOS output=SHARDS short_px=256 deduplicate=true data.num_workers=8

Unreadable photos are left out and named. Started again, it resumes where it stopped.
"""

from pathlib import Path

from colorize.cli.command import run_command
from colorize.config import PackConfig
from colorize.data.roots import existing_folder
from colorize.runtime.files import locked


def run(config: PackConfig) -> None:
    """Write shards and index."""
    existing_folder(config.data.root)
    from colorize.data.packing import pack

    with locked(Path(config.output)):
        pack(config, Path(config.output))


if __name__ == "__main__":
    run_command("pack", run)
