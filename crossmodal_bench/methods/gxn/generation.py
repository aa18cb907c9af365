"""GXN's two generation paths: a caption from an image's grounded vector, a picture from a caption's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from crossmodal_bench.caption_metrics import Bleu, CiderD
from crossmodal_bench.core.batch import DataSpec, TextBatch, require
from crossmodal_bench.core.distributed import gather_interleaved, mean_over_all, rank, world_size
from crossmodal_bench.core.host import sent
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.losses import (
    caption_cross_entropy,
    condition_kl,
    picture_discriminator_loss,
    picture_generator_loss,
    ramp,
    self_critical_loss,
    sentence_mask,
    wrong_pairs,
)
from crossmodal_bench.methods.optimization import AdamSettings
from crossmodal_bench.networks import (
    CaptionDecoder,
    ConditionAugmentation,
    PictureDiscriminator,
    PictureGenerator,
)

WRITTEN_AT_A_TIME = 256


class CaptionPath(nn.Module):
    """Image to text (section 3.3): cross entropy, and from some epoch on a mixture with a reward.

    The reward treats all words below the vocabulary's cut-off as the same word, as in the code of
    self-critical training.

    Args:
        hidden: units of the decoder.
        embedding: width of its word vectors.
        dropout: of word vectors and states.
        sampling: the fraction of own words in scheduled sampling in the last epoch, growing from 0.
        reinforce_from: the epoch from which Eq. 7 is minimised instead of Eq. 4; None: never.
        gamma_first, gamma_last: gamma of Eq. 7 in that epoch and in the last one, increasing linearly.
        reward: ``cider`` (CIDEr-D, the paper's) or ``bleu`` (BLEU-4), against the training captions.
        samples: captions sampled per image and step.
        max_words: of a sampled caption, including its end token.
    """

    def __init__(
        self,
        hidden: int = 1024,
        embedding: int = 300,
        dropout: float = 0.0,
        sampling: float = 0.25,
        reinforce_from: int | None = None,
        gamma_first: float = 0.05,
        gamma_last: float = 0.95,
        reward: Literal["cider", "bleu"] = "cider",
        samples: int = 1,
        max_words: int = 20,
    ) -> None:
        super().__init__()
        for name, share in (("sampling", sampling), ("gamma_first", gamma_first), ("gamma_last", gamma_last)):
            if not 0 <= share <= 1:
                raise ValueError(f"captions.{name} is {share}; it must be between 0 and 1")
        least = (
            ("samples", samples, 1),
            ("max_words", max_words, 1),
            ("reinforce_from", reinforce_from or 0, 0),
        )
        for name, value, smallest in least:
            if value < smallest:
                raise ValueError(f"captions.{name} is {value}; it must be at least {smallest}")
        self.hidden, self.embedding = hidden, embedding
        self.dropout, self.sampling = dropout, sampling
        self.reinforce_from, self.gammas = reinforce_from, (gamma_first, gamma_last)
        self.reward_name, self.samples = reward, samples
        self.max_words = max_words
        self._reward: CiderD | Bleu | None = None
        self._images = torch.zeros(0, dtype=torch.int64)

    def build(self, spec: DataSpec, dim: int) -> None:
        """Build the decoder for ``dim``-dimensional vectors."""
        self.decoder = CaptionDecoder(
            spec.vocabulary_size, dim, self.hidden, self.embedding, dropout=self.dropout
        )

    def learn_from(self, images: Tensor, references: Sequence[Sequence[Sequence[int]]]) -> None:
        """Set the training captions for the reward.

        Args:
            images: (N,) the images' rows in the corpus, ascending.
            references: the captions of each image, as ids without the start token.
        """
        self._images = images
        self._reward = (CiderD if self.reward_name == "cider" else Bleu)(references, eos_id=self.decoder.end)

    def gamma(self, epoch: int, epochs: int) -> float:
        """The reward's share of the loss in an epoch; 0 while only cross entropy is used."""
        if self.reinforce_from is None or epoch < self.reinforce_from:
            return 0.0
        first, last = self.gammas
        return ramp(first, last, epoch - self.reinforce_from, epochs - self.reinforce_from)

    def loss(
        self, vectors: Tensor, texts: TextBatch, epoch: int, epochs: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 7 (Eq. 4 if gamma is 0), and the values to log.

        Args:
            vectors: (B, dim) grounded image vectors.
            texts: their captions.
            epoch, epochs: the current epoch, and how many there are.
        """
        words, lengths = require(texts.words, "words")[:, 1:], require(texts.lengths, "lengths") - 1
        mask = torch.arange(words.shape[1]) < lengths[:, None]
        own = ramp(0.0, self.sampling, epoch, epochs)
        likelihoods = self.decoder.log_likelihoods(vectors, words, mask, own)
        entropy = caption_cross_entropy(likelihoods, sent(mask, vectors.device))
        entropy = mean_over_all(entropy, mask.sum())
        logged = {"train/loss_caption": entropy}
        gamma = self.gamma(epoch, epochs)
        if not gamma:
            return entropy, logged
        reinforced, reward = self._reinforced(vectors, texts.image)
        logged |= {"train/loss_reinforcement": reinforced, "train/reward": reward}
        return (1 - gamma) * entropy + gamma * reinforced, logged

    @torch.no_grad()
    def write(self, vectors: Tensor, beam: int = 1) -> Tensor:
        """(N, dim) to (N, n) caption ids, padded, on the CPU; ``beam`` is the beam width, 1 is greedy."""
        decoder, most = self.decoder, self.max_words
        written = torch.zeros(len(vectors), most, dtype=torch.int64)
        for part, lines in zip(
            vectors.split(WRITTEN_AT_A_TIME), written.split(WRITTEN_AT_A_TIME), strict=True
        ):
            part = part.to(decoder.out.weight.device)
            ids = decoder.greedy(part, most) if beam == 1 else decoder.beam(part, most, beam)
            lines[:, : ids.shape[1]] = ids.cpu()
        return written

    def _reinforced(self, vectors: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 6 and the samples' mean reward; ``images`` (B,) are rows of the corpus, on the host.

        The baseline uses the same vectors as the samples, both without dropout. Rewards are computed on the
        host, to which captions are moved in one copy: their lengths determine all shapes there.
        """
        assert self._reward is not None, "learn_from has not been called"
        images, device = torch.searchsorted(self._images, images), vectors.device
        repeated = vectors.repeat_interleave(self.samples, 0)
        drawn = self.decoder.sample(repeated, self.max_words)
        written = self.decoder.greedy(vectors, self.max_words)
        drawn_words, written_words = _on_host(drawn, written)
        baseline = self._reward(written_words, images)
        reward = self._reward(drawn_words, images.repeat_interleave(self.samples))
        mask = sentence_mask(drawn_words, self.decoder.end)
        likelihoods = self.decoder.log_likelihoods(repeated, drawn, mask, dropout=False)
        advantage = sent(reward - baseline.repeat_interleave(self.samples), device)
        loss = self_critical_loss(likelihoods, advantage, sent(mask, device))
        reinforced = mean_over_all(loss, mask.sum())
        return reinforced, sent(reward.mean().to(vectors.dtype), device)


def _on_host(*captions: Tensor) -> list[Tensor]:
    """(n, L) ids of several sets of captions on the host, moved in one copy."""
    if captions[0].device.type == "cpu":
        return list(captions)
    widths = [ids.shape[1] for ids in captions]
    padded = torch.cat([F.pad(ids, (0, max(widths) - ids.shape[1])) for ids in captions]).cpu()
    parts = padded.split([len(ids) for ids in captions])
    return [part[:, :width] for part, width in zip(parts, widths, strict=True)]


def training_references(corpus: Corpus, words: Any) -> tuple[Tensor, list[list[list[int]]]]:
    """The training images' rows (N,), ascending, and the captions of each, as ids without the start token."""
    rows, captions = corpus.image_rows("train"), corpus.caption_rows("train")
    references: list[list[list[int]]] = [[] for _ in rows]
    owners = np.searchsorted(rows, corpus.caption_image[captions])
    for caption, owner in zip(captions, owners, strict=True):
        references[owner].append(words[int(caption)][1:].tolist())
    return torch.from_numpy(rows), references


class PicturePath(nn.Module):
    """Text to image (section 3.4): StackGAN's first stage on the grounded vector of a caption.

    Args:
        noise_dim: width of z; not in the paper.
        condition_dim: width of t_c; not in the paper.
        generator_channels, discriminator_channels: StackGAN's GF and DF; not in the paper.
        beta_fake, beta_wrong: of Eq. 11.
        beta_condition: beta_s of Eq. 12.
        form: ``non_saturating``, as in StackGAN's code, or ``minimax``, as printed in Eq. 12.
        condition_reduction: ``mean`` over batch and dimensions, as in StackGAN's code; or ``sum`` over
            dimensions.
        optimizer: Adam for the generator and, separately, for the discriminator; the paper says momentum 0.9
            where StackGAN has beta1 0.5.
    """

    def __init__(
        self,
        noise_dim: int = 100,
        condition_dim: int = 128,
        generator_channels: int = 192,
        discriminator_channels: int = 96,
        beta_fake: float = 0.5,
        beta_wrong: float = 0.5,
        beta_condition: float = 2.0,
        form: Literal["non_saturating", "minimax"] = "non_saturating",
        condition_reduction: Literal["mean", "sum"] = "mean",
        optimizer: AdamSettings = AdamSettings(learning_rate=2e-4, beta1=0.5),
    ) -> None:
        super().__init__()
        self.noise_dim, self.condition_dim = noise_dim, condition_dim
        self.generator_channels, self.discriminator_channels = generator_channels, discriminator_channels
        self.beta_fake, self.beta_wrong = beta_fake, beta_wrong
        self.beta_condition = beta_condition
        self.form: Literal["non_saturating", "minimax"] = form
        self.condition_reduction: Literal["mean", "sum"] = condition_reduction
        self.optimizer_settings = optimizer

    def build(self, dim: int) -> None:
        """Build the three networks for ``dim``-dimensional vectors."""
        self.augmentation = ConditionAugmentation(dim, self.condition_dim)
        self.generator = PictureGenerator(self.condition_dim, self.noise_dim, self.generator_channels)
        self.discriminator = PictureDiscriminator(self.condition_dim, self.discriminator_channels)

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """The optimisers of the generator with its condition and of the discriminator."""
        generator = [*self.augmentation.parameters(), *self.generator.parameters()]
        return [
            self.optimizer_settings.build(generator),
            self.optimizer_settings.build(self.discriminator.parameters()),
        ]

    def draw(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, dim) to (B, 3, 64, 64) pictures, and the mean and log variance of their conditions."""
        mean, log_variance = self.augmentation(vectors)
        condition = self.augmentation.sample(mean, log_variance, torch.randn_like(mean))
        noise = torch.randn(len(mean), self.noise_dim, device=mean.device, dtype=mean.dtype)
        return self.generator(condition, noise), mean, log_variance

    def discriminator_loss(
        self, pictures: Tensor, drawn: Tensor, condition: Tensor, images: Tensor, everywhere: bool = False
    ) -> Tensor:
        """Eq. 11, to be minimised; its gradient only reaches the discriminator.

        Args:
            pictures: (B, 3, 64, 64) real pictures.
            drawn: (B, 3, 64, 64) the generator's pictures for their captions.
            condition: (B, condition_dim) the captions' mean conditions.
            images: (B,) which image each is, on the host; another image's caption is a wrong one.
            everywhere: whether a wrong caption may be another process's; pictures and captions are then
                paired as in the whole batch of all processes.
        """
        condition = condition.detach()
        seen, fakes = self.discriminator.features(pictures), self.discriminator.features(drawn.detach())
        wrong_conditions = condition
        if everywhere:
            wrong_conditions = gather_interleaved(condition)
            images = gather_interleaved(sent(images, condition.device)).cpu()
        of_pictures, of_captions = wrong_pairs(images)
        if everywhere:
            own = of_pictures % world_size() == rank()
            of_pictures, of_captions = of_pictures[own] // world_size(), of_captions[own]
        of_pictures, of_captions = sent(of_pictures, seen.device), sent(of_captions, seen.device)
        # Each kind with its own batch statistics, in the order of StackGAN's code.
        real = self.discriminator.logits(seen, condition)
        wrong = self.discriminator.logits(seen[of_pictures], wrong_conditions[of_captions])
        fake = self.discriminator.logits(fakes, condition)
        # Processes may have different numbers of wrong pairs.
        beta_wrong = mean_over_all(real.new_full((), self.beta_wrong), len(wrong))
        return picture_discriminator_loss(real, fake, wrong, self.beta_fake, beta_wrong)

    def generator_loss(
        self, drawn: Tensor, mean: Tensor, log_variance: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 12, and the values to log; its gradient does not reach the discriminator."""
        fixed = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        logits = functional_call(self.discriminator, fixed, (drawn, mean.detach()))
        generator = picture_generator_loss(logits, self.form)
        condition = condition_kl(mean, log_variance, self.condition_reduction)
        logged = {"train/loss_generator": generator, "train/loss_condition": condition}
        return generator + self.beta_condition * condition, logged
