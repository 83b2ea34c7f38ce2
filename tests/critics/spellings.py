"""Ways to write piecewise linear critics, each with its trap."""

import torch
import torch.nn.functional as F
from torch import nn

from critics.architectures import dcgan
from critics.zoo import Call, conv, entry, stem_and_head


@entry("ties at hardtanh, clamp, maximum, relu6")
def ties() -> nn.Module:
    def forward(self, x):
        x = F.hardtanh(x)
        x = torch.maximum(x, torch.zeros_like(x)) + torch.minimum(x, -x.clamp(-1, 0.5))
        h = F.relu6(6 * self.stem(x.clamp(min=-1)))
        return self.head(h.clip(0, 3).clamp_max(2) + h.abs())

    return Call(forward, **stem_and_head())


@entry("maximum of two branches")
def maximum_of_branches() -> nn.Module:
    def forward(self, x):
        h = torch.maximum(self.stem(x), self.other(x))
        h = torch.max(h, -h.flip(1))
        return self.head(torch.where(h > 0.1, h, 0.5 * h + 0.05))

    return Call(forward, **stem_and_head(other=conv(3, 6, stride=2)))


@entry("shared layer called twice")
def shared_layer() -> nn.Module:
    def forward(self, x):
        h = F.relu(self.shared(F.relu(self.stem(x))))
        h = F.relu(self.shared(h) + h)
        return self.head(h) + 2 * self.head(h.flip(3))

    return Call(forward, **stem_and_head(shared=conv(6, 6)))


@entry("frozen layers")
def frozen_layers() -> nn.Module:
    critic = dcgan()
    critic[0].weight.requires_grad_(False)
    critic[4].bias.requires_grad_(False)
    return critic


@entry("pixel unshuffle stem")
def pixel_unshuffle() -> nn.Module:
    return nn.Sequential(
        nn.PixelUnshuffle(2), conv(12, 8), nn.LeakyReLU(0.2), nn.PixelShuffle(2), conv(2, 2), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2 * 64, 1),
    )  # fmt: skip


@entry("in-place operations")
def in_place() -> nn.Module:
    def forward(self, x):
        h = self.stem(x)
        h += self.bias.weight.view(1, 6, 1, 1)
        skip = h.clone()
        h *= 2
        F.relu_(h)
        h = self.middle(h)
        h.add_(skip, alpha=0.5).sub_(0.1)
        h[...] = h / 2
        return self.head(F.leaky_relu(h, 0.2, inplace=True))

    return Call(forward, **stem_and_head(bias=nn.Embedding(1, 6), middle=conv(6, 6)))


@entry("adaptive pooling")
def adaptive_pooling() -> nn.Module:
    return nn.Sequential(
        conv(3, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(5), conv(6, 6), nn.ReLU(), nn.AdaptiveMaxPool2d(2),
        nn.Flatten(), nn.Linear(24, 3), nn.ReLU(), nn.Linear(3, 1), nn.Flatten(0),
    )  # fmt: skip


@entry("extra outputs")
def extra_outputs() -> nn.Module:
    def forward(self, x):
        features = F.leaky_relu(self.stem(x), 0.2)
        return self.head(features), self.unused(features)

    return Call(forward, **stem_and_head(unused=conv(6, 2)))


@entry("paddings")
def paddings() -> nn.Module:
    def forward(self, x):
        x = F.pad(x, (1, 1, 1, 1), mode="circular")
        x = F.pad(x, (1, 1), value=0.5)
        return self.net(x[:, :, 1:-1, 2:-2])

    stem = nn.Conv2d(3, 6, 3, 2, padding=1, padding_mode="reflect")
    return Call(
        forward,
        net=nn.Sequential(
            nn.ConstantPad2d(1, -1.0), stem, nn.ReLU(), nn.ZeroPad2d(1), conv(6, 1), nn.Flatten(), nn.Linear(121, 1)
        ),
    )


@entry("chunks, slices and stacks")
def chunks() -> nn.Module:
    def forward(self, x):
        h = self.stem(x)
        a, b = h.chunk(2, dim=1)
        first, *rest = torch.stack([a, b, -a], dim=2).unbind(2)
        h = torch.cat([first - rest[0], rest[1].permute(0, 1, 3, 2)], dim=-3)
        h = torch.relu(h.transpose(2, 3).contiguous())[:, :, ::1, :]
        h = h.unsqueeze(1).squeeze(1).reshape(x.size(0), 6, 64).unflatten(2, (8, 8))
        return self.head(h)

    return Call(forward, **stem_and_head())


@entry("logits from a list and a sum")
def summed_logits() -> nn.Module:
    def forward(self, x):
        heads = [head(F.relu(stem(x))) for stem, head in zip(self.stems, self.heads, strict=True)]
        return (sum(heads) / len(heads)).squeeze()

    stems = nn.ModuleList(conv(3, 6, stride=2) for _ in range(3))
    return Call(forward, stems=stems, heads=nn.ModuleList(stem_and_head()["head"] for _ in stems))


@entry("input scaled before the stem")
def scaled_input() -> nn.Module:
    def forward(self, x):
        h = F.relu(self.stem((2 * x - 1) / 3 + 1))
        return self.head(1 - (h - 0.5).div(2).neg())

    return Call(forward, **stem_and_head())


@entry("constant plane of ones")
def constant_plane() -> nn.Module:
    def forward(self, x):
        ones = x.new_ones(len(x), 1, *x.shape[2:])
        return self.head(F.relu(self.stem(torch.cat([x[:, :2], ones], 1))))

    return Call(forward, **stem_and_head())


@entry("constant plane in the middle")
def coordinates() -> nn.Module:
    def forward(self, x):
        h = F.relu(self.stem(x))
        row = torch.linspace(-1, 1, 8, dtype=x.dtype).view(1, 1, 8, 1).expand(len(x), 1, 8, 8)
        return self.head(F.relu(self.mix(torch.cat([h, row, row.mT], 1))))

    return Call(forward, **stem_and_head(mix=conv(8, 6)))


@entry("detach")
def detach() -> nn.Module:
    def forward(self, x):
        h = self.stem(x)
        return self.head(F.relu(h + self.side(h.detach())))

    return Call(forward, **stem_and_head(side=conv(6, 6)))


@entry("no_grad block")
def no_grad_block() -> nn.Module:
    def forward(self, x):
        h = self.stem(x)
        with torch.no_grad():
            side = F.relu(self.side(h))
        return self.head(F.relu(h + side))

    return Call(forward, **stem_and_head(side=conv(6, 6)))


@entry("first layers without gradient")
def frozen_features() -> nn.Module:
    def forward(self, x):
        with torch.no_grad():
            scale = self.stem.weight.norm()
        return self.head(F.relu(self.stem(x) / scale))

    return Call(forward, **stem_and_head())


@entry("noise, colour and cutout in front")
def augmented() -> nn.Module:
    def forward(self, x):
        n = len(x)

        def draw():
            return torch.rand(n, 1, 1, 1, dtype=x.dtype)

        x = x + 0.1 * torch.randn_like(x) + (draw() - 0.5)
        mean = x.mean(dim=1, keepdim=True)
        x = (x - mean) * (draw() * 2) + mean
        mean = x.mean(dim=[1, 2, 3], keepdim=True)
        x = (x - mean) * (draw() + 0.5) + mean
        mask = torch.ones(n, 16, 16, dtype=x.dtype)
        mask[:, 4:9, 3:8] = 0
        return self.head(F.relu(self.stem(x * mask.unsqueeze(1))))

    return Call(forward, **stem_and_head())


@entry("positions and a class token")
def tokens() -> nn.Module:
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix, self.mlp = nn.Conv2d(3, 6, 4, 4), nn.Linear(17, 17), nn.Linear(6, 6)
            self.cls = nn.Parameter(torch.randn(1, 1, 6))
            self.positions = nn.Parameter(torch.randn(1, 17, 6))
            self.out = nn.Linear(6, 1)

        def forward(self, x):
            h = self.embed(x).flatten(2).transpose(1, 2)
            h = torch.cat((self.cls.expand(x.shape[0], -1, -1), h), dim=1) + self.positions
            h = h + self.mix(F.relu(h).permute(0, 2, 1)).permute(0, 2, 1)
            h = h + self.mlp(F.leaky_relu(h, 0.1))
            return self.out(h[:, 0]).squeeze(-1)

    return Tokens()
