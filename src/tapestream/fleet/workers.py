"""The workers that are connected, and what they say they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import distributed

import tapestream.errors

from .fleet import Fleet

TAPE, STAGING = "tape", "staging"


@dataclass(frozen=True)
class Worker:
    """A worker that is connected.

    Attributes:
        name: Its name, which it keeps when it is started again.
        address: Its address, which is a new one then.
        resources: How many units it has of each resource.
    """

    name: str
    address: str
    resources: Mapping[str, float]

    def units(self, resource: str) -> int:
        """How many units it has."""
        return int(self.resources.get(resource, 0))


def connected(client: distributed.Client) -> dict[str, Worker]:
    """The workers that are connected, by name.

    Raises:
        FleetError: There is no scheduler any more.
    """
    try:
        found = client.scheduler_info()["workers"]
    except (OSError, RuntimeError) as e:
        raise scheduler_lost() from e
    workers = (
        Worker(str(each["name"]), address, each["resources"]) for address, each in found.items()
    )
    return {worker.name: worker for worker in workers}


def scheduler_lost() -> tapestream.errors.FleetError:
    """The error if there is no scheduler any more."""
    return tapestream.errors.FleetError(
        "the scheduler is lost",
        hint="Start it, and run this again: what is complete is not done twice.",
    )


def check_workers(fleet: Fleet, workers: Mapping[str, Worker]) -> None:
    """Make sure that somebody has each resource. Dask would wait for it, without a word.

    Raises:
        FleetError: No worker has one, or a worker lacks its own.
    """
    for resource, names in ((TAPE, fleet.drives), (STAGING, fleet.staging)):
        here = [workers[name] for name in names if name in workers]
        without = [worker.name for worker in here if not worker.units(resource)]
        if without:
            raise tapestream.errors.FleetError(
                f"a worker lacks the resource {resource}: {', '.join(without)}",
                hint=f'Start it with: dask worker --resources "{resource}=1"',
            )
        if names and not here:
            raise tapestream.errors.FleetError(
                f"no worker with the resource {resource} is connected: {', '.join(names)}",
                hint="Start one of them, with this name: dask worker --name",
            )
