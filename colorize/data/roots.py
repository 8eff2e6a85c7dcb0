"""The folder that `data.root` names. Nothing here imports torch, so that a wrong one is refused at once."""

from pathlib import Path

from colorize.config.sections import DataConfig
from colorize.runtime.errors import UserError
from colorize.runtime.files import walk_files
from colorize.runtime.formats import IMAGE_SUFFIXES, has_image_suffix


def check_root(data: DataConfig, val_alone: bool = False) -> None:
    """Make sure that `data.root` has photos, or raise a UserError; with `val_alone`, a tree without train/ will do."""
    if data.kind == "scenes" or is_url(data.root):
        return
    root = existing_folder(data.root)
    if data.kind == "shards":
        return
    if data.kind == "imagenet":
        root = imagenet_tree(root, val_alone)
    found = (name for _, names in walk_files(root, on_error=lambda _: None) for name in names if has_image_suffix(name))
    if next(found, None) is None:
        raise no_images(root)


def is_url(root: str | Path) -> bool:
    """Tell a URL, of shards, from a folder."""
    return "://" in str(root)


def existing_folder(root: str | Path) -> Path:
    """Return `root`, or raise a UserError where it is no folder."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{'not a folder' if root.exists() else 'no such folder'}: {root} (data.root)")
    return root


def imagenet_tree(root: Path, val_alone: bool = False) -> Path:
    """Return the folder in which `train/` and `val/` of an ImageNet tree lie, or raise a UserError."""
    for tree in ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC"):
        if ((root / tree / "train").is_dir() or val_alone) and (root / tree / "val").is_dir():
            return root / tree
    raise UserError(
        f"{root} is not an ImageNet tree: expected train/<class>/*.JPEG and val/ in it, or in ILSVRC/Data/CLS-LOC in "
        "it (for any other layout use data=folder)"
    )


def no_images(folder: Path) -> UserError:
    """Return the error that says that `folder` holds no photos."""
    return UserError(f"no images in {folder} (looked for the extensions {' '.join(IMAGE_SUFFIXES).replace('.', '')})")
