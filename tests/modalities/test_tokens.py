"""Tables of tokens: each name's own, and those that there were before recipes."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, image_label, image_representation
from mt_diffusion.errors import UserError
from mt_diffusion.modalities import build as base
from mt_diffusion.modalities import tokens

SIZE, K, D = 16, 5, 16  # numbers of a token, classes, numbers of a vector


def build(module, name, **recipe):
    (fields,) = module.get_config().modalities.to_dict().values()
    if module is image_label:
        fields["class_names"] = tuple("abcde")
    else:
        statistics = dict(vector_mean=(0.0,) * D, vector_std=(1.0,) * D)
        fields |= statistics | {"vectors": "feature:vector"}
    fields["tokens"] = common.tokens(SIZE) | recipe
    return base.build(name, fields, (8, 8, 1))


def table(module, name="x", **recipe):
    """The tokens of each class, or of a unit of each number: [num, SIZE]."""
    num = K if module is image_label else D
    made = build(module, name, **recipe).as_tokens(jnp.eye(num))
    return np.asarray(made).reshape(num, -1)


def of_labels():
    """What label.Label had: a copy of its lines."""
    drawn = np.random.default_rng(0).standard_normal((K, SIZE))
    return drawn / np.sqrt(np.mean(drawn**2, axis=-1, keepdims=True))


def of_vectors():
    """What representation.isometry made of as many numbers as there is room for."""
    gaussian = np.random.default_rng(0).standard_normal((SIZE, D))
    orthogonal, triangle = np.linalg.qr(gaussian)
    return np.sqrt(SIZE / D) * (orthogonal * np.sign(np.diag(triangle))).T


MODULES = {image_label: of_labels, image_representation: of_vectors}
each = pytest.mark.parametrize("module", MODULES)


@each
def test_names_and_seeds_make_others(module):
    found = table(module)
    np.testing.assert_array_equal(table(module), found)
    np.testing.assert_allclose(np.mean(found**2), 1 if module is image_label else 1 / D)
    for other in (table(module, "y"), table(module, seed=1)):
        assert np.abs(other - found).max() > 0.1


@each
def test_version_0_makes_those_that_there_were_whatever_the_name(module):
    expected = MODULES[module]().astype(np.float32)
    for name in ("x", "y"):
        np.testing.assert_array_equal(table(module, name, version=0), expected)


def test_tables_are_not_those_of_codes():
    """Whose generator has the same seed and the same name."""
    label = build(image_label, "label")
    drawn = np.random.default_rng([0, *b"label"]).standard_normal((K, SIZE))
    cosines = np.sum(table(image_label, "label") * drawn, axis=1) / SIZE
    assert label.codes["seed"] == label.tokens["seed"]
    assert np.abs(cosines).max() < 0.9


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"version": 2}, "x.tokens.version is 2; .* 0 to 1"),
        ({"version": -1}, "x.tokens.version is -1"),
        ({"size": 0}, "x.tokens.size is 0; .*1 number or more"),
    ],
)
def test_recipes_that_can_not_be_are_refused(changes, words):
    with pytest.raises(UserError, match=f"config.modalities.{words}"):
        tokens.check(common.tokens(SIZE) | changes, "x")
