"""libipsec's error codes and ipsec_strerror(3)."""

import threading

import pytest

from pfkey import libipsec
from pfkey.errors import PfkeyError
from pfkey.libipsec import IpsecError, ipsec_set_policy, ipsec_strerror, pfkey_set_softrate
from pfkey.libipsec.errors import TEXTS


def test_there_are_31_codes_with_a_text_each() -> None:
    codes = {n: getattr(libipsec, n) for n in libipsec.__all__ if n.startswith("EIPSEC_")}
    assert sorted(codes.values()) == list(range(31))
    assert len(TEXTS) == 31
    assert (codes["EIPSEC_NO_ERROR"], codes["EIPSEC_MAX"]) == (0, 30)
    assert TEXTS[codes["EIPSEC_DO_GET_SUPP_LIST"]] == "Must get supported algorithms list first"


def test_strerror_tells_how_the_last_call_of_this_thread_ended() -> None:
    seen = []
    with pytest.raises(IpsecError, match="Invalid argument: 9 is none of the four") as caught:
        pfkey_set_softrate(9, 50)
    seen.append(ipsec_strerror())
    thread = threading.Thread(target=lambda: seen.append(ipsec_strerror()))
    thread.start()
    thread.join()
    ipsec_set_policy("out none")
    seen.append(ipsec_strerror())
    assert seen == ["Invalid argument", "Success", "Success"]
    assert (caught.value.code, caught.value.text) == (2, "Invalid argument")
    assert isinstance(caught.value, PfkeyError)


def test_a_system_error_has_the_systems_text() -> None:
    error = IpsecError(26, "Address family not supported by protocol")
    assert str(error) == error.text == "Address family not supported by protocol"
    assert IpsecError(26).text == "System error"
