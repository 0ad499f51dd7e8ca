"""Writes what test_hf.py reads, by Hugging Face's own library.

python -m tests.data.write_hf FOLDER     # of hf.tar.gz: with datasets 5.2.0
"""

import pathlib
import sys

import PIL.Image

CLASSES = ["cat", "dog", "eel"]


def write(folder: pathlib.Path) -> None:
    """Images of level i, 10x12, with class i % 3, a caption and a vector."""
    import datasets

    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine": datasets.ClassLabel(names=CLASSES),
            "caption": datasets.Value("string"),
            "vector": datasets.Sequence(datasets.Value("float32"), length=3),
        }
    )

    def table(numbers, named=False):
        images = [PIL.Image.new("L", (10, 12), i) for i in numbers]
        if named:
            for i, image in zip(numbers, images, strict=True):
                image.save(folder / f"{i:03}.png")
            images = [str(folder / f"{i:03}.png") for i in numbers]
        columns = {
            "img": images,
            "fine": [i % 3 for i in numbers],
            "caption": [f"the {i}th" for i in numbers],
            "vector": [[i, 1, 2] for i in numbers],
        }
        found = datasets.Dataset.from_dict(columns, features=features)
        return (
            found.cast_column("img", datasets.Image(decode=False)) if named else found
        )

    both = datasets.DatasetDict(
        train=table(range(12)), validation=table(range(100, 103))
    )
    both.save_to_disk(folder / "both")
    both["train"].to_parquet(folder / "parquet" / "train-00000-of-00001.parquet")
    both["validation"].to_parquet(folder / "parquet" / "test-00000-of-00001.parquet")
    # Rows in another order than in the files that they come from; two files.
    table(range(60)).shuffle(seed=0).save_to_disk(folder / "one", num_shards=2)
    table(range(40), named=True).save_to_disk(folder / "named")
    for path in folder.glob("*.png"):
        path.unlink()


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
