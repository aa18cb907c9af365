"""GXN: look, imagine and match (Gu et al., CVPR 2018)."""

from __future__ import annotations

from collections.abc import Mapping
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
from crossmodal_bench.methods.gxn.generation import CaptionPath, PicturePath, training_references
from crossmodal_bench.networks import ImageEncoder, unit
from crossmodal_bench.networks.backbones import BackboneSource
from crossmodal_bench.networks.texts import SequencePooling
from crossmodal_bench.similarity import order_similarity
from crossmodal_bench.similarity.order import Direction

IMAGE_SIDE, TEXT_SIDE = ("image_encoder", "captions"), ("words", "abstract", "grounded", "pictures")


class GXN(RetrievalMethod):
    """Ranking on abstract and grounded vectors; the grounded ones must also write captions and draw pictures.

    Images and captions have an abstract vector each, and a grounded one (Eq. 1). Pairs rank by the order
    violation of both (Eq. 3). With ``captions`` the image's grounded vector is trained to write the caption,
    with ``pictures`` the caption's to draw the image; without either this is the paper's GXN (fine-tune).

    Training is Algorithm 1: on each batch a step of the image-to-text path, then one of the text-to-image
    path behind one of its discriminator. What a path imagines and the ranking share one backward pass and one
    step, where the algorithm takes two: an image network would run twice for the same vectors.

    Not in the paper: vectors are of unit length and absolute value, as in order embeddings, and the two paths
    read them, scaled to numbers of order one.

    Args:
        image_encoder: pixels or features to vectors; one network, and P_v of both vectors as one layer.
        dim: width of a vector.
        embedding: width of the word vectors, which both text encoders share.
        hidden: units of a text encoder, per direction.
        bidirectional: whether the abstract encoder also reads backwards; the grounded one does not.
        grounded: whether there are grounded vectors; without, this is the paper's GRU baselines (Eq. 2).
        captions: image to text, or None.
        pictures: text to image, or None.
        direction: of the order violation.
        margin: alpha of Eq. 2.
        balance: lambda of Eq. 3, the share of the abstract vectors.
        dropout: of word vectors and of text encoders' states.
        learning_rate: of Adam, for all but the generator and the discriminator of ``pictures``.
        adam_beta1: of the same.
        decay_factor: what all rates are multiplied by,
        decay_epochs: every so many epochs (never, if None).
        gradient_clip: largest norm of the gradient of what that rate is for, or None.
        gather_negatives: on several devices, whether negatives and wrong captions come from all of their
            batches, as if one had the whole batch; else each has its own.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        dim: int = 1024,
        embedding: int = 300,
        hidden: int = 1024,
        bidirectional: bool = True,
        grounded: bool = True,
        captions: CaptionPath | None = None,
        pictures: PicturePath | None = None,
        direction: Direction = "image_minus_text",
        margin: float = 0.05,
        balance: float = 0.5,
        dropout: float = 0.0,
        learning_rate: float = 2e-4,
        adam_beta1: float = 0.9,
        decay_factor: float = 0.1,
        decay_epochs: int | None = None,
        gradient_clip: float | None = 2.0,
        gather_negatives: bool = False,
    ) -> None:
        super().__init__()
        if not grounded and (captions is not None or pictures is not None):
            raise ValueError("grounded is false, but captions and pictures are made of grounded vectors")
        if not 0 <= balance <= 1:
            raise ValueError(f"balance is {balance}; it must be from 0 to 1")
        if image_encoder.freeze == "until_plateau":
            raise ValueError("image_encoder.freeze is until_plateau; GXN has never or always")
        self.automatic_optimization = False
        self.save_hyperparameters()
        for name in ("image_encoder", "captions", "pictures"):
            # Given as objects, not through a configuration: weights are saved as weights, not by pickle.
            if isinstance(self.hparams.get(name), nn.Module):
                del self.hparams[name]
        self.image_encoder, self.captions, self.pictures = image_encoder, captions, pictures
        drawn = frozenset() if pictures is None else frozenset({"pictures"})
        self.requires = image_encoder.requires | {"words"} | drawn
        self.parts = 2 if grounded else 1
        if pictures is not None or (grounded and balance in (0, 1)):
            # Some backward passes are of the pictures alone, or one of the two vectors counts for nothing.
            self.ddp_strategy = "ddp_find_unused_parameters_true"

    def build(self, spec: DataSpec) -> None:
        """One mapping of the image's network for both vectors, two text encoders, and what imagines."""
        p: Any = self.hparams
        self.image_encoder.build(spec, self.parts * p.dim)
        self.words = nn.Embedding(spec.vocabulary_size, p.embedding, padding_idx=0)
        nn.init.uniform_(self.words.weight, -0.1, 0.1)
        reads: dict[str, Any] = {"cell": "gru", "pooling": "last", "dropout": p.dropout}
        self.abstract = SequencePooling(
            p.embedding, p.dim, hidden=p.hidden, bidirectional=p.bidirectional, **reads
        )
        self.grounded = None
        if self.parts == 2:
            self.grounded = SequencePooling(p.embedding, p.dim, hidden=p.hidden, bidirectional=False, **reads)
        if self.captions is not None:
            self.captions.build(spec, p.dim)
        if self.pictures is not None:
            self.pictures.build(p.dim)

    def inherit(self, parents: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Start from GXN models that were trained without one of the paths, or without both (section 4.2).

        Of a model that draws pictures, the text side and the pictures' networks; of any other, the image side
        and the decoder, where both have one. Which of two models' shared weights win is not in the paper; nor
        is that P_v comes with the image network, which with frozen features is all there is to take.

        Raises:
            BadInput: a parent that is no such model, or two that have the same to give.
        """
        taken: dict[str, str] = {}
        for parent, weights in parents.items():
            for part in TEXT_SIDE if any(one.startswith("pictures.") for one in weights) else IMAGE_SIDE:
                start, module = f"{part}.", getattr(self, part)
                state = {name.removeprefix(start): w for name, w in weights.items() if name.startswith(start)}
                if not state or module is None:
                    continue
                if part in taken:
                    raise BadInput(f"{taken[part]} and {parent} both have weights of {part}; drop a parent")
                module.load_state_dict(state)
                taken[part] = parent
            if parent not in taken.values():
                raise BadInput(f"{parent} has no weights that GXN can start from; drop it from the parents")

    @property
    def backbone(self) -> BackboneSource | None:
        """The image encoder's pre-trained network."""
        return self.image_encoder.source

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam over encoders and decoder.

        With pictures, one for their generator and one for their discriminator.
        """
        p: Any = self.hparams
        of_pictures = () if self.pictures is None else self.pictures.parameters()
        elsewhere = {id(one) for one in of_pictures}
        moving = [one for one in self.parameters() if one.requires_grad and id(one) not in elsewhere]
        # Lightning clips no gradients of a fused optimiser in mixed precision.
        main: torch.optim.Optimizer = torch.optim.Adam(moving, p.learning_rate, (p.adam_beta1, 0.999))
        return [main, *([] if self.pictures is None else self.pictures.optimisers())]

    def on_fit_start(self) -> None:
        """Hand the training captions to the reward, if there is one."""
        first = None if self.captions is None else self.captions.reinforce_from
        if self.captions is None or first is None:
            return
        if first >= (self.trainer.max_epochs or 1):
            rank_zero_warn(f"captions.reinforce_from is {first}, behind the last epoch: nothing is rewarded")
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.captions.learn_from(*training_references(data.corpus, data.views.words))

    def on_train_epoch_start(self) -> None:
        """Start the means; set the rates of this epoch."""
        super().on_train_epoch_start()
        p: Any = self.hparams
        factor = p.decay_factor ** (self.current_epoch // p.decay_epochs) if p.decay_epochs else 1.0
        optimisers: Any = self.optimizers()
        for optimiser in optimisers if isinstance(optimisers, list) else [optimisers]:
            for group in optimiser.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor

    def training_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Algorithm 1 on one batch."""
        optimisers: Any = self.optimizers()
        main, *of_pictures = optimisers if isinstance(optimisers, list) else [optimisers]
        if self.pictures is None or self.captions is not None:
            images, texts = self.encode_images(batch.images), self.encode_texts(batch.texts)
            ranking = self._ranking(images, texts)
            loss, logged = ranking, {"train/loss_ranking": ranking}
            if self.captions is not None:
                imagined, of_captions = self.captions.loss(
                    self._grounded(images), batch.texts, self.current_epoch, self.trainer.max_epochs or 1
                )
                loss, logged = ranking + imagined, {**logged, **of_captions}
            self.log_means(logged, len(batch))
            self._step(loss, main)
        if self.pictures is not None:
            self._pictures_step(self.pictures, batch, main, *of_pictures)

    def _pictures_step(
        self, path: PicturePath, batch: PairBatch, main: Any, generator: Any, discriminator: Any
    ) -> None:
        """Gen_t2i: the discriminator's step, then the generator's together with the encoders'."""
        images, texts = self.encode_images(batch.images), self.encode_texts(batch.texts)
        drawn, mean, log_variance = path.draw(self._grounded(texts))
        real = require(batch.images.pictures, "pictures").to(drawn.dtype)
        everywhere = self.hparams["gather_negatives"]
        judging = path.discriminator_loss(real, drawn, mean, batch.images.index, everywhere)
        self.log_means({"train/loss_discriminator": judging}, len(batch))
        self._step(judging, None, discriminator)
        ranking = self._ranking(images, texts)
        imagined, logged = path.generator_loss(drawn, mean, log_variance)
        self.log_means({**logged, "train/loss_ranking": ranking}, len(batch))
        self._step(ranking + imagined, main, generator)

    def _step(self, loss: Tensor, main: Any, of_pictures: Any = None) -> None:
        """A backward pass, and a step of one or both optimisers; only the encoders' gradients are clipped."""
        self.manual_backward(loss)
        if main is not None and self.hparams["gradient_clip"] is not None:
            self.clip_gradients(main, self.hparams["gradient_clip"], "norm")
        for optimiser in (main, of_pictures):
            if optimiser is not None:
                optimiser.step()
                optimiser.zero_grad()

    def _ranking(self, images: Encoding, texts: Encoding) -> Tensor:
        """Eq. 3 over all negatives of the batch, as a mean over its pairs."""
        scores = pair_scores(self.score, images, texts, self.hparams["gather_negatives"])
        return triplet_ranking_loss(scores, self.hparams["margin"], hardest=False) / len(scores)

    def _grounded(self, encoding: Encoding) -> Tensor:
        """(B, dim) grounded vectors as the paths read them, numbers of order one."""
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
        return Encoding(torch.stack([unit(one).abs() for one in vectors], 1))

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """s* of Eq. 3; s of Eq. 2 without grounded vectors."""
        p: Any = self.hparams
        shares = (1.0,) if self.parts == 1 else (p.balance, 1 - p.balance)
        # In single precision whatever surrounds the call: what is ranked differs in the third digit.
        with torch.autocast(images.values.device.type, enabled=False):
            found = [
                share * order_similarity(images.values[:, part], texts.values[:, part], p.direction)
                for part, share in enumerate(shares)
                if share
            ]
        return torch.stack(found).sum(0)

    @torch.no_grad()
    def write(self, images: Encoding, beam: int = 1) -> list[str]:
        """The captions that images' grounded vectors write, by ``beam`` hypotheses each; 1 is greedy."""
        if self.captions is None:
            return []
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        ids = self.captions.write(self._grounded(images), beam)
        return [data.views.vocabulary.decode(line) for line in ids.tolist()]

    @torch.no_grad()
    def draw(self, texts: Encoding) -> Tensor | None:
        """(N, 3, 64, 64), -1 to 1, drawn from captions' grounded vectors."""
        if self.pictures is None:
            return None
        return self.pictures.draw(self._grounded(texts.to(self.device)))[0].cpu()

    def validation_losses(
        self, images: Encoding, texts: Encoding, caption_image: Tensor, identities: Tensor
    ) -> dict[str, Tensor]:
        """CIDEr of the captions that are written for the validation images, whose own are the references."""
        if self.captions is None:
            return {}
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        references: list[list[str]] = [[] for _ in range(len(images))]
        for owner, caption in zip(caption_image.tolist(), data.corpus.caption_rows("val"), strict=True):
            references[owner].append(" ".join(data.views.vocabulary.split(data.corpus.captions[caption])))
        return {"cider": torch.tensor(cider_score(self.write(images), references)[0])}
