"""Names of PF_KEY v2 and our numbers for them: RFC 2367 sections 2.3, 3.1 and 3.5, and additions.

A name that Linux has bears Linux's number. Any other bears the number of the first system that
has it, plus that system's base, which is more than a field on a wire can hold: so our numbers
stand for names, whatever a system's own are (`pfkey.dialect`). Held to `specs/tables/` and to
`linux/pfkeyv2.h` in both directions by the tests. Algorithms are in `pfkey.algorithms`.
"""

from enum import IntEnum, IntFlag

PF_KEY_V2 = 2
HEADER_OCTETS = 16
UNIT_OCTETS = 8  # lengths on the wire count 64-bit words
WINDOW_MAX = 0x8000  # packets of a replay window: 4 KiB for each SA that comes in
UNSPEC_PROTO = 255  # "any" upper-layer protocol in messages (IPSEC_ULPROTO_ANY)
MANUAL_REQID_MAX = 0x3FFF  # IPSEC_MANUAL_REQID_MAX: larger ones are the kernel's own
NETBSD, FREEBSD, OPENBSD = 0x1_0000, 0x2_0000, 0x3_0000  # the bases; Linux's is 0
FIELD_MAX = 0xFFFF  # what a number's field holds at the most: the rest is the base
# Extensions of our own, the same number in every dialect; no system has come near it.
OWN_MIN, OWN_MAX = 100, 127

AF_INET = 2
AF_INET6 = 10

IPPROTO_TCP = 6
IPPROTO_UDP = 17
IPPROTO_ESP = 50
IPPROTO_AH = 51
IPPROTO_COMP = 108
NATT_PORT = 4500  # of ESP in UDP and of IKE behind a NAT (RFC 3948)
# values of UDP_ENCAP and of X_NAT_T_TYPE; the first, of the drafts before the RFC, is not done
UDP_ENCAP_ESPINUDP_NON_IKE, UDP_ENCAP_ESPINUDP = 1, 2


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
    X_ADDFLOW = OPENBSD + 12
    X_DELFLOW = OPENBSD + 13
    X_GRPSPIS = OPENBSD + 14
    X_ASKPOLICY = OPENBSD + 15


class ExtType(IntEnum):
    """sadb_ext_type."""

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
    X_REPLAY_WINDOW = OWN_MIN  # a window of more packets than sadb_sa_replay can say
    X_NAT_T_OAI = NETBSD + 23
    X_NAT_T_OAR = NETBSD + 24
    X_NAT_T_FRAG = NETBSD + 25
    X_SA_REPLAY = FREEBSD + 26
    X_NEW_ADDRESS_SRC = FREEBSD + 27
    X_NEW_ADDRESS_DST = FREEBSD + 28
    X_LFT_CUR_SW_OFFL = FREEBSD + 29
    X_LFT_CUR_HW_OFFL = FREEBSD + 30
    X_IF_HW_OFFL = FREEBSD + 31
    X_SRC_MASK = OPENBSD + 17
    X_DST_MASK = OPENBSD + 18
    X_PROTOCOL = OPENBSD + 19
    X_FLOW_TYPE = OPENBSD + 20
    X_SRC_FLOW = OPENBSD + 21
    X_DST_FLOW = OPENBSD + 22
    X_OPENBSD_SA2 = OPENBSD + 23  # SADB_X_EXT_SA2 there: a second sadb_sa
    X_DST2 = OPENBSD + 24
    X_OPENBSD_POLICY = OPENBSD + 25  # SADB_X_EXT_POLICY there: the number of an ACQUIRE
    X_LOCAL_CREDENTIALS = OPENBSD + 26
    X_REMOTE_CREDENTIALS = OPENBSD + 27
    X_LOCAL_AUTH = OPENBSD + 28
    X_REMOTE_AUTH = OPENBSD + 29
    X_SUPPORTED_COMP = OPENBSD + 30
    X_UDPENCAP = OPENBSD + 31
    X_LIFETIME_LASTUSE = OPENBSD + 32
    X_TAG = OPENBSD + 33
    X_TAP = OPENBSD + 34
    X_SATYPE2 = OPENBSD + 35
    X_COUNTER = OPENBSD + 36
    X_RDOMAIN = OPENBSD + 37
    X_MTU = OPENBSD + 38
    X_REPLAY = OPENBSD + 39
    X_IFACE = OPENBSD + 40


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
    X_TCPSIGNATURE = NETBSD + 11
    X_IPIP = OPENBSD + 7


class SaState(IntEnum):
    """sadb_sa_state."""

    LARVAL = 0
    MATURE = 1
    DYING = 2
    DEAD = 3


class SaFlag(IntFlag):
    """sadb_sa_flags that Linux knows; CYCSEQ, which setkey sets by default; ESN."""

    PFS = 0x00000001
    CYCSEQ = 0x00000040
    ESN = 0x00000400  # FreeBSD's and OpenBSD's; here the meaning in every dialect
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


class OpenbsdFlag(IntFlag):
    """sadb_sa_flags of OpenBSD that mean something else elsewhere, moved out of the way."""

    TUNNEL = 0x0004 << 96
    CHAINDEL = 0x0008 << 96
    UDPENCAP = 0x0200 << 96


class Mode(IntEnum):
    """IPsec mode (linux/ipsec.h, netipsec/ipsec.h)."""

    ANY = 0
    TRANSPORT = 1
    TUNNEL = 2
    BEET = 3


MODE_TCPMD5 = NETBSD + 3  # of TCP signatures (RFC 2385): a number that nothing here does


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
    X_ADDR = NETBSD + 4  # a sockaddr instead of a string
    X_ASN1_DN = OPENBSD + 4


class FlowType(IntEnum):
    """sadb_protocol_proto of OpenBSD's FLOW_TYPE."""

    USE = 1
    ACQUIRE = 2
    REQUIRE = 3
    BYPASS = 4
    DENY = 5
    DONTACQ = 6


class Scope(IntEnum):
    """sadb_x_policy_scope of FreeBSD: whose policy it is."""

    ANY = 0
    GLOBAL = 1
    IFNET = 2
    PCB = 4


SATYPE_OF_PROTO = {IPPROTO_ESP: SaType.ESP, IPPROTO_AH: SaType.AH, IPPROTO_COMP: SaType.X_IPCOMP}
PROTO_OF_SATYPE = {satype: proto for proto, satype in SATYPE_OF_PROTO.items()}
