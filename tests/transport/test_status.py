from __future__ import annotations

from pytinykv.transport import RpcError, StatusCode


def test_status_codes_have_grpcs_numbers() -> None:
    assert [code.name for code in StatusCode][:4] == ["OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT"]
    assert (StatusCode.UNIMPLEMENTED, StatusCode.UNAVAILABLE, StatusCode.UNAUTHENTICATED) == (12, 14, 16)


def test_an_error_shows_its_code_and_message() -> None:
    error = RpcError(StatusCode.UNAVAILABLE, "not leader")
    assert str(error) == "UNAVAILABLE: not leader"
    assert not error.final
    assert RpcError(StatusCode.UNIMPLEMENTED, "no such method").final
