"""Word pieces for BERT-family text encoders, by transformers; a small vocabulary of one's own where none is named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from crossmodal_bench.errors import BadInput

SPECIAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def build_tokenizer(name: str | None, train_captions: Iterable[str], size: int = 8000) -> Any:
    """A fast tokenizer with the BERT family's call.

    Args:
        name: a Hugging Face name or a local folder, or None.
        train_captions: what a WordPiece vocabulary is fitted on where no name is given.
        size: of that vocabulary.

    Raises:
        BadInput: the tokenizer cannot be loaded.
    """
    if name is not None:
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise BadInput(
                f"tokenizer '{name}' cannot be loaded ({str(error).splitlines()[0]}); give a local folder or a known name"
            ) from error
    from tokenizers import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator(train_captions, vocab_size=size, min_frequency=2, show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=pieces, model_max_length=128, **SPECIAL)
