"""Small TFDS data sets in array_record format, as TFDS prepares them."""

import io
import json
import warnings

import numpy as np
import PIL.Image


def write(data_dir, name, make_features, examples):
    """A data set from {split: [{feature: array or int}]}.

    make_features: from the module tfds.features to {feature: its description}.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_datasets as tfds
        from array_record.python.array_record_module import ArrayRecordWriter

    folder = data_dir / name / "1.0.0"
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(make_features(tfds.features))
    features.save_config(folder)
    for split, items in examples.items():
        writer = ArrayRecordWriter(
            f"{folder}/{name}-{split}.array_record-00000-of-00001", "group_size:1"
        )
        for item in items:
            writer.write(serialize(item))
        writer.close()
    info = {
        "name": name,
        "version": "1.0.0",
        "fileFormat": "array_record",
        "moduleName": name,
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": "1",
                "shardLengths": [str(len(items))],
            }
            for split, items in examples.items()
        ],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))


def serialize(item):
    """An example as a record: images as PNG."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    for name, value in item.items():
        field = example.features.feature[name]
        if isinstance(value, np.ndarray):
            png = io.BytesIO()
            PIL.Image.fromarray(value.squeeze()).save(png, "PNG")
            field.bytes_list.value.append(png.getvalue())
        else:
            field.int64_list.value.append(value)
    return example.SerializeToString()
