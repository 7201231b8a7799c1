"""The error tree: what every error of it promises to clients and to other processes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from serve_app.core import errors
from serve_app.core.errors import GatewayError, Overloaded

ARGUMENTS: dict[type[GatewayError], tuple[object, ...]] = {
    errors.GatewayError: (),
    errors.BadRequest: (),
    errors.MalformedBody: ("a JSON object is expected",),
    errors.InvalidField: ("messages[0].role", "a string"),
    errors.TooMany: ("messages", "items", 2048),
    errors.RefusedField: ("chat_template", "the template comes from the model"),
    errors.UnknownField: ("colour",),
    errors.NothingStored: ("previous_response_id", "previous_response_not_found"),
    errors.EngineRefused: (400, "top_p must be in (0, 1].", "invalid_value", "top_p"),
    errors.Unauthorized: ("no key",),
    errors.Forbidden: ("use this endpoint",),
    errors.NotFound: (),
    errors.RouteNotFound: ("GET", "/nowhere"),
    errors.ModelNotFound: ("gpt-9",),
    errors.ResponseNotFound: ("resp_1",),
    errors.FeedbackOff: (),
    errors.BatchesOff: (),
    errors.NoSuchFile: ("file-1", "input_file_id"),
    errors.NoSuchBatch: ("batch_1",),
    errors.FileInUse: (),
    errors.BatchEnded: ("completed",),
    errors.StorageUsedUp: (11, 10),
    errors.StorageFailing: (5,),
    errors.NotMultipart: (),
    errors.MethodNotAllowed: ("PUT", "POST"),
    errors.BodyTooSlow: (),
    errors.BodyTooLarge: (8192,),
    errors.UnsupportedMediaType: (),
    errors.Overloaded: (3,),
    errors.TooManyCalls: (1,),
    errors.RateLimited: ("60 requests a minute", 3),
    errors.AccessUnavailable: (1,),
    errors.LimitsUnavailable: (1,),
    errors.AuditUnavailable: (1,),
    errors.FeedbackNotKept: (1,),
    errors.TierOverloaded: (2,),
    errors.TierUnavailable: (5,),
    errors.WouldBeLate: (2,),
    errors.DeadlineExceeded: ("first_byte_s", 120.0),
    errors.InternalError: (),
    errors.UpstreamFailed: (),
}


def tree(root: type[GatewayError]) -> Iterator[type[GatewayError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


every_error = pytest.mark.parametrize(
    "error",
    [kind(*arguments) for kind, arguments in ARGUMENTS.items()],
    ids=lambda e: type(e).__name__,
)


def test_the_table_is_complete() -> None:
    """Whoever adds an error adds it here too."""
    ours = {kind for kind in tree(GatewayError) if kind.__module__.startswith("serve_app.")}
    assert ours == set(ARGUMENTS)


@every_error
def test_an_error_survives_pickling(error: GatewayError) -> None:
    """An error keeps all it knows on its way between processes."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.message, copy.args, vars(copy)) == (error.message, error.args, vars(error))


@every_error
def test_an_error_is_an_http_answer(error: GatewayError) -> None:
    """Status, type and a sentence: enough for a client, and nothing of the machine."""
    assert 400 <= error.status <= 599
    assert error.type.endswith("_error")
    assert error.message.endswith(".")
    assert "Traceback" not in error.message


@every_error
def test_only_overload_asks_to_come_back(error: GatewayError) -> None:
    """Retry-After belongs to calls that were not begun, and to all of them."""
    assert (error.retry_after_s is not None) is isinstance(error, Overloaded)


@pytest.mark.parametrize(
    ("error", "length_max"),
    [(errors.ModelNotFound("m" * 10_000), 400), (errors.RouteNotFound("GET", "/" * 10_000), 400)],
)
def test_a_long_name_is_cut(error: GatewayError, length_max: int) -> None:
    """What the caller sent comes back at a bounded length."""
    assert len(error.message) < length_max
