"""References and samples in the forms that other people's programs have."""

import numpy as np
import pytest

from mt_diffusion.errors import UserError
from mt_diffusion.evaluation import quality, reference
from mt_diffusion.evaluation.judges import image
from mt_diffusion.evaluation.networks.network import Features
from mt_diffusion.evaluation.real import Real
from tests.evaluation.test_reference import NETWORK


def statistics(rng):
    """What pytorch-fid and clean-fid write: a mean and a covariance."""
    x = rng.standard_normal((50, 3))
    return {"mu": x.mean(axis=0), "sigma": np.cov(x, rowvar=False)}


def test_a_reference_of_a_mean_and_a_covariance_is_enough_for_fid(tmp_path):
    rng = np.random.default_rng(0)
    known, path = statistics(rng), tmp_path / "stats.npz"
    np.savez(path, **known)
    found = reference.read(path, NETWORK, (3, 4, 1))
    assert found.images is None and found.labels is None
    assert reference.as_arrays(found).keys() == {"mu", "sigma"} and found.digest
    real = Real(None, NETWORK, None, found, [], [], 40, 8, None)
    logits = rng.standard_normal((40, 5)).astype(np.float32)
    made = rng.standard_normal((40, 3)).astype(np.float32)
    figures = image.compare(Features(made, None, logits), real, np.arange(40))
    assert figures.keys() <= {"fid", "fid_inf", "inception_score"}
    own = quality.statistics(made)
    expected = quality.frechet_distance(own, quality.Statistics(*known.values(), None))
    assert figures["fid"].value == pytest.approx(expected)


def test_statistics_of_another_network_are_refused(tmp_path):
    np.savez(tmp_path / "r.npz", mu=np.zeros(8), sigma=np.eye(8))
    with pytest.raises(UserError, match="means of 8 features, but .* gives 3"):
        reference.read(tmp_path / "r.npz", NETWORK, (3, 4, 1))
