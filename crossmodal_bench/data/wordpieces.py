"""Word pieces for BERT-family text encoders, by transformers; with no name given, fitted on the captions."""

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
FIRST = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""The ids 0 to 4, as BERT has them; padding is 0 in every view."""


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
                f"tokenizer '{name}' cannot be loaded ({str(error).splitlines()[0]}); "
                "give a local folder or a known name"
            ) from error
    from tokenizers import BertWordPieceTokenizer, Tokenizer
    from transformers import PreTrainedTokenizerFast

    pieces = BertWordPieceTokenizer(lowercase=True)
    captions = list(train_captions)
    letters = sorted({one for caption in captions for one in pieces.normalize(caption) if not one.isspace()})
    # Named beforehand, letters have fixed ids. The trainer would number them in the order of a hash table,
    # which also decides ties between pieces: another vocabulary in every process, no checkpoint that fits.
    pieces.train_from_iterator(
        captions,
        vocab_size=size,
        min_frequency=2,
        show_progress=False,
        limit_alphabet=len(letters) + 1,
        special_tokens=[*FIRST, *letters, *(f"##{one}" for one in letters)],
    )
    # Made anew from its vocabulary: only then does it put [CLS] and [SEP] around a sentence.
    whole = BertWordPieceTokenizer(vocab=pieces.get_vocab(), lowercase=True)
    backend = Tokenizer.from_str(whole.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=128, **SPECIAL)
