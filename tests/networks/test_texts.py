"""Text encoders: what padding may not change, what is loaded, and what is said where nothing can be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from crossmodal_bench.core.batch import DataSpec, TextBatch
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.networks import LanguageModelEncoder, TextSource, WordEncoder
from crossmodal_bench.networks.texts import SequencePooling

LENGTHS = torch.tensor([5, 2, 7, 3])
TINY = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


def words(rows: slice = slice(None), extra: int = 0) -> TextBatch:
    """Captions of different lengths, padded to the longest of ``rows`` and ``extra`` more."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 30, (4, 7), generator=generator)
    lengths = LENGTHS[rows]
    ids = torch.nn.functional.pad(ids[rows], (0, extra))[:, : int(lengths.max()) + extra]
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    index = torch.arange(len(ids))
    return TextBatch(index, index, ids * mask, lengths, ids * mask, mask)


SPEC = DataSpec(10, 20, vocabulary_size=30, wordpiece_vocabulary_size=30, weights_root=".")
ENCODERS: dict[str, Any] = {
    **{
        f"{cell}-{pooling}-{'both' if both else 'one'}": lambda cell=cell, pooling=pooling, both=both: (
            WordEncoder(6, cell, 5, both, pooling)
        )
        for cell in ("lstm", "gru")
        for pooling in ("max", "mean", "last")
        for both in (True, False)
    },
    "vectors-max": lambda: WordEncoder(6, "none", pooling="max"),
    "vectors-mean": lambda: WordEncoder(6, "none", pooling="mean"),
    "language model": lambda: LanguageModelEncoder(TINY, hidden=5),
}


@pytest.mark.parametrize("make", ENCODERS.values(), ids=ENCODERS)
def test_padding_and_company_change_nothing(make: Any) -> None:
    encoder = make()
    encoder.build(SPEC, 4)
    encoder.eval()
    whole = encoder(words())
    assert whole.shape == (4, 4)
    torch.testing.assert_close(encoder(words(extra=6)), whole)
    for row in range(4):
        torch.testing.assert_close(encoder(words(slice(row, row + 1)))[0], whole[row])


@pytest.mark.parametrize("pooling", ["max", "mean", "last"])
def test_pooling_is_the_naive_one(pooling: str) -> None:
    torch.manual_seed(0)
    pool = SequencePooling(6, 4, "gru", 5, True, pooling).eval()  # type: ignore[arg-type]
    batch = torch.randn(4, 7, 6)
    found = pool(batch, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        states = pool.recurrent(batch[row : row + 1, :length])[0][0]
        if pooling == "last":
            pooled = torch.cat([states[-1, :5], states[0, 5:]])
        else:
            pooled = states.max(0).values if pooling == "max" else states.mean(0)
        torch.testing.assert_close(found[row], pool.projection(pooled))


def test_unfrozen_all_parameters_learn_and_frozen_only_those_above() -> None:
    encoder = LanguageModelEncoder(TINY, hidden=5)
    encoder.build(SPEC, 4)
    encoder.train()
    encoder(words()).sum().backward()
    learnt = {name.split(".")[0] for name, one in encoder.named_parameters() if one.grad is not None}
    assert learnt == {"pool"}
    assert encoder.source == TextSource("bert", "none", fine_tuned=False)
    encoder.language_model.unfreeze()
    assert encoder.source == TextSource("bert", "none", fine_tuned=True)
    encoder(words()).sum().backward()
    assert all(one.grad is not None for one in encoder.parameters())


def test_an_encoder_says_what_reads_the_captions() -> None:
    assert WordEncoder().source == TextSource("bilstm")
    assert WordEncoder(cell="gru", bidirectional=False).source == TextSource("gru")
    assert WordEncoder(cell="none", pooling="mean").source == TextSource("words")


def test_without_a_recurrent_network_the_vectors_themselves_are_pooled() -> None:
    encoder = WordEncoder(6, "none", pooling="mean")
    encoder.build(SPEC, 4)
    batch = words()
    assert batch.words is not None
    means = [encoder.words(ids[:n]).mean(0) for ids, n in zip(batch.words, LENGTHS.tolist(), strict=True)]
    torch.testing.assert_close(encoder(batch), encoder.pool.projection(torch.stack(means)))
    with pytest.raises(BadInput, match="pooling is 'last', but cell is 'none'; set it to 'max' or 'mean'"):
        WordEncoder(6, "none", pooling="last").build(SPEC, 4)


def test_dropped_words_leave_the_others_in_order() -> None:
    encoder = WordEncoder(6, word_dropout=0.5)
    ids = torch.arange(4, 44).repeat(200, 1)
    lengths = torch.full((200,), 40)
    lengths[100:] = 10
    torch.manual_seed(0)
    thinned, left = encoder._thinned(ids, lengths)
    assert thinned.shape == (200, int(left.max()))
    for row, kept in zip(thinned, left.tolist(), strict=True):
        assert row[0] == 4 and (row[:kept].diff() > 0).all()
    assert (thinned[100:][torch.arange(thinned.shape[1]) < left[100:, None]] < 14).all()
    assert left[:100].float().mean() == pytest.approx(20.5, abs=1) and left[100:].min() >= 1
    encoder.build(SPEC, 4)
    batch = words()
    assert not torch.equal(encoder(batch), encoder(batch))
    encoder.eval()
    assert torch.equal(encoder(batch), encoder(batch))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user gets from ``model.save_pretrained``."""
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(5)
    BertModel(BertConfig(vocab_size=30, **TINY)).save_pretrained(path)
    return path


def named(folder: Path, **changes: Any) -> DataSpec:
    settings = {"wordpiece_vocabulary_size": 30, "tokenizer": str(folder), "weights_root": "."}
    return DataSpec(10, 20, **{**settings, **changes})


def test_the_model_of_the_tokenizer_is_loaded_in_single_precision(folder: Path, tmp_path: Path) -> None:
    reference = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    encoder = LanguageModelEncoder(hidden=5)
    encoder.build(named(folder), 4)
    batch = words()
    inputs = {"input_ids": batch.wordpieces, "attention_mask": batch.wordpiece_mask}
    expected = reference(**inputs).last_hidden_state
    torch.testing.assert_close(encoder.language_model(**inputs).last_hidden_state, expected)
    reference.half().save_pretrained(tmp_path)
    encoder.build(named(tmp_path), 4)
    assert {one.dtype for one in encoder.parameters()} == {torch.float32}


def test_behind_a_checkpoint_and_by_wish_only_the_sizes_are(folder: Path) -> None:
    loaded = BertModel.from_pretrained(folder).embeddings.word_embeddings.weight
    for spec, wish in ((named(folder, weights_root=None), True), (named(folder), False)):
        encoder = LanguageModelEncoder(hidden=5, pretrained=wish)
        encoder.build(spec, 4)
        weight = encoder.language_model.network.embeddings.word_embeddings.weight
        assert weight.shape == loaded.shape and not torch.equal(weight, loaded)


def broken(folder: Path, tmp_path: Path, what: str) -> Path:
    for name in ("config.json", "model.safetensors"):
        content = (folder / name).read_bytes()
        (tmp_path / name).write_bytes(
            content[: len(content) // 2] if what == f"truncated {name}" else content
        )
    if what.startswith("without"):
        (tmp_path / what.removeprefix("without ")).unlink()
    return tmp_path


@pytest.mark.parametrize(
    "what",
    [
        "without config.json",
        "without model.safetensors",
        "truncated config.json",
        "truncated model.safetensors",
    ],
)
def test_a_model_that_cannot_be_loaded_is_named_in_one_sentence(
    folder: Path, tmp_path: Path, what: str
) -> None:
    path = broken(folder, tmp_path, what)
    with pytest.raises(BadInput) as raised:
        LanguageModelEncoder().build(named(path), 4)
    assert str(raised.value).startswith(f"language model '{path}' (data.text.tokenizer) cannot be loaded (")
    assert "\n" not in str(raised.value)


def test_sizes_that_make_no_model_and_sizes_beside_a_name_are_refused(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"text_encoder.config is not a valid BERT \(.*\); fix its sizes"):
        LanguageModelEncoder({**TINY, "num_attention_heads": 3}).build(SPEC, 4)
    with pytest.raises(BadInput, match=r"names '.*', which has its own; set only one of the two"):
        LanguageModelEncoder(TINY).build(named(folder), 4)


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    with pytest.raises(BadInput, match="knows 30 word pieces, but its tokenizer has 31; the folder mixes"):
        LanguageModelEncoder().build(named(folder, wordpiece_vocabulary_size=31), 4)


def test_a_model_too_short_for_the_captions_is_refused() -> None:
    spec = replace(SPEC, longest_wordpieces=40)
    with pytest.raises(
        BadInput, match=r"max_position_embeddings is 16, but the longest caption has 40 word pieces"
    ):
        LanguageModelEncoder({**TINY, "max_position_embeddings": 16}).build(spec, 4)
    LanguageModelEncoder({**TINY, "max_position_embeddings": 40}).build(spec, 4)
