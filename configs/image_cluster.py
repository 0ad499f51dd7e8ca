"""Joint modelling of an image and its cluster: labels that nobody has to give.

`image_label.py` with k-means clusters of the training images in place of classes. The
cluster is drawn first, and the image follows it, as it does a label; no label is ever
seen. Fashion-MNIST at 28x28, 96,000 images: FID from nothing 0.6 of that of images
alone, where classes have 0.35 (seed 0; results/README.md).

  bash launch/local.sh --config=configs/image_cluster.py --workdir=runs/image_cluster

4,000 steps of 64 digits, about 3 minutes on 2 CPU cores; 28x28, with the preset
`:fashion_small`, half an hour of one core.

Clusters of a frozen encoder's features, a function from uint8 [N, H, W, C] to float
[N, D] in clip.py: --config.modalities.cluster.vectors=clip:encode; how many there are:
--config.modalities.cluster.num_clusters=64.
"""

from configs import common, image_label


def get_config(preset: str = "digits"):
    """The setting `image_cluster`, variant U."""
    config = common.get_config(preset)
    config.modalities.cluster = image_label.label(config) | dict(
        kind="cluster.Cluster",
        num_clusters=24,
        vectors="pixels",  # or feature:NAME of the data, or package.module:function
        centroids=(),  # taken from the training data
    )
    config.presence = {
        state: {"share": fields.share, "cluster": fields.label}
        for state, fields in image_label.get_config(preset).presence.items()
    }
    return config
