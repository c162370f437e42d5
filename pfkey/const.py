"""Numbers of PF_KEY v2: RFC 2367 sections 2.3, 3.1 and 3.5; KAME and Linux additions.

Held to `specs/tables/` and to `linux/pfkeyv2.h` in both directions by the tests.
The numbers of algorithms live in `pfkey.algorithms`.
"""

from enum import IntEnum, IntFlag

PF_KEY_V2 = 2
HEADER_OCTETS = 16
UNIT_OCTETS = 8  # lengths on the wire count 64-bit words
UNSPEC_PROTO = 255  # "any" upper-layer protocol in messages (IPSEC_ULPROTO_ANY)
MANUAL_REQID_MAX = 0x3FFF  # IPSEC_MANUAL_REQID_MAX: larger ones are the kernel's own

AF_INET = 2
AF_INET6 = 10

IPPROTO_ESP = 50
IPPROTO_AH = 51
IPPROTO_COMP = 108


class MsgType(IntEnum):
    """sadb_msg_type."""

    RESERVED = 0
    GETSPI = 1
    UPDATE = 2
    ADD = 3
    DELETE = 4
    GET = 5
    ACQUIRE = 6
    REGISTER = 7
    EXPIRE = 8
    FLUSH = 9
    DUMP = 10
    X_PROMISC = 11
    X_PCHANGE = 12
    X_SPDUPDATE = 13
    X_SPDADD = 14
    X_SPDDELETE = 15
    X_SPDGET = 16
    X_SPDACQUIRE = 17
    X_SPDDUMP = 18
    X_SPDFLUSH = 19
    X_SPDSETIDX = 20
    X_SPDEXPIRE = 21
    X_SPDDELETE2 = 22
    X_NAT_T_NEW_MAPPING = 23
    X_MIGRATE = 24


class ExtType(IntEnum):
    """sadb_ext_type, Linux numbering."""

    SA = 1
    LIFETIME_CURRENT = 2
    LIFETIME_HARD = 3
    LIFETIME_SOFT = 4
    ADDRESS_SRC = 5
    ADDRESS_DST = 6
    ADDRESS_PROXY = 7
    KEY_AUTH = 8
    KEY_ENCRYPT = 9
    IDENTITY_SRC = 10
    IDENTITY_DST = 11
    SENSITIVITY = 12
    PROPOSAL = 13
    SUPPORTED_AUTH = 14
    SUPPORTED_ENCRYPT = 15
    SPIRANGE = 16
    X_KMPRIVATE = 17
    X_POLICY = 18
    X_SA2 = 19
    X_NAT_T_TYPE = 20
    X_NAT_T_SPORT = 21
    X_NAT_T_DPORT = 22
    X_NAT_T_OA = 23
    X_SEC_CTX = 24
    X_KMADDRESS = 25
    X_FILTER = 26


class SaType(IntEnum):
    """sadb_msg_satype."""

    UNSPEC = 0
    AH = 2
    ESP = 3
    RSVP = 5
    OSPFV2 = 6
    RIPV2 = 7
    MIP = 8
    X_IPCOMP = 9


class SaState(IntEnum):
    """sadb_sa_state."""

    LARVAL = 0
    MATURE = 1
    DYING = 2
    DEAD = 3


class SaFlag(IntFlag):
    """sadb_sa_flags that Linux knows; CYCSEQ, which setkey sets by default; FreeBSD's ESN."""

    PFS = 0x00000001
    CYCSEQ = 0x00000040
    ESN = 0x00000400  # extended sequence numbers
    NOPMTUDISC = 0x20000000
    DECAP_DSCP = 0x40000000
    NOECN = 0x80000000


class KameFlag(IntFlag):
    """sadb_sa_flags of KAME that setkey can say. OLD is the bit that Linux calls PFS."""

    OLD = 0x0001  # esp-old, ah-old: RFC 1825 and its siblings
    IV4B = 0x0010
    DERIV = 0x0020
    CYCSEQ = 0x0040
    RAWCPI = 0x0080
    RANDOM_PAD = 0x0100
    ZERO_PAD = 0x0200


class Mode(IntEnum):
    """IPsec mode (linux/ipsec.h)."""

    ANY = 0
    TRANSPORT = 1
    TUNNEL = 2
    BEET = 3


class Dir(IntEnum):
    """Direction of a policy."""

    ANY = 0
    IN = 1
    OUT = 2
    FWD = 3


class PolicyType(IntEnum):
    """sadb_x_policy_type."""

    DISCARD = 0
    NONE = 1
    IPSEC = 2
    ENTRUST = 3
    BYPASS = 4


class Level(IntEnum):
    """Level of an ipsecrequest."""

    DEFAULT = 0
    USE = 1
    REQUIRE = 2
    UNIQUE = 3


class IdentType(IntEnum):
    """sadb_ident_type."""

    RESERVED = 0
    PREFIX = 1
    FQDN = 2
    USERFQDN = 3


SATYPE_OF_PROTO = {IPPROTO_ESP: SaType.ESP, IPPROTO_AH: SaType.AH, IPPROTO_COMP: SaType.X_IPCOMP}
PROTO_OF_SATYPE = {satype: proto for proto, satype in SATYPE_OF_PROTO.items()}
