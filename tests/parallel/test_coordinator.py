"""Where the coordinator of several processes listens."""

import jax
import pytest

from mt_diffusion.parallel import devices


@pytest.mark.parametrize(
    "named, own, bound",
    [
        (("10.0.0.7:1234", 2, 0), None, "10.0.0.7:1234"),
        (("10.0.0.7:1234", 2, 0), "[::]:1234", None),  # JAX reads it by itself
        ((None, None, None), None, None),  # as the cluster says
    ],
)
def test_the_coordinator_binds_the_address_it_is_given(monkeypatch, named, own, bound):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append(k))
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    if own:
        monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", own)
    devices.meet(named)
    assert [call.get("coordinator_bind_address") for call in calls] == [bound]
