"""A Ray cluster of several nodes on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Nodes:
    """A cluster whose nodes can be killed; the first has no core and holds the shared state."""

    cluster: Any
    workers: list[Any] = field(default_factory=list)

    def kill(self) -> None:
        """Kill the last worker with everything that it holds."""
        self.cluster.remove_node(self.workers.pop(), allow_graceful=False)


@contextmanager
def nodes(count: int, *, store_mib: int = 200) -> Iterator[Nodes]:
    """Run a cluster of `count` nodes with one core each inside this context; this process is the driver."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_worker_niceness", "0")  # at 15, workers never run on a busy machine
    memory = store_mib * 2**20
    head = {"num_cpus": 0, "object_store_memory": memory, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    made = Nodes(cluster)
    try:
        for _ in range(count):
            made.workers.append(cluster.add_node(num_cpus=1, object_store_memory=memory))
        cluster.wait_for_nodes(timeout=120)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
        yield made
    finally:
        ray.shutdown()
        cluster.shutdown()
