/* How the known PF_KEY programs use their sockets, call by call, for `pfkey run`.
 *
 *     clients setkey | racoon | charon | libreswan      prints what happened; status 0: as on a kernel
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GETSPI = 1, DELETE = 4, GET = 5, REGISTER = 7, FLUSH = 9, DUMP = 10, PROMISC = 11,
       SPDDUMP = 18, SPDFLUSH = 19 };
enum { AH = 2, ESP = 3, IPCOMP = 9 };
enum { EXT_SA = 1, EXT_SRC = 5, EXT_DST = 6, EXT_SPIRANGE = 16 };
struct header {
    uint8_t version, type, err, satype;
    uint16_t len, reserved;
    uint32_t seq, pid;
};
struct address {
    uint16_t len, type;
    uint8_t proto, prefix;
    uint16_t reserved, family, port;
    uint32_t address;
    uint8_t zero[8];
};
struct sa {
    uint16_t len, type;
    uint32_t spi;
    uint8_t replay, state, auth, encrypt;
    uint32_t flags;
};
struct range {
    uint16_t len, type;
    uint32_t min, max, reserved;
};
static char buffer[1 << 16];
static struct header *const seen = (struct header *)buffer;

static void sure(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "%s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static int opened(void)
{
    int fd = socket(15, SOCK_RAW, 2);
    sure(fd >= 0, "socket");
    return fd;
}

static struct header head(int type, int satype, int octets, int seq)
{
    struct header h = {2, type, 0, satype, octets / 8, 0, seq, getpid()};
    return h;
}

static void ask(int fd, int type, int satype, int seq)
{
    struct header h = head(type, satype, sizeof h, seq);
    sure(send(fd, &h, sizeof h, 0) == sizeof h, "send");
}

/* As libipsec: the header is looked at, then exactly the message is taken. */
static void take(int fd)
{
    sure(recv(fd, buffer, sizeof *seen, MSG_PEEK) == sizeof *seen, "recv peek");
    int octets = seen->len * 8;
    sure(recv(fd, buffer, octets, 0) == octets, "recv");
}

/* As setkey of the ipsec-tools: larger buffers wanted, a timeout before each command. */
static void make_room(int fd, int name, int wanted)
{
    int has;
    socklen_t length = sizeof has;
    sure(!getsockopt(fd, SOL_SOCKET, name, &has, &length), "getsockopt");
    if (has < wanted)
        sure(!setsockopt(fd, SOL_SOCKET, name, &wanted, sizeof wanted), "setsockopt");
}

static void command(int fd, int type, int satype)
{
    struct timeval second = {1, 0};
    sure(!setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second), "SO_RCVTIMEO");
    ask(fd, type, satype, 0);
}

static void as_setkey(void)
{
    int fd = opened(), octets;
    make_room(fd, SO_SNDBUF, 128 * 1024);
    make_room(fd, SO_RCVBUF, 128 * 1024);
    make_room(fd, SO_RCVBUF, 2 * 1024 * 1024);
    command(fd, REGISTER, 0);
    take(fd);
    printf("register %d:", seen->err);
    static const int commands[] = {FLUSH, SPDFLUSH, DUMP, SPDDUMP};
    for (unsigned i = 0; i < sizeof commands / sizeof *commands; i++) {
        command(fd, commands[i], 0);
        do {
            octets = recv(fd, buffer, 32 * 1024, 0);
            sure(octets >= 16 && octets == seen->len * 8, "recv");
        } while (seen->type != commands[i] || (seen->seq && !seen->err));
        printf(" %d", seen->err);
    }
    command(fd, PROMISC, 1);
    take(fd);
    printf(", promiscuous %d", seen->err);
    while (recv(fd, buffer, sizeof *seen, MSG_PEEK) == sizeof *seen) /* its own message once more */
        sure(recv(fd, buffer, sizeof buffer, 0) == seen->len * 8 && seen->type == PROMISC, "recv");
    printf(", then %s\n", strerrorname_np(errno));
}

/* As racoon with privsep: at descriptor 0 and non-blocking; a child in a chroot, another user. */
static void as_racoon(void)
{
    static const int satypes[] = {AH, ESP, IPCOMP};
    int status, records = 0;
    close(0);
    int fd = opened(), room = 1 << 20;
    sure(fd == 0, "descriptor 0");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    sure(!fcntl(fd, F_SETFL, O_NONBLOCK), "fcntl");
    for (int i = 0; i < 3; i++) {
        ask(fd, REGISTER, satypes[i], 0);
        take(fd); /* at once: there is no waiting */
        sure(seen->type == REGISTER && seen->satype == satypes[i] && !seen->err, "register");
    }
    pid_t child = fork();
    if (!child) {
        sure(!chroot("/proc/self/fdinfo") && !chdir("/") && !setgroups(0, NULL) && !setgid(65534)
             && !setuid(65534), "privileges");
        ask(fd, SPDDUMP, 0, 0);
        do {
            fd_set set;
            FD_ZERO(&set);
            FD_SET(fd, &set);
            sure(select(fd + 1, &set, NULL, NULL, NULL) == 1, "select");
            int tries = 3, octets;
            do
                octets = recv(fd, buffer, sizeof *seen, MSG_PEEK | MSG_DONTWAIT);
            while (octets < 0 && errno == EAGAIN && --tries);
            sure(octets == sizeof *seen, "peek");
            octets = seen->len * 8;
            sure(recv(fd, buffer, octets, MSG_PEEK) == octets, "peek at all of it");
            sure(recv(fd, buffer, octets, 0) == octets, "recv");
            records++;
        } while (seen->type != SPDDUMP || (seen->seq && !seen->err));
        printf("3 registered, %d of the dump, errno %d\n", records, seen->err);
        fflush(stdout);
        _exit(0);
    }
    sure(waitpid(child, &status, 0) == child && !status, "child");
}

/* As charon's kernel-pfkey: a socket for events, and one that drains, asks and waits for ever. */
static int exchange(int fd, void *message, int octets)
{
    static int seq;
    struct header *h = message;
    *h = head(h->type, h->satype, octets, ++seq);
    while (recv(fd, buffer, 4096, MSG_DONTWAIT) >= 0)
        continue;
    sure(send(fd, message, octets, 0) == octets, "send");
    for (;;) {
        int got = recv(fd, buffer, 4096, 0);
        sure(got >= 16 && got == seen->len * 8, "recv");
        if (seen->pid == (uint32_t)getpid() && seen->seq == (uint32_t)seq)
            return seen->err;
        sure(seen->pid != (uint32_t)getpid() || seen->seq < (uint32_t)seq, "a later number");
    }
}

static void as_charon(void)
{
    int requests = opened(), events = opened(), heard = 0;
    struct address src = {3, EXT_SRC, 0, 0, 0, AF_INET, 0, inet_addr("20.1.1.1"), {0}};
    struct address dst = {3, EXT_DST, 0, 0, 0, AF_INET, 0, inet_addr("10.1.1.1"), {0}};
    struct { struct header h; struct address src, dst; struct range range; } getspi = {
        {.type = GETSPI, .satype = ESP}, src, dst,
        {2, EXT_SPIRANGE, 0xc0000000, 0xcfffffff, 0},
    };
    struct { struct header h; struct sa sa; struct address src, dst; } one = {
        {.type = DELETE, .satype = ESP}, {2, EXT_SA, 0, 0, 1, 0, 0, 0}, src, dst,
    };
    struct header registers = {.type = REGISTER, .satype = ESP};
    sure(!exchange(events, &registers, sizeof registers), "register ESP");
    registers.satype = AH;
    sure(!exchange(events, &registers, sizeof registers), "register AH");
    sure(!exchange(requests, &getspi, sizeof getspi), "GETSPI");
    memcpy(&one.sa.spi, buffer + sizeof *seen + 4, 4); /* of the first extension */
    printf("SPI %cxxxxxxx", "0123456789abcdef"[ntohl(one.sa.spi) >> 28]);
    printf(", larval deleted %d", exchange(requests, &one, sizeof one));
    one.h.type = GET;
    printf(", then %s", strerrorname_np(exchange(requests, &one, sizeof one)));
    struct pollfd watched = {events, POLLIN, 0};
    while (poll(&watched, 1, 0) == 1) {
        sure(recvfrom(events, buffer, 4096, MSG_DONTWAIT, NULL, NULL) >= 16, "recvfrom");
        heard += seen->type == DELETE;
    }
    printf(", heard %d\n", heard);
}

/* As libreswan's, written for the BSDs: everything that comes is read until the answer does. */
static void as_libreswan(void)
{
    int fd = opened(), others = 0;
    for (int seq = 1; seq <= 50; seq++) {
        ask(fd, REGISTER, ESP, seq);
        for (;;) {
            int octets = recv(fd, buffer, sizeof buffer, 0);
            sure(octets >= 16 && octets == seen->len * 8, "recv");
            if (seen->seq == (uint32_t)seq && seen->pid == (uint32_t)getpid())
                break;
            others++;
        }
        sure(seq == 1 ? !seen->err : seen->err == EEXIST, "register");
    }
    printf("50 answers, %d others\n", others);
}

int main(int argc, char **argv)
{
    static const struct { const char *name; void (*as)(void); } known[] = {
        {"setkey", as_setkey}, {"racoon", as_racoon}, {"charon", as_charon},
        {"libreswan", as_libreswan},
    };
    for (unsigned i = 0; argc == 2 && i < sizeof known / sizeof *known; i++) {
        if (!strcmp(argv[1], known[i].name)) {
            known[i].as();
            return 0;
        }
    }
    fprintf(stderr, "usage: clients setkey | racoon | charon | libreswan\n");
    return 2;
}
