/*
 * What the system's own headers say of PF_KEY: sizes, offsets, constants.
 *
 * One line a fact: "size STRUCT OCTETS", "field STRUCT MEMBER OFFSET OCTETS", "const NAME NUMBER".
 * Nothing is read, nothing is owned. The test compares the lines with specs/tables/ and
 * pfkey/const.py in both directions.
 */
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <linux/types.h>
#include <linux/pfkeyv2.h>
#include <linux/ipsec.h>

#define SIZE(s) printf("size " #s " %zu\n", sizeof(struct s))
#define FIELD(s, m) \
	printf("field " #s " " #m " %zu %zu\n", offsetof(struct s, m), sizeof(((struct s *)0)->m))
#define CONST(c) printf("const " #c " %lu\n", (unsigned long)(c))

static void base(void)
{
	SIZE(sadb_msg);
	FIELD(sadb_msg, sadb_msg_version);
	FIELD(sadb_msg, sadb_msg_type);
	FIELD(sadb_msg, sadb_msg_errno);
	FIELD(sadb_msg, sadb_msg_satype);
	FIELD(sadb_msg, sadb_msg_len);
	FIELD(sadb_msg, sadb_msg_reserved);
	FIELD(sadb_msg, sadb_msg_seq);
	FIELD(sadb_msg, sadb_msg_pid);
	SIZE(sadb_ext);
	FIELD(sadb_ext, sadb_ext_len);
	FIELD(sadb_ext, sadb_ext_type);
	SIZE(sockaddr_in);
	FIELD(sockaddr_in, sin_family);
	FIELD(sockaddr_in, sin_port);
	FIELD(sockaddr_in, sin_addr);
	SIZE(sockaddr_in6);
	FIELD(sockaddr_in6, sin6_family);
	FIELD(sockaddr_in6, sin6_port);
	FIELD(sockaddr_in6, sin6_flowinfo);
	FIELD(sockaddr_in6, sin6_addr);
	FIELD(sockaddr_in6, sin6_scope_id);
}

static void rfc2367(void)
{
	SIZE(sadb_sa);
	FIELD(sadb_sa, sadb_sa_len);
	FIELD(sadb_sa, sadb_sa_exttype);
	FIELD(sadb_sa, sadb_sa_spi);
	FIELD(sadb_sa, sadb_sa_replay);
	FIELD(sadb_sa, sadb_sa_state);
	FIELD(sadb_sa, sadb_sa_auth);
	FIELD(sadb_sa, sadb_sa_encrypt);
	FIELD(sadb_sa, sadb_sa_flags);
	SIZE(sadb_lifetime);
	FIELD(sadb_lifetime, sadb_lifetime_len);
	FIELD(sadb_lifetime, sadb_lifetime_exttype);
	FIELD(sadb_lifetime, sadb_lifetime_allocations);
	FIELD(sadb_lifetime, sadb_lifetime_bytes);
	FIELD(sadb_lifetime, sadb_lifetime_addtime);
	FIELD(sadb_lifetime, sadb_lifetime_usetime);
	SIZE(sadb_address);
	FIELD(sadb_address, sadb_address_len);
	FIELD(sadb_address, sadb_address_exttype);
	FIELD(sadb_address, sadb_address_proto);
	FIELD(sadb_address, sadb_address_prefixlen);
	FIELD(sadb_address, sadb_address_reserved);
	SIZE(sadb_key);
	FIELD(sadb_key, sadb_key_len);
	FIELD(sadb_key, sadb_key_exttype);
	FIELD(sadb_key, sadb_key_bits);
	FIELD(sadb_key, sadb_key_reserved);
	SIZE(sadb_ident);
	FIELD(sadb_ident, sadb_ident_len);
	FIELD(sadb_ident, sadb_ident_exttype);
	FIELD(sadb_ident, sadb_ident_type);
	FIELD(sadb_ident, sadb_ident_reserved);
	FIELD(sadb_ident, sadb_ident_id);
	SIZE(sadb_sens);
	FIELD(sadb_sens, sadb_sens_len);
	FIELD(sadb_sens, sadb_sens_exttype);
	FIELD(sadb_sens, sadb_sens_dpd);
	FIELD(sadb_sens, sadb_sens_sens_level);
	FIELD(sadb_sens, sadb_sens_sens_len);
	FIELD(sadb_sens, sadb_sens_integ_level);
	FIELD(sadb_sens, sadb_sens_integ_len);
	FIELD(sadb_sens, sadb_sens_reserved);
	SIZE(sadb_prop);
	FIELD(sadb_prop, sadb_prop_len);
	FIELD(sadb_prop, sadb_prop_exttype);
	FIELD(sadb_prop, sadb_prop_replay);
	FIELD(sadb_prop, sadb_prop_reserved);
	SIZE(sadb_comb);
	FIELD(sadb_comb, sadb_comb_auth);
	FIELD(sadb_comb, sadb_comb_encrypt);
	FIELD(sadb_comb, sadb_comb_flags);
	FIELD(sadb_comb, sadb_comb_auth_minbits);
	FIELD(sadb_comb, sadb_comb_auth_maxbits);
	FIELD(sadb_comb, sadb_comb_encrypt_minbits);
	FIELD(sadb_comb, sadb_comb_encrypt_maxbits);
	FIELD(sadb_comb, sadb_comb_reserved);
	FIELD(sadb_comb, sadb_comb_soft_allocations);
	FIELD(sadb_comb, sadb_comb_hard_allocations);
	FIELD(sadb_comb, sadb_comb_soft_bytes);
	FIELD(sadb_comb, sadb_comb_hard_bytes);
	FIELD(sadb_comb, sadb_comb_soft_addtime);
	FIELD(sadb_comb, sadb_comb_hard_addtime);
	FIELD(sadb_comb, sadb_comb_soft_usetime);
	FIELD(sadb_comb, sadb_comb_hard_usetime);
	SIZE(sadb_supported);
	FIELD(sadb_supported, sadb_supported_len);
	FIELD(sadb_supported, sadb_supported_exttype);
	FIELD(sadb_supported, sadb_supported_reserved);
	SIZE(sadb_alg);
	FIELD(sadb_alg, sadb_alg_id);
	FIELD(sadb_alg, sadb_alg_ivlen);
	FIELD(sadb_alg, sadb_alg_minbits);
	FIELD(sadb_alg, sadb_alg_maxbits);
	FIELD(sadb_alg, sadb_alg_reserved);
	SIZE(sadb_spirange);
	FIELD(sadb_spirange, sadb_spirange_len);
	FIELD(sadb_spirange, sadb_spirange_exttype);
	FIELD(sadb_spirange, sadb_spirange_min);
	FIELD(sadb_spirange, sadb_spirange_max);
	FIELD(sadb_spirange, sadb_spirange_reserved);
}

static void additions(void)
{
	SIZE(sadb_x_kmprivate);
	FIELD(sadb_x_kmprivate, sadb_x_kmprivate_len);
	FIELD(sadb_x_kmprivate, sadb_x_kmprivate_exttype);
	FIELD(sadb_x_kmprivate, sadb_x_kmprivate_reserved);
	SIZE(sadb_x_sa2);
	FIELD(sadb_x_sa2, sadb_x_sa2_len);
	FIELD(sadb_x_sa2, sadb_x_sa2_exttype);
	FIELD(sadb_x_sa2, sadb_x_sa2_mode);
	FIELD(sadb_x_sa2, sadb_x_sa2_reserved1);
	FIELD(sadb_x_sa2, sadb_x_sa2_reserved2);
	FIELD(sadb_x_sa2, sadb_x_sa2_sequence);
	FIELD(sadb_x_sa2, sadb_x_sa2_reqid);
	SIZE(sadb_x_policy);
	FIELD(sadb_x_policy, sadb_x_policy_len);
	FIELD(sadb_x_policy, sadb_x_policy_exttype);
	FIELD(sadb_x_policy, sadb_x_policy_type);
	FIELD(sadb_x_policy, sadb_x_policy_dir);
	FIELD(sadb_x_policy, sadb_x_policy_reserved);
	FIELD(sadb_x_policy, sadb_x_policy_id);
	FIELD(sadb_x_policy, sadb_x_policy_priority);
	SIZE(sadb_x_ipsecrequest);
	FIELD(sadb_x_ipsecrequest, sadb_x_ipsecrequest_len);
	FIELD(sadb_x_ipsecrequest, sadb_x_ipsecrequest_proto);
	FIELD(sadb_x_ipsecrequest, sadb_x_ipsecrequest_mode);
	FIELD(sadb_x_ipsecrequest, sadb_x_ipsecrequest_level);
	FIELD(sadb_x_ipsecrequest, sadb_x_ipsecrequest_reserved1);
	FIELD(sadb_x_ipsecrequest, sadb_x_ipsecrequest_reqid);
	FIELD(sadb_x_ipsecrequest, sadb_x_ipsecrequest_reserved2);
	SIZE(sadb_x_nat_t_type);
	FIELD(sadb_x_nat_t_type, sadb_x_nat_t_type_len);
	FIELD(sadb_x_nat_t_type, sadb_x_nat_t_type_exttype);
	FIELD(sadb_x_nat_t_type, sadb_x_nat_t_type_type);
	FIELD(sadb_x_nat_t_type, sadb_x_nat_t_type_reserved);
	SIZE(sadb_x_nat_t_port);
	FIELD(sadb_x_nat_t_port, sadb_x_nat_t_port_len);
	FIELD(sadb_x_nat_t_port, sadb_x_nat_t_port_exttype);
	FIELD(sadb_x_nat_t_port, sadb_x_nat_t_port_port);
	FIELD(sadb_x_nat_t_port, sadb_x_nat_t_port_reserved);
	SIZE(sadb_x_sec_ctx);
	FIELD(sadb_x_sec_ctx, sadb_x_sec_len);
	FIELD(sadb_x_sec_ctx, sadb_x_sec_exttype);
	FIELD(sadb_x_sec_ctx, sadb_x_ctx_alg);
	FIELD(sadb_x_sec_ctx, sadb_x_ctx_doi);
	FIELD(sadb_x_sec_ctx, sadb_x_ctx_len);
	SIZE(sadb_x_kmaddress);
	FIELD(sadb_x_kmaddress, sadb_x_kmaddress_len);
	FIELD(sadb_x_kmaddress, sadb_x_kmaddress_exttype);
	FIELD(sadb_x_kmaddress, sadb_x_kmaddress_reserved);
	SIZE(sadb_x_filter);
	FIELD(sadb_x_filter, sadb_x_filter_len);
	FIELD(sadb_x_filter, sadb_x_filter_exttype);
	FIELD(sadb_x_filter, sadb_x_filter_saddr);
	FIELD(sadb_x_filter, sadb_x_filter_daddr);
	FIELD(sadb_x_filter, sadb_x_filter_family);
	FIELD(sadb_x_filter, sadb_x_filter_splen);
	FIELD(sadb_x_filter, sadb_x_filter_dplen);
}

/* Enumerators, which no preprocessor lists; the test lists the macros itself. */
static void enumerators(void)
{
	CONST(AF_INET);
	CONST(AF_INET6);
	CONST(IPPROTO_ESP);
	CONST(IPPROTO_AH);
	CONST(IPPROTO_COMP);
	CONST(IPSEC_MODE_ANY);
	CONST(IPSEC_MODE_TRANSPORT);
	CONST(IPSEC_MODE_TUNNEL);
	CONST(IPSEC_MODE_BEET);
	CONST(IPSEC_DIR_ANY);
	CONST(IPSEC_DIR_INBOUND);
	CONST(IPSEC_DIR_OUTBOUND);
	CONST(IPSEC_DIR_FWD);
	CONST(IPSEC_POLICY_DISCARD);
	CONST(IPSEC_POLICY_NONE);
	CONST(IPSEC_POLICY_IPSEC);
	CONST(IPSEC_POLICY_ENTRUST);
	CONST(IPSEC_POLICY_BYPASS);
	CONST(IPSEC_LEVEL_DEFAULT);
	CONST(IPSEC_LEVEL_USE);
	CONST(IPSEC_LEVEL_REQUIRE);
	CONST(IPSEC_LEVEL_UNIQUE);
}

int main(void)
{
	base();
	rfc2367();
	additions();
	enumerators();
#ifdef MACROS
#include MACROS
#endif
	return 0;
}
