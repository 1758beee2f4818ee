"""How scripts write entries and messages. `5@2` is the entry at index 5 with term 2."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pytinykv.raft import (
    AppendEntries,
    AppendRejection,
    AppendResponse,
    ConfChangeKind,
    ConfState,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    PreVoteRequest,
    PreVoteResponse,
    StaleTerm,
    TimeoutNow,
    TransferRequest,
    VoteRequest,
    VoteResponse,
    decode_conf_change,
)

_CHANGES = {
    ConfChangeKind.ADD_VOTER: "add voter",
    ConfChangeKind.ADD_LEARNER: "add learner",
    ConfChangeKind.REMOVE: "remove",
}


def entry_data(entry: Entry) -> str:
    """Return what an entry says, in a word or two."""
    if entry.kind is EntryKind.CONF_CHANGE:
        change = decode_conf_change(entry.data)
        return f"[{_CHANGES[change.kind]} {change.peer_id}]"
    data = entry.data.decode() or "no-op"
    return f"[{data}]" if entry.kind is EntryKind.ADMIN else data


def entry_text(entry: Entry) -> str:
    return f"{entry.index}@{entry.term} {entry_data(entry)}"


def entries_text(entries: Iterable[Entry]) -> str:
    return ", ".join(entry_text(entry) for entry in entries) or "nothing"


def members_text(conf: ConfState) -> str:
    voters = "voters " + (" ".join(map(str, conf.voters)) or "none")
    return voters + (", learners " + " ".join(map(str, conf.learners)) if conf.learners else "")


def message_text(message: Message) -> str:
    """Return a message as `1 → 2  what it says`."""
    return f"{message.sender} → {message.to}  {_content(message)}, term {message.term}"


def _content(message: Message) -> str:
    return _CONTENTS[type(message)](message)


def _append(message: AppendEntries) -> str:
    after = f"append after {message.prev_index}@{message.prev_term}"
    return f"{after}: {entries_text(message.entries)}; commit {message.commit}"


def _asks(kind: str, message: PreVoteRequest | VoteRequest) -> str:
    on_request = isinstance(message, VoteRequest) and message.transfer_at is not None
    reason = ", at the leader's request" if on_request else ""
    return f"{kind}? log ends {message.last_index}@{message.last_term}{reason}"


def _answers(kind: str, message: PreVoteResponse | VoteResponse) -> str:
    if message.granted:
        return f"{kind} granted"
    return f"{kind} refused" + (f", committed {message.commit}@{message.commit_term}" if message.commit else "")


def _round(message: Heartbeat | HeartbeatResponse) -> str:
    return f", round {message.round}" if message.round else ""


_CONTENTS: dict[type, Callable[[Any], str]] = {  # Any: each kind goes to the function that takes just that kind
    PreVoteRequest: lambda it: _asks("pre-vote", it),
    PreVoteResponse: lambda it: _answers("pre-vote", it),
    VoteRequest: lambda it: _asks("vote", it),
    VoteResponse: lambda it: _answers("vote", it),
    AppendEntries: _append,
    AppendResponse: lambda it: f"accepted up to {it.match}",
    AppendRejection: lambda it: f"rejected {it.rejected}, try {it.hint_index}@{it.hint_term}",
    Heartbeat: lambda it: f"heartbeat{_round(it)}, commit {it.commit}",
    HeartbeatResponse: lambda it: f"heartbeat answered{_round(it)}",
    InstallSnapshot: lambda it: f"snapshot up to {it.meta.index}@{it.meta.term}, {members_text(it.meta.conf_state)}",
    TimeoutNow: lambda _: "campaign now",
    TransferRequest: lambda it: f"make {it.transferee} the leader",
    StaleTerm: lambda _: "your term is over",
}
