"""What a command is: one record per command, of a kind that says how the dispatcher serves it.

    LocalCommand   answered at once, needs no region
    PointRead      looks at one key: answered as soon as the region may be read
    RangeRead      looks at as many as the client wants: in slices, so that others are served in between
    PointWrite     changes one key, whatever is there: evaluated at once into an operation, answered as a WriteCommand
    WriteCommand   evaluated at once into operations, answered when the log has applied them
    BatchWrite     the same with a part for each key: many of them in slices, an entry of the log for each
    TransactionCommand  evaluated under latches, when it is its turn, and answered when the log has applied what it does
    RegionCommand  changes the region itself, or all of its data; answered whenever that is done
    StoreCommand   the same for all regions that the store leads

To add one is to write its function and an entry of `commands.COMMANDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytinykv.transaction.reader import MvccReader
from pytinykv.wire import service_methods
from pytinykv.wire.encoding import field_tag, member_head
from pytinykv.wire.pb import errorpb_pb2, tikvpb_pb2
from pytinykv.wire.pb import kvrpcpb_pb2 as pb
from pytinykv.wire.timestamp import Timestamp

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pytinykv.model import Region
    from pytinykv.raftstore import Operation, RegionPeer
    from pytinykv.raftstore.pending import Results
    from pytinykv.storage import Reader
    from pytinykv.transaction import commands as transaction
    from pytinykv.transaction.concurrency import ConcurrencyManager

SERVICE: Final = "tikvpb.Tikv"
METHODS: Final = service_methods(SERVICE)

_FrameRequest = tikvpb_pb2.BatchCommandsRequest.Request
_FrameResponse = tikvpb_pb2.BatchCommandsResponse.Response

ROW_COST: Final = 2048
"""What looking at a row costs beside its bytes, in bytes: copying so many takes about as long."""


ReadTs = Callable[[Any], int]


class InvalidRequestError(ValueError):
    """A request that must not be repeated as it is; the message says what is wrong with which field."""


class CommandContext(NamedTuple):
    """What the commands of one frame for one region are evaluated with."""

    region: Region
    """As it was when the request's epoch was compared with it."""
    now_s: int
    """The wall clock, in seconds of the Unix epoch."""


class View:
    """What reads look at, and how much they may still do before others are served."""

    __slots__ = ("_mvcc", "left", "memory", "reader", "safe_point")

    def __init__(self, reader: Reader, memory: ConcurrencyManager, safe_point: Timestamp) -> None:
        self.reader = reader
        """The live engine in the first slice, one snapshot of it in all later ones; both hold the same state."""
        self.memory = memory
        """Locks of transactions that the engine does not show yet; from the second slice on, those of the snapshot's time."""
        self.safe_point = safe_point
        """Up to which versions may have been collected as garbage."""
        self.left = 0
        """Bytes that may still be looked at in this slice; a row counts `ROW_COST` more. Negative: overdrawn."""
        self._mvcc: MvccReader | None = None
        """Reads versions of `reader`; made when it is first needed."""

    @property
    def mvcc(self) -> MvccReader:
        """What reads versions, with one cursor for all commands that share this view."""
        if self._mvcc is None:
            self._mvcc = MvccReader(self.reader, safe_point=self.safe_point)
        return self._mvcc

    def hold(self, snapshot: Reader) -> None:
        """Look at a snapshot from now on, which is taken in the same step."""
        self.close()
        self.reader, self.memory = snapshot, self.memory.frozen()

    def close(self) -> None:
        """Let go of the cursor. Idempotent."""
        if self._mvcc is not None:
            self._mvcc.close()
            self._mvcc = None


class PreparedWrite(NamedTuple):
    """What a write does to its region; without operations it is answered at once."""

    operations: list[Operation]
    size_bytes: int
    """As it counts for limits of the log."""
    make_reply: Callable[[Results], bytes] | None = None
    """Makes the encoded response from the operations' results once all is applied; without it the response is empty."""


class CommandKind:
    """What all kinds have in common: names, types, and how the response tells errors."""

    def __init__(self, *, method: str | None, member: str | None, may_ignore_region_errors: bool = False) -> None:
        """Describe a command that comes as unary `method`, as `member` of a frame's command, or as both.

        `may_ignore_region_errors`: a client takes a unary response with a region error for an empty page, so what can be
        avoided is told by a status instead.
        """
        assert method or member
        self.name: Final[str] = method or member or ""
        self.method: Final = method
        self.member: Final = member
        self.may_ignore_region_errors: Final = may_ignore_region_errors
        self.response_type: Final[type[Message]] = (
            METHODS[f"/{SERVICE}/{method}"].response_type if member is None else type(getattr(_FrameResponse(), member))
        )
        self.request_type: Final[type[Message]] = (
            METHODS[f"/{SERVICE}/{method}"].request_type if member is None else type(getattr(_FrameRequest(), member))
        )
        self.tag: Final = b"" if member is None else field_tag(_FrameResponse, member)
        """The tag of the response in an answer frame."""
        self.empty_answer: Final = member_head(self.tag, 0)
        """The answer, in a frame, that is an empty response: success, for most writes."""
        self._error_field: Final = _error_field(self.response_type)

    def region_error(self, error: errorpb_pb2.Error) -> bytes:
        """Return the encoded response that says why the region did not run the command."""
        return self.response_type(region_error=error).SerializeToString()

    def final_error(self, message: str, *, try_smaller: bool = False) -> bytes:
        """Return the encoded response that refuses a request for good, in the field that its clients look at.

        `try_smaller`: one that asks for less may succeed. Key errors tell it as `retryable`, all others as `abort`.
        """
        field, error_type, is_repeated = self._error_field
        if error_type is None:
            return self.response_type(**{field: message}).SerializeToString() if field else b""
        error = error_type(pb.KeyError(retryable=message) if try_smaller else pb.KeyError(abort=message))
        return self.response_type(**{field: [error] if is_repeated else error}).SerializeToString()


_ErrorField = tuple[str, Callable[[pb.KeyError], object] | None, bool]
"""Name, what makes its value from a key error (None: it is a string), whether it is repeated."""


def _error_field(response_type: type[Message]) -> _ErrorField:
    fields = response_type.DESCRIPTOR.fields_by_name
    if "error" in fields:
        return ("error", None if fields["error"].message_type is None else _same, False)
    if "errors" in fields:
        return ("errors", _same, True)
    for pairs in ("kvs", "pairs"):
        if pairs in fields:
            return (pairs, lambda error: pb.KvPair(error=error), True)
    if "region_error" in fields:
        return ("region_error", lambda error: errorpb_pb2.Error(message=error.abort or error.retryable), False)
    return ("", None, False)


def _same(error: pb.KeyError) -> pb.KeyError:
    return error


class LocalCommand(CommandKind):
    """A command of which the request alone says the answer."""

    def __init__(self, *, method: str | None, member: str | None, answer: Callable[[Any], bytes]) -> None:
        """`answer(request)` returns the encoded response. Raises InvalidRequestError."""
        super().__init__(method=method, member=member)
        self.answer: Final = answer


class PointRead(CommandKind):
    """A command that looks at one key."""

    def __init__(
        self,
        *,
        method: str,
        member: str | None,
        look: Callable[[View, CommandContext, Any], bytes],
        read_ts: ReadTs | None = None,
    ) -> None:
        """`look(view, context, request)` returns the encoded response. Raises InvalidRequestError, RegionError.

        `read_ts(request)` says at which timestamp it looks, if it reads versions.
        """
        super().__init__(method=method, member=member)
        self.look: Final = look
        self.read_ts: Final = read_ts


class RangeRead(CommandKind):
    """A command that looks at many keys."""

    def __init__(
        self,
        *,
        method: str,
        member: str | None,
        steps: Callable[[View, CommandContext, Any, BytesIO], Iterator[None]],
        may_ignore_region_errors: bool = False,
        read_ts: ReadTs | None = None,
    ) -> None:
        """`steps(view, context, request, out)` adds the encoded response to `out`; it yields when `view.left` is used up.

        It raises InvalidRequestError, RegionError; what is in `out` then does not count. `read_ts` as in `PointRead`.
        """
        super().__init__(method=method, member=member, may_ignore_region_errors=may_ignore_region_errors)
        self.steps: Final = steps
        self.read_ts: Final = read_ts


class PointWrite(CommandKind):
    """A command that changes one key, whatever is there; its response is empty: the most frequent kind of write."""

    def __init__(
        self,
        *,
        method: str,
        member: str,
        operation: Callable[[CommandContext, Any], tuple[Operation, int]],
        read: Callable[[CommandContext, bytes, int], tuple[Operation, int] | None],
    ) -> None:
        """`operation(context, request)` returns what it does, and how many bytes that counts for limits of the log.

        It raises InvalidRequestError, RegionError. `read(context, encoded, at)` does the same with an encoded request whose
        fields after the context begin at `at`; None where only protobuf can read it, or `operation` refuses it.
        """
        super().__init__(method=method, member=member)
        self.operation: Final = operation
        self.read: Final = read


class WriteCommand(CommandKind):
    """A command that changes something."""

    def __init__(
        self, *, method: str, member: str | None, prepare: Callable[[CommandContext, Any], PreparedWrite]
    ) -> None:
        """`prepare(context, request)` evaluates it. Raises InvalidRequestError, RegionError."""
        super().__init__(method=method, member=member)
        self.prepare: Final = prepare


class BatchWrite(WriteCommand):
    """A write of many keys that is atomic for each of them only, so that it may be done part by part (`LongWrites`)."""

    def __init__(
        self,
        *,
        method: str,
        member: str | None,
        count: Callable[[Any], int],
        prepare_part: Callable[[CommandContext, Any, int, int], PreparedWrite],
    ) -> None:
        """Describe one by its parts.

        `count(request)` returns how many parts there are; `prepare_part(context, request, first, end)` evaluates those from
        `first` to before `end`, with a reply that is the same for each choice. It raises InvalidRequestError, RegionError.
        """
        super().__init__(
            method=method,
            member=member,
            prepare=lambda context, request: prepare_part(context, request, 0, count(request)),
        )
        self.count: Final = count
        self.prepare_part: Final = prepare_part


class TransactionCommand(CommandKind):
    """A command of a transaction that may change something, depending on what is there when it has its latches."""

    def __init__(
        self,
        method: str,
        member: str,
        decode: Callable[[CommandContext, Any], transaction.WriteCommand],
        encode: Callable[[Any, Any], Message],
    ) -> None:
        """`decode(context, request)` says what is to be evaluated. Raises InvalidRequestError, RegionError.

        `encode(request, result)` returns the response for what came of it.
        """
        super().__init__(method=method, member=member)
        self.decode: Final = decode
        self.encode: Final = encode


class StoreCommand(CommandKind):
    """A command for all regions that the store leads, whatever region its context names."""

    def __init__(self, *, method: str, start: Callable[[Any, Any, Callable[[bytes], None]], None]) -> None:
        """`start(host, request, on_answer)`, with the store's `TransactionHost`, gives the encoded response once.

        It raises InvalidRequestError, and then gives none.
        """
        super().__init__(method=method, member=None)
        self.start: Final = start


class RegionCommand(CommandKind):
    """A command that changes a region and not its data."""

    def __init__(
        self,
        *,
        method: str,
        member: str | None = None,
        start: Callable[[Any, RegionPeer, Any, Callable[[bytes], None]], None],
    ) -> None:
        """`start(host, peer, request, on_answer)`, `host` as above, gives the encoded response once, now or later.

        It raises InvalidRequestError, and then gives none.
        """
        super().__init__(method=method, member=member)
        self.start: Final = start
