"""A folder without a tokenizer that Transformers can read: one line that names model.path, whatever went wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paw_lightning.errors import SettingsError
from paw_lightning.models.loading import ASSETS, load_tokenizer
from tests.helpers.small_tokenizers import sentencepiece

QWEN, MISTRAL = ({"model_type": name, "vocab_size": 100} for name in ("qwen2", "mistral"))
OWN = (ASSETS / "tiny-household" / "tokenizer.json").read_text()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": json.dumps(MISTRAL), "tekken.json": '{"config": {}}'}, "it has a tekken.json, Mistral's own"),
        ({"config.json": json.dumps(QWEN)}, "it has no tokens for a text"),
        ({"config.json": json.dumps(QWEN), "tokenizer.json": "{"}, "gave no tokenizer; .*line 1 column 2"),
        ({"config.json": json.dumps(QWEN), "tokenizer.json": "{}"}, "gave no tokenizer; .*KeyError: 'added_tokens'"),
        (
            {"config.json": json.dumps(QWEN), "tokenizer.json": OWN, "tokenizer_config.json": "[]"},
            "gave no tokenizer; .*AttributeError",
        ),
    ],
    ids=["tekken only", "none", "broken", "empty", "a list of settings"],
)
def test_a_folder_without_a_tokenizer(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError, match=f"model.path is '{tmp_path}', which .*{message}") as raised:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_a_saved_tokenizer_reads_the_same_tokens(tmp_path: Path) -> None:
    """Llama's `legacy` is no part of what Transformers saves: what stands behind a control token would be read anew."""
    sentencepiece("<|user|>").save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "LlamaTokenizer", "legacy": True}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(str(tmp_path / "model"))
    tokenizer.save_pretrained(tmp_path / "saved")
    saved, text = load_tokenizer(str(tmp_path / "saved")), "<|user|>You see</s>You"
    assert saved(text).input_ids == tokenizer(text).input_ids
    assert "\u2581Y" in tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids), "the blank is there"
