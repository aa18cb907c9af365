"""GXN: look, imagine and match (Gu et al., CVPR 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from crossmodal_bench.core.batch import DataSpec, ImageBatch, PairBatch, TextBatch, require
from crossmodal_bench.core.distributed import pair_scores
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation.captions import cider_score
from crossmodal_bench.losses import triplet_ranking_loss
from crossmodal_bench.methods.base import RetrievalMethod
from crossmodal_bench.methods.fine_tuning import EncodedBatch, FineTuningSettings
from crossmodal_bench.methods.gxn.generation import CaptionPath, PicturePath, training_references
from crossmodal_bench.methods.optimization import AdamSettings, EpochDecaySettings
from crossmodal_bench.networks import ImageEncoder, TextSource, unit
from crossmodal_bench.networks.backbones import BackboneSource
from crossmodal_bench.networks.texts import SequencePooling
from crossmodal_bench.similarity import order_similarity
from crossmodal_bench.similarity.order import Direction

IMAGE_SIDE, TEXT_SIDE = ("image_encoder", "captions"), ("words", "abstract", "grounded", "pictures")


@dataclass(frozen=True)
class TextEncoderSettings:
    """The two text encoders, of the abstract and of the grounded vectors.

    Attributes:
        embedding: width of the word vectors, which both share.
        hidden: units of each, per direction.
        bidirectional: whether the abstract encoder is bidirectional; the grounded one never is.
        dropout: of word vectors and of states.
    """

    embedding: int = 300
    hidden: int = 1024
    bidirectional: bool = True
    dropout: float = 0.0


@dataclass(frozen=True)
class OrderRankingSettings:
    """The triplet ranking loss over order violations (Eq. 2-3).

    Attributes:
        margin: alpha of Eq. 2.
        direction: of the order violation.
        balance: lambda of Eq. 3, the share of the abstract vectors.
    """

    margin: float = 0.05
    direction: Direction = "image_minus_text"
    balance: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.balance <= 1:
            raise ValueError(f"ranking.balance is {self.balance}; it must be between 0 and 1")


class GXN(RetrievalMethod):
    """Ranking by abstract and grounded vectors; the grounded ones also generate captions and pictures.

    Images and captions each have an abstract and a grounded vector (Eq. 1). Pairs are ranked by the order
    violation of both (Eq. 3). With ``captions``, the image's grounded vector is trained to generate the
    caption; with ``pictures``, the caption's to generate the image; without either, this is the paper's GXN
    (fine-tune).

    Training is Algorithm 1: on each batch, a step of the image-to-text path, then one of the text-to-image
    path, preceded by its discriminator's step. A path's generation loss and the ranking loss share one
    backward pass and one step, where the algorithm has two: an image network would otherwise run twice for
    the same vectors.

    Not in the paper: vectors have unit length and non-negative entries, as in order embeddings, and the two
    paths read them scaled to entries of order one.

    Args:
        image_encoder: maps pixels or features to vectors; one network, with P_v of both vectors as one layer.
        dim: width of a vector.
        text_encoders: map words to vectors.
        grounded: whether there are grounded vectors; without them, this is the paper's GRU baseline (Eq. 2).
        captions: the image-to-text path, or None.
        pictures: the text-to-image path, or None.
        ranking: the triplet ranking loss.
        optimizer: Adam for everything except the generator and discriminator of ``pictures``.
        schedule: decay of all learning rates, including those of ``pictures``.
        gather_negatives: on several devices, whether negatives and wrong captions come from all of their
            batches, as if one device had the whole batch; otherwise from each device's own.
        fine_tuning: how the image network is trained, and how many pairs are encoded at a time; None: like
            everything else, and the whole batch. The generation paths always read the whole batch's vectors.

    Raises:
        ValueError: settings contradict each other.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        dim: int = 1024,
        text_encoders: TextEncoderSettings = TextEncoderSettings(),
        grounded: bool = True,
        captions: CaptionPath | None = None,
        pictures: PicturePath | None = None,
        ranking: OrderRankingSettings = OrderRankingSettings(),
        optimizer: AdamSettings = AdamSettings(learning_rate=2e-4, beta1=0.9, gradient_clip=2.0),
        schedule: EpochDecaySettings = EpochDecaySettings(),
        gather_negatives: bool = False,
        fine_tuning: FineTuningSettings | None = None,
    ) -> None:
        super().__init__()
        if not grounded and (captions is not None or pictures is not None):
            raise ValueError(
                "grounded is false, but captions and pictures need grounded vectors; set it to true"
            )
        if image_encoder.freeze == "until_plateau":
            raise ValueError("image_encoder.freeze is until_plateau; GXN supports never or always")
        self.automatic_optimization = False
        self.save_hyperparameters()
        self.keep_hyperparameters_plain()
        self.image_encoder, self.dim = image_encoder, dim
        self.captions, self.pictures = captions, pictures
        self.text_encoder_settings, self.ranking_settings = text_encoders, ranking
        self.optimizer_settings, self.schedule_settings = optimizer, schedule
        self.gather_negatives = gather_negatives
        self._references: list[list[str]] | None = None
        self.fine_tuning_settings = fine_tuning or FineTuningSettings()
        on_pixels = "pixels" in image_encoder.requires
        self.fine_tuning_settings.check(trains_a_backbone=on_pixels and image_encoder.freeze != "always")
        drawn = frozenset() if pictures is None else frozenset({"pictures"})
        self.requires = image_encoder.requires | {"words"} | drawn
        self.parts = 2 if grounded else 1
        if pictures is not None or (grounded and ranking.balance in (0, 1)):
            # Some backward passes only cover the pictures, or one of the two vectors has no weight.
            self.ddp_strategy = "ddp_find_unused_parameters_true"

    def build(self, spec: DataSpec) -> None:
        """Build one image mapping for both vectors, two text encoders, and the generation paths."""
        settings = self.text_encoder_settings
        self.image_encoder.build(spec, self.parts * self.dim)
        self.fine_tuning_settings.prepare(self.image_encoder)
        self.words = nn.Embedding(spec.vocabulary_size, settings.embedding, padding_idx=0)
        nn.init.uniform_(self.words.weight, -0.1, 0.1)
        self.abstract = self._text_encoder(bidirectional=settings.bidirectional)
        self.grounded = self._text_encoder(bidirectional=False) if self.parts == 2 else None
        if self.captions is not None:
            self.captions.build(spec, self.dim)
        if self.pictures is not None:
            self.pictures.build(self.dim)

    def _text_encoder(self, bidirectional: bool) -> SequencePooling:
        settings = self.text_encoder_settings
        return SequencePooling(
            settings.embedding,
            self.dim,
            cell="gru",
            hidden=settings.hidden,
            bidirectional=bidirectional,
            pooling="last",
            dropout=settings.dropout,
        )

    def inherit(self, parents: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Start from GXN models that were trained without one or both of the paths (section 4.2).

        A model that draws pictures provides the text side and the pictures' networks; any other provides the
        image side and the decoder, if both have one. The paper does not say which of two models' shared
        weights are used, nor that P_v comes with the image network; with frozen features, P_v is all that the
        image side has.

        Raises:
            BadInput: a parent is not such a model, or two provide the same weights.
        """
        taken: dict[str, str] = {}
        for parent, weights in parents.items():
            draws = any(name.startswith("pictures.") for name in weights)
            for part in TEXT_SIDE if draws else IMAGE_SIDE:
                start, module = f"{part}.", getattr(self, part)
                state = {name.removeprefix(start): w for name, w in weights.items() if name.startswith(start)}
                if not state or module is None:
                    continue
                if part in taken:
                    raise BadInput(f"{taken[part]} and {parent} both provide {part}; remove one parent")
                module.load_state_dict(state)
                taken[part] = parent
            if parent not in taken.values():
                raise BadInput(f"{parent} has no weights that GXN can start from; remove it from the parents")

    @property
    def backbone(self) -> BackboneSource | None:
        """The image encoder's pre-trained network."""
        return self.image_encoder.source

    @property
    def fine_tunes_backbone(self) -> bool:
        """Whether the image encoder does."""
        return self.image_encoder.fine_tuned

    @property
    def text_source(self) -> TextSource:
        """The encoder of the abstract vectors; that of the grounded ones is always unidirectional."""
        return TextSource("bigru" if self.text_encoder_settings.bidirectional else "gru")

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam over encoders and decoder.

        With pictures, also one for the generator and one for the discriminator.
        """
        of_pictures = () if self.pictures is None else self.pictures.parameters()
        elsewhere = {id(parameter) for parameter in of_pictures}
        trained = [
            parameter
            for parameter in self.parameters()
            if parameter.requires_grad and id(parameter) not in elsewhere
        ]
        # Not fused: Lightning cannot clip gradients of a fused optimiser in mixed precision.
        main = self.fine_tuning_settings.optimiser(self.optimizer_settings, trained, self.image_encoder)
        return [main, *([] if self.pictures is None else self.pictures.optimisers())]

    def on_fit_start(self) -> None:
        """Hand the training captions to the reward, if there is one."""
        self._references = None
        first = None if self.captions is None else self.captions.reinforce_from
        if self.captions is None or first is None:
            return
        if first >= (self.trainer.max_epochs or 1):
            rank_zero_warn(f"captions.reinforce_from is {first}, after the last epoch: no reward is used")
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.captions.learn_from(*training_references(data.corpus, data.views.words))

    def on_train_epoch_start(self) -> None:
        """Reset the means; set this epoch's learning rates."""
        super().on_train_epoch_start()
        factor = self.schedule_settings.multiplier(self.current_epoch)
        optimisers: Any = self.optimizers()
        for optimiser in optimisers if isinstance(optimisers, list) else [optimisers]:
            for group in optimiser.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor

    def training_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Algorithm 1 on one batch."""
        optimisers: Any = self.optimizers()
        main, *of_pictures = optimisers if isinstance(optimisers, list) else [optimisers]
        if self.pictures is None or self.captions is not None:
            encoded = self._encoded(batch)
            images, texts = encoded.encodings
            ranking = self._ranking(images, texts)
            loss, logged = ranking, {"train/loss_ranking": ranking}
            if self.captions is not None:
                generation, of_captions = self.captions.loss(
                    self._grounded(images), batch.texts, self.current_epoch, self.trainer.max_epochs or 1
                )
                loss, logged = ranking + generation, {**logged, **of_captions}
            self.log_means(logged, len(batch))
            encoded.backward(loss)
            self._step(main)
        if self.pictures is not None:
            generator, discriminator = of_pictures
            self._pictures_step(self.pictures, batch, main, generator, discriminator)

    def _pictures_step(
        self, path: PicturePath, batch: PairBatch, main: Any, generator: Any, discriminator: Any
    ) -> None:
        """Gen_t2i: the discriminator's step, then the generator's together with the encoders'."""
        encoded = self._encoded(batch)
        images, texts = encoded.encodings
        drawn, mean, log_variance = path.draw(self._grounded(texts))
        real = require(batch.images.pictures, "pictures").to(drawn.dtype)
        discrimination = path.discriminator_loss(
            real, drawn, mean, batch.images.index, everywhere=self.gather_negatives
        )
        self.log_means({"train/loss_discriminator": discrimination}, len(batch))
        self.manual_backward(discrimination)
        self._step(None, discriminator)
        ranking = self._ranking(images, texts)
        generation, logged = path.generator_loss(drawn, mean, log_variance)
        self.log_means({**logged, "train/loss_ranking": ranking}, len(batch))
        encoded.backward(ranking + generation)
        self._step(main, generator)

    def _encoded(self, batch: PairBatch) -> EncodedBatch:
        """A batch's encoded images and texts."""
        return EncodedBatch(self, batch, self._encode, self.fine_tuning_settings.micro_batch_size)

    def _encode(self, batch: PairBatch) -> tuple[Encoding, Encoding]:
        return self.encode_images(batch.images), self.encode_texts(batch.texts)

    def _step(self, main: Any, of_pictures: Any = None) -> None:
        """A step of one or both optimisers, each with its own gradient clipping."""
        pictures = None if self.pictures is None else self.pictures.optimizer_settings
        for optimiser, settings in ((main, self.optimizer_settings), (of_pictures, pictures)):
            if optimiser is None:
                continue
            if settings is not None and settings.gradient_clip is not None:
                self.clip_gradients(optimiser, settings.gradient_clip, "norm")
            optimiser.step()
            optimiser.zero_grad()

    def _ranking(self, images: Encoding, texts: Encoding) -> Tensor:
        """Eq. 3 over all negatives of the batch, averaged over its pairs."""
        scores = pair_scores(self.score, images, texts, self.gather_negatives)
        return triplet_ranking_loss(scores, self.ranking_settings.margin, hardest=False) / len(scores)

    def _grounded(self, encoding: Encoding) -> Tensor:
        """(B, dim) grounded vectors as the paths read them, with entries of order one."""
        vectors = encoding.values[:, 1]
        return vectors * vectors.shape[1] ** 0.5

    def encode_images(self, batch: ImageBatch) -> Encoding:
        """(B, 2, dim) abstract and grounded vectors; (B, 1, dim) without the latter."""
        return self._measured(list(self.image_encoder(batch).chunk(self.parts, 1)))

    def encode_texts(self, batch: TextBatch) -> Encoding:
        """(B, 2, dim) abstract and grounded vectors; (B, 1, dim) without the latter."""
        lengths = require(batch.lengths, "lengths")
        words = self.words(require(batch.words, "words"))
        encoders = [self.abstract, *([] if self.grounded is None else [self.grounded])]
        return self._measured([encoder(words, lengths) for encoder in encoders])

    def _measured(self, vectors: list[Tensor]) -> Encoding:
        return Encoding(torch.stack([unit(part).abs() for part in vectors], 1))

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """s* of Eq. 3; s of Eq. 2 without grounded vectors."""
        balance, direction = self.ranking_settings.balance, self.ranking_settings.direction
        shares = (1.0,) if self.parts == 1 else (balance, 1 - balance)
        # Always in single precision: scores often differ only in the third digit.
        with torch.autocast(images.values.device.type, enabled=False):
            weighted = [
                share * order_similarity(images.values[:, part], texts.values[:, part], direction)
                for part, share in enumerate(shares)
                if share
            ]
        return torch.stack(weighted).sum(0)

    @torch.no_grad()
    def write(self, images: Encoding, beam: int = 1) -> list[str]:
        """Captions generated from the images' grounded vectors; ``beam`` is the beam width, 1 is greedy."""
        if self.captions is None:
            return []
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        ids = self.captions.write(self._grounded(images), beam)
        return [data.views.vocabulary.decode(line) for line in ids.tolist()]

    @torch.no_grad()
    def draw(self, texts: Encoding) -> Tensor | None:
        """(N, 3, 64, 64) pictures, -1 to 1, generated from the captions' grounded vectors."""
        if self.pictures is None:
            return None
        return self.pictures.draw(self._grounded(texts.to(self.device)))[0].cpu()

    def validation_losses(
        self, images: Encoding, texts: Encoding, caption_image: Tensor, identities: Tensor
    ) -> dict[str, Tensor]:
        """CIDEr of the captions generated for the validation images, against the images' own captions."""
        if self.captions is None:
            return {}
        if self._references is None:
            # Cached, since they are the same in each validation.
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            references: list[list[str]] = [[] for _ in range(len(images))]
            for owner, caption in zip(caption_image.tolist(), data.corpus.caption_rows("val"), strict=True):
                references[owner].append(" ".join(data.views.vocabulary.split(data.corpus.captions[caption])))
            self._references = references
        return {"cider": torch.tensor(cider_score(self.write(images), self._references)[0])}
