r"""MT-Diffusion: several modalities of one example in one diffusion.

Train (continues where the workdir's newest checkpoint ends):
  python -m mt_diffusion.main --config=configs/masked_image.py \
      --workdir=runs/masked_image
  python -m mt_diffusion.main --config=configs/image_label.py:fashion_mnist \
      --workdir=runs/fashion --config.data.data_dir=/data/tfds \
      --config.train.batch_size=64

Sample (the checkpoint carries its config):
  python -m mt_diffusion.main --mode=sample --workdir=runs/image_label --given=label=3
  python -m mt_diffusion.main --mode=sample --workdir=runs/masked_image \
      --given=masked_image=erased/ --num_samples=16 --out=restored

Read the heads at images, without walking; the first call chooses noise levels:
  python -m mt_diffusion.main --mode=read --workdir=runs/image_label
  python -m mt_diffusion.main --mode=read --workdir=runs/image_label --given=image=new/

Bounds on the likelihood of test examples, in nats and bits per dimension:
  python -m mt_diffusion.main --mode=bound --workdir=runs/image_label --num_times=100

How good it is: FID and others, for every subset of given variables; a page to look at:
  python -m mt_diffusion.main --mode=evaluate --workdir=runs/image_label
  python -m mt_diffusion.main --mode=report --workdir=runs/image_label
  python -m mt_diffusion.main --mode=compare --runs=runs/a,runs/b --out=compare.html
  python -m mt_diffusion.main --mode=reference --config=configs/image_label.py \
      --out=reference.npz

Will it fit, and how fast can it be, on devices that need not be here:
  python -m mt_diffusion.main --mode=preflight --topology=v5e-256 \
      --config=configs/image_label.py:imagenet64

Whether a data set can be read, all of it:
  python -m mt_diffusion.main --mode=check --config=configs/image_label.py \
      --config.data.source=folder --config.data.path=photos

Vectors of a data set by a CLIP, or an encoder of yours, for --config.data.vectors:
  python -m mt_diffusion.main --mode=precompute --encoder=models/clip \
      --config=configs/image_representation.py --out=vectors.npz

A model for others, and one that comes with the package, by its name:
  python -m mt_diffusion.main --mode=export --workdir=runs/image_label --out=mine
  python -m mt_diffusion.main --mode=export --workdir=runs/image_label \
      --out=unet.safetensors --format=adm
  python -m mt_diffusion.main --mode=sample --workdir=digits

Any field of a config may be set as --config.a.b=value.
"""

import functools
import sys
from collections.abc import Sequence

from absl import app, logging

from mt_diffusion.command import exits, modes, options, parsing, startup, usage
from mt_diffusion.errors import UserError


def main(argv: Sequence[str]) -> None:
    """Runs the mode that the flags name."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags begin with --.")
    # Libraries say a lot that is none of ours; Orbax even what it then raises.
    logging.set_verbosity(logging.FATAL)
    startup.set_up_jax()
    startup.join()
    modes.RUN[options.MODE.value]()


def run() -> None:
    """Entry point: exits.py has what it ends with."""
    introduction = usage.text(sys.argv, __doc__ or "")
    parse = functools.partial(parsing.parse, introduction=introduction)
    with exits.explained():
        app.run(main, flags_parser=parse)


def console() -> None:
    """The command `mt-diffusion`, which is `python -m mt_diffusion.main`."""
    startup.set_up_python()
    exits.answer_sigterm()
    with exits.decided():
        run()


if __name__ == "__main__":
    console()
