"""A small decoder over whole recipes: what is known of a night goes in, changes and scores come out.

Each trial is one vector, and trials are a set: they attend to one another. Questions (a recipe to change, a recipe to
judge) attend to the trials and to nothing else, so a night is read once for as many questions as one likes. Sizes in
shapes: b nights, n trials, m questions; slots: the knobs that a decoder has room for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SEEN = 7  # numbers about a trial beside its recipe (`told`)
ASKED = 3  # about a question (`to_judge`, `to_change`)
HIDDEN = 64
FAR = 4.0  # of a scaled score; what is further off is simply bad

Memory = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Shape:
    """slots: knobs at most; bins: of a knob's range; waves: cosines that tell a place in it."""

    slots: int = 32
    bins: int = 16
    waves: int = 8
    width: int = 128
    layers: int = 5
    heads: int = 4

    @property
    def knob(self) -> int:
        """Numbers about a knob in one night."""
        return 2 * self.waves + 1


@dataclass(frozen=True)
class Night:
    """What was read: effect [b, 1, slots, waves] of each knob by itself; about [b, slots, shape.knob] it; mask
    [b, 1, 1, n]: which trials are there; active [b, slots]: which knobs; the trials as each layer remembers them."""

    effect: Tensor
    about: Tensor
    mask: Tensor
    active: Tensor
    memories: list[Memory]


class Block(nn.Module):
    """Attention of anything to the trials, then a feed-forward layer; each behind a norm and beside a residual.

    A trial counts for the more the nearer its recipe is, along knobs that count in this night (`scales`): a kernel
    whose length scales are read off the night and not fitted to it.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.query, self.memory = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        last = nn.Linear(32, shape.heads)
        nn.init.zeros_(last.weight)
        self.scales = nn.Sequential(nn.Linear(shape.knob, 32), nn.GELU(), last)
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)

    def remembered(self, x: Tensor, points: Tensor, about: Tensor, active: Tensor) -> Memory:
        """Of trials x [b, n, width] at points [b, n, slots]."""
        keys, values = self.memory(self.before(x)).chunk(2, -1)
        scales = F.softplus(self.scales(about)).float().transpose(1, 2) * active[:, None]  # [b, heads, slots]
        places = points.transpose(1, 2)
        with torch.autocast(x.device.type, enabled=False):
            far = (scales @ places**2)[:, :, None]
        return self._split(keys).transpose(2, 3), places[:, None], far, self._split(values), scales

    def forward(self, x: Tensor, points: Tensor, memory: Memory, mask: Tensor) -> Tensor:
        keys, places, far, values, scales = memory
        asked = self._split(self.query(self.before(x))) / math.sqrt(x.shape[-1] / self.heads)
        with torch.autocast(x.device.type, enabled=False):  # squared distances, but for what all trials have in common
            near = (2 * points[:, None] * scales[:, :, None]) @ places - far
        weights = (asked @ keys + near).masked_fill(~mask, -torch.inf).softmax(-1)
        x = x + self.out((weights @ values).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.after(x))))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Decoder(nn.Module):
    """Policy heads over knobs and their bins, and a value head."""

    waves: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width, waves = shape.width, shape.slots * shape.waves
        self.places, self.effects = nn.Linear(waves, width), nn.Linear(waves, width)
        self.seen, self.asked = _two_layers(SEEN, width), _two_layers(ASKED, width)
        self._blocks = [Block(shape) for _ in range(shape.layers)]
        self.blocks = nn.ModuleList(self._blocks)
        self.norm = nn.LayerNorm(width)
        self.enough = nn.Linear(width, 1)
        self.of_night, self.of_knob = nn.Linear(width, HIDDEN), nn.Linear(shape.knob + shape.waves, HIDDEN, bias=False)
        self.choice = nn.Sequential(nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1 + shape.bins))
        self.value = nn.Linear(width, 3)
        self.register_buffer("waves", math.pi * torch.arange(1, shape.waves + 1), persistent=False)

    def read(self, points: Tensor, seen: Tensor, mask: Tensor, active: Tensor) -> Night:
        """points [b, n, slots] in the unit cube; seen [b, n, SEEN] as `told`; mask [b, n]; active [b, slots]."""
        effect, about = self._effects(points, seen, mask, active)
        night = Night(effect, about, mask[:, None, None], active, [])
        x = self._place(points, night) + self.seen(seen)
        for block in self._blocks:
            memory = block.remembered(x, points, about, active)
            night.memories.append(memory)
            if block is not self._blocks[-1]:
                x = block(x, points, memory, night.mask)
        return night

    def ask(self, night: Night, points: Tensor, asked: Tensor) -> Tensor:
        """Questions at points [b, m, slots], asked [b, m, ASKED] -> [b, m, width]."""
        x = self._place(points, night) + self.asked(asked)
        for block, memory in zip(self._blocks, night.memories, strict=True):
            x = block(x, points, memory, night.mask)
        return self.norm(x)

    def changes(self, night: Night, answers: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the knob to change next [b, m, slots + 1], the last of which means none, and of its bin
        [b, m, slots, bins]. Knobs share the head, each by what the night says of it and by where it stands."""
        waves = torch.cos(points[..., None] * self.waves)
        about = torch.cat([night.about[:, None].expand(-1, points.shape[1], -1, -1), waves], -1)
        found = self.choice(self.of_night(answers)[:, :, None] + self.of_knob(about)).float()
        return torch.cat([found[..., 0], self.enough(answers).float()], -1), found[..., 1:]

    def judged(self, answers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each [b, m]: the mean of the scaled score, the logarithm of its deviation, and the log odds of a failure."""
        mean, deviation, fails = self.value(answers).float().unbind(-1)
        return mean, deviation, fails

    def _effects(self, points: Tensor, seen: Tensor, mask: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """How the score goes with each wave of each knob, over all trials that have one."""
        waves = torch.cos(points[..., None] * self.waves) * active[:, None, :, None]
        scored = (mask * seen[..., 2])[..., None, None]
        count = scored.sum(1, keepdim=True).clamp(min=1)
        score = seen[..., 0][..., None, None]
        score = (score - (score * scored).sum(1, keepdim=True) / count) * scored
        score = score / (score.square().sum(1, keepdim=True) / count + 1e-6).sqrt()
        apart = (waves - (waves * scored).sum(1, keepdim=True) / count) * scored
        spread = (apart.square().sum(1, keepdim=True) / count).sqrt()
        effect = (apart * score).sum(1, keepdim=True) / count / (spread + 0.05)
        size = count[:, 0].log().expand(-1, waves.shape[2], -1)
        return effect, torch.cat([effect[:, 0], spread[:, 0], size], -1)

    def _place(self, points: Tensor, night: Night) -> Tensor:
        waves = torch.cos(points[..., None] * self.waves) * night.active[:, None, :, None]
        return self.places(waves.flatten(2)) + self.effects((waves * night.effect).flatten(2))


def _two_layers(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))


def to_judge(points: Tensor) -> Tensor:
    """[b, m, ASKED] of questions what score the recipes at points [b, m, slots] have."""
    return points.new_zeros(*points.shape[:2], ASKED)


def to_change(rank: Tensor, done: Tensor) -> Tensor:
    """[b, m, ASKED] of questions what to change next; rank [b, m]: how good the whole change shall be among random
    ones, 0 the best, 1 the worst; done [b, m, slots]: which knobs are changed already."""
    return torch.stack([torch.ones_like(rank), rank, done.sum(-1) / 3], -1)


def told(
    scores: Tensor, runs: Tensor, scored: Tensor, in_flight: Tensor, failed: Tensor, noise: Tensor, stands: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers about trials [b, n, SEEN], and the lowest score and the unit [b, 1] that they are told in.

    scores [b, n]: means over `runs`, lower is better, read where `scored`; in_flight, failed, stands [b, n]: whether it
    is; noise [b, 1]: the deviation of one run.
    """
    known = torch.where(scored, scores, torch.nan)
    low = torch.where(scored, scores, torch.inf).min(1, keepdim=True).values
    middle = known.nanmedian(1, keepdim=True).values
    clipped = torch.minimum(known, middle + 3 * (middle - low))  # one very bad recipe must not flatten the rest
    unit = (clipped - clipped.nanmean(1, keepdim=True)).square().nanmean(1, keepdim=True).sqrt()
    unit = unit.maximum(0.7 * noise).clamp(min=1e-6)
    score = torch.where(scored, scaled(scores, low, unit), 0)
    luck = torch.where(scored, (noise / unit / runs.sqrt()).clamp(max=FAR), 0)
    numbers = [score, torch.exp(-2 * score) * scored, scored, in_flight, failed, luck, stands]
    return torch.stack([number.float() for number in numbers], -1), low, unit


def scaled(scores: Tensor, low: Tensor, unit: Tensor) -> Tensor:
    """0 is the lowest score; steps near it count for more than steps far above."""
    return torch.asinh((scores - low) / unit).clamp(-FAR, FAR)


def expected_gain(ahead: Tensor, deviation: Tensor) -> Tensor:
    """What lies below the best, of a normal score whose mean is `ahead` of it: expected improvement."""
    z = ahead / deviation
    return ahead * torch.special.ndtr(z) + deviation * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
