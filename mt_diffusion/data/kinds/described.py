"""Which features of a TFDS data set are the image and the class of an example.

Asked of its description when it is opened, so that nothing surprises in hour three.
"""

import importlib.util
from typing import Any

import numpy as np

from mt_diffusion.data.classes import CLASS
from mt_diffusion.errors import UserError
from mt_diffusion.files.names import shown

IMAGE = "image"
OPENCV = "cv2"
DTYPES = (np.uint8, np.uint16)


def images(builder: Any) -> list[str]:
    """Names of the features that are images, of whatever depth."""
    import tensorflow_datasets as tfds

    kinds = tfds.features.Image
    return sorted(n for n, f in builder.info.features.items() if isinstance(f, kinds))


def image_of(builder: Any) -> str:
    """The image: 'image', else what is supervised, else the only one there is.

    Raises UserError where that is not clear, or is of floats.
    """
    features, found = builder.info.features, images(builder)
    (given, _), only = supervised(builder), found if len(found) == 1 else []
    name = next((n for n in (IMAGE, given, *only) if n in found), None)
    if name is None:
        kinds = ", ".join(f"{shown(n)} ({kind(f)})" for n, f in features.items())
        raise UserError(
            f"the TFDS data set {builder.info.name!r} has no image that is clearly "
            f"meant: none is called {IMAGE!r} or stands first in its supervised keys. "
            f"Its features are {kinds}."
        )
    if (dtype := features[name].np_dtype) not in DTYPES:
        raise UserError(
            f"the feature {shown(name)!r} of the TFDS data set {builder.info.name!r} "
            f"is an image of {np.dtype(dtype)}, and where white is nobody knows; those "
            "of 8 and 16 bits are read."
        )
    if dtype == np.uint16 and importlib.util.find_spec(OPENCV) is None:
        raise UserError(
            f"the feature {shown(name)!r} of the TFDS data set {builder.info.name!r} "
            "is an image of 16 bits, which TFDS decodes by OpenCV: pip install "
            "opencv-python-headless."
        )
    return name


def class_of(builder: Any) -> tuple[str | None, str]:
    """The class: 'label', else what is supervised, if that is one whole number.

    With why there is none, '' where there is no such feature at all.
    """
    features = builder.info.features
    name = next((n for n in (CLASS, supervised(builder)[1]) if n in features), None)
    if name is None or name in images(builder):
        return None, ""
    feature = features[name]
    is_one = getattr(feature, "shape", None) == ()
    dtype = getattr(feature, "np_dtype", None)
    if is_one and dtype is not None and np.issubdtype(dtype, np.integer):
        return name, ""
    return None, f" (its feature {shown(name)} is {kind(feature)}, not one class)"


def class_names(builder: Any) -> list[str]:
    """The classes, in the order of their numbers; empty where they have no names."""
    name, _ = class_of(builder)
    found = getattr(builder.info.features[name], "names", None) if name else None
    return list(found or [])


def supervised(builder: Any) -> tuple[str | None, str | None]:
    """What of an example is given and what is asked for, if these are two names."""
    keys = builder.info.supervised_keys
    if isinstance(keys, tuple) and len(keys) == 2:
        given, asked = (key if isinstance(key, str) else None for key in keys)
        return given, asked
    return None, None


def kind(feature: Any) -> str:
    """What a feature is, in a word or two."""
    shape = getattr(feature, "shape", "")
    return f"{type(feature).__name__} {shape}".strip()
