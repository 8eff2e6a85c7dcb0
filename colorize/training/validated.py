"""The means of a validation over its photos, whichever rank had how many of them."""

from collections.abc import Mapping

from torch import Tensor

from colorize import ranks


class Validated:
    """Sums up the figures of batches, without waiting for the device.

    Lightning takes the mean of the ranks' numbers of photos as a whole number: of 3 and 2 photos it makes 2, and so
    figures that are a quarter too large.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.photos: dict[str, int] = {}

    def add(self, group: str, terms: Mapping[str, Tensor], photos: int) -> None:
        """Take in means over a batch of `photos`, to be called GROUP/NAME."""
        for term, mean in terms.items():
            name, total = f"{group}/{term}", mean.detach().float() * photos
            self.sums[name] = self.sums[name] + total if name in self.sums else total
            self.photos[name] = self.photos.get(name, 0) + photos

    def means(self) -> dict[str, float]:
        """Over the photos of all ranks, each of which has to call it. A rank may have had none."""
        own = {name: (float(total), self.photos[name]) for name, total in self.sums.items()}
        parts = ranks.gathered(own)
        found: dict[str, float] = {}
        for name in dict.fromkeys(name for part in parts for name in part):
            pairs = [part[name] for part in parts if name in part]
            found[name] = sum(total for total, _ in pairs) / sum(photos for _, photos in pairs)
        return found
