"""A small citation graph with all that Citeseer has, in the format of the original files and as one archive."""

import collections

import numpy as np
import scipy.sparse

from tests.datasets.python2 import pickled

NUM_TRAIN, NUM_KNOWN, NUM_FEATURES, NUM_CLASSES = 6, 520, 12, 3
TEST = [527, 520, 523, 529, 521, 525]  # 522, 524, 526, 528 are missing
NUMBER = 530


def parts():
    """The values of the eight files, except for the list of test nodes."""
    rng = np.random.default_rng(0)
    words = (rng.random((NUM_KNOWN + len(TEST), NUM_FEATURES)) < 0.3).astype(np.float32)
    words[:, 0] = 1
    words[7] = 0  # a paper without words
    classes = rng.integers(NUM_CLASSES, size=NUM_KNOWN + len(TEST))
    classes[:NUM_CLASSES] = range(NUM_CLASSES)
    labels = np.eye(NUM_CLASSES, dtype=np.int32)[classes]
    known, tested = (scipy.sparse.csr_matrix(words[rows]) for rows in (slice(NUM_KNOWN), slice(NUM_KNOWN, None)))
    graph = collections.defaultdict(list, {node: [] for node in range(NUMBER)})
    for one, other in zip(rng.integers(NUMBER - 5, size=900), rng.integers(NUMBER - 5, size=900), strict=True):
        graph[int(one)].append(int(other))
        graph[int(other)].append(int(one))
    graph[3].append(3)  # a paper that cites itself
    return {
        "x": scipy.sparse.csr_matrix(words[:NUM_TRAIN]),
        "y": labels[:NUM_TRAIN],
        "tx": tested,
        "ty": labels[NUM_KNOWN:],
        "allx": known,
        "ally": labels[:NUM_KNOWN],
        "graph": graph,
    }


def write_original(folder, name="citeseer", protocol=2, **changed):
    """Write the eight files; ``changed`` are other contents of some of them, in bytes."""
    folder.mkdir(exist_ok=True, parents=True)
    contents = {part: pickled(value, protocol) for part, value in parts().items()}
    contents["test_index"] = "".join(f"{node}\n" for node in TEST).encode()
    for part, content in (contents | changed).items():
        (folder / f"ind.{name}.{part.replace('_', '.')}").write_bytes(content)


def arrays():
    """The arrays of an archive of a path of five nodes."""
    return {
        "edges": np.array([[0, 1, 2, 3], [1, 2, 3, 4]], dtype=np.int32),
        "labels": np.array([0, 1, 0, 1, 0], dtype=np.int64),
        "idx_train": np.array([0, 1]),
        "idx_val": np.array([2]),
        "idx_test": np.array([3, 4]),
        "x_data": np.array([1, 3, 1, 1], dtype=np.float32),
        "x_indices": np.array([0, 2, 1, 2], dtype=np.int32),
        "x_indptr": np.array([0, 2, 3, 3, 4, 4], dtype=np.int32),
        "x_shape": np.array([5, 3]),
    }
