"""The config of a run that there is, as its newest checkpoint has it.

  bash launch/local.sh --config=configs/from_run.py:runs/old --workdir=runs/old

continues a run of an earlier version of this project, whose defaults were others, bit
for bit; with another --workdir it trains such a model anew.
"""

from ml_collections import ConfigDict

from mt_diffusion.errors import UserError
from mt_diffusion.experiment import exported
from mt_diffusion.experiment.checkpoint import Checkpoints


def get_config(workdir: str = "") -> ConfigDict:
    """The config of --config=configs/from_run.py:WORKDIR."""
    folder = exported.find(workdir)
    if exported.is_one(folder):
        return exported.read(folder)[1].unlock()
    checkpoints = Checkpoints(folder) if workdir and folder.is_dir() else None
    if checkpoints is None or not checkpoints.steps:
        raise UserError(
            f"configs/from_run.py:{workdir} names no run with a checkpoint; give a "
            "workdir, as --config=configs/from_run.py:runs/old."
        )
    return checkpoints.config(checkpoints.steps[0]).unlock()
