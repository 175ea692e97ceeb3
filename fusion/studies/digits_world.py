"""What the study `digits` has before it sees a target: reader, members, their calibration, samples and likelihoods."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fusion.calibration import Calibration
from fusion.evaluation.nll import log_density
from fusion.gram import ResidualGram
from fusion.objective import residual_gram
from fusion.studies import digits_data
from fusion.studies.chains import drawn
from fusion.studies.digits_data import SEVENS, Split
from fusion.studies.digits_network import Reader, UNet, train_reader
from fusion.studies.shelf import Shelf
from fusion.studies.training import Noise, even_path, noise_of, remembered, stacked, train

PATH = even_path(-9.0, 6.0)
STRATA = torch.linspace(*PATH.range, 13, dtype=torch.float64)
NAMES = tuple(SEVENS)  # "10 %", ...


class World:
    """Members `networks` and their noise predictions `members`, computed in bfloat16; their `calibration`; the `reader`.

    `likelihood` (K, images): log densities in nats of the evaluation images; `pictures` (K, samples, ...): the members' own samples, z.
    """

    def __init__(self, given: Split, size, shelf: Shelf):
        self.given, self.size, self.shelf = given, size, shelf
        self.reader = self._taught()
        self.networks = [self._trained(name, images) for name, images in zip(NAMES, given.members)]
        self.members = [noise_of(network, PATH, half=True) for network in self.networks]
        self.calibration = self._calibrated()
        self.evaluation = digits_data.encode(given.evaluation[: size.nll_images], torch.Generator().manual_seed(2))
        self.likelihood = shelf.part("likelihood", lambda: {"log": np.stack([self.density(one) for one in self.members])})["log"]
        self.pictures = shelf.part("pictures", lambda: {"z": np.stack([self.draw([one], 50) for one in self.members])})["z"]

    parts = 2  # of the shelf, beside the targets

    def facts(self) -> dict:
        """Plain values about the members and the reader."""
        members = {name: {"nll": self.bits(log), "sevens": self.sevens(self.called_nine(z))}
                   for name, log, z in zip(NAMES, self.likelihood, self.pictures)}  # fmt: skip
        return {"member_images": len(self.given.members[0]), "reader_accuracy": self.accuracy, "members": members}

    # -------------------------------------------------------------------------------------------- made once

    def _taught(self) -> Reader:
        torch.manual_seed(0)
        reader, (images, nines), (checked, truth) = Reader(), self.given.reader, self.given.check
        brightness = lambda pixels: (pixels.float() + 0.5) / 256  # noqa: E731
        self.shelf.tell("teaching the reader")
        fit = lambda: train_reader(reader, brightness(images), nines, steps=self.size.steps_reader, stop=self.shelf.stop)  # noqa: E731
        remembered(reader, self.shelf.file("reader"), fit)
        called = torch.cat([reader(part) > 0 for part in brightness(checked).split(256)])
        self.rates = tuple(float(called[truth == nine].float().mean()) for nine in (0, 1))  # called nine, of sevens and of nines
        self.accuracy = float((called == (truth == 1)).float().mean())
        return reader

    def _trained(self, name: str, images: Tensor) -> UNet:
        torch.manual_seed(7)  # one initialisation for all, without which merging them would be hopeless from the start
        network, draw = UNet(self.size.widths), lambda chosen, own: digits_data.encode(images[chosen], own)
        self.shelf.tell(f"training the member with {name} sevens")
        fit = lambda: train(network, PATH, draw, len(images), steps=self.size.steps_member, lr=4e-3, seed=7,  # noqa: E731
                            progress=lambda done, total, _: self.shelf.tell(f"member with {name} sevens: step {done} of {total}"),
                            stop=self.shelf.stop)  # fmt: skip
        return remembered(network, self.shelf.file(f"member-{name.split()[0]}"), fit)

    def _calibrated(self) -> Calibration:
        file = self.shelf.file("calibration")
        if not file.is_file():
            self.shelf.tell("calibrating")
            Calibration.from_grams([self.gram(images, 100 + k) for k, images in enumerate(self.given.calibration)]).save(file)
        return Calibration.load(file)

    # -------------------------------------------------------------------------------------------- measuring

    def gram(self, pixels: Tensor, seed: int) -> ResidualGram:
        """The members' statistic on these images, over the whole path, as the paper fits them. RuntimeError when stopped."""
        z = digits_data.encode(pixels, torch.Generator().manual_seed(seed))
        gram = residual_gram(stacked(self.members), z, PATH, STRATA, generator=torch.Generator().manual_seed(seed), names=NAMES,
                             stop=self.shelf.stop)  # fmt: skip
        if len(gram) < len(pixels):
            raise RuntimeError("stopped while fitting")
        return gram

    def density(self, noise: Noise) -> np.ndarray:
        """`(images,)` log densities in nats of the evaluation images as bytes; the same dequantisation and probes for every model."""
        log = log_density(noise, PATH, self.evaluation, steps=self.size.steps_nll, generator=torch.Generator().manual_seed(3),
                          stop=self.shelf.stop)  # fmt: skip
        return (log + digits_data.log_volume(self.evaluation)).numpy()

    @staticmethod
    def bits(log: np.ndarray) -> float:
        """Bits per pixel of log densities in nats."""
        return float(-log.mean() / (28 * 28 * np.log(2)))

    def draw(self, members: list[Noise], seed: int, weights=None, **ways) -> np.ndarray:
        """z of `size.samples` samples."""
        shape, weights = (self.size.samples, 1, 28, 28), np.ones(1) if weights is None else weights
        return drawn(members, PATH, weights, shape, self.size.steps_sample, seed=seed, stop=self.shelf.stop, **ways).numpy()

    def called_nine(self, z: np.ndarray) -> np.ndarray:
        """Which samples the reader calls nines."""
        with torch.no_grad():
            return (self.reader(digits_data.decode(torch.from_numpy(z))) > 0).numpy()

    def sevens(self, called_nine: np.ndarray) -> float:
        return share_of_sevens(called_nine, self.rates)


def share_of_sevens(called_nine: np.ndarray, rates: tuple[float, float]) -> float:
    """Share of sevens among samples that the reader called nines or not, corrected for how often it calls sevens and nines so."""
    of_sevens, of_nines = rates
    return float(np.clip(1 - (called_nine.mean() - of_sevens) / (of_nines - of_sevens), 0, 1))
