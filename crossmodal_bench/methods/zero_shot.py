"""A dual encoder as it comes, without any training (CLIP, SigLIP, ALIGN)."""

from __future__ import annotations

import torch
from torch import Tensor

from crossmodal_bench.core.batch import DataSpec, ImageBatch, PairBatch, TextBatch, require
from crossmodal_bench.core.encoding import Encoding, VectorSimilarity
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.methods.base import RetrievalMethod
from crossmodal_bench.networks.dual_encoders import HF
from crossmodal_bench.similarity import cosine_similarity


class ZeroShot(RetrievalMethod):
    """The cosine of the vectors that the two towers of one dual encoder give; nothing is trained.

    Pictures and captions are encoded by the data module, once for all methods that read the same towers
    (``data.images.network`` and ``data.text.network``). A factor and a bias that the model has learned change
    no order, and are left out. Configure the trainer with one epoch of one batch.
    """

    requires = frozenset({"features", "bow"})
    deterministic = True

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.save_hyperparameters()
        # DDP refuses a module in which nothing asks for a gradient.
        self.nothing = torch.nn.Parameter(torch.zeros(0))

    def build(self, spec: DataSpec) -> None:
        """Nothing; raises BadInput where the vectors are not those of one dual encoder."""
        if reason := self.not_one_encoder(spec.network, spec.text_network):
            raise BadInput(reason)

    @staticmethod
    def not_one_encoder(network: str | None, text_network: str | None) -> str:
        """Why the vectors of these networks cannot be compared, in a sentence; empty where they can.

        Args:
            network: what encodes the images, or None.
            text_network: what encodes the captions, or None.
        """
        if network is not None and network.startswith(HF) and network == text_network:
            return ""
        return (
            "a dual encoder ranks as it comes, but "
            f"{network or 'no network'} encodes the images and {text_network or 'no network'} the captions; "
            "give NETWORK=hf:NAME, a name of Hugging Face's or a folder, and leave TEXT out"
        )

    def configure_optimizers(self) -> None:
        """None."""

    def training_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Nothing is trained."""

    def encode_images(self, batch: ImageBatch) -> Encoding:
        """(B, dim), by the image tower."""
        return Encoding(require(batch.features, "features"))

    def encode_texts(self, batch: TextBatch) -> Encoding:
        """(B, dim), by the text tower."""
        return Encoding(require(batch.bow, "bow"))

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """The cosine."""
        # In single precision whatever surrounds the call: what is ranked differs in the third digit.
        with torch.autocast(images.values.device.type, enabled=False):
            return cosine_similarity(images.values, texts.values)

    @property
    def vector_similarity(self) -> VectorSimilarity:
        """The cosine."""
        return "cosine"
