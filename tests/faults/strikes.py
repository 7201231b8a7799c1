"""What strikes a service: `kill -9` of its processes."""

from __future__ import annotations

from collections.abc import Sequence

import psutil

from tests.faults.trial import Subject, is_kind, title_of


def named(subject: Subject, kind: str) -> list[psutil.Process]:
    """The processes of a kind, as `Subject.kinds` counts them."""
    return [each for each in subject.service.processes() if is_kind(title_of(each), kind)]


def kill(processes: Sequence[psutil.Process]) -> None:
    """`kill -9`, and proof that there was something to kill."""
    assert processes
    for process in processes:
        process.kill()


def kill_replica(subject: Subject, tier: str) -> None:
    """One replica of a tier; its engine is another process."""
    kill(subject.service.replica_processes(f"tier-{tier}")[:1])


def kill_engine(subject: Subject, tier: str) -> None:
    """The engine of one replica of a tier; the replica lives."""
    replicas = subject.service.replica_processes(f"tier-{tier}")[:1]
    below = [child for replica in replicas for child in replica.children(recursive=True)]
    kill([each for each in below if "VLLM::" in title_of(each)])
