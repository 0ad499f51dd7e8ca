"""Our side: the training step and the sampler of `configs/ddpm.py`, as runs have them.

python -m benchmarks.speed.ours '{"shape": "28x28x1", "job": "train", "variant": ""}'
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import serve, shapes
from configs import common, ddpm
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.inference import generation
from mt_diffusion.models import attention
from mt_diffusion.parallel import sharding
from mt_diffusion.protocol import Batch
from mt_diffusion.training import state, step
from mt_diffusion.training.optimizer import build_optimizer


def build(shape: shapes.Shape, variant: str):
    """Config and experiment of that shape: plain DDPM, without modalities.

    variant: 'bf16', or '' for float32.
    """
    config = ddpm.get_config()
    config.data.update(image_size=shape.size, channels=shape.channels)
    config.diffusion.num_steps = shapes.DIFFUSION_STEPS
    config.unet.update(
        model_channels=shape.model_channels,
        channel_mult=shape.channel_mult,
        num_res_blocks=shape.num_res_blocks,
        attention_resolutions=tuple(2**i for i, on in enumerate(shape.attends) if on),
        num_head_channels=shape.head_channels,
        num_groups=shape.num_groups,
        dtype="bfloat16" if variant == "bf16" else "float32",
    )
    common.adamw(config, learning_rate=shapes.LEARNING_RATE)
    config.optimizer.clip_norm = shapes.CLIP_NORM
    config.train.update(batch_size=shape.batch_size, ema_decay=shapes.EMA_DECAY)
    config.sampling.update(sampler="ddim", num_steps=shapes.SAMPLING_STEPS)
    return config, experiments.build(config)


def facts(experiment, params) -> dict:
    """Parameters, and FLOPs of the network on one image."""
    z, t = jnp.zeros((1, *experiment.shape)), jnp.ones(1, jnp.int32)

    def forward(params, z, t):
        return experiment.denoiser(params, z, t, {}, {}, {}).out

    # As it stands, before XLA rewrites it, and on a CPU: kernels would count as none.
    cpu = sharding.make_mesh(devices=jax.devices("cpu")[:1])
    with attention.compiled_for(cpu):
        cost = jax.jit(forward).lower(params, z, t).cost_analysis()
    num = sum(x.size for x in jax.tree.leaves(params))
    return {"parameters": num, "flops_per_image": cost["flops"]}


def train(shape: shapes.Shape, variant: str):
    """One training step: loss, gradient, clipping, AdamW and the average."""
    config, experiment = build(shape, variant)
    mesh, optimizer = sharding.make_mesh(), build_optimizer(config)
    abstract = state.abstract_state(experiment, optimizer, mesh)
    here = state.new_state(jax.random.key(0), experiment, optimizer, abstract)
    key = sharding.spread_key(jax.random.key(1), mesh)
    train_step = step.lower_step(
        config, experiment, optimizer, mesh, abstract
    ).compile()
    size = (shape.batch_size, *experiment.shape)
    images = np.random.default_rng(0).standard_normal(size, np.float32)
    batch = jax.device_put(Batch(images, {}, {}), sharding.over_batch(mesh))
    known = facts(experiment, here.params)

    def job():
        nonlocal here
        here, terms = train_step(here, batch, key)
        jax.block_until_ready((here, terms))

    return job, known


def sample(shape: shapes.Shape, variant: str):
    """One batch of samples."""
    (config, experiment), mesh = build(shape, variant), sharding.make_mesh()
    init = jax.jit(
        lambda key: experiments.init_params(key, experiment),
        out_shardings=sharding.replicated(mesh),
    )
    params = init(jax.random.key(0))
    generator = generation.Generator(experiment, config.sampling, mesh)
    return (
        lambda: generator.values(params, 0, range(shape.num_sampled), {}),
        facts(experiment, params),
    )


if __name__ == "__main__":
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    serve.serve({"train": train, "sample": sample})
