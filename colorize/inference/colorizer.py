"""Colorizer: a trained generator in, photos in colour out. Knows nothing of Lightning."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from colorize.color import scale_chroma
from colorize.inference.palette import palette
from colorize.networks.encoder import MIN_SIZE_PX
from colorize.networks.folding import prepare
from colorize.networks.generator import Generator
from colorize.networks.preprocessing import Preprocessing
from colorize.photos import reading
from colorize.photos.hints import Hint
from colorize.photos.opening import UnreadableImage
from colorize.photos.reading import Photo
from colorize.photos.rendering import coloured
from colorize.runtime.devices import HALF_DTYPES, autocast, exact_convolutions, pick_device, pick_precision, place
from colorize.runtime.errors import UserError, brief, is_out_of_memory
from colorize.runtime.log import log
from colorize.weights.load import load_weights

Array = np.ndarray[Any, Any]
Source = Image.Image | Array | str | os.PathLike[str]

TTA_SCALE = 0.75
"""The second size of test-time augmentation, as a share of the first."""


class Colorizer:
    """Colours photos with a trained generator.

    The photo's luma stays as it is, at full resolution; the network sees a small copy and gives the chroma, which is
    brought to the photo's size and, where a colour does not exist at that luma, made less saturated.

    The network is taken over: it is made ready for inference in place (`colorize.networks.folding`), and moves to the
    device: auto (a GPU where there is one), cpu, cuda, cuda:N or mps. `preprocessing` is how it was taught to see
    photos, `title` what it is, for people to read. The precision is auto (bf16-mixed where the device is fast at it,
    which moves an 8-bit value by less than one on average, else 32-true), 32-true (exact float32: no TF32), bf16-mixed
    or 16-mixed.

    Raises UserError where the machine has no such device, or the device no such precision.
    """

    def __init__(
        self,
        network: Generator,
        preprocessing: Preprocessing,
        device: str | torch.device = "auto",
        precision: str = "auto",
        title: str = "a generator",
    ) -> None:
        self.preprocessing, self.title = preprocessing, title
        self.device = _device(str(device))
        self.precision = pick_precision(precision, self.device, "precision")
        self.network = place(prepare(network.eval(), HALF_DTYPES.get(self.precision, torch.float32)), self.device)
        self._most_pixels: int | None = None

    @property
    def at_once(self) -> int:
        """Photos that go through the network together, where nothing else is said."""
        return 1 if self.device.type == "cpu" else 8

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str] = "bundled",
        device: str | torch.device = "auto",
        precision: str = "auto",
        use_ema: bool = True,
    ) -> "Colorizer":
        """Load a file of weights, recognised by its content; nothing in it is executed.

        The path is of a checkpoint of `colorize.train`, an export of this program (safetensors), or a file of DeOldify
        or fastai; the word "bundled" is the generator that comes with this program. Device and precision are as for the
        class. `use_ema`: of a checkpoint with averaged weights take these, otherwise those of the last step.

        Raises UserError where the file is none of these, or damaged; no generator is bundled; no such device or
        precision.
        """
        loaded = load_weights(path, use_ema)
        return cls(loaded.network, loaded.preprocessing, device, precision, loaded.title + loaded.origin)

    @overload
    def colorize(
        self,
        image: Array,
        render_px: int | None = ...,
        tta: bool = ...,
        keep_color: bool = ...,
        saturation: float = ...,
        hints: Sequence[Hint] = ...,
    ) -> Array: ...

    @overload
    def colorize(
        self,
        image: Image.Image | str | os.PathLike[str],
        render_px: int | None = ...,
        tta: bool = ...,
        keep_color: bool = ...,
        saturation: float = ...,
        hints: Sequence[Hint] = ...,
    ) -> Image.Image: ...

    def colorize(
        self,
        image: Source,
        render_px: int | None = None,
        tta: bool = False,
        keep_color: bool = False,
        saturation: float = 1.0,
        hints: Sequence[Hint] = (),
    ) -> Image.Image | Array:
        """Colour one photo, at its own size.

        Args:
            image: a Pillow image of any mode; an array, uint8 of shape (H, W) or (H, W, 3), grey or RGB, or uint16 of
                shape (H, W); or the path of a photo. Colours it has, such as sepia, are taken for grey. A file
                is turned upright as its EXIF says, a Pillow image is taken as it stands.
            render_px: short side of what the network is shown; None: what the checkpoint was trained with. Larger
                values give finer, often duller colour.
            tta: average the chroma over the photo and its mirror image, at two sizes (four times the work).
            keep_color: return a photo that has colours of its own as it is; one in a single tone is coloured.
            saturation: the network's chroma is multiplied by this: 0 gives grey. Beyond about 1.3 many colours do not
                exist at their luma, and are as strong as they can be there: differences between them are lost.
            hints: colours that you know of points: what is around them and looks alike follows. A photo with hints is
                coloured whatever colours it has.

        Returns:
            For an image or a path a Pillow image, RGB, or RGBA where it has transparency, without metadata; for an
            array an RGB array (H, W, 3) of its own type.

        Raises:
            UserError: the file cannot be read, or memory does not suffice even at the smallest size.
            ValueError: an array of another shape or type, an empty image, render_px below 32, saturation below 0, or a
                hint outside of the photo.
        """
        return self.colorize_batch([image], render_px, tta, keep_color, saturation, [hints])[0]

    def colorize_batch(
        self,
        images: Sequence[Source],
        render_px: int | None = None,
        tta: bool = False,
        keep_color: bool = False,
        saturation: float = 1.0,
        hints: Sequence[Sequence[Hint]] | None = None,
    ) -> list[Any]:
        """Colour several photos; those that the network sees at the same size go through it together.

        Arguments, exceptions and each result are as for `colorize`, `hints` a list for each photo. Photos that go
        together have the same colours as they have alone, but for rounding.
        """
        known = [()] * len(images) if hints is None else hints
        found = [_as_photo(image, keep_color, own) for image, own in zip(images, known, strict=True)]
        rendered = iter(self.render([photo for photo in found if photo.own is None], render_px, tta, saturation))
        results = []
        for image, photo in zip(images, found, strict=True):
            made = coloured(photo, next(rendered) if photo.own is None else None)
            results.append(made.to_array() if isinstance(image, np.ndarray) else made.to_image())
        return results

    def render(
        self, photos: Sequence[Photo], render_px: int | None = None, tta: bool = False, saturation: float = 1.0
    ) -> list[Array]:
        """Run the network on photos: the part of `colorize_batch` that computes on the device.

        Each result is (3, h, w) float32, nominally in [0, 1], all finite; only its chroma counts.

        Where memory runs out, fewer photos go at a time, then a photo is rendered at half the size, and a warning says
        so. Raises UserError where memory does not suffice even at the smallest size, or the network's values are not
        finite; ValueError where render_px is below 32, or saturation below 0.
        """
        if not 0 <= saturation < float("inf"):
            raise ValueError(f"saturation={saturation}: at least 0")
        asked_px = self.preprocessing.render_px if render_px is None else render_px
        if asked_px < MIN_SIZE_PX:
            raise ValueError(f"render_px={asked_px}: at least {MIN_SIZE_PX}")
        same_size: dict[tuple[int, int], list[int]] = {}
        for index, photo in enumerate(photos):
            same_size.setdefault(self.preprocessing.shown_size(*photo.size, asked_px), []).append(index)
        rendered: dict[int, Array] = {}
        for indices in same_size.values():
            made = self._with_what_memory_there_is([photos[index] for index in indices], asked_px, tta)
            for index, rgb in zip(indices, made, strict=True):
                if saturation != 1:  # before the gamut's rule, which comes last, for photos as for films
                    rgb = scale_chroma(rgb, saturation)
                rendered[index] = self._corrected(photos[index], rgb).numpy()
        return [rendered[index] for index in range(len(photos))]

    def _corrected(self, photo: Photo, rgb: Tensor) -> Tensor:
        if not photo.hints:
            return rgb
        from colorize.inference.spreading import spread  # and SciPy, for who has hints

        height, width = rgb.shape[-2:]
        grey = self.preprocessing.show(photo.grey(), (width, height))[:, :height, :width]
        return spread(rgb, grey, photo.hints, photo.size)

    def likely_colors(self, image: Source, x: float, y: float, n: int = 6) -> list[tuple[int, int, int]]:
        """Return up to `n` colours for a point of a photo, to choose a hint's from: sRGB of its luma, 0 to 255.

        The network's own comes first, then, of a network that predicts a distribution, what it holds likely. `x` and
        `y` are as of a hint. Raises as `colorize`.
        """
        photo = _as_photo(image, False, [hint := Hint(x, y, None)])
        size = self.preprocessing.shown_size(*photo.size, self.preprocessing.render_px)
        grey = self.preprocessing.show(photo.grey(), size)
        with self._numbers():
            made = self.network(grey[None].to(self.device), detailed=True)
        return palette(self.network.head, made, grey, *hint.pixel(photo.size, size), n)

    def _with_what_memory_there_is(self, photos: list[Photo], render_px: int, tta: bool) -> list[Tensor]:
        width, height = self.preprocessing.shown_size(*photos[0].size, render_px)
        count = len(photos)
        if self._most_pixels is not None:
            count = max(1, min(count, self._most_pixels // (width * height)))
        if count == len(photos):
            try:
                return self._network_rgb(photos, (width, height), tta)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                said = brief(error)
            # Only out of the except block are the failed pass's tensors let go.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            if count == 1:
                name, smaller_px = photos[0].name, render_px // 2
                if smaller_px < MIN_SIZE_PX:
                    raise UserError(
                        f"{name}: memory ran out even at render_px={render_px} ({said}): free some, or set device=cpu"
                    )
                log.warning(f"memory ran out: {name} is rendered at {smaller_px} px instead of {render_px}")
                return self._with_what_memory_there_is(photos, smaller_px, tta)
            count = (count + 1) // 2
            self._most_pixels = count * width * height
            log.warning(f"memory ran out with {len(photos)} photos at once: going on with {count}")
        pieces = [photos[start : start + count] for start in range(0, len(photos), count)]
        return [made for piece in pieces for made in self._with_what_memory_there_is(piece, render_px, tta)]

    def _network_rgb(self, photos: list[Photo], size: tuple[int, int], tta: bool) -> list[Tensor]:
        """Return one pass, or the mean of four: (3, height, width) each, on the CPU."""
        sizes, mirrored = [size], [False]
        if tta:
            second = (max(1, round(size[0] * TTA_SCALE)), max(1, round(size[1] * TTA_SCALE)))
            sizes, mirrored = [size, second], [False, True]
        greys = [photo.grey() for photo in photos]
        passes: list[Tensor] = []
        for width, height in sizes:
            batch = torch.stack([self.preprocessing.show(grey, (width, height)) for grey in greys]).to(self.device)
            for mirror in mirrored:
                rgb = self._forward(batch.flip(-1)).flip(-1) if mirror else self._forward(batch)
                rgb = rgb[..., :height, :width]
                if (width, height) != size:
                    rgb = interpolate(rgb, (size[1], size[0]), mode="bicubic", align_corners=False)
                passes.append(rgb)
        mean = torch.stack(passes).mean(dim=0).cpu()
        for photo, rgb in zip(photos, mean, strict=True):
            if not rgb.isfinite().all():
                raise UserError(f"{photo.name}: the network's colours are not numbers: try precision=32-true")
        return list(mean)

    def _forward(self, grey: Tensor) -> Tensor:
        with self._numbers():
            rgb = self.network(grey.contiguous(memory_format=torch.channels_last)).float()
        return rgb.clamp(0, 1) if self.preprocessing.deoldify else rgb

    @contextmanager
    def _numbers(self) -> Iterator[None]:
        """Set the precision that was chosen; 32-true means it, also where cuDNN would use TF32."""
        exact = exact_convolutions(self.device) if self.precision == "32-true" else nullcontext()
        with torch.inference_mode(), autocast(self.precision, self.device), exact:
            yield


def _device(word: str) -> torch.device:
    match = re.fullmatch(r"(auto|cpu|gpu|cuda|mps)(?::([0-9]+))?", word)
    if match is None:
        raise UserError(f"device={word} is not known: use auto, cpu, cuda, cuda:N or mps")
    kind = pick_device(match[1], "device").type
    if match[2] is None:
        return torch.device(kind)
    if int(match[2]) >= (torch.cuda.device_count() if kind == "cuda" else 1):
        raise UserError(f"device={word}: this machine has fewer; they are numbered from 0")
    return torch.device(kind, int(match[2]))


def _as_photo(image: Source, keep_color: bool, hints: Sequence[Hint]) -> Photo:
    keep_color = keep_color and not hints
    if isinstance(image, Image.Image):
        photo = reading.from_image(image, keep_color)
    elif isinstance(image, np.ndarray):
        photo = reading.from_array(image, keep_color)
    else:
        try:
            photo = reading.read(Path(image), keep_color)
        except UnreadableImage as error:
            raise UserError(f"{image}: {error}") from error
    for hint in hints:
        hint.check_inside(*photo.size)
    return replace(photo, hints=tuple(hints))
