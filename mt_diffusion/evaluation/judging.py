"""What an evaluation asks about each class of variables.

A modality of your own is asked about as its nearest base class here; its own file may
say otherwise: `JUDGES[Depth] = (judge,)`.
"""

from collections.abc import Callable, Sequence

from mt_diffusion.evaluation.figures import Metric
from mt_diffusion.evaluation.judges import image, label, pixels, vector, words
from mt_diffusion.modalities.cluster import Cluster
from mt_diffusion.modalities.image import Image
from mt_diffusion.modalities.label import Label
from mt_diffusion.modalities.masked_image import MaskedImage
from mt_diffusion.modalities.paired_image import PairedImage
from mt_diffusion.modalities.representation import Representation
from mt_diffusion.modalities.text import Text
from mt_diffusion.protocol import Variable

# From (variable, drawn, real) to figures.
Judge = Callable[..., Sequence[Metric]]
JUDGES: dict[type[Variable], tuple[Judge, ...]] = {
    Image: (image.judge_quality, image.judge_memory),
    Label: (label.judge,),
    Cluster: (label.judge_clusters,),  # a classifier knows no names of theirs
    MaskedImage: (pixels.judge_restoration,),
    PairedImage: (pixels.judge_pair,),
    Representation: (vector.judge,),
    Text: (words.judge,),
}


def of(variable: Variable) -> tuple[Judge, ...]:
    """The judges of a variable; none where nothing is known of its class."""
    classes = type(variable).__mro__
    return next((JUDGES[cls] for cls in classes if cls in JUDGES), ())
