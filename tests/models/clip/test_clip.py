"""CLIP: its numbers are the original's, and what is none is said.

tests/models/clip/make_clip.py made the arrays.
"""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from configs import common
from mt_diffusion.data import sources
from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.inference.precompute import precompute
from mt_diffusion.models import encoded, sentences
from mt_diffusion.models.clip import images, saved, texts, tokenizer, towers
from tests.modalities.test_text import config_of, resolve

ORIGINAL = dict(np.load("tests/data/clip.npz"))
KINDS = ("clip", "text")  # OpenAI's with both towers; a text tower with gelu, alone


def told(name):
    return json.loads(str(ORIGINAL[name]))


def state_of(kind):
    start = f"{kind}/param/"
    found = [name for name in ORIGINAL if name.startswith(start)]
    return {name.removeprefix(start): ORIGINAL[name] for name in found}


def write_tokenizer(path, pad=""):
    path.mkdir(exist_ok=True)
    (path / "vocab.json").write_text(str(ORIGINAL["tokenizer/vocab"]))
    merges = ["#version: 0.2", *str(ORIGINAL["tokenizer/merges"]).splitlines()]
    (path / "merges.txt").write_text("\n".join(merges))
    if pad:
        (path / "special_tokens_map.json").write_text(json.dumps({"pad_token": pad}))
    return path


def write(path, kind="clip", **changes):
    """A folder as transformers saves it."""
    write_tokenizer(path)
    safetensors.numpy.save_file(state_of(kind), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(told(f"{kind}/config") | changes))
    if kind == "clip":
        prepared = str(ORIGINAL["clip/preprocessor"])
        (path / "preprocessor_config.json").write_text(prepared)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_tower_is_the_originals(kind, tmp_path):
    found = texts.Texts(write(tmp_path, kind))
    ids = ORIGINAL[f"{kind}/ids"].astype(np.int32)
    end = ids.max()
    ends = np.array([found._last(row, end) for row in ids], np.int32)
    pooled, hidden = towers.text(found._tower.state, ids, ends, found._tower.form)
    np.testing.assert_allclose(hidden, ORIGINAL[f"{kind}/hidden"], atol=1e-5)
    np.testing.assert_allclose(pooled, ORIGINAL[f"{kind}/text"], atol=1e-5)


def test_the_image_tower_is_the_originals(tmp_path):
    found = images.Images(write(tmp_path))
    pixels = ORIGINAL["clip/images"]
    wanted = ORIGINAL["clip/pixels"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found.prepare(pixels), wanted, atol=1e-5)
    tower = found._tower
    vectors = towers.image(tower.state, jnp.asarray(wanted), tower.form)
    np.testing.assert_allclose(vectors, ORIGINAL["clip/image"], atol=1e-5)
    units = encoded.unit(ORIGINAL["clip/image"])  # as CLIPModel compares them
    np.testing.assert_allclose(found(pixels), units, atol=1e-5)
    grey = pixels[..., :1]
    np.testing.assert_array_equal(found(grey), found(np.repeat(grey, 3, axis=-1)))


def test_every_weight_of_a_published_one_is_known():
    """Of ViT-L/14, by name and shape."""
    wanted, config = told("real/shapes"), told("real/config")
    found = {}
    for tower in (saved.TEXT, saved.VISION):
        found |= saved.shapes_of(tower, saved.part_of(config, tower), True)
    known = {n: tuple(x) for n, x in wanted.items() if n not in saved.UNREAD}
    assert found == known and len(wanted) > 580


@pytest.mark.parametrize("pad, name", [("", "end"), ("!", "mark")])
def test_the_tokenizer_is_the_originals(tmp_path, pad, name):
    pytest.importorskip("tokenizers")
    strings = told("tokenizer/strings")
    found = tokenizer.read(write_tokenizer(tmp_path / "a", pad))
    ids = [each.ids for each in found.encoder.encode_batch(strings)]
    assert ids == told(f"tokenizer/ids_{name}")
    other = tmp_path / "b"
    other.mkdir()
    found.encoder.save(str(other / "tokenizer.json"))
    if pad:
        shutil.copy(tmp_path / "a" / "special_tokens_map.json", other)
    again = tokenizer.read(other)
    assert [each.ids for each in again.encoder.encode_batch(strings)] == ids
    assert again[1:3] == found[1:3]


def test_texts_are_filled_up_and_cut_as_by_the_original(tmp_path, capsys):
    """As its tokens and its tower say it, each of which is the original's."""
    pytest.importorskip("tokenizers")
    encode = sentences.find(str(write(tmp_path)))
    strings = told("tokenizer/strings")
    found = encode(strings, 20)
    assert "cut to the" in capsys.readouterr().out
    ids = np.array(told("tokenizer/padded_end"), np.int32)
    end = told("tokenizer/vocab")[tokenizer.END]
    ends = np.argmax(ids == end, axis=1).astype(np.int32)
    tower = encode._tower
    pooled, hidden = towers.text(tower.state, ids, ends, tower.form)
    np.testing.assert_allclose(found.tokens[:, :16], hidden, atol=1e-5)
    np.testing.assert_allclose(
        found.pooled, encoded.unit(np.asarray(pooled)), atol=1e-5
    )
    assert not found.tokens[:, 16:].any()
    np.testing.assert_array_equal(found.mask, np.arange(20)[None] < [[16]] * 12)
    assert (encode.size, encode.width) == (10, 12)


def test_stable_diffusions_tokenizer_stands_beside_its_encoder(tmp_path):
    pytest.importorskip("tokenizers")
    write(tmp_path / "text_encoder")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "text_encoder" / name).unlink()
    with pytest.raises(UserError, match="has no tokenizer") as error:
        sentences.find(str(tmp_path / "text_encoder"))
    assert "\n" not in str(error.value)
    write_tokenizer(tmp_path / "tokenizer", "!")
    found = sentences.find(str(tmp_path / "text_encoder"))
    assert found._tokenizer.padding == 0
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="text_encoder"):
        sentences.find(str(tmp_path))


def test_weights_in_several_files_are_one(tmp_path):
    whole, parts = write(tmp_path / "whole"), write(tmp_path / "parts")
    (parts / "model.safetensors").unlink()
    state, index = state_of("clip"), {}
    for i, chosen in enumerate((sorted(state)[:20], sorted(state)[20:])):
        name = f"model-{i}.safetensors"
        safetensors.numpy.save_file({n: state[n] for n in chosen}, parts / name)
        index |= dict.fromkeys(chosen, name)
    told_as = parts / "model.safetensors.index.json"
    told_as.write_text(json.dumps({"weight_map": index}))
    one, other = (texts.Texts(path) for path in (whole, parts))
    assert one.digest == other.digest
    (parts / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks \['model-1.safetensors'\] of the 2"):
        texts.Texts(parts)
    told_as.write_text(json.dumps({"weight_map": {"a": "../model-0.safetensors"}}))
    with pytest.raises(UserError, match="weight_map"):
        texts.Texts(parts)


def test_weights_must_be_those_of_the_config(tmp_path):
    path = write(tmp_path)
    state = state_of("clip")
    name = "vision_model.pre_layrnorm.bias"

    def refused(changed):
        safetensors.numpy.save_file(changed, path / "model.safetensors")
        with pytest.raises(UserError, match="another architecture") as error:
            saved.read(path, saved.TEXT)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "missing ['vision" in refused({n: x for n, x in state.items() if n != name})
    assert "unused ['extra']" in refused(state | {"extra": state[name]})
    assert f"{name} has shape (3,) for (12,)" in refused(
        state | {name: state[name][:3]}
    )
    places = {"text_model.embeddings.position_ids": np.arange(16)[None]}
    safetensors.numpy.save_file(state | places, path / "model.safetensors")
    saved.read(path, saved.TEXT)  # as older files have them


def test_vectors_of_a_data_set_are_its_images(tmp_path):
    path, config = write(tmp_path / "clip"), common.digits().lock()
    out = tmp_path / "v.npz"
    precompute(config, str(path), out)
    config.data.vectors = str(out)
    source = sources.open_source(config.data, "test")
    example = source[300]
    np.testing.assert_allclose(
        example["vector"], images.Images(path)(example["image"][None])[0], atol=1e-4
    )
    with pytest.raises(UserError, match="does not read images"):
        precompute(config, str(write(tmp_path / "t", "text")), tmp_path / "w.npz")


def test_the_network_reads_tokens_as_clip_has_them(tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = str(write(tmp_path / "clip"))

    def built(**fields):
        fields = dict(encoder=path, num_components=6, most_tokens=16) | fields
        (text,) = experiments.build(resolve(config_of(**fields))).modalities
        return text

    text = built(own_tokens=True, tokens=common.tokens(12))
    found = text.encode(jnp.asarray(text.values_of(["red heart", "hello"])))
    wanted = sentences.find(path)(["red heart", "hello"], 16)
    np.testing.assert_allclose(found.tokens[1], wanted.tokens[1], atol=2e-5)
    # What is kept of captions is half-precise.
    np.testing.assert_allclose(found.tokens[0], wanted.tokens[0], atol=2e-3)
    assert found.mask.all()  # the padding, too, as Stable Diffusion reads it
    turned = built(own_tokens=False, tokens=common.tokens(16))
    found = turned.encode(jnp.asarray(turned.values_of(["red heart"])))
    assert found.tokens.shape == (1, 16, 16)
    with pytest.raises(UserError, match="must be that of .*, 12; it is 16"):
        built(own_tokens=True, tokens=common.tokens(16)).values_of(["hello"])


def test_what_is_no_such_clip_is_refused(tmp_path):
    path = write(tmp_path / "text", "text")
    with pytest.raises(UserError, match="'clip_text_model', which does not read image"):
        images.Images(path)
    path = write(tmp_path / "bert", model_type="bert")
    with pytest.raises(UserError, match="'bert', which does not read images"):
        images.Images(path)
    path = write(tmp_path / "siglip", model_type="siglip")
    (path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="of the kind 'siglip'"):
        sentences.find(str(path))
    path = write(tmp_path / "act", "text", hidden_act="relu")
    with pytest.raises(UserError, match="hidden_act = 'relu'"):
        sentences.find(str(path))
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(UserError, match="has no model.safetensors .it has .'pytorch"):
        sentences.find(str(path))


def test_a_tokenizer_of_others_is_refused(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    path = write(tmp_path / "a", "text")  # of 40 words, beside a tokenizer of 530
    with pytest.raises(UserError, match="has 530 words, the CLIP in .* 40"):
        texts.Texts(path)(["a"], 2)
    path = write(tmp_path / "b")
    words = {"a": 0, tokenizer.START: 1, tokenizer.END: 2}
    level = tokenizers.models.WordLevel(words, unk_token="a")
    tokenizers.Tokenizer(level).save(str(path / "tokenizer.json"))
    with pytest.raises(UserError, match="is no tokenizer of a CLIP"):
        texts.Texts(path)(["a"], 2)
    (path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="can't be read as a tokenizer"):
        texts.Texts(path)(["a"], 2)
