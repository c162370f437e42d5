"""The JSON rendering, held to the schemas that the package ships."""

import json

import pytest

from pfkey import document
from pfkey.const import MsgType
from pfkey.message import Message
from tests.pfkey import golden
from tests.support.schema import check_schema, schema

ALL = {**golden.SAS, **golden.POLICIES}


def test_sas_follow_their_schema() -> None:
    found = document.sad([*golden.SAS.values(), Message(type=MsgType.DUMP, satype=77)])
    check_schema(json.loads(json.dumps(found)), schema("sad"))


def test_policies_follow_their_schema() -> None:
    found = document.spd([*golden.POLICIES.values(), Message(type=MsgType.X_SPDDUMP)])
    check_schema(json.loads(json.dumps(found)), schema("spd"))


def test_keys_are_null_unless_asked_for() -> None:
    masked = json.dumps(document.sad(golden.SAS.values()))
    assert "686f6765" not in masked
    assert "6d6f6761" not in masked
    assert '"key": null' in masked
    shown = document.sa(golden.ESP, show_keys=True)
    assert shown["encryption"] == {
        "algorithm": "3des-cbc", "number": 3, "bits": 192, "key": "686f6765" * 6,
    }  # fmt: skip


def test_an_sa_says_what_the_text_says() -> None:
    found = document.sa(golden.NATT)
    assert (found["protocol"], found["mode"], found["spi"]) == ("esp", "tunnel", 4096)
    assert found["udp_encapsulation"] == {
        "type": 2, "src_port": 4500, "dst_port": 4501, "original_address": "192.168.1.5",
    }  # fmt: skip
    assert document.sa(golden.IPCOMP)["compression"] == "deflate"
    assert document.sa(golden.ESP)["lifetimes"]["hard"]["addtime"] == 86400


def test_a_policy_says_what_the_text_says() -> None:
    found = document.policy(golden.TUNNEL)
    assert found["text"] == "out prio def ipsec esp/tunnel/20.0.0.1-20.0.0.2/require"
    assert found["src"] == {"address": "10.0.1.0", "prefixlen": 24, "port": 0}
    assert found["requests"][0]["dst"] == "20.0.0.2"
    assert document.policy(golden.SOCKET)["is_per_socket"]


@pytest.mark.parametrize("name", ALL)
def test_a_message_has_all_its_extensions(name: str) -> None:
    found = document.message(ALL[name])
    assert len(found["extensions"]) == len(ALL[name].extensions)
    json.dumps(found)
    assert "686f6765686f" not in json.dumps(found)


def test_names_or_digits() -> None:
    assert document.name(MsgType, 3) == "ADD"
    assert document.name(MsgType, 99) == "99"
