"""One cluster of three brokers for all tests of this folder, which run in one worker; whole again before each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster


@pytest.fixture(scope="package")  # not longer: three brokers cost the other tests of this worker
def the_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(the_cluster: Cluster) -> Cluster:
    the_cluster.start()
    the_cluster.wait_whole()
    return the_cluster
