"""A model of three modalities that knows nothing, and is made at once."""

from configs import joint
from mt_diffusion.data import sources
from mt_diffusion.experiment import experiment as experiments
from mt_diffusion.experiment.checkpoint import Checkpoints
from tests.arbitrary import parameters


def resolved(setting):
    """The experiment of a setting, as small as it can be, and its config."""
    config = setting.get_config("smoke")
    config.unet.update(channel_mult=(1,), attention_resolutions=(1,))
    config.diffusion.num_steps = 20
    for name in {"label", "representation"} & set(config.modalities):
        config.modalities[name].energy = 400.0
    config.sampling.update(num_steps=3, batch_size=8)
    config = experiments.resolve(config, sources.open_source(config.data, "train"))
    return experiments.build(config), config


def saved(folder):
    """The folder, as of a run of the joint setting."""
    experiment, config = resolved(joint)
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(3, {"ema_params": parameters(experiment)}, config)
    checkpoints.close()
    return folder
