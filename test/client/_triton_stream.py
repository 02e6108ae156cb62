"""What the tests of Triton's streams share: models that answer once, slowly, many times, or fail."""
from harness import check, need
from _client import echo
from _grpc import tensor

SECONDS = 30
DECOUPLED = b"model_transaction_policy { decoupled: true }\n"


def repeat(name, **parameters):
    """A decoupled model that answers `count` times."""
    return echo(name, "FP32", mode="repeat", **parameters) + DECOUPLED


MODELS = {
    "slow": echo("slow", "FP32", mode="delay", delay_ms=300),
    "tokens": repeat("tokens"),
    "paced": repeat("paced", delay_ms=20),
    "failing": echo("failing", "FP32", mode="fail", code="DATA_LOSS", text="bad luck"),
    "endless": repeat("endless", count=100000000, delay_ms=1),
}


def numbers(*values):
    return tensor("IN", need("numpy").array(values, dtype="float32"), "FP32")


def is_final(result):
    found = result.get_response().parameters
    check("triton_final_response" in found, "no triton_final_response: %s", found)
    return found["triton_final_response"].bool_param
