"""The networks of the study `digits`: a small U-Net for scores, and a smaller one that tells sevens from nines."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion.studies.training import embedding

WIDTHS = (32, 64)  # channels at 14 x 14 (pixels in blocks of 2 x 2) and at 7 x 7


class Block(nn.Module):
    """Residual block of two convolutions, told the noise level in between."""

    def __init__(self, into: int, out: int, told: int):
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(4, into), nn.GroupNorm(4, out)])
        self.convolutions = nn.ModuleList([nn.Conv2d(into, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)])
        self.tell, self.skip = nn.Linear(told, out), nn.Conv2d(into, out, 1) if into != out else nn.Identity()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        h = self.convolutions[0](F.silu(self.norms[0](x))) + self.tell(told)[:, :, None, None]
        return self.skip(x) + self.convolutions[1](F.silu(self.norms[1](h)))


class UNet(nn.Module):
    """v prediction `(B, 1, 28, 28)` for `(x_t, level)`: two resolutions, five residual blocks, 0.4 million parameters."""

    def __init__(self, widths: tuple[int, int] = WIDTHS, told: int = 64):
        super().__init__()
        wide, deep = widths
        self.told = told
        self.read_level = nn.Sequential(nn.Linear(told, told), nn.SiLU(), nn.Linear(told, told), nn.SiLU())
        self.begin = nn.Conv2d(4, wide, 3, padding=1)
        self.encode, self.down = Block(wide, wide, told), nn.Conv2d(wide, deep, 3, 2, 1)
        self.middle = nn.ModuleList([Block(deep, deep, told), Block(deep, deep, told), Block(2 * deep, deep, told)])
        self.up, self.decode = nn.Conv2d(deep, wide, 1), Block(2 * wide, wide, told)
        self.norm, self.end = nn.GroupNorm(4, wide), nn.Conv2d(wide, 4, 3, padding=1)
        nn.init.zeros_(self.end.weight)
        nn.init.zeros_(self.end.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        told = self.read_level(embedding(level, self.told))
        fine = self.encode(self.begin(F.pixel_unshuffle(x, 2)), told)
        coarse = self.middle[0](self.down(fine), told)
        h = self.middle[2](torch.cat([self.middle[1](coarse, told), coarse], 1), told)
        h = self.decode(torch.cat([F.interpolate(self.up(h), scale_factor=2), fine], 1), told)
        return F.pixel_shuffle(self.end(F.silu(self.norm(h))), 2)


class Reader(nn.Module):
    """Log odds of a nine `(N,)` for brightness 0..1 `(N, 1, 28, 28)`."""

    def __init__(self, width: int = 16):
        super().__init__()
        layers = [nn.Conv2d(1, width, 5, 2, 2), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU()]
        layers += [nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * width, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x - 0.3)[:, 0]


def train_reader(reader: Reader, brightness: Tensor, nines: Tensor, *, steps: int, seed: int = 0, batch: int = 64, stop=None) -> dict:
    """Teach it labelled digits, moved by up to two pixels, turned, sheared and resized a little, so that drawn digits are read as well."""
    own = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3, weight_decay=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    torch.manual_seed(seed)  # for dropout
    reader.train()
    for _ in range(steps):
        if stop is not None and stop():
            raise RuntimeError("stopped while the reader was trained")
        chosen = torch.randint(len(brightness), (batch,), generator=own)
        loss = F.binary_cross_entropy_with_logits(reader(moved(brightness[chosen], own)), nines[chosen].float())
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    reader.eval()
    return {"steps": steps, "loss": loss.item()}


def moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """A small random affine map of each image."""
    shift, bend = (torch.rand(len(x), 2, n, generator=generator) * 2 - 1 for n in (1, 2))
    theta = torch.cat([torch.eye(2) + 0.15 * bend, shift * (4 / 28)], 2)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
