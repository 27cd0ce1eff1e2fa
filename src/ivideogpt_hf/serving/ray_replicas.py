"""Replicas as actors of Ray, each with a GPU or a share of the cores, on any node of a cluster."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from ..run_folder import claim
from .replica import Replica

LOGGER = logging.getLogger("uvicorn.error")
RECORD, FORMAT = "fleet.json", 1


class NodeReplica(Replica):
    """A replica that other nodes can reach."""

    def start(self, host: str | None = None) -> str:
        return super().start(host or ray.util.get_node_ip_address())


class RayReplica:
    """A `ReplicaProcess` that is an actor.

    Args:
        kind: `Replica`, or `NodeReplica` where actors may be on other nodes.
        arguments: arguments of a replica, by name.
        num_cpus: number of cores that it gets.
        num_gpus: number of GPUs that it gets.
    """

    def __init__(self, kind: type[Replica], arguments: dict[str, Any], *, num_cpus: int, num_gpus: int) -> None:
        # Not started again by Ray: the fleet does that, also where a node cannot take up the sessions yet.
        options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_restarts": 0}
        self._make = lambda: ray.remote(kind).options(**options).remote(**arguments)
        self._actor: Any = None

    async def start(self) -> str:
        """Start an actor, in place of the one before; returns its address when it serves.

        Raises:
            OSError: if it dies.
            Exception: what the replica raises.
        """
        if self._actor is not None:
            ray.kill(self._actor)
        self._actor = self._make()
        try:
            return await self._actor.start.remote()
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            raise OSError(f"a replica died while it was started: {error}") from error

    async def stop(self) -> None:
        """Let its calls end, and save its sessions. Where it has just died, they are as they were saved last."""
        try:
            await self._actor.stop.remote()
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            LOGGER.warning("a replica died, and could not save its sessions: %s", error)


def cores_of_each(num_replicas: int) -> int:
    """Number of cores that each of so many replicas can have on the nodes of the cluster.

    Raises:
        ValueError: if there are fewer cores than replicas.
    """
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    for num_cores in range(max(nodes, default=0), 0, -1):
        if sum(cores // num_cores for cores in nodes) >= num_replicas:
            return num_cores
    raise ValueError(
        f"--replicas {num_replicas} needs as many cores, and there are {sum(nodes)}: ask for fewer, or add nodes"
    )


def check_gpus(num_replicas: int) -> None:
    """Raise ValueError if the cluster has fewer GPUs than replicas."""
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    if num_gpus < num_replicas:
        raise ValueError(
            f"--replicas {num_replicas} needs as many GPUs, and there are {num_gpus}: ask for fewer, or add nodes"
        )


def claim_folders(folder: Path, num_replicas: int) -> list[Path]:
    """The folders of the replicas' sessions, in a folder that is new or was that of as many replicas.

    Raises:
        FileExistsError: if it holds anything else.
    """
    claim(folder, RECORD, {"format": FORMAT, "replicas": num_replicas}, noun="fleet's sessions")
    return [folder / f"replica-{number}" for number in range(num_replicas)]
