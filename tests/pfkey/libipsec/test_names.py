"""libipsec's functions: that they are all there, and that each says what it sends."""

import inspect
import re

import pytest

from pfkey import libipsec

# ipsec_set_policy(3) and libpfkey.h, which every system with a libipsec has.
FUNCTIONS = re.findall(
    r"\w+",
    """
ipsec_set_policy ipsec_get_policylen ipsec_dump_policy ipsec_dump_policy_withports ipsec_strerror
ipsec_check_keylen ipsec_check_keylen2 ipsec_get_keylen ipsec_hexdump kdebug_sadb
pfkey_open pfkey_close pfkey_recv pfkey_send pfkey_set_buffer_size pfkey_align pfkey_check
pfkey_set_softrate pfkey_get_softrate pfkey_send_register pfkey_recv_register pfkey_set_supported
pfkey_send_getspi pfkey_send_getspi_nat pfkey_send_add pfkey_send_add_nat pfkey_send_add2
pfkey_send_update pfkey_send_update_nat pfkey_send_update2 pfkey_send_delete pfkey_send_delete_all
pfkey_send_get pfkey_send_flush pfkey_send_dump pfkey_send_promisc_toggle
pfkey_send_spdadd pfkey_send_spdadd2 pfkey_send_spdupdate pfkey_send_spdupdate2
pfkey_send_spddelete pfkey_send_spddelete2 pfkey_send_spdget pfkey_send_spdsetidx
pfkey_send_spdflush pfkey_send_spddump pfkey_send_migrate
pfkey_sadump pfkey_sadump_withports pfkey_spdump pfkey_spdump_withports
""",
)


def test_every_function_of_libipsec_is_there_and_no_other() -> None:
    assert {n for n in libipsec.__all__ if n.startswith(("ipsec_", "pfkey_", "kdebug_"))} == {
        *FUNCTIONS, "pfkey_send_sa_args",
    }  # fmt: skip
    for name in libipsec.__all__:
        assert hasattr(libipsec, name), name


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n.startswith("pfkey_send_")])
def test_a_request_is_documented_with_the_message_it_sends(name: str) -> None:
    doc = inspect.getdoc(getattr(libipsec, name)) or ""
    assert re.match(r"Sends [A-Z_0-9]+[: ]", doc), doc


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if not n.startswith("pfkey_send_")])
def test_every_other_function_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(libipsec, name))


def test_parameters_have_the_order_of_c() -> None:
    def of(name: str) -> str:
        return " ".join(inspect.signature(getattr(libipsec, name)).parameters)

    assert of("pfkey_send_getspi") == "so satype mode src dst min max reqid seq"
    assert of("pfkey_send_getspi_nat") == (
        "so satype mode src dst natt_type sport dport min max reqid seq"
    )
    sa = (
        "so satype mode src dst spi reqid wsize keymat e_type e_keylen a_type a_keylen flags"
        " l_alloc l_bytes l_addtime l_usetime seq"
    )
    nat = f"{sa} l_natt_type l_natt_sport l_natt_dport l_natt_oa l_natt_frag"
    assert (of("pfkey_send_add"), of("pfkey_send_update")) == (sa, sa)
    assert (of("pfkey_send_add_nat"), of("pfkey_send_update_nat")) == (nat, nat)
    assert of("pfkey_send_delete") == "so satype mode src dst spi"
    assert of("pfkey_send_delete_all") == "so satype mode src dst"
    assert of("pfkey_send_spdadd") == "so src prefs dst prefd proto policy seq"
    assert of("pfkey_send_spdadd2") == "so src prefs dst prefd proto ltime vtime policy seq"
    assert of("pfkey_send_migrate") == "so local remote src prefs dst prefd proto policy seq"
