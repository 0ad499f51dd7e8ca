"""Words: what is whitened, read, told of and refused; and what the network reads."""

import csv
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mt_diffusion.errors import UserError
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.inference import given, reading, sampling, table
from mt_diffusion.modalities import words
from mt_diffusion.models import sentences
from mt_diffusion.protocol import Code

COLOURS = ("red", "green", "blue", "black", "yellow", "white")
THINGS = ("heart", "house", "ball", "cat", "tree", "flower", "boat", "hat")
CAPTIONS = [[f"{c} {t}", f"a {t} in {c}"] for c in COLOURS for t in THINGS]


class Source:
    """Noise with captions; the last example has none."""

    class_names = ()
    captions = [*CAPTIONS, []]

    def __len__(self):
        return len(self.captions)

    def __getitem__(self, i):
        image = np.random.default_rng(i).integers(256, size=(8, 8, 1), dtype=np.uint8)
        return {"image": image, "caption": self.captions[i]}


def config_of(setting="text", preset="smoke", **fields):
    config = importlib.import_module(f"configs.{setting}").get_config(preset)
    config.unet.update(model_channels=8, num_groups=4, channel_mult=(1,))
    config.unet.attention_resolutions = ()  # but the middle block attends
    config.modalities.text.update(encoder="letters", num_components=12, most_tokens=3)
    config.modalities.text.update(fields)
    return config


def resolve(config):
    return experiments.resolve(config.lock(), Source())


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield resolve(config_of())


@pytest.fixture(scope="module")
def experiment(config):
    return experiments.build(config)


@pytest.fixture
def text(experiment):
    (found,) = experiment.modalities
    return found


def test_vectors_are_white_on_the_captions(text):
    values = text.values_of(text.captions)[:, : text.size].astype(np.float64)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(values.T, bias=True), np.eye(12), atol=2e-3)


def test_captions_are_nearest_to_themselves(text):
    known = list(text.captions)
    items = text.postprocess(text.values_of(known))
    assert items.shape == (len(known), 64)
    for caption, found in zip(known, text.nearest(items, num=2), strict=True):
        (first, cosine), (_, less) = found
        assert cosine == pytest.approx(1, abs=1e-3) and less <= cosine
        assert first == caption or less > 0.999
    assert text.show(items[5]) == known[5]


def test_what_was_typed_is_shown(text):
    item = text.postprocess(text.read("a purple unicorn"))[0]
    assert text.show(item) == "a purple unicorn"
    text.take(["a green boat"])  # by somebody else, later
    assert text.show(item) != "a purple unicorn"


def test_an_example_has_one_of_its_captions(text):
    example = {"caption": ["red heart", b"blue cat"]}
    wanted = text.values_of(["red heart", "blue cat"])
    drawn = [text.preprocess(example, np.random.default_rng(i)) for i in range(20)]
    which = {int(np.argmin(np.abs(wanted - one).sum(axis=1))) for one in drawn}
    assert which == {0, 1}
    for missing in ({"caption": []}, {"caption": " "}, {}):
        assert text.preprocess(missing, np.random.default_rng(0)) is None


def test_texts_are_typed_listed_or_absent(text, experiment, tmp_path, monkeypatch):
    file = tmp_path / "words.txt"
    file.write_text("red heart\nblue cat\n")
    both = sampling.read_given([f"text={file}"], experiment)["text"]
    np.testing.assert_array_equal(both, text.take(["red heart", "blue cat"]))
    np.testing.assert_array_equal(both[:1], text.read("red heart"))
    for absent in ("text=", "text=  "):
        assert sampling.read_given([absent], experiment) == {}
        assert table.inputs_of([absent], {}) == {}
    assert given.take({"text": ""}, experiment) == {}
    with pytest.raises(UserError, match="none of them empty"):
        text.take(["red heart", ""])
    for wrong in ([3], 3, None, ["red heart", None], {1: 2}):
        with pytest.raises(UserError, match="give a text, or several"):
            text.take(wrong)
    with pytest.raises(UserError, match="missing.txt .* of a .txt with a text in each"):
        text.read("missing.txt")
    for name in ("missing.csv", "missing.JSON"):
        with pytest.raises(UserError, match=f"{name} is called as a file is"):
            text.read(name)
    (tmp_path / "list.md").write_text("red heart")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "heart").write_text("red heart")  # a word, too
    for name in ("list.md", "./list.md", "./heart"):
        with pytest.raises(UserError, match=f"{name} is called as a file is"):
            text.read(name)
    assert text.read("heart").shape == (1, *text.placeholder().shape)
    assert text.read("what is list.csv").shape == (1, *text.placeholder().shape)
    file.rename(tmp_path / "words.TXT")
    np.testing.assert_array_equal(text.read(str(tmp_path / "words.TXT")), both)
    other = (tmp_path / "words.TXT").rename(tmp_path / "words.csv")
    with pytest.raises(UserError, match="words.csv is called as a file is, .* a .txt"):
        text.read(str(other))


def test_another_encoder_than_the_checkpoints_is_refused(config, monkeypatch):
    class Wide(sentences.Letters):
        size, digest = 96, "wide"

    monkeypatch.setattr(sentences, "find", lambda text: Wide())
    (text,) = experiments.build(config).modalities
    with pytest.raises(
        UserError, match="of 96 numbers, .* of 64.*encoder=FOLDER"
    ) as told:
        text.read("red heart")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "captions, fields, words",
    [
        (CAPTIONS, dict(num_components=65), "is 65, but the 96 .*=14, or give"),
        (
            CAPTIONS[:3],
            dict(num_components=6),
            "is 6, but.*text.num_components=4, or",
        ),
        ([["one"]] * 3, dict(num_components=1), "differ in 0 directions: give others"),
        ([[]] * 3, {}, "no 'caption'.*--config.data.captions=FILE.csv"),
        (CAPTIONS, dict(feature="txt"), "no 'txt'.*one that examples have"),
        (CAPTIONS, dict(encoder="nowhere"), "'nowhere' is no folder here"),
    ],
)
def test_what_can_not_be_fitted_is_refused(monkeypatch, captions, fields, words):
    monkeypatch.setattr(Source, "captions", captions)
    config = config_of(**fields)
    config.data.image_size = 16  # with room for codes of all
    with pytest.raises(UserError, match=words) as told:
        resolve(config)
    assert "\n" not in str(told.value)


def test_captions_that_vary_little_are_refused():
    flat = np.outer(np.arange(8.0), np.ones(4))
    with pytest.raises(UserError, match="differ in 1 directions: add"):
        words.whiten(flat, 2)


def test_the_network_reads_no_token_outside_of_the_mask(experiment, text):
    """The same text; with other tokens outside of its mask; without any; not read."""
    network, known = experiment.network, jnp.asarray([True, True, True, False])
    value = jnp.asarray(text.values_of(["red heart"] * 4))
    code = text.encode(value)
    np.testing.assert_array_equal(code.mask, [[True, True, False]] * 4)
    changed = (jnp.arange(4) == 1)[:, None, None] & ~code.mask[..., None]
    mask = code.mask & (jnp.arange(4) != 2)[:, None]
    told = Code(code.latent, code.tokens + changed, mask=mask)
    args = jnp.ones((4, 8, 8, 1)), jnp.full(4, 5), {"text": told}, {"text": known}
    args = (*args, {"text": jnp.zeros((4, text.evidence_size))})
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: 0.3 * rng.standard_normal(x.shape).astype(np.float32),
        jax.eval_shape(lambda: network.init(jax.random.key(0), *args)),
    )
    compiled = jax.jit(  # sooner than made fast
        lambda p: network.apply(p, *args).heads["text"],
        compiler_options={"xla_backend_optimization_level": 0},
    )
    same, other, none, absent = compiled(params)
    np.testing.assert_allclose(same, other, atol=1e-4)
    np.testing.assert_allclose(none, absent, atol=1e-4)
    assert not np.allclose(same, none, atol=1e-2)


def test_a_new_network_hears_a_text_as_it_hears_a_label(experiment, text):
    """Its sum over D numbers of unit variance has unit variance, as one of K has."""

    @jax.jit
    def drawn(key):
        params = experiments.init_params(key, experiment)["params"]
        return params["evidence_text"]["kernel"][: text.size]

    kernel = drawn(jax.random.key(0))
    total = np.square(kernel).sum(axis=0).mean()  # of numbers of unit variance
    assert total == pytest.approx(1.0, abs=4 * (2 / kernel.size) ** 0.5)


def gone(text):
    raise UserError("no encoder here")


def test_what_is_read_is_told_with_its_nearest_texts(tmp_path, config, monkeypatch):
    experiment = experiments.build(config)  # of its own, which learns other words
    found = [[("red heart", 0.9), ("red hat", 0.5)], [("\x1b[2J", 0.25)]]
    table.write_nearest(tmp_path / "text.csv", ["a.png", "b.png"], found)
    with open(tmp_path / "text.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["red heart", "red hat", r"\x1b[2J"]
    assert [row["rank"] for row in rows] == ["1", "2", "1"]
    (tmp_path / "list.txt").write_text("one\ntwo\n")
    path = tmp_path / "list.txt"
    (known,) = experiment.modalities
    assert reading.knows_words(known) and not reading.knows_words(experiment.primary)
    items = known.postprocess(known.values_of(["red heart", "two"]))
    reading.compare_with(None, experiment, [])
    assert known.show(items[0]) == "red heart"
    reading.compare_with(path, experiment, ["image=x"])
    assert [known.show(item) for item in items][1] == "two"
    assert {text for text, _ in known.nearest(items, num=9)[0]} == {"one", "two"}
    asked = known.postprocess(known.read("blue  hearts"))
    known.compare_with(["blue heart", "green boat", "blue heart"])
    (found,) = known.nearest(asked, num=9)
    assert [text for text, _ in found] == ["blue heart", "green boat"]
    with monkeypatch.context() as patch:  # what lacks is said before images are read
        patch.setattr(type(known), "_encoder", property(gone))
        path.write_text("three\n")
        with pytest.raises(UserError, match="no encoder here"):
            reading.compare_with(path, experiment, ["image=x"])
    with pytest.raises(UserError, match="no image is given to be read"):
        reading.compare_with(path, experiment, [])


def test_what_has_more_tokens_than_are_read_is_said(config, text, capsys):
    text.take(["a red heart"])
    text.values_of(["an example with many words"])  # nobody asked for it
    assert "reads" not in capsys.readouterr().out
    text.take(["one two three four", "five"])
    assert (
        "the network reads 3 tokens of each text (most_tokens): not all of 1 of 2, "
        "as 'one two three four'" in capsys.readouterr().out
    )


def test_words_of_a_list_need_a_model_that_reads_words(tmp_path):
    config = importlib.import_module("configs.ddpm").get_config("smoke")
    experiment = experiments.build(config)
    with pytest.raises(UserError, match="this model reads no words"):
        reading.compare_with(tmp_path / "a.txt", experiment, ["image=x"])


@pytest.mark.parametrize(
    "preset", ["smoke", pytest.param("emoji", marks=pytest.mark.wide)]
)
def test_any_to_any_can_be_built(preset):
    """Four modalities whose tokens are of one size, and whose codes have room."""
    config = config_of("anything", preset).unlock()
    config.modalities.label.class_names = tuple("abc")
    config.modalities.text.update(
        vector_mean=(0.0,) * 64, whitening=((1.0,) * 64,) * 12, captions=("a",)
    )
    for fields in (config.modalities.text, config.modalities.label):
        fields.measured = {"sources": ("",), "means": ((0.0,) * 12,), "absent": 0.5}
    parts = experiments.build(config)
    assert [m.name for m in parts.modalities] == ["image_b", "label", "text"]
    shapes = jax.eval_shape(lambda: experiments.init_params(jax.random.key(0), parts))
    assert shapes["params"]["null_tokens_text"].shape[0] == 3
