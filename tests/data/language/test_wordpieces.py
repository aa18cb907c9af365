"""Word pieces: a tokenizer from a folder, or one fitted on the training captions."""

from __future__ import annotations

import shutil
from pathlib import Path

import fakes
import pytest
from transformers import BertConfig, BertTokenizerFast

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.language.wordpieces import build_tokenizer, encode_wordpieces

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "run", "##s", "##ning", "."]
CAPTIONS = [fakes.caption(row, k) for row in range(20) for k in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user gets from ``tokenizer.save_pretrained``."""
    path = tmp_path_factory.mktemp("tokenizer")
    (path / "vocab.txt").write_text("\n".join(PIECES), encoding="utf-8")
    tokenizer = BertTokenizerFast.from_pretrained(path, do_lower_case=True)
    saved = path / "saved"
    tokenizer.save_pretrained(saved)
    return saved


def test_a_local_folder(folder: Path) -> None:
    tokenizer = build_tokenizer(str(folder), ["these captions are not looked at"])
    ids = tokenizer("A dog runs.")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "dog", "run", "##s", ".", "[SEP]"]
    assert len(tokenizer) == len(PIECES)


@pytest.mark.parametrize("name", ["missing folder", "empty folder"])
def test_a_tokenizer_that_cannot_be_loaded_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "empty folder":
        path.mkdir()
    with pytest.raises(BadInput) as raised:
        build_tokenizer(str(path), [])
    assert str(raised.value).startswith(f"data.text.tokenizer: '{path}' cannot be loaded (")
    assert str(raised.value).endswith("with tokenizer.json or vocab.txt, or a known name")
    assert "\n" not in str(raised.value)


def test_the_fitted_one_frames_pads_and_masks_like_berts() -> None:
    tokenizer = build_tokenizer(None, CAPTIONS)
    batch = tokenizer(["A red dog", "The HORSE stands near a boat."], padding=True, truncation=True)
    tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in batch["input_ids"]]
    assert tokens[0][:5] == ["[CLS]", "a", "red", "dog", "[SEP]"]
    assert set(tokens[0][5:]) == {"[PAD]"} and tokenizer.pad_token_id == 0
    assert tokens[1][0] == "[CLS]" and tokens[1][-2:] == [".", "[SEP]"]
    assert batch["attention_mask"] == [[int(token != "[PAD]") for token in line] for line in tokens]
    assert max(max(ids) for ids in batch["input_ids"]) < len(tokenizer)


def test_the_fitted_one_takes_words_apart_and_knows_what_it_does_not_know() -> None:
    captions = ["walking talking walk talk sing singing"] * 5
    assert len(build_tokenizer(None, captions, size=28)) == 28
    tokenizer = build_tokenizer(None, captions)
    assert tokenizer.tokenize("Singing walks") == ["singing", "walk", "##s"]
    assert tokenizer.tokenize("gnats") == ["g", "##n", "##a", "##t", "##s"]
    assert tokenizer.tokenize("日本") == ["[UNK]", "[UNK]"]


def test_the_fitted_one_is_a_function_of_the_captions() -> None:
    first = build_tokenizer(None, CAPTIONS).get_vocab()
    # Any of these differs with its own hash seed where the library's order of things is let through.
    assert all(build_tokenizer(None, iter(CAPTIONS)).get_vocab() == first for _ in range(5))
    assert build_tokenizer(None, ["something else entirely"] * 3).get_vocab() != first


def test_long_captions_are_cut() -> None:
    ids = build_tokenizer(None, CAPTIONS)("dog " * 500, truncation=True)["input_ids"]
    assert len(ids) == 128


def test_the_language_models_limit_counts_where_it_is_lower(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    BertConfig(vocab_size=len(PIECES), max_position_embeddings=6).save_pretrained(tmp_path)
    tokenizer = build_tokenizer(str(tmp_path), [])
    rows, cut = encode_wordpieces(tokenizer, ["a dog", "a dog runs. a dog runs.", "a", "a a a a a"])
    assert cut == 2
    found = [tokenizer.convert_ids_to_tokens(rows[i].tolist()) for i in range(4)]
    assert found[0] == ["[CLS]", "a", "dog", "[SEP]"]
    assert found[1] == ["[CLS]", "a", "dog", "run", "##s", "[SEP]"]
    assert [len(one) for one in found] == [4, 6, 3, 6]


def test_a_model_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    BertConfig(vocab_size=30).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"data.text.tokenizer: .* holds no vocabulary|cannot be loaded"):
        build_tokenizer(str(tmp_path), [])
