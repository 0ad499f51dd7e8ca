"""Is a label known beside a masked image, and does the image that is drawn fit it?

    . launch/setup.sh
    python -m studies.beside MODEL --data_dir=DATA_DIR [--num=512] [--patches=10]

MODEL is a name or workdir of a model of image, masked image and label. Test images of
Fashion-MNIST with patches hidden are given. First what the network knows: nats of the
true label in p(label | z_t, masked image), at times of the true image's own diffusion.
Then walks of 25 ancestral steps by each guess of the label: how often the label drawn
is the true one, and the image of the true class by scikit-learn's judge, and how often
these two agree.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mt_diffusion
from studies.judge import Judge

TIMES = (1.0, 0.95, 0.85, 0.7, 0.4, 0.1)  # of T
GUESSES = ("held", "coherent", "absent")
WALK = {"steps": 25, "sampler": "ancestral", "variance": "beta_tilde"}
WALK |= {"correction": "none"}


def hidden(model: Any, images: np.ndarray, num_patches: int) -> np.ndarray:
    """Values of the masked image [N, H, W, C + 1], seed 0."""
    (masks,) = (m for m in model.experiment.modalities if m.name == "masked_image")
    rng = np.random.default_rng(0)
    seen = np.stack([masks.draw_mask(num_patches, rng) for _ in images])
    z0 = model.experiment.primary.preprocess({"image": images}, None)
    return masks.hide(z0, seen)


def nats(model: Any, images: np.ndarray, values: np.ndarray, labels: np.ndarray):
    """{t: mean nats of the true label}, the masked image being read."""
    denoiser, num_steps = model.experiment.denoiser, model.process.schedule.num_steps
    z0 = jnp.asarray(model.experiment.primary.preprocess({"image": images}, None))
    eps = jax.random.normal(jax.random.key(0), z0.shape)
    given = {"masked_image": jnp.asarray(values)}
    known = {"masked_image": jnp.ones(len(z0), bool)}

    @jax.jit
    def look(params, t):
        codes = denoiser.encode(params, given)
        latents = {name: code.latent for name, code in codes.items()}
        z_t = denoiser.process.diffuse(z0, latents, t, eps)
        heads = denoiser(params, z_t, t, codes, known, given).heads
        chances = jax.nn.log_softmax(heads["label"])
        return -jnp.mean(chances[jnp.arange(len(z0)), labels])

    times = [round(share * num_steps) for share in TIMES]
    return {t: float(look(model.params, jnp.full(len(z0), t))) for t in times}


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a name or workdir")
    parser.add_argument("--data_dir", required=True, help="of TFDS, with fashion_mnist")
    parser.add_argument("--num", type=int, default=512, help="test images")
    parser.add_argument("--patches", type=int, default=10, help="that are hidden")
    args = parser.parse_args()
    model = mt_diffusion.load(args.model)
    judge = Judge(args.data_dir, model.config.data.image_size)
    flat, labels = judge.test[: args.num], judge.test_labels[: args.num]
    shape = model.experiment.shape
    images = (flat * 255).round().astype(np.uint8).reshape(-1, *shape)
    values = hidden(model, images, args.patches)
    found = nats(model, images, values, labels)
    print("| t | " + " | ".join(map(str, found)) + " |")
    print("|---" * (len(found) + 1) + "|")
    print("| nats | " + " | ".join(f"{x:.2f}" for x in found.values()) + " |\n")
    print("| guess | label right | image right | they agree |\n|---|---|---|---|")
    seen = values[..., -1:] * 255
    shown = np.concatenate([(values[..., :-1] + 1) * 127.5, seen], -1).round()
    for word in GUESSES:
        drawn = model.sample(
            len(images),
            given={"masked_image": shown.astype(np.uint8)},
            guess=f"label={word}",
            **WALK,
        )
        found = judge.svc.predict(drawn["image"].reshape(len(images), -1) / 255)
        pairs = (drawn["label"], labels), (found, labels), (drawn["label"], found)
        shares = [f"{np.mean(a == b):.1%}" for a, b in pairs]
        print(f"| `{word}` | " + " | ".join(shares) + " |", flush=True)


if __name__ == "__main__":
    main()
