"""The network: what it reads, what it ignores, and the shared U-Net as an encoder."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import image_label, masked_image
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.experiment import init_params

B, K = 3, 4
KEY = jax.random.key(0)
LABELS = jnp.eye(K)[:B]


def build(unet=None, **modalities):
    """An experiment with a tiny U-Net; modalities: {name: fields that differ}."""
    config = masked_image.get_config()
    config.modalities.label = image_label.get_config().modalities.label
    for name in list(config.modalities):
        if name not in modalities:
            del config.modalities[name]
    config.unet.update(model_channels=8, num_groups=4, channel_mult=(1,))
    config.unet.update(unet or {})
    changes = {
        "masked_image": {"num_groups": 4},
        "label": {"class_names": tuple("abcd")},
    }
    for name, fields in modalities.items():
        config.modalities[name].update(changes[name] | fields)
    everything = dict(share=1.0) | dict.fromkeys(modalities, "read")
    config.presence = {"all": everything} if modalities else {}
    return experiments.build(config)


def shapes_of(experiment):
    return jax.eval_shape(lambda: init_params(jax.random.key(0), experiment))


def random_params(experiment, seed=0):
    """Parameters as of a network in training: none is zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(0.2 * rng.standard_normal(x.shape), x.dtype),
        shapes_of(experiment),
    )


def masked_values(seed=0):
    rng = np.random.default_rng(seed)
    image = rng.uniform(-1, 1, (B, 8, 8, 1)).astype(np.float32)
    mask = (rng.random((B, 8, 8, 1)) < 0.5).astype(np.float32)
    return jnp.asarray(np.concatenate([image * mask, mask], axis=-1))


def predictor(experiment):
    """(params, z_t, t, values, known) -> Output, jitted."""

    @jax.jit
    def predict(params, z_t, t, values, known):
        apply = functools.partial(experiment.network.apply, params)
        return apply(z_t, t, apply(values, method="encode"), known)

    return predict


Z_T = jax.random.normal(jax.random.key(3), (B, 8, 8, 1))
T = jnp.array([1, 500, 1000])
ALL, NONE, SOME = jnp.ones(B, bool), jnp.zeros(B, bool), jnp.array([True, False, True])


def differs(a, b):
    """Which examples of two batches differ at all. [B]."""
    return np.any(np.asarray(a) != np.asarray(b), axis=(1, 2, 3))


def test_variant_u_reads_no_code():
    experiment = build(masked_image={"conditions": False}, label={"conditions": False})
    predict, params = predictor(experiment), random_params(experiment)
    values = {"masked_image": masked_values(), "label": LABELS}
    other = {"masked_image": masked_values(1), "label": LABELS[::-1]}
    known = {"masked_image": ALL, "label": ALL}
    first, second = (predict(params, Z_T, T, v, known) for v in (values, other))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert first.out.shape == Z_T.shape and first.v is None
    assert first.heads["masked_image"].shape == Z_T.shape
    assert first.heads["label"].shape == (B, K)
    assert not np.any(first.out == 0)


@pytest.fixture(scope="module")
def variant_x():
    """A network with a condition of either kind: planes and tokens."""
    reads = {"conditions": True}
    experiment = build(masked_image=reads, label=reads)
    return predictor(experiment), random_params(experiment)


VALUES = {"masked_image": masked_values(), "label": LABELS}
OTHERS = {"masked_image": masked_values(1), "label": LABELS[::-1]}


@pytest.mark.parametrize("name", VALUES)
def test_variant_x_reads_a_code_where_it_is_known_and_the_null_elsewhere(
    variant_x, name
):
    predict, params = variant_x

    def out(value, known):
        presence = {"masked_image": NONE, "label": NONE} | {name: known}
        return predict(params, Z_T, T, VALUES | {name: value}, presence).out

    null = out(VALUES[name], NONE)
    np.testing.assert_array_equal(differs(out(VALUES[name], SOME), null), SOME)
    np.testing.assert_array_equal(out(OTHERS[name], NONE), null)
    changed = VALUES[name].at[0].set(OTHERS[name][0])
    first = differs(out(changed, ALL), out(VALUES[name], ALL))
    np.testing.assert_array_equal(first, [True, False, False])


def test_what_is_not_named_is_unknown(variant_x):
    predict, params = variant_x
    unnamed = predict(params, Z_T, T, {}, {})
    unknown = predict(params, Z_T, T, VALUES, {"masked_image": NONE, "label": NONE})
    jax.tree.map(np.testing.assert_array_equal, unnamed, unknown)


def test_nulls_are_learned_parameters(variant_x):
    predict, params = variant_x
    nulls = {n: p for n, p in params["params"].items() if n.startswith("null")}
    assert set(nulls) == {"null_tokens_label", "null_planes_masked_image"}
    before = predict(params, Z_T, T, {}, {}).out
    for name, null in nulls.items():
        moved = {"params": params["params"] | {name: null + 1}}
        assert differs(predict(moved, Z_T, T, {}, {}).out, before).all()


def test_places_are_learned_of_what_is_read_alone(variant_x):
    """Added to tokens where they are known; a null has its own."""
    predict, params = variant_x
    (name,) = (n for n in params["params"] if n.startswith("token_places"))
    assert name == "token_places_label"
    moved = {"params": params["params"] | {name: params["params"][name] + 1}}
    known = {"masked_image": ALL, "label": SOME}
    out = [predict(p, Z_T, T, VALUES, known).out for p in (params, moved)]
    np.testing.assert_array_equal(differs(*out), SOME)


def test_places_can_be_left_out():
    reads = {"conditions": True}
    params = shapes_of(build({"token_places": False}, masked_image=reads, label=reads))
    with_places = shapes_of(build(masked_image=reads, label=reads))
    added = with_places["params"].keys() - params["params"].keys()
    assert added == {"token_places_label"}


def test_codes_are_those_of_their_modality():
    experiment = build(masked_image={}, label={})
    codes = experiment.network.apply(random_params(experiment), VALUES, method="encode")
    for modality in experiment.modalities:
        expected = modality.encode(VALUES[modality.name])
        np.testing.assert_array_equal(codes[modality.name].latent, expected.latent)


# What the evidence says


def test_evidence_joins_the_embedding_of_t():
    """Linearly, without a bias: none of it is none; each example its own."""
    experiment = build(label={"conditions": False})
    (size,) = experiment.network.evident.values()
    assert size == K + 1
    params = random_params(experiment)
    kernel = params["params"]["evidence_label"]["kernel"]
    assert (
        kernel.shape == (size, 4 * 8) and len(params["params"]["evidence_label"]) == 1
    )
    apply = jax.jit(experiment.network.apply)
    vectors = jnp.eye(size)[:B]
    without = apply(params, Z_T, T, {}, {})
    nothing = apply(params, Z_T, T, {}, {}, {"label": 0 * vectors})
    jax.tree.map(np.testing.assert_array_equal, without, nothing)
    told = apply(params, Z_T, T, {}, {}, {"label": vectors})
    assert differs(told.out, without.out).all()
    other = apply(params, Z_T, T, {}, {}, {"label": vectors.at[0].set(vectors[1])})
    np.testing.assert_array_equal(differs(told.out, other.out), [True, False, False])
    # A direction that the kernel does not see tells nothing.
    deaf = kernel.at[0].set(0.0)
    params["params"]["evidence_label"] = {"kernel": deaf}
    unheard = apply(params, Z_T, T, {}, {}, {"label": vectors})
    np.testing.assert_array_equal(
        differs(unheard.out, without.out), [False, True, True]
    )


def test_only_codes_that_are_looked_for_have_evidence():
    for fields in (
        {"frame": "none"},
        {"frame": "read"},
        {"drift": "none"},
        {"kind": "label.SharedUNet", "frame": "read"},
    ):
        experiment = build(label=fields, masked_image={})
        assert experiment.network.evident == {}
        params = shapes_of(experiment)["params"]
        assert not [name for name in params if name.startswith("evidence")]


def test_codes_that_are_passed_are_those_that_are_used():
    """As arguments of a program: an experiment's tables, or others."""
    experiment = build(masked_image={}, label={})
    params, tables = random_params(experiment), experiment.tables
    encode = functools.partial(experiment.network.apply, method="encode")
    own = encode(params, VALUES)
    passed = encode(params | tables, VALUES)
    jax.tree.map(np.testing.assert_array_equal, own, passed)
    twice = encode(params | jax.tree.map(lambda x: 2 * x, tables), VALUES)
    np.testing.assert_array_equal(twice["label"].latent, 2 * own["label"].latent)


# The shared U-Net as an encoder


@pytest.fixture(scope="module")
def shared():
    """(jitted encoder of labels, parameters), all other options on."""
    experiment = build(
        {"learn_variance": True},
        label={"kind": "label.SharedUNet", "frame": "read"},
        masked_image={"conditions": True},
    )

    @jax.jit
    def encode(params, value):
        codes = experiment.network.apply(params, {"label": value}, method="encode")
        return codes["label"].latent

    return encode, random_params(experiment)


def with_output_layer(params, scale):
    """The parameters with the U-Net's last convolution scaled."""
    unet = params["params"]["unet"]
    last = jax.tree.map(lambda x: scale * x, unet["out"]["out_2"])
    unet = unet | {"out": unet["out"] | {"out_2": last}}
    return {"params": params["params"] | {"unet": unet}}


def test_a_shared_code_has_unit_rms_at_any_scale_of_the_network(shared):
    encode, params = shared
    for scale in (1.0, 30.0):
        code = encode(with_output_layer(params, scale), LABELS)
        assert code.shape == (B, 8, 8, 1)
        np.testing.assert_allclose(jnp.mean(code**2, axis=(1, 2, 3)), 1, rtol=1e-3)


def test_a_shared_code_is_zero_before_the_output_layer_has_learned(shared):
    encode, params = shared
    np.testing.assert_array_equal(encode(with_output_layer(params, 0.0), LABELS), 0)


def test_all_output_layers_start_at_zero_but_those_of_cross_attention():
    """Those are what makes a shared code, which no gradient reaches, read its label."""
    experiment = build(
        masked_image={}, label={"kind": "label.SharedUNet", "frame": "read"}
    )

    @jax.jit
    def last_layers():
        params = flax.traverse_util.flatten_dict(init_params(KEY, experiment), sep="/")
        ends = ("out_2/kernel", "out_layers_3/kernel", "proj_out/kernel")
        return {name: p for name, p in params.items() if name.endswith(ends)}

    layers = last_layers()
    nonzero = {name for name, kernel in layers.items() if np.any(kernel)}
    assert nonzero == {name for name in layers if "_cross/" in name} != set()
    assert "params/heads_masked_image/block/out_2/kernel" in layers


def test_a_shared_code_depends_on_its_own_label_alone(shared):
    encode, params = shared
    code = encode(params, LABELS)
    places = params["params"]["token_places_label"]
    moved = {"params": params["params"] | {"token_places_label": places + 1}}
    assert differs(encode(moved, LABELS), code).all()  # whose tokens they are
    for i in range(B):
        others = np.sqrt(np.mean((code - code[i][None]) ** 2, axis=(1, 2, 3)))
        assert np.all((others > 0.01) == (np.arange(B) != i))
    swapped = encode(params, LABELS.at[0].set(jnp.eye(K)[3]))
    np.testing.assert_array_equal(differs(swapped, code), [True, False, False])
    soft = encode(params, 0.5 * LABELS + 0.5 * LABELS[::-1])
    assert differs(soft, code)[[0, 2]].all()


def test_no_gradient_flows_through_a_code(shared):
    encode, params = shared
    weights = jax.random.normal(jax.random.key(0), (B, 8, 8, 1))
    grads = jax.jit(jax.grad(lambda p: jnp.sum(weights * encode(p, LABELS))))(params)
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(grads))


# The U-Net below


def test_without_modalities_it_is_the_unet_that_counts_from_0():
    """The learned variance is the second half of its channels."""
    experiment = build({"learn_variance": True})
    params = random_params(experiment)
    prediction = predictor(experiment)(params, Z_T, T, {}, {})
    assert prediction.heads == {} and set(params["params"]) == {"unet"}
    unet = experiment.network.unet
    apply = jax.jit(lambda p, z, t: unet.apply({"params": p}, z, t)[0])
    out = apply(params["params"]["unet"], Z_T, jnp.array([0.0, 499.0, 999.0]))
    np.testing.assert_allclose(prediction.out, out[..., :1], atol=1e-5)
    np.testing.assert_allclose(prediction.v, out[..., 1:], atol=1e-5)
    later = apply(params["params"]["unet"], Z_T, jnp.array([1.0, 500.0, 1000.0]))
    assert np.all(np.abs(later - out).max(axis=(1, 2, 3)) > 1e-4)


def test_bfloat16_keeps_parameters_and_outputs_in_float32(variant_x):
    exact, params = variant_x
    reads = {"conditions": True}
    experiment = build({"dtype": "bfloat16"}, masked_image=reads, label=reads)
    leaves = jax.tree.leaves(shapes_of(experiment))
    assert all(x.dtype == jnp.float32 for x in leaves)
    known = {"masked_image": SOME, "label": SOME}
    found, expected = (
        predict(params, Z_T, T, VALUES, known)
        for predict in (predictor(experiment), exact)
    )
    for ours, theirs in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert ours.dtype == jnp.float32
        error = np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(theirs**2))
        assert 1e-5 < error < 0.05  # bfloat16 has 8 bits


def test_remat_computes_again_what_it_does_not_keep_and_changes_nothing():
    """In training, with dropout, tokens and planes."""
    reads = {"conditions": True}

    def made(remat):
        experiment = build(
            {"remat": remat, "dropout": 0.5}, masked_image=reads, label=reads
        )

        def loss(params, key):
            apply = functools.partial(experiment.network.apply, params)
            codes, known = apply(VALUES, method="encode"), dict.fromkeys(VALUES, ALL)
            rngs = {"dropout": key}
            prediction = apply(Z_T, T, codes, known, {}, False, rngs=rngs)
            parts = jax.tree.leaves(prediction)
            return sum(jnp.mean(x**2) for x in parts), prediction

        grad = jax.jit(jax.grad(loss, has_aux=True)).trace(params, KEY)
        jaxpr = str(grad.jaxpr)
        products, others = jaxpr.count("conv_general_dilated["), jaxpr.count("logistic")
        return grad.lower().compile(), products, others

    params = random_params(build(masked_image=reads, label=reads))
    grad, products, others = made("none")
    expected = grad(params, jax.random.clone(KEY))
    assert all(np.any(x != 0) for x in jax.tree.leaves(expected[1]))
    again = {}
    for remat in ("pointwise", "blocks"):
        grad, *again[remat] = made(remat)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4),
            grad(params, jax.random.clone(KEY)),
            expected,
        )
    assert again["pointwise"][0] == products < again["blocks"][0]
    assert others < again["pointwise"][1]
