"""What lies elsewhere than a run's config says: --config.data.path and the like.

Also frozen models that it needs: the autoencoder of a diffusion of latents, a CLIP, a
sentence encoder. For modes that take the config of a checkpoint, and so have no
--config.
"""

import re
from collections.abc import Sequence

from mt_diffusion.errors import UserError

FIELDS = ("path", "pair_path", "data_dir", "vectors", "latents", "captions") + (
    "broken",
    "changed",
)
# Which of a modality's fields these are is known where its config is.
MODELS = re.compile(
    r"--?config\.(primary\.space\.autoencoder|modalities\.\w+\.\w+)=(.*)", re.DOTALL
)
MODES = ("sample", "read", "bound", "evaluate", "export")

said: dict[str, str] = {}  # {"data.FIELD": value} and the like, of the command line


def take(argv: Sequence[str]) -> list[str]:
    """Arguments without those of data, which `said` has from now on.

    All of them where there is a --config, which these fields are of. Raises UserError
    for a field that can't be another one.
    """
    said.clear()
    if any(re.match(r"--?config(=|$)", argument) for argument in argv):
        return list(argv)
    rest = []
    for argument in argv:
        match = re.fullmatch(r"--?config\.data\.(\w+)=(.*)", argument, re.DOTALL)
        if model := MODELS.fullmatch(argument):
            said[model[1]] = model[2]
        elif match is None:
            rest.append(argument)
        elif match[1] in FIELDS:
            said[f"data.{match[1]}"] = match[2]
        else:
            raise UserError(
                f"--config.data.{match[1]} can't change in a run that there is; of its "
                f"data, only {', '.join(FIELDS)} can be said anew."
            )
    return rest


def check(mode: str) -> None:
    """Raises UserError where a mode reads no data of a run."""
    if said and mode not in MODES:
        field = next(iter(said))
        raise UserError(
            f"--config.{field} means nothing to --mode={mode} without --config; leave "
            f"it out (it is for --mode={' and '.join(MODES)})."
        )
