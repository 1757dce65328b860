"""What endpoints cost that are no chat: embeddings, and files, which are passed on as they come."""

from __future__ import annotations

from bench import messages, wrk
from bench.plan import JUDGED, Data, Plan
from bench.rig import WARM_UP_SECONDS, Rig, rig
from bench.scenarios import level
from bench.servers import Subject

FILES = ((64 * 1024, 16), (16 * 1024 * 1024, 4))
"""How large, and so many at once."""
_LOAD_BYTES = 64 * 1024 * 1024
"""The load keeps a request for each user."""


def embeddings(plan: Plan) -> Data:
    """CPU of a request for a vector, nginx and Sentinel in turns."""
    with rig() as stand, stand.subjects() as subjects:
        return level(stand, subjects, JUDGED, plan.rounds, plan.seconds, post=messages.embeddings())


def uploads(plan: Plan) -> list[Data]:
    """CPU for each uploaded megabyte, and what memory files take on their way, nginx and Sentinel in turns.

    nginx sends on what it has of a file, as Sentinel does, and does not wait for the rest.
    """
    with rig() as stand, stand.stream_subjects(stand.upstream) as subjects:
        return [_files(stand, subjects, size, at_once, plan) for size, at_once in FILES]


def _files(stand: Rig, subjects: list[Subject], size: int, at_once: int, plan: Plan) -> Data:
    post, users = messages.upload(size), min(messages.USERS, _LOAD_BYTES // size)
    before = {}
    for subject in subjects:
        wrk.run(subject.port, 1, WARM_UP_SECONDS, stand.folder, users, post)
        before[subject.name] = subject.process.memory_bytes()
        subject.process.forget_peak()
    compared = level(stand, subjects, at_once, plan.rounds, plan.seconds, users, post)
    return {
        **compared,
        "bytes": size,
        "at_once": at_once,
        "growth_mb": {each.name: (each.process.peak_bytes() - before[each.name]) / 1e6 for each in subjects},
    }
