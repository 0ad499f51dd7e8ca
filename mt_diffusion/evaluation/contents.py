"""What a data source holds, in 16 digits: caches are named after what they are of."""

import hashlib
from concurrent import futures

from mt_diffusion.data import sources
from mt_diffusion.data.rows import spread

MOST = 100_000  # examples that are read, evenly spread over a source
AT_ONCE = 1024  # of them


def digest(source: sources.Source) -> str:
    """16 hexadecimal digits that stand for the classes, images and labels of a source.

    Not for where the data lies. All examples count, of more than 100,000 so many.
    """
    total = hashlib.sha256(f"{len(source)} {list(source.class_names)}".encode())
    chosen = spread(len(source), MOST)

    def of(i: int) -> bytes:
        example = source[i]
        image, label = example["image"], int(example.get(sources.CLASS, -1))
        return f"{image.shape} {label} ".encode() + image.tobytes()

    with futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(chosen), AT_ONCE):
            for content in pool.map(of, chosen[start : start + AT_ONCE]):
                total.update(content)
    return total.hexdigest()[:16]
