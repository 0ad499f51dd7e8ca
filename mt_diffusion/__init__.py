"""MT-Diffusion: several modalities of one example in one diffusion space.

`load` and `train` are of mt_diffusion/library.py, imported when first asked for.
"""

__version__ = "0.1.0"
__all__ = ["load", "train"]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mt_diffusion import library

    return getattr(library, name)
