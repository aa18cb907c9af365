"""Text encoders: one vector per caption."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crossmodal_bench.core.batch import DataSpec, TextBatch, require
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.host import sent
from crossmodal_bench.networks.checksums import parameter_checksum
from crossmodal_bench.networks.embedding import single
from crossmodal_bench.networks.freezing import Freezable, Freeze
from crossmodal_bench.networks.packing import read_sentences
from crossmodal_bench.networks.perceptron import Perceptron

Cell = Literal["lstm", "gru", "none"]
Pooling = Literal["max", "mean", "last"]


@dataclass(frozen=True)
class TextSource:
    """What reads the captions; part of every record.

    Attributes:
        encoder: ``gru``, ``bigru``, ``lstm`` or ``bilstm`` over learned word vectors, ``words`` for word
            vectors without a recurrent network, or the family of a language model, such as ``bert``.
        weights: a language model's name, or ``none`` for random ones; None for the other encoders.
        weights_sha256: 16 hex digits of its parameters as loaded; None if nothing was loaded.
        fine_tuned: whether it is trained along with the rest; a language model may stay as loaded.
    """

    encoder: str
    weights: str | None = None
    fine_tuned: bool = True
    weights_sha256: str | None = None


class TextEncoder(nn.Module, ABC):
    """Captions to vectors. ``requires`` names the views it reads."""

    requires: frozenset[str]
    freeze: Freeze = "never"

    @property
    def source(self) -> TextSource | None:
        """What reads the captions; None if an encoder does not say."""
        return None

    @abstractmethod
    def build(self, spec: DataSpec, dim: int) -> None:
        """Create the layers, for vectors of width ``dim``."""

    @abstractmethod
    def forward(self, batch: TextBatch) -> Tensor:
        """(B, dim)."""


class SequencePooling(nn.Module):
    """A recurrent network over word vectors, pooled over the real words, and one linear layer.

    TIMAM does not say how the LSTM's outputs become one vector; CMPM, on which it builds, takes the maximum
    over time, padding included. Here padding never counts.

    Args:
        width: of the word vectors.
        dim: of the result.
        cell: ``lstm`` or ``gru``; ``none``: the word vectors themselves are pooled.
        hidden: units per direction.
        bidirectional: whether the words are also read backwards.
        pooling: ``max`` or ``mean`` over the words, or ``last``: each direction's last state.
        dropout: on word vectors and on the pooled vector.
    """

    def __init__(
        self,
        width: int,
        dim: int,
        cell: Cell = "lstm",
        hidden: int = 512,
        bidirectional: bool = True,
        pooling: Pooling = "max",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if cell == "none" and pooling == "last":
            raise BadInput("text_encoder.pooling is 'last', but cell is 'none'; set it to 'max' or 'mean'")
        self.pooling, self.dropout = pooling, nn.Dropout(dropout)
        self.recurrent: nn.LSTM | nn.GRU | None = None
        if cell != "none":
            kind = nn.LSTM if cell == "lstm" else nn.GRU
            self.recurrent = kind(width, hidden, batch_first=True, bidirectional=bidirectional)
            width = hidden * (2 if bidirectional else 1)
        self.projection = nn.Linear(width, dim)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """(B, L, width) and (B,), the latter on the host, to (B, dim).

        In single precision, whatever produced the words: vectors are ranked, and cuDNN's recurrent networks
        would otherwise run in half precision without the gradient scaling that it needs.
        """
        with torch.autocast(words.device.type, enabled=False):
            return self._pooled(single(words), lengths)

    def _pooled(self, words: Tensor, lengths: Tensor) -> Tensor:
        states = self.dropout(words)
        if self.recurrent is not None:
            read = read_sentences(self.recurrent, states, lengths)
            if self.pooling == "last":
                return self.projection(self.dropout(torch.cat(list(read.last), 1)))
            states = read.padded()
        lengths = sent(lengths, states.device)
        real = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
        if self.pooling == "max":
            pooled = states.masked_fill(~real[:, :, None], -torch.inf).amax(1)
        else:
            pooled = (states * real[:, :, None]).sum(1) / lengths[:, None]
        return self.projection(self.dropout(pooled))


class WordEncoder(TextEncoder):
    """Word vectors learned from scratch, and a recurrent network.

    With an LSTM, these are the "FC-Emb." rows of TIMAM's Table 5: a linear layer on one-hot words is a table
    of vectors.

    Args:
        embedding: width of the word vectors; they are initialised uniformly in -0.1 ... 0.1, as in matching
            networks of that time. Vectors of unit deviation drown out what is learned on a small data set.
        cell, hidden, bidirectional, pooling, dropout: see SequencePooling.
        word_dropout: share of a caption's words dropped in training, redrawn every epoch.
    """

    requires = frozenset({"words"})

    def __init__(
        self,
        embedding: int = 300,
        cell: Cell = "lstm",
        hidden: int = 512,
        bidirectional: bool = True,
        pooling: Pooling = "max",
        dropout: float = 0.0,
        word_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding, self.word_dropout = embedding, word_dropout
        self.recurrent: dict[str, Any] = {
            "cell": cell,
            "hidden": hidden,
            "bidirectional": bidirectional,
            "pooling": pooling,
            "dropout": dropout,
        }

    def build(self, spec: DataSpec, dim: int) -> None:
        """Create the table of word vectors and the layers over it."""
        self.words = nn.Embedding(spec.vocabulary_size, self.embedding, padding_idx=0)
        nn.init.uniform_(self.words.weight, -0.1, 0.1)
        self.pool = SequencePooling(self.embedding, dim, **self.recurrent)

    @property
    def source(self) -> TextSource:
        """The recurrent network, or the word vectors alone."""
        cell = self.recurrent["cell"]
        if cell == "none":
            return TextSource("words")
        return TextSource(f"bi{cell}" if self.recurrent["bidirectional"] else cell)

    def forward(self, batch: TextBatch) -> Tensor:
        """(B, dim)."""
        words, lengths = require(batch.words, "words"), require(batch.lengths, "lengths")
        if self.training and self.word_dropout:
            words, lengths = self._thinned(words, lengths)
        return self.pool(self.words(words), lengths)

    def _thinned(self, words: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Captions without some of their words, always keeping the first one, in the original order."""
        # Drawn on the host, which must know how many words the longest caption keeps.
        kept = torch.rand(words.shape) >= self.word_dropout
        kept[:, 0] = True
        kept &= torch.arange(words.shape[1]) < lengths[:, None]
        first = (~kept).long().argsort(dim=1, stable=True)
        left = kept.sum(1)
        return words.gather(1, sent(first[:, : int(left.max())], words.device)), left


class TextFeatureEncoder(TextEncoder):
    """Precomputed caption vectors, through linear layers.

    They are in the view ``bow``: those of a frozen tower or of the data set, or else bags of words.

    Args:
        hidden: widths between the features and the vector.
        dropout: on the features and on hidden units.
        standardise: whether features are first standardised by batch statistics.
    """

    requires = frozenset({"bow"})

    def __init__(self, hidden: Sequence[int] = (), dropout: float = 0.0, standardise: bool = False) -> None:
        super().__init__()
        self.hidden, self.dropout = tuple(hidden), dropout
        self.standardise = standardise

    def build(self, spec: DataSpec, dim: int) -> None:
        """Create the layers, starting at the features' width."""
        scale = nn.BatchNorm1d(spec.bow_dim, affine=False) if self.standardise else nn.Identity()
        self.prepare = nn.Sequential(scale, nn.Dropout(self.dropout))
        self.projection = Perceptron((spec.bow_dim, *self.hidden, dim), "relu", dropout=self.dropout)

    def forward(self, batch: TextBatch) -> Tensor:
        """(B, dim)."""
        return self.projection(self.prepare(require(batch.bow, "bow")))


class LanguageModelEncoder(TextEncoder):
    """The last hidden states of a BERT-family model, through a recurrent network (TIMAM, 3.1).

    The model is the one that ``data.text.tokenizer`` names; without a name, it has random weights and the
    sizes in ``config``, and reads the word pieces fitted on the training captions.

    Args:
        config: sizes of a random model, named as in transformers.BertConfig; BERT-base's if omitted.
        pretrained: whether the named model's weights are loaded; otherwise only its sizes.
        freeze: whether, and for how long, the model stays as loaded.
        cell, hidden, bidirectional, pooling, dropout: see SequencePooling.
    """

    requires = frozenset({"wordpieces"})

    def __init__(
        self,
        config: dict[str, int | float | str] | None = None,
        pretrained: bool = True,
        freeze: Freeze = "until_plateau",
        cell: Cell = "lstm",
        hidden: int = 512,
        bidirectional: bool = True,
        pooling: Pooling = "max",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.config, self.pretrained = config or {}, pretrained
        self.freeze = freeze
        self.recurrent: dict[str, Any] = {
            "cell": cell,
            "hidden": hidden,
            "bidirectional": bidirectional,
            "pooling": pooling,
            "dropout": dropout,
        }

    def build(self, spec: DataSpec, dim: int) -> None:
        """Load the model; only its sizes if a checkpoint is about to supply the weights."""
        pretrained = self.pretrained and spec.weights_root is not None
        model = load_language_model(spec.tokenizer, pretrained, self.config, spec)
        self.language_model = Freezable(model, self.freeze)
        self.pool = SequencePooling(model.config.hidden_size, dim, **self.recurrent)
        self.family, self.name = str(model.config.model_type), spec.tokenizer
        self.checksum = parameter_checksum(model) if pretrained and spec.tokenizer is not None else None

    @property
    def source(self) -> TextSource:
        """The language model, and whether it has been unfrozen at this point of the training."""
        weights = self.name if self.pretrained and self.name is not None else "none"
        return TextSource(
            self.family,
            weights,
            fine_tuned=not bool(self.language_model.frozen),
            weights_sha256=self.checksum,
        )

    def forward(self, batch: TextBatch) -> Tensor:
        """(B, dim)."""
        mask = require(batch.wordpiece_mask, "wordpieces")
        states = self.language_model(
            input_ids=require(batch.wordpieces, "wordpieces"), attention_mask=mask
        ).last_hidden_state
        lengths = batch.wordpiece_lengths
        # A batch built in user code may lack them; counting them waits for the device.
        return self.pool(states, mask.sum(1).cpu() if lengths is None else lengths)


def load_language_model(name: str | None, pretrained: bool, config: Mapping[str, Any], spec: DataSpec) -> Any:
    """A transformers encoder without the head on its first state.

    Args:
        name: a Hugging Face name or a local folder, or None for random weights.
        pretrained: whether its weights are loaded.
        config: sizes, if there is no name.
        spec: the number of word pieces in the vocabulary, and in the longest caption.

    Raises:
        BadInput: a model that cannot be loaded, invalid sizes, or a vocabulary that does not fit.
    """
    from transformers import AutoConfig, AutoModel, BertConfig

    if name is not None and config:
        raise BadInput(
            f"text_encoder.config gives sizes, but data.text.tokenizer names '{name}', which has its own; "
            "set only one of the two"
        )
    try:
        if name is None:
            model = AutoModel.from_config(
                BertConfig(**{"vocab_size": spec.wordpiece_vocabulary_size, **config})
            )
        elif not pretrained:
            model = AutoModel.from_config(AutoConfig.from_pretrained(name))
        else:
            # Without an explicit type, a half-precision checkpoint would be trained in half precision.
            model = AutoModel.from_pretrained(name, dtype=torch.float32)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if name is None:
            raise BadInput(f"text_encoder.config is not a valid BERT ({reason}); fix its sizes") from error
        raise BadInput(
            f"language model '{name}' (data.text.tokenizer) cannot be loaded ({reason}); "
            "give a local folder with config.json and model.safetensors, or a known name"
        ) from error
    if model.config.vocab_size < spec.wordpiece_vocabulary_size:
        raise BadInput(
            f"language model '{name}' knows {model.config.vocab_size} word pieces, but its tokenizer has "
            f"{spec.wordpiece_vocabulary_size}; the folder mixes two models: use the tokenizer of this one"
        )
    if model.config.max_position_embeddings < spec.longest_wordpieces:
        raise BadInput(
            f"text_encoder.config.max_position_embeddings is {model.config.max_position_embeddings}, but the "
            f"longest caption has {spec.longest_wordpieces} word pieces; set it to at least that"
        )
    if getattr(model, "pooler", None) is not None:
        # Its output is unused, so its parameters would never get a gradient.
        model.pooler = None
    return model
