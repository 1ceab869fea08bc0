"""Server reflection, for those whom policy lets read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from libs.authz.resource import SUITE
from libs.rpc.call import Call
from libs.rpc.service import Access, Audit, Service


class _Reflection:
    def __init__(self, names: Iterable[str]) -> None:
        self._servicer = ReflectionServicer(tuple(names))

    def server_reflection_info(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        answers: AsyncIterator[Any] = self._servicer.ServerReflectionInfo(requests, None)
        return answers


def reflection_service(names: Iterable[str]) -> Service:
    """Return the registered reflection service for the named services."""
    descriptor = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    access = {"ServerReflectionInfo": Access(lambda request: [SUITE], Audit.NONE, deadline_required=False)}
    return Service(descriptor, _Reflection((*names, descriptor.full_name)), area="reflection", access=access)
