"""Every method of the contract has a right, and no right is of a method that is gone."""

from __future__ import annotations

from embercache.v1 import cache_pb2, embed_pb2, generate_pb2, search_pb2

from sidecar.access.caller import Right
from sidecar.access.rights import RIGHTS

FILES = (embed_pb2, search_pb2, generate_pb2, cache_pb2)
METHODS = {
    f"{service.full_name}/{method.name}"
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def test_every_method_needs_a_right() -> None:
    assert len(METHODS) >= 17
    assert set(RIGHTS) == METHODS


def test_what_concerns_the_sidecar_as_a_whole_is_for_administrators() -> None:
    names = {name.rpartition("/")[2] for name, right in RIGHTS.items() if right is Right.ADMINISTER}
    assert names == {"MigrateModel", "RollbackModel", "Flush"}


def test_what_changes_something_is_not_for_readers() -> None:
    names = {name.rpartition("/")[2] for name, right in RIGHTS.items() if right is Right.WRITE}
    assert names == {"Upsert", "Delete", "Invalidate", "PublishEvents", "Warm"}
