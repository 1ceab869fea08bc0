"""An unmodified ``tritonclient`` against the inference service, on both transports."""

from tests.integration.inference.test_inference_rpc import (
    test_tritonclient_gets_exact_codes,
    test_tritonclient_streams,
    test_tritonclient_works_unmodified,
    world,
)

__all__ = [
    "test_tritonclient_gets_exact_codes",
    "test_tritonclient_streams",
    "test_tritonclient_works_unmodified",
    "world",
]
