"""TFDS's builder of a data set, without the code that the data set itself may name."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from mt_diffusion import trust
from mt_diffusion.errors import UserError

OWN = "tensorflow_datasets"


def build(name: str, data_dir: Any) -> Any:
    """The builder of a data set of TFDS's own, or of one that lies in data_dir.

    Raises UserError for a namespace, whose code TFDS would fetch, and for features
    whose code is neither TFDS's own nor trusted.
    """
    import tensorflow_datasets as tfds

    if re.match(r"[\w-]*:(?![\d*])", name):
        raise UserError(
            f"config.data.name = {name!r} is of a namespace, whose code TFDS would "
            "fetch and run; prepare the data set, and name it without the namespace."
        )
    with only_trusted_features(f"the data set {name!r} (its features.json)"):
        return tfds.builder(name, data_dir=data_dir)


@contextlib.contextmanager
def only_trusted_features(where: str) -> Iterator[None]:
    """Lets TFDS import a feature's class, named by a file, only where it is trusted.

    TFDS has no setting for it, and finds the file by rules of its own.
    """
    from tensorflow_datasets.core.features.feature import FeatureConnector

    theirs = FeatureConnector.__dict__["cls_from_name"]

    def checked(cls: type, python_class_name: str) -> type:
        module = python_class_name.rpartition(".")[0]
        if not f"{module}.".startswith(f"{OWN}."):
            trust.check(module, where)
        return theirs.__func__(cls, python_class_name)

    FeatureConnector.cls_from_name = classmethod(checked)
    try:
        yield
    finally:
        FeatureConnector.cls_from_name = theirs
