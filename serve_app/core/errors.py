"""Every error that leaves the service, as one tree.

    GatewayError
    ├── BadRequest            400  the call itself is wrong
    │   ├── MalformedBody     400  not JSON, or not an object
    │   ├── InvalidField      400  one named field is wrong
    │   │   └── TooMany       400  one named field holds more than it may
    │   ├── RefusedField      400  one named field is not accepted, whatever its value
    │   ├── UnknownField      400  one named field does not exist
    │   └── NothingStored     400  one named field asks for a stored response
    ├── EngineRefused         4xx  the engine found the call to be wrong
    ├── Unauthorized          401  the request does not show who asks
    ├── Forbidden             403  the caller may not do this
    ├── NotFound              404
    │   ├── RouteNotFound     404  no such path
    │   ├── ModelNotFound     404  no tier answers to this model
    │   ├── ResponseNotFound  404  no response is stored
    │   ├── FeedbackOff       404  the operator keeps no feedback
    │   ├── BatchesOff        404  the operator keeps no files and batches
    │   ├── NoSuchFile        404  the tenant has no such file
    │   └── NoSuchBatch       404  the tenant has no such batch
    ├── MethodNotAllowed      405
    ├── BodyTooSlow           408  the request's body did not come in time
    ├── FileInUse             409  a batch that has not ended reads the file
    ├── BatchEnded            409  a batch that has ended cannot be cancelled
    ├── BodyTooLarge          413
    ├── UnsupportedMediaType  415
    │   └── NotMultipart      415  the upload is no form
    ├── StorageUsedUp         403  the tenant's files take all the bytes that they may
    ├── Overloaded            429/503, with Retry-After
    │   ├── TooManyCalls      429  this router holds as many calls as it may
    │   ├── RateLimited       429  a limit of the caller is reached
    │   ├── TierOverloaded    503  every replica is full and so is the queue
    │   │   └── WouldBeLate   503  the answer could not begin within its deadline
    │   ├── TierUnavailable   503  the tier has no replica that could answer
    │   ├── AccessUnavailable 503  nobody can say who asks
    │   ├── LimitsUnavailable 503  nobody can say what the caller has used
    │   ├── AuditUnavailable  503  the call could not be recorded
    │   ├── FeedbackNotKept   503  the feedback could not be written
    │   └── StorageFailing    503  files and batches cannot be read or written
    ├── DeadlineExceeded      504  the tier did not answer in time
    └── InternalError         500  a fault of ours or of the engine's
        └── UpstreamFailed    502  the engine broke off

Messages are written here, so that no path, address or `str(exc)` of the machine can reach a client.
The one exception is `EngineRefused`: `gateway/engine_errors.py` writes its message, from the
engine's message about the client's own request. Every class hands all its arguments to
`Exception.__init__`, which lets it survive pickling between processes.
"""

from __future__ import annotations

CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
STATELESS = (
    "this service stores no responses. Send the whole conversation as `input`, with `store: false`."
)


class GatewayError(Exception):
    """An error that a client may see."""

    status = 500
    code: str | None = None
    type = "server_error"
    param: str | None = None
    retry_after_s: int | None = None

    @property
    def message(self) -> str:
        """The sentence for the client."""
        return "The server had an error while processing your request."

    @property
    def counted_as(self) -> str:
        """The error in metrics and access log: one of a closed set of codes."""
        return self.code or "internal_error"


class BadRequest(GatewayError):
    """The call is wrong; sending it again changes nothing."""

    status = 400
    type = "invalid_request_error"


class MalformedBody(BadRequest):
    """The body is not a JSON object."""

    code = "invalid_json"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    @property
    def message(self) -> str:
        return f"The request body is not valid: {self.detail}."


class InvalidField(BadRequest):
    """One field of the call has a value that cannot be used."""

    code = "invalid_value"

    def __init__(self, param: str, expected: str) -> None:
        super().__init__(param, expected)
        self.param = param
        self.expected = expected

    @property
    def message(self) -> str:
        return f"Invalid value for '{self.param}': expected {self.expected}."


class TooMany(InvalidField):
    """One field of the call holds too many items, or an item that is too long."""

    code = "limit_exceeded"

    def __init__(self, param: str, unit: str, found_max: int) -> None:
        super().__init__(param, f"at most {found_max} {unit}")
        self.args = (param, unit, found_max)


class RefusedField(BadRequest):
    """This service does not accept one field of the call, whatever its value."""

    code = "unsupported_parameter"

    def __init__(self, param: str, why: str) -> None:
        super().__init__(param, why)
        self.param = param[:200]
        self.why = why

    @property
    def message(self) -> str:
        return f"Unsupported parameter: '{self.param}' is not accepted here: {self.why}."


class UnknownField(BadRequest):
    """One field of the call does not exist."""

    code = "unknown_parameter"

    def __init__(self, param: str) -> None:
        super().__init__(param)
        self.param = param[:200]

    @property
    def message(self) -> str:
        return f"Unknown parameter: '{self.param}'."


class NothingStored(BadRequest):
    """A field asks for a response, conversation or item that an earlier call would have stored."""

    def __init__(self, param: str, code: str) -> None:
        super().__init__(param, code)
        self.param = param
        self.code = code

    @property
    def message(self) -> str:
        return f"'{self.param}' cannot be used: {STATELESS}"


class EngineRefused(GatewayError):
    """The engine found the call to be wrong; `message` speaks of the client's request only."""

    type = "invalid_request_error"

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(status, message, code, param)
        self.status = status
        self.code = code
        self.param = param
        self._message = message

    @property
    def message(self) -> str:
        return self._message

    @property
    def counted_as(self) -> str:
        """The engine's refusals are counted apart from the refusals of this service."""
        return CONTEXT_LENGTH_EXCEEDED if self.code == CONTEXT_LENGTH_EXCEEDED else "engine"


class Unauthorized(GatewayError):
    """The request does not show who asks. `why` is for the log; a client gets one message."""

    status = 401
    code = "invalid_api_key"
    type = "authentication_error"

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    @property
    def message(self) -> str:
        return (
            "No valid API key or token was sent. Send it as 'Authorization: Bearer ...' or as "
            "'x-api-key: ...'."
        )


class Forbidden(GatewayError):
    """The caller may not do this."""

    status = 403
    code = "permission_denied"
    type = "permission_error"

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    @property
    def message(self) -> str:
        return f"You are not allowed to {self.what}."


class NotFound(GatewayError):
    """The thing that the request names does not exist."""

    status = 404
    type = "invalid_request_error"


class RouteNotFound(NotFound):
    """No endpoint has this path."""

    code = "unknown_url"

    def __init__(self, method: str, path: str) -> None:
        super().__init__(method, path)
        self.method = method
        self.path = path

    @property
    def message(self) -> str:
        return f"Unknown request URL: {self.method} {self.path[:200]}."


class ModelNotFound(NotFound):
    """No tier answers to this model name."""

    code = "model_not_found"
    param = "model"

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.model = model

    @property
    def message(self) -> str:
        return (
            f"The model '{self.model[:200]}' does not exist. "
            "GET /v1/models lists the models that do."
        )


class ResponseNotFound(NotFound):
    """The request asks for a stored response."""

    code = "response_not_found"

    def __init__(self, response_id: str) -> None:
        super().__init__(response_id)
        self.response_id = response_id

    @property
    def message(self) -> str:
        return f"Response with id '{self.response_id[:200]}' not found: {STATELESS}"


class FeedbackOff(NotFound):
    """The operator has not switched on the keeping of calls and feedback."""

    code = "feedback_off"

    @property
    def message(self) -> str:
        return (
            "This service keeps no feedback: its operator has not switched it on "
            "(`feedback.directory`)."
        )


class BatchesOff(NotFound):
    """The operator has not switched on files and batches."""

    code = "batches_off"

    @property
    def message(self) -> str:
        return (
            "This service keeps no files and batches: its operator has not switched them on "
            "(`batches.directory`)."
        )


class NoSuchFile(NotFound):
    """The caller's tenant has no file of this id."""

    code = "file_not_found"

    def __init__(self, file_id: str, param: str = "id") -> None:
        super().__init__(file_id, param)
        self.file_id = file_id
        self.param = param

    @property
    def message(self) -> str:
        return f"No such File object: {self.file_id[:200]}. GET /v1/files lists your files."


class NoSuchBatch(NotFound):
    """The caller's tenant has no batch of this id."""

    code = "batch_not_found"

    def __init__(self, batch_id: str) -> None:
        super().__init__(batch_id)
        self.batch_id = batch_id

    @property
    def message(self) -> str:
        return f"No batch found with id '{self.batch_id[:200]}'. GET /v1/batches lists yours."


class FileInUse(GatewayError):
    """A batch that has not ended reads the file."""

    status = 409
    code = "file_in_use"
    type = "invalid_request_error"

    @property
    def message(self) -> str:
        return "A batch that has not ended reads this file. Cancel the batch first."


class BatchEnded(GatewayError):
    """A batch that has ended cannot be cancelled."""

    status = 409
    code = "batch_ended"
    type = "invalid_request_error"

    def __init__(self, batch_status: str) -> None:
        super().__init__(batch_status)
        self.batch_status = batch_status

    @property
    def message(self) -> str:
        return f"Cannot cancel a batch with status '{self.batch_status}'."


class StorageUsedUp(GatewayError):
    """The tenant's files take all the bytes that they may."""

    status = 403
    code = "storage_limit_reached"
    type = "permission_error"

    def __init__(self, used_bytes: int, bytes_max: int) -> None:
        super().__init__(used_bytes, bytes_max)
        self.used_bytes = used_bytes
        self.bytes_max = bytes_max

    @property
    def message(self) -> str:
        return (
            f"Your files take {self.used_bytes} of {self.bytes_max} bytes. Delete some by "
            "DELETE /v1/files/{id}, or ask the operator to raise `batches.tenant_bytes_max`."
        )


class MethodNotAllowed(GatewayError):
    """The path exists, but does not take this method."""

    status = 405
    code = "method_not_allowed"
    type = "invalid_request_error"

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(method, allowed)
        self.method = method
        self.allowed = allowed

    @property
    def message(self) -> str:
        return f"Method {self.method} is not allowed here; use {self.allowed}."


class BodyTooSlow(GatewayError):
    """The request's body did not come in time."""

    status = 408
    code = "request_timeout"
    type = "invalid_request_error"

    @property
    def message(self) -> str:
        return "The request body did not arrive in time."


class BodyTooLarge(GatewayError):
    """The body is longer than the configured limit."""

    status = 413
    code = "request_too_large"
    type = "invalid_request_error"

    def __init__(self, bytes_max: int) -> None:
        super().__init__(bytes_max)
        self.bytes_max = bytes_max

    @property
    def message(self) -> str:
        return f"The request body is larger than {self.bytes_max} bytes."


class UnsupportedMediaType(GatewayError):
    """The body is not declared as JSON, or is encoded."""

    status = 415
    code = "unsupported_media_type"
    type = "invalid_request_error"

    @property
    def message(self) -> str:
        return "Send the body as plain 'Content-Type: application/json', without Content-Encoding."


class NotMultipart(UnsupportedMediaType):
    """The upload of a file is no form."""

    @property
    def message(self) -> str:
        return (
            "Send the file as 'Content-Type: multipart/form-data' with the fields 'purpose' and "
            "'file', without Content-Encoding."
        )


class Overloaded(GatewayError):
    """The call was not begun; the client may send it again later."""

    status = 503
    code = "overloaded"
    type = "overloaded_error"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s


class TooManyCalls(Overloaded):
    """This router already holds its maximum of calls."""

    status = 429
    code = "too_many_calls"
    type = "rate_limit_error"

    @property
    def message(self) -> str:
        return "Too many calls are in flight. Try again shortly."


class RateLimited(Overloaded):
    """A limit of the caller is reached; `limit` says which, in words."""

    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"

    def __init__(self, limit: str, retry_after_s: int) -> None:
        super().__init__(retry_after_s)
        self.args = (limit, retry_after_s)
        self.limit = limit

    @property
    def message(self) -> str:
        return f"Rate limit reached: {self.limit}. Try again in {self.retry_after_s} s."


class TierOverloaded(Overloaded):
    """Every replica of the tier is full, and so is its queue."""

    @property
    def message(self) -> str:
        return "The model is overloaded. Try again shortly."


class WouldBeLate(TierOverloaded):
    """The answer could not begin within the deadline of its first token."""

    code = "deadline_unreachable"

    @property
    def message(self) -> str:
        return (
            "The model is overloaded: the answer could not begin in time. "
            f"Try again in {self.retry_after_s} s."
        )


class TierUnavailable(Overloaded):
    """The tier has no replica that could answer."""

    code = "model_unavailable"

    @property
    def message(self) -> str:
        return "The model is not available at the moment. Try again shortly."


class AccessUnavailable(Overloaded):
    """The source of keys cannot be reached."""

    code = "access_unavailable"

    @property
    def message(self) -> str:
        return "Keys cannot be checked at the moment. Try again shortly."


class LimitsUnavailable(Overloaded):
    """The counters of the callers' limits cannot be reached."""

    code = "limits_unavailable"

    @property
    def message(self) -> str:
        return "Limits cannot be checked at the moment. Try again shortly."


class AuditUnavailable(Overloaded):
    """The call could not be recorded."""

    code = "audit_unavailable"

    @property
    def message(self) -> str:
        return "Calls cannot be recorded at the moment. Try again shortly."


class FeedbackNotKept(Overloaded):
    """The feedback could not be written to the disk."""

    code = "feedback_unavailable"

    @property
    def message(self) -> str:
        return "Feedback cannot be kept at the moment. Try again shortly."


class StorageFailing(Overloaded):
    """Files and batches cannot be read or written at the moment."""

    code = "storage_unavailable"

    @property
    def message(self) -> str:
        return (
            "Files and batches cannot be read or written at the moment: their storage is full or "
            "cannot be reached. Nothing of this request was kept. Try again shortly."
        )


class DeadlineExceeded(GatewayError):
    """The tier did not answer in time."""

    status = 504
    code = "deadline_exceeded"
    type = "timeout_error"

    def __init__(self, limit: str, seconds: float) -> None:
        super().__init__(limit, seconds)
        self.limit = limit
        self.seconds = seconds

    @property
    def message(self) -> str:
        return f"The model did not answer in time ({self.limit} limit of {self.seconds:g} s)."


class InternalError(GatewayError):
    """A fault of this service; the log has the details under the request id."""


class UpstreamFailed(InternalError):
    """The engine broke off before it had answered."""

    status = 502
    code = "upstream_failed"

    @property
    def message(self) -> str:
        return "The model stopped before it had answered. Try again."
