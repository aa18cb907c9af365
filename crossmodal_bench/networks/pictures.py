"""Pictures from texts, and their discriminator: GXN's text-to-image path (Gu et al., CVPR 2018, section 3.4).

The paper gives the pictures' size but no layers. All layers, sizes and the initialisation are those of
StackGAN's stage I on COCO (Zhang et al., ICCV 2017, and its code), on which the path is based.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossmodal_bench.networks.embedding import single

SIDE = 64
"""Height and width of the pictures, generated and real (GXN, section 4.1)."""


class ConditionAugmentation(nn.Module):
    """Mean and log variance of the condition t_c, given a text (GXN, section 3.4: mu and sigma of φ).

    One linear layer and a ReLU on both halves, as in StackGAN's code: no mean is below 0 and no standard
    deviation below 1.

    Args:
        text_dim: width of the texts' vectors.
        dim: width of the condition.
    """

    def __init__(self, text_dim: int, dim: int = 128) -> None:
        super().__init__()
        self.layer = nn.Linear(text_dim, 2 * dim)
        self.apply(initialise)

    def forward(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """(B, text_dim) to mu and log sigma², both (B, dim); in the parameters' precision."""
        with torch.autocast(texts.device.type, enabled=False):
            mu, log_variance = self.layer(texts.to(self.layer.weight.dtype)).relu().chunk(2, dim=1)
        return mu, log_variance

    @staticmethod
    def sample(mu: Tensor, log_variance: Tensor, epsilon: Tensor) -> Tensor:
        """The condition t_c = mu + sigma ε, (B, dim), with ε (B, dim) drawn from N(0, 1) by the caller."""
        return mu + (log_variance / 2).exp() * epsilon


class PictureGenerator(nn.Module):
    """G(z, t_c): a linear layer to 4 x 4, then four blocks that double the side and halve the channels.

    Args:
        condition_dim: width of t_c.
        noise_dim: width of z.
        channels: an eighth of the channels at 4 x 4, twice those at 64 x 64; even.

    Raises:
        ValueError: ``channels`` is odd or below 2.
    """

    def __init__(self, condition_dim: int = 128, noise_dim: int = 100, channels: int = 192) -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"channels is {channels}; it must be even and at least 2")
        self.condition_dim, self.noise_dim = condition_dim, noise_dim
        widths = [8 * channels // 2**i for i in range(5)]
        self.start = nn.Sequential(
            nn.Linear(noise_dim + condition_dim, widths[0] * 16, bias=False),
            nn.BatchNorm1d(widths[0] * 16),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, (widths[0], 4, 4)),
        )
        self.blocks = nn.Sequential(*(_larger(width) for width in widths[:-1]))
        self.last = nn.Conv2d(widths[-1], 3, 3, padding=1, bias=False)
        self.apply(initialise)
        self.to(memory_format=torch.channels_last)

    def forward(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Pictures (B, 3, 64, 64) with values from -1 to 1.

        Batch statistics are over B pictures, so training needs at least two.

        Args:
            condition: t_c, (B, condition_dim).
            noise: z, (B, noise_dim), drawn from N(0, 1).

        Raises:
            ValueError: other widths, or different numbers of rows.
        """
        if condition.shape[1:] != (self.condition_dim,) or noise.shape != (len(condition), self.noise_dim):
            raise ValueError(
                f"condition {tuple(condition.shape)} and noise {tuple(noise.shape)} must be "
                f"(B, {self.condition_dim}) and (B, {self.noise_dim})"
            )
        hidden = self.blocks(_channels_last(self.start(torch.cat([noise, condition], 1))))
        # In half precision, neighbouring shades would merge.
        return single(self.last(hidden)).tanh()


class PictureDiscriminator(nn.Module):
    """D(i, t): whether a picture is real and matches this text, in two parts.

    ``features`` reads pictures alone, so that real ones are read once for both their own and wrong texts;
    ``logits`` combines them with a condition. StackGAN's code passes real, wrong and fake pairs one kind at a
    time, each with its own batch statistics, and uses mu without its gradient as the condition; both are up
    to the caller. Returns logits, where that code has a sigmoid: see losses.generation.

    Args:
        condition_dim: width of the condition.
        channels: those at 32 x 32, an eighth of those at 4 x 4.

    Raises:
        ValueError: ``channels`` below 1.
    """

    def __init__(self, condition_dim: int = 128, channels: int = 96) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels is {channels}; it must be at least 1")
        self.condition_dim, self.width = condition_dim, 8 * channels
        self.encoder = nn.Sequential(
            nn.Conv2d(3, channels, 4, stride=2, padding=1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            *(_smaller(channels * 2**i) for i in range(3)),
        )
        self.joint = nn.Sequential(
            nn.Conv2d(self.width + condition_dim, self.width, 3, padding=1, bias=False),
            nn.BatchNorm2d(self.width),
            nn.LeakyReLU(0.2, inplace=True),
        )
        self.out = nn.Conv2d(self.width, 1, 4)
        self.apply(initialise)
        self.to(memory_format=torch.channels_last)

    def forward(self, pictures: Tensor, condition: Tensor) -> Tensor:
        """Logits (B,) of pictures (B, 3, 64, 64) with conditions (B, condition_dim)."""
        return self.logits(self.features(pictures), condition)

    def features(self, pictures: Tensor) -> Tensor:
        """(B, 8 channels, 4, 4) from pictures (B, 3, 64, 64) with values from -1 to 1.

        Raises:
            ValueError: pictures of another size.
        """
        if pictures.shape[1:] != (3, SIDE, SIDE):
            raise ValueError(f"pictures {tuple(pictures.shape)} must be (B, 3, {SIDE}, {SIDE})")
        return self.encoder(_channels_last(pictures))

    def logits(self, features: Tensor, condition: Tensor) -> Tensor:
        """Logits (B,) of "a real picture of this text", in the parameters' precision.

        Args:
            features: (B, 8 channels, 4, 4); an empty batch (B = 0) has no logits and leaves the batch
                statistics unchanged, unless other processes share them and wait for ours.
            condition: (B, condition_dim).

        Raises:
            ValueError: other widths, or different numbers of rows.
        """
        expected = (len(features), self.condition_dim)
        if features.shape[1:] != (self.width, 4, 4) or condition.shape != expected:
            raise ValueError(
                f"features {tuple(features.shape)} and condition {tuple(condition.shape)} must be "
                f"(B, {self.width}, 4, 4) and (B, {self.condition_dim})"
            )
        if not len(features) and not isinstance(self.joint[1], nn.SyncBatchNorm):
            return self.out.weight.new_zeros(0)
        everywhere = condition[:, :, None, None].expand(-1, -1, 4, 4)
        hidden = self.joint(_channels_last(torch.cat([features, everywhere], 1)))
        with torch.autocast(hidden.device.type, enabled=False):
            return self.out(hidden.to(self.out.weight.dtype)).flatten()


def initialise(module: nn.Module) -> None:
    """Initialisation as in StackGAN's code, for nn.Module.apply: N(0, 0.02), for batch norms N(1, 0.02).

    Biases of linear layers and batch norms are 0; that code keeps PyTorch's default for convolutions.
    """
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _channels_last(pictures: Tensor) -> Tensor:
    """The same values in channels-last memory format, which makes convolutions faster."""
    return pictures.contiguous(memory_format=torch.channels_last)


def _larger(channels: int) -> nn.Sequential:
    """(B, channels, S, S) to (B, channels / 2, 2 S, 2 S)."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels // 2),
        nn.ReLU(inplace=True),
    )


def _smaller(channels: int) -> nn.Sequential:
    """(B, channels, S, S) to (B, 2 channels, S / 2, S / 2)."""
    return nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * channels),
        nn.LeakyReLU(0.2, inplace=True),
    )
