"""A pre-trained dual encoder without further training (CLIP, SigLIP, ALIGN)."""

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
    """The cosine of the vectors of a dual encoder's two towers; nothing is trained.

    The data module encodes pictures and captions, once for all methods that use the same towers
    (``data.images.network`` and ``data.text.network``). The model's learned scale and bias do not affect the
    ranking and are left out. Configure the trainer with one epoch of one batch.
    """

    requires = frozenset({"features", "bow"})
    deterministic = True

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.save_hyperparameters()
        # DDP rejects a module without parameters that require a gradient.
        self.nothing = torch.nn.Parameter(torch.zeros(0))

    def build(self, spec: DataSpec) -> None:
        """Build nothing; raise BadInput if the vectors are not those of one dual encoder."""
        if reason := self.not_one_encoder(spec.network, spec.text_network):
            raise BadInput(reason)

    @staticmethod
    def not_one_encoder(network: str | None, text_network: str | None) -> str:
        """Why the vectors of these networks cannot be compared, in a sentence; empty if they can.

        Args:
            network: the image encoder, or None.
            text_network: the caption encoder, or None.
        """
        if network is not None and network.startswith(HF) and network == text_network:
            return ""
        return (
            "zero-shot ranking needs one dual encoder, but "
            f"{network or 'no network'} encodes the images and {text_network or 'no network'} the captions; "
            "give NETWORK=hf:NAME, a Hugging Face name or a folder, and leave TEXT out"
        )

    def configure_optimizers(self) -> None:
        """No optimisers."""

    def training_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Do nothing: there is no training."""

    def encode_images(self, batch: ImageBatch) -> Encoding:
        """(B, dim) vectors of the image tower."""
        return Encoding(require(batch.features, "features"))

    def encode_texts(self, batch: TextBatch) -> Encoding:
        """(B, dim) vectors of the text tower."""
        return Encoding(require(batch.bow, "bow"))

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """The cosine."""
        # Always in single precision: scores often differ only in the third digit.
        with torch.autocast(images.values.device.type, enabled=False):
            return cosine_similarity(images.values, texts.values)

    @property
    def vector_similarity(self) -> VectorSimilarity:
        """The cosine."""
        return "cosine"
