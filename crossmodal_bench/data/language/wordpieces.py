"""Word pieces for BERT-family text encoders, by transformers; without a name, fitted on the captions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import first_line
from crossmodal_bench.data.language.tokens import TokenRows

SPECIAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
FIRST = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""The ids 0 to 4, as in BERT; padding is 0 in every view."""


def build_tokenizer(name: str | None, train_captions: Iterable[str], size: int = 8000) -> Any:
    """A fast tokenizer with the interface of the BERT family.

    Args:
        name: a Hugging Face name or a local folder, or None.
        train_captions: sentences to fit a WordPiece vocabulary on, if no name is given.
        size: of that vocabulary.

    Raises:
        BadInput: the tokenizer cannot be loaded.
    """
    if name is not None:
        return _pretrained(name)
    from tokenizers import BertWordPieceTokenizer, Tokenizer, normalizers
    from transformers import PreTrainedTokenizerFast

    # BERT's own rule strips accents, and with them the vowel signs of Indic scripts.
    composed = normalizers.Sequence(
        [normalizers.NFC(), normalizers.BertNormalizer(strip_accents=False, lowercase=True)]
    )
    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.normalizer = composed
    captions = list(train_captions)
    letters = sorted(
        {
            character
            for caption in captions
            for character in pieces.normalize(caption)
            if not character.isspace()
        }
    )
    # Listed in advance, letters have fixed ids. The trainer would number them in hash table order, which also
    # breaks ties between pieces: every process would get another vocabulary, and no checkpoint would fit.
    pieces.train_from_iterator(
        captions,
        vocab_size=size,
        min_frequency=2,
        show_progress=False,
        limit_alphabet=len(letters) + 1,
        special_tokens=[*FIRST, *letters, *(f"##{letter}" for letter in letters)],
    )
    # Rebuilt from its vocabulary: only then does it put [CLS] and [SEP] around a sentence.
    whole = BertWordPieceTokenizer(vocab=pieces.get_vocab(), lowercase=True)
    whole.normalizer = composed
    backend = Tokenizer.from_str(whole.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=128, **SPECIAL)


def restored_tokenizer(written: str, special: dict[str, str], limit: int) -> Any:
    """A tokenizer that was used before.

    Args:
        written: as serialised by the library ``tokenizers``.
        special: its special tokens, as ``cls_token: [CLS]``.
        limit: maximal number of word pieces in a sentence.

    Raises:
        BadInput: it is not a tokenizer.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    unknown = set(special) - {*SPECIAL, "bos_token", "eos_token"}
    if unknown:
        raise BadInput(f"a tokenizer has no special token '{min(unknown)}'; rerun the job that wrote it")
    try:
        backend = Tokenizer.from_str(written)
        return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=limit, **special)
    # The library raises a bare Exception for what it cannot read.
    except Exception as error:
        raise BadInput(
            f"the checkpoint's tokenizer cannot be read ({first_line(error)}); rerun its job"
        ) from error


def _pretrained(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        # Code that comes with a folder is never run.
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        tokenizer.model_max_length = min(int(tokenizer.model_max_length), _positions(name))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"data.text.tokenizer: '{name}' cannot be loaded ({reason}); give a local "
            "folder with tokenizer.json or vocab.txt, or a known name"
        ) from error
    # A folder without a vocabulary loads as a tokenizer with nothing but its special tokens.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise BadInput(
            f"data.text.tokenizer: '{name}' holds no vocabulary; put its tokenizer.json or vocab.txt there"
        )
    return tokenizer


def _positions(name: str) -> int:
    """How many word pieces the language model of that name accepts; without a model, any number."""
    from transformers import AutoConfig

    try:
        return int(AutoConfig.from_pretrained(name, trust_remote_code=False).max_position_embeddings)
    # A folder may have no configuration, or an arbitrary one.
    except Exception:
        return 2**30


def tokenizer_version(tokenizer: Any) -> str:
    """Differs if captions may get other ids; empty if the tokenizer cannot be serialised."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return ""
    import tokenizers

    made_of = hashlib.sha256(backend.to_str().encode()).hexdigest()
    return f"wordpieces-{tokenizers.__version__}-{tokenizer.model_max_length}-{made_of}"


def encode_wordpieces(tokenizer: Any, captions: Sequence[str]) -> tuple[TokenRows, int]:
    """The captions as ids, including special tokens, and how many were cut to the tokenizer's limit.

    Raises:
        BadInput: the tokenizer's files are incomplete.
    """
    try:
        return _encoded(tokenizer, captions)
    except Exception as error:
        raise BadInput(
            f"data.text.tokenizer cannot split the captions ({first_line(error)}); fix its files"
        ) from error


def _encoded(tokenizer: Any, captions: Sequence[str]) -> tuple[TokenRows, int]:
    rows = tokenizer(list(captions), verbose=False)["input_ids"]
    limit = tokenizer.model_max_length
    too_long = [row for row, ids in enumerate(rows) if len(ids) > limit]
    if too_long:
        # Again, because truncation must keep the special token at the end.
        shorter = tokenizer([captions[row] for row in too_long], truncation=True)["input_ids"]
        for row, ids in zip(too_long, shorter, strict=True):
            rows[row] = ids
    return TokenRows.of(rows), len(too_long)
