"""What a supervised network makes of the labels alone: the same U-Net encoder.

python -m studies.supervised [--config=configs/image_label_10.py --config.seed=1 ...]

The way down and the middle of the config's U-Net with its label head (M), at clean
images, trained on the examples that have a label and nothing else: the same optimiser,
batch size and averaging as the joint training. Prints its accuracy on the odd test
examples, those on which `--mode=read` measures; for the best step as well, chosen on
even ones.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from ml_collections import config_flags

from mt_diffusion.data import sources
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.experiment import init_params
from mt_diffusion.inference import reading
from mt_diffusion.training.optimizer import build_optimizer
from mt_diffusion.training.step import ema

_CONFIG = config_flags.DEFINE_config_file("config", "configs/image_label_10.py")
_STEPS = flags.DEFINE_integer("steps", 2000, "of training")
EVERY = 100


def load(experiment, source, most=None):
    """(images, one-hot labels) of the examples that have a label, among the first."""
    (label,) = experiment.modalities
    examples = [source[i] for i in range(min(len(source), most or len(source)))]
    values = [label.preprocess(e, None) for e in examples]
    kept = [i for i, value in enumerate(values) if value is not None]
    images = [experiment.primary.preprocess(examples[i], None) for i in kept]
    return np.stack(images), np.stack([values[i] for i in kept])


def main(argv: list[str]) -> None:
    """Trains and prints."""
    config = _CONFIG.value
    config.train.num_steps = _STEPS.value
    source = sources.open_source(config.data, "train")
    config = experiments.resolve(config, source)
    experiment = experiments.build(config)
    (label,) = experiment.modalities
    images, labels = load(experiment, source)
    test = sources.open_source(config.data, "test")
    test_images, test_labels = load(experiment, test, reading.NUM_EXAMPLES)
    optimizer = build_optimizer(config)

    def logits(params, x):
        t = jnp.ones(len(x), int)
        return experiment.network.apply(params, x, t, {}, {}).heads[label.name]

    @jax.jit
    def train_step(params, average, opt_state, step, x, y):
        loss = lambda p: label.nll(logits(p, x), y).mean()  # noqa: E731
        grads = jax.grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return params, ema(average, params, step, config.train.ema_decay), opt_state

    @jax.jit
    def right(params):
        found = logits(params, test_images).argmax(-1)
        return found == test_labels.argmax(-1)

    params = jax.jit(lambda k: init_params(k, experiment))(jax.random.key(config.seed))
    average, opt_state = params, optimizer.init(params)
    rng = np.random.default_rng(config.seed)
    steps, even, odd = [], [], []
    for step in range(1, _STEPS.value + 1):
        rows = rng.choice(len(images), config.train.batch_size)
        params, average, opt_state = train_step(
            params, average, opt_state, step, images[rows], labels[rows]
        )
        if step % EVERY == 0 or step == _STEPS.value:
            answers = np.asarray(right(average))
            steps.append(step)
            even.append(answers[::2].mean())
            odd.append(answers[1::2].mean())
    best = int(np.argmax(even))
    print(
        f"{len(images)} labels, seed {config.seed}: right {odd[-1]:.1%} after "
        f"{_STEPS.value} steps, {odd[best]:.1%} after {steps[best]} "
        "(chosen on the other half)"
    )


if __name__ == "__main__":
    app.run(main)
