"""Colorizer: a trained generator in, photos in colour out. Knows nothing of Lightning, and of PyTorch no more."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from colorize.color import Plane, scale_chroma
from colorize.inference.backends import Backend, chosen_backend
from colorize.inference.palette import palette
from colorize.networks.options import MIN_SIZE_PX
from colorize.networks.preprocessing import Preprocessing
from colorize.photos import reading
from colorize.photos.hints import Hint
from colorize.photos.opening import UnreadableImage
from colorize.photos.reading import Photo
from colorize.photos.rendering import coloured
from colorize.runtime.errors import UserError, brief, is_out_of_memory, missing_packages_told
from colorize.runtime.log import log
from colorize.weights.bundled import find_weights

Source = Image.Image | Plane | str | os.PathLike[str]

TTA_SCALE = 0.75  # the second size of test-time augmentation, as a share of the first


class Colorizer:
    """Colours photos with a trained generator.

    The photo's luma stays as it is, at full resolution; the network sees a small copy and gives the chroma, which is
    brought to the photo's size and, where a colour does not exist at that luma, made less saturated.

    `backend` computes the network, `preprocessing` is how it was taught to see photos, `title` what it is, for people
    to read.
    """

    def __init__(self, backend: Backend, preprocessing: Preprocessing, title: str = "a generator") -> None:
        self.backend, self.preprocessing, self.title = backend, preprocessing, title
        self._most_pixels: int | None = None

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str] = "bundled",
        device: str = "auto",
        precision: str = "auto",
        use_ema: bool = True,
        backend: str = "auto",
    ) -> "Colorizer":
        """Load a file of weights, recognised by its content; nothing in it is executed.

        The path is of a checkpoint of `colorize.train`, an export of this program (safetensors or ONNX), or a file of
        DeOldify or fastai; the word "bundled" is the generator that comes with this program. Device and precision are
        as for `colorize.inference.torch_backend.TorchBackend`. `use_ema`: of a checkpoint with averaged weights take
        these, otherwise those of the last step. The backend is auto, torch or onnx (`chosen_backend`).

        Raises UserError where the file is none of these, or damaged; no generator is bundled; no such device or
        precision; the backend does not read the file, or has no such device or precision.
        """
        kind, file = chosen_backend(backend, find_weights(path), device, precision)
        if kind == "onnx":
            from colorize.inference.onnx_backend import OnnxBackend

            onnx = OnnxBackend(file)
            return cls(onnx, onnx.stated.preprocessing, onnx.stated.title)
        from colorize.inference.torch_backend import TorchBackend
        from colorize.weights.load import load_weights

        loaded = load_weights(file, use_ema)
        made = TorchBackend(loaded.network, device, precision)
        return cls(made, loaded.preprocessing, loaded.title)

    @overload
    def colorize(
        self,
        image: Plane,
        render_px: int | None = ...,
        tta: bool = ...,
        keep_color: bool = ...,
        saturation: float = ...,
        hints: Sequence[Hint] = ...,
    ) -> Plane: ...

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
    ) -> Image.Image | Plane:
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
    ) -> list[Plane]:
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
        rendered: dict[int, Plane] = {}
        for indices in same_size.values():
            made = self._with_what_memory_there_is([photos[index] for index in indices], asked_px, tta)
            for index, rgb in zip(indices, made, strict=True):
                if saturation != 1:  # before the gamut's rule, which comes last, for photos as for films
                    rgb = scale_chroma(rgb, saturation)
                rendered[index] = self._corrected(photos[index], rgb)
        return [rendered[index] for index in range(len(photos))]

    def _corrected(self, photo: Photo, rgb: Plane) -> Plane:
        if not photo.hints:
            return rgb
        with missing_packages_told():
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
        return palette(self.backend.likely(grey), grey, *hint.pixel(photo.size, size), n)

    def _with_what_memory_there_is(self, photos: list[Photo], render_px: int, tta: bool) -> list[Plane]:
        width, height = self.preprocessing.shown_size(*photos[0].size, render_px)
        count = len(photos)
        if self._most_pixels is not None:
            count = max(1, min(count, self._most_pixels // (width * height)))
        if count == len(photos):
            try:
                return self._network_rgb(photos, (width, height), tta)
            except Exception as error:  # of each backend's own class
                if not is_out_of_memory(error):
                    raise
                said = brief(error)
            # Only out of the except block are the failed pass's tensors let go.
            self.backend.free_memory()
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

    def _network_rgb(self, photos: list[Photo], size: tuple[int, int], tta: bool) -> list[Plane]:
        """Return one pass, or the mean of four: (3, height, width) each."""
        sizes, directions = [size], [1]
        if tta:
            second = (max(1, round(size[0] * TTA_SCALE)), max(1, round(size[1] * TTA_SCALE)))
            sizes, directions = [size, second], [1, -1]  # backwards: the mirror image
        greys = [photo.grey() for photo in photos]
        passes: list[Plane] = []
        for width, height in sizes:
            batch = np.stack([self.preprocessing.show(grey, (width, height)) for grey in greys])
            for step in directions:
                rgb = self.backend.run(batch[..., ::step])[..., ::step]
                rgb = rgb.clip(0, 1) if self.preprocessing.deoldify else rgb
                passes.append(_resized(rgb[..., :height, :width], size))
        mean = passes[0] if len(passes) == 1 else np.mean(passes, axis=0)
        for photo, rgb in zip(photos, mean, strict=True):
            if not np.isfinite(rgb).all():
                raise UserError(f"{photo.name}: the network's colours are not numbers: try precision=32-true")
        return list(mean)


def _resized(rgb: Plane, size: tuple[int, int]) -> Plane:
    """Bring a batch, (B, 3, h, w), to a width and height, bicubic."""
    if rgb.shape[:-3:-1] == size:
        return rgb
    planes = [
        np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC)) for image in rgb for plane in image
    ]
    return np.stack(planes).reshape(*rgb.shape[:2], *size[::-1])


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
