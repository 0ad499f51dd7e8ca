"""A side of the comparison: a process that does one job whenever it is told to.

It is started with JSON {"shape": ..., "job": "train" or "sample", "variant": ...}, sets
up, does the job once, and writes a line of JSON with what it knows of itself. Then each
line on stdin asks for that many times the job, answered by seconds and peak memory.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.speed.shapes import ACCELERATED, SHAPES, Shape

Job = Callable[[], Any]  # does it once, and waits for the result
Jobs = dict[str, Callable[[Shape, str], tuple[Job, dict]]]


def peak_bytes() -> int:
    """Most memory that this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def serve(jobs: Jobs) -> None:
    """Serves the job that the command line names until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(**content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    order = json.loads(sys.argv[1])
    shape = (SHAPES | ACCELERATED)[order["shape"]]
    job, facts = jobs[order["job"]](shape, order["variant"])
    job()
    answer(**facts)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            job()
        answer(seconds=time.perf_counter() - start, peak_bytes=peak_bytes())
