/* A PF_KEY program as they were written for AF_KEY: one small deed a name, for `pfkey run`.
 *
 *     client [when-told] DEED [ARGUMENT ...]    prints what happened; status 0: the deed is done
 *
 * With `when-told` it opens its socket, says "ready", and goes on when it is given a line.
 *
 * It is also linked statically, and makes some calls without any library.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KEY 15
#define V2 2
enum { REGISTER = 7, DUMP = 10, X_PROMISC = 11, X_SPDDUMP = 18 };
struct header {
    uint8_t version, type, err, satype;
    uint16_t len, reserved;
    uint32_t seq, pid;
};

static int die(const char *what)
{
    perror(what);
    exit(1);
}

static int sure(int result, const char *what)
{
    return result < 0 ? die(what) : result;
}

static int key_socket(int flags)
{
    return sure(socket(KEY, SOCK_RAW | flags, V2), "socket");
}

static int is_told;

static void pause_here(void)
{
    if (is_told) {
        printf("ready\n");
        fflush(stdout);
        getchar();
    }
}

static struct header request(int type, int satype, int seq)
{
    struct header h = {.version = V2, .type = type, .satype = satype, .len = 2, .seq = seq};
    h.pid = getpid();
    return h;
}

/* One reply, all of it, and it must be ours. */
static void reply(int fd, int type, int seq)
{
    static _Thread_local char buffer[65536];
    struct header *h = (struct header *)buffer;
    do {
        int octets = sure(recv(fd, buffer, sizeof buffer, 0), "recv");
        if (octets < 16 || octets != h->len * 8) {
            printf("a reply of %d octets\n", octets);
            exit(1);
        }
    } while (h->type != type || h->seq != (uint32_t)seq || h->pid != (uint32_t)getpid());
    if (h->err) {
        printf("errno %d\n", h->err);
        exit(1);
    }
}

static void ask(int fd, int seq)
{
    struct header h = request(REGISTER, 0, seq);
    sure(send(fd, &h, sizeof h, 0), "send");
    reply(fd, REGISTER, seq);
}

static const char *tried(int result)
{
    static char text[4][64];
    static int at;
    char *to = text[at++ % 4];
    if (result < 0)
        snprintf(to, sizeof text[0], "%s", strerrorname_np(errno));
    else
        snprintf(to, sizeof text[0], "%d", result);
    return to;
}

static void deed_errors(void)
{
    int pair[2];
    printf("stream %s\n", tried(socket(KEY, SOCK_STREAM, V2)));
    printf("protocol %s\n", tried(socket(KEY, SOCK_RAW, 3)));
    printf("both %s\n", tried(socket(KEY, SOCK_DGRAM, 0)));
    printf("type %s\n", tried(socket(KEY, 11, V2)));
    printf("flags %s\n", tried(socket(KEY, SOCK_RAW | 0x10, V2)));
    printf("pair %s\n", tried(socketpair(KEY, SOCK_RAW, V2, pair)));
    printf("other %s\n", tried(socket(AF_INET, SOCK_STREAM, 0)));
}

static void deed_open(void)
{
    printf("%s\n", tried(socket(KEY, SOCK_RAW, V2)));
}

static void deed_id(void)
{
    printf("%d\n", (int)geteuid());
}

static void deed_ways(void)
{
    int fd = key_socket(0), seq = 0;
    struct header h;
    struct iovec parts[3] = {{&h, 4}, {(char *)&h + 4, 5}, {(char *)&h + 9, 7}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3};

    h = request(REGISTER, 0, ++seq);
    sure(send(fd, &h, sizeof h, 0), "send");
    reply(fd, REGISTER, seq);
    h = request(REGISTER, 0, ++seq);
    sure(sendto(fd, &h, sizeof h, MSG_DONTWAIT, NULL, 0), "sendto");
    reply(fd, REGISTER, seq);
    h = request(REGISTER, 0, ++seq);
    sure(sendmsg(fd, &message, 0), "sendmsg");
    reply(fd, REGISTER, seq);
    h = request(REGISTER, 0, ++seq);
    sure(write(fd, &h, sizeof h), "write");
    reply(fd, REGISTER, seq);
    h = request(REGISTER, 0, ++seq);
    sure(writev(fd, parts, 3), "writev");
    reply(fd, REGISTER, seq);
    h = request(REGISTER, 0, ++seq);
    sure(syscall(SYS_sendto, fd, &h, sizeof h, 0, NULL, 0), "syscall");
    reply(fd, REGISTER, seq);
    printf("%d ways\n", seq);
}

/* As racoon: no wait at all between the request and the look at the reply. */
static void deed_peek(void)
{
    int fd = key_socket(0);
    struct header h = request(REGISTER, 3, 1), seen;
    pause_here();
    sure(fcntl(fd, F_SETFL, O_NONBLOCK), "fcntl");
    sure(send(fd, &h, sizeof h, 0), "send");
    int octets = recv(fd, &seen, sizeof seen, MSG_PEEK | MSG_DONTWAIT);
    if (octets < 0)
        die("peek");
    char whole[65536];
    int all = sure(recv(fd, whole, sizeof whole, 0), "recv");
    printf("peek %d of type %d, then %s\n", octets, seen.type,
           all == seen.len * 8 ? "all of it" : "something else");
}

static void deed_peek_msg(void)
{
    int fd = key_socket(SOCK_NONBLOCK);
    struct header h = request(REGISTER, 3, 1), seen;
    struct iovec part = {&seen, sizeof seen};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    sure(send(fd, &h, sizeof h, 0), "send");
    printf("peek %s\n", tried(recvmsg(fd, &message, MSG_PEEK)));
    printf("truncated %d\n", !!(message.msg_flags & MSG_TRUNC));
    printf("whole %s\n", tried(recv(fd, &seen, sizeof seen, MSG_PEEK | MSG_TRUNC)));
    printf("short %s\n", tried(recv(fd, &seen, sizeof seen, 0)));
    printf("rest %s\n", tried(recv(fd, &seen, sizeof seen, 0)));
}

/* As iked: one millisecond. */
static void deed_poll(void)
{
    int fd = key_socket(0);
    struct header h = request(REGISTER, 3, 1);
    struct iovec part = {&h, sizeof h};
    struct pollfd one = {.fd = fd, .events = POLLIN};
    pause_here();
    sure(writev(fd, &part, 1), "writev");
    printf("poll %d\n", sure(poll(&one, 1, 1), "poll"));
}

/* A look at another socket has nothing to wait for. */
static void deed_elsewhere(void)
{
    int fd = key_socket(0), pair[2];
    char octet = 0;
    struct header h = request(REGISTER, 3, 1);
    sure(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), "socketpair");
    sure(send(pair[1], &octet, 1, 0), "send");
    pause_here();
    sure(send(fd, &h, sizeof h, 0), "send");
    printf("peek %s\n", tried(recv(pair[0], &octet, 1, MSG_PEEK)));
    fflush(stdout);
    reply(fd, REGISTER, 1);
}

static void deed_waits(void)
{
    int fd = key_socket(0), seq = 0;
    struct header h = request(REGISTER, 0, ++seq);
    sure(send(fd, &h, sizeof h, 0), "send");
    struct pollfd two[2] = {{.fd = fd, .events = POLLIN}, {.fd = -1}};
    printf("poll %d", sure(poll(two, 2, 5000), "poll"));
    reply(fd, REGISTER, seq);

    h = request(REGISTER, 0, ++seq);
    sure(send(fd, &h, sizeof h, 0), "send");
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    struct timeval patience = {.tv_sec = 5};
    printf(", select %d", sure(select(fd + 1, &set, NULL, NULL, &patience), "select"));
    reply(fd, REGISTER, seq);

    h = request(REGISTER, 0, ++seq);
    sure(send(fd, &h, sizeof h, 0), "send");
    int ep = sure(epoll_create1(0), "epoll_create1");
    struct epoll_event event = {.events = EPOLLIN};
    sure(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
    printf(", epoll %d", sure(epoll_wait(ep, &event, 1, 5000), "epoll_wait"));
    reply(fd, REGISTER, seq);

    struct pollfd writable = {.fd = fd, .events = POLLOUT | POLLIN};
    poll(&writable, 1, 0);
    printf(", then %s\n", writable.revents == POLLOUT ? "writable and no more" : "something else");
}

static void deed_flags(void)
{
    char octet;
    int plain = key_socket(0), both = key_socket(SOCK_NONBLOCK | SOCK_CLOEXEC);
    printf("plain %d %d\n", fcntl(plain, F_GETFD), fcntl(plain, F_GETFL) & O_NONBLOCK);
    printf("both %d %d\n", fcntl(both, F_GETFD), !!(fcntl(both, F_GETFL) & O_NONBLOCK));
    printf("empty %s\n", tried(recv(both, &octet, 1, 0)));
    struct timeval soon = {.tv_usec = 1000};
    sure(setsockopt(plain, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon), "SO_RCVTIMEO");
    printf("timeout %s\n", tried(recv(plain, &octet, 1, 0)));
    int octets = 2 << 20;
    sure(setsockopt(plain, SOL_SOCKET, SO_RCVBUF, &octets, sizeof octets), "SO_RCVBUF");
    sure(setsockopt(plain, SOL_SOCKET, SO_SNDBUF, &octets, sizeof octets), "SO_SNDBUF");
    printf("urgent %s\n", tried(send(plain, &octet, 1, MSG_OOB)));
}

static void deed_zero(void)
{
    close(0);
    int fd = key_socket(0);
    ask(fd, 1);
    printf("descriptor %d\n", fd);
}

static void deed_fork(void)
{
    int fd = key_socket(0), status;
    if (!fork()) {
        ask(fd, 1);
        _exit(0);
    }
    wait(&status);
    ask(fd, 2);
    printf("child %d\n", status);
}

static void deed_exec(char **argv)
{
    char kept[16], shut[16];
    snprintf(kept, sizeof kept, "%d", key_socket(0));
    snprintf(shut, sizeof shut, "%d", key_socket(SOCK_CLOEXEC));
    execl("/proc/self/exe", argv[0], "use", kept, shut, NULL);
    die("exec");
}

static void deed_use(char **argv)
{
    ask(atoi(argv[2]), 1);
    printf("kept, and %s\n", tried(fcntl(atoi(argv[3]), F_GETFD)));
}

static void drop_all(void)
{
    if (chroot("/proc/self/fdinfo") || chdir("/") || setgid(65534) || setuid(65534))
        die("drop");
}

/* As iked: opened by the parent, used by a child in a chroot and without rights. */
static void deed_pass(void)
{
    int pair[2], status;
    sure(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    char octet = 0;
    struct iovec part = {&octet, 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1,
        .msg_control = &control, .msg_controllen = sizeof control,
    };
    if (!fork()) {
        close(pair[0]);
        drop_all();
        sure(recvmsg(pair[1], &message, 0), "recvmsg");
        int passed = *(int *)CMSG_DATA(CMSG_FIRSTHDR(&message));
        struct header h = request(REGISTER, 0, 1);
        sure(send(passed, &h, sizeof h, 0), "send");
        printf("peek %s\n", tried(recv(passed, &h, sizeof h, MSG_PEEK | MSG_DONTWAIT)));
        reply(passed, REGISTER, 1);
        printf("second socket %s\n", tried(socket(KEY, SOCK_RAW, V2)));
        exit(0);
    }
    int fd = key_socket(0);
    control.head = (struct cmsghdr){
        .cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
    };
    memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
    sure(sendmsg(pair[0], &message, 0), "sendmsg");
    close(fd);
    wait(&status);
    printf("child %d\n", status);
}

static void *thread(void *unused)
{
    (void)unused;
    for (int i = 0; i < 20; i++) {
        int fd = key_socket(0);
        ask(fd, i + 1);
        close(fd);
    }
    return NULL;
}

static void deed_threads(void)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, thread, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    printf("4 threads\n");
}

/* What the kernel takes as an int has 32 bits, whatever is above them. */
static void deed_raw(void)
{
    long above = 1L << 32;
    int fd = sure(syscall(SYS_socket, KEY | above, SOCK_RAW | above, V2 | above), "syscall");
    ask(fd, 1);
    printf("raw\n");
}

static void deed_foreign(void)
{
#ifdef __x86_64__
    long fd;
    __asm__ volatile("int $0x80" : "=a"(fd) : "a"(359L), "b"(15L), "c"(3L), "d"(2L) : "memory");
    printf("i386 %s\n", fd >= 0 ? "open" : strerrorname_np(-fd));
    if (fd >= 0)
        ask(fd, 1);
    printf("x32 %s\n", tried(syscall(0x40000000 | SYS_socket, KEY, SOCK_RAW, V2)));
#endif
}

static void deed_shutdown(void)
{
    int fd = key_socket(0);
    struct sockaddr address = {.sa_family = KEY};
    printf("bind %d, connect %d, listen %d, accept %d\n", bind(fd, &address, sizeof address) < 0,
           connect(fd, &address, sizeof address) < 0, listen(fd, 1) < 0,
           accept(fd, NULL, NULL) < 0);
    ask(fd, 1);
    printf("still there\n");
}

/* A request while a dump that nobody reads fills the queue. */
static void deed_dump(void)
{
    int fd = key_socket(0), records = 0, answers = 0;
    char buffer[65536];
    struct header *seen = (struct header *)buffer, h = request(DUMP, 0, 1);
    sure(send(fd, &h, sizeof h, 0), "send");
    h = request(DUMP, 0, 2);
    sure(send(fd, &h, sizeof h, 0), "send");
    h = request(REGISTER, 0, 3);
    sure(send(fd, &h, sizeof h, 0), "send");
    for (;;) {
        sure(recv(fd, buffer, sizeof buffer, 0), "recv");
        if (seen->type == REGISTER)
            printf("answered before the end\n");
        else if (seen->err)
            printf("second %s\n", strerrorname_np(seen->err));
        else if (records++, !seen->seq)
            break;
        answers++;
    }
    printf("%d records\n", records);
}

/* Registers, then says of each record what it is; an end would be seen as one. */
static void deed_listen(void)
{
    int fd = key_socket(0);
    char buffer[65536];
    struct header *seen = (struct header *)buffer, h = request(REGISTER, 3, 1);
    sure(send(fd, &h, sizeof h, 0), "send");
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (;;) {
        int octets = sure(recv(fd, buffer, sizeof buffer, 0), "recv");
        if (!octets) {
            printf("end\n");
            exit(1);
        }
        printf("type %d errno %d pid %d\n", seen->type, seen->err, seen->pid == (uint32_t)getpid());
    }
}

/* A line on standard input: one request. Says what came of it. */
static void deed_asks(void)
{
    int fd = key_socket(0), seq = 0;
    char line[16], buffer[65536];
    struct header *seen = (struct header *)buffer;
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("ready\n");
    while (fgets(line, sizeof line, stdin)) {
        struct header h = request(REGISTER, 0, ++seq);
        sure(send(fd, &h, sizeof h, 0), "send");
        do {
            if (!sure(recv(fd, buffer, sizeof buffer, 0), "recv")) {
                printf("end\n");
                exit(1);
            }
        } while (seen->type != REGISTER || seen->seq != (uint32_t)seq);
        printf("errno %d\n", seen->err);
    }
}

/* Signals come in while sockets are opened: each call is begun anew or made once. */
static void nothing(int number)
{
    (void)number;
}

static void deed_signals(void)
{
    struct sigaction action = {.sa_handler = nothing, .sa_flags = SA_RESTART};
    struct itimerval often = {{.tv_usec = 300}, {.tv_usec = 300}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    for (int i = 0; i < 100; i++) {
        int fd = key_socket(0);
        ask(fd, i + 1);
        close(fd);
    }
    printf("100 sockets\n");
}

static void deed_full(void)
{
    struct rlimit few = {16, 16};
    setrlimit(RLIMIT_NOFILE, &few);
    int fd, opened = 0;
    while ((fd = socket(KEY, SOCK_RAW, V2)) >= 0)
        opened++;
    printf("%s after %s\n", tried(fd), opened > 8 ? "many" : "few");
    close(15);
    ask(key_socket(0), 1);
}

static void deed_many(void)
{
    struct rlimit most;
    getrlimit(RLIMIT_NOFILE, &most);
    most.rlim_cur = most.rlim_max;
    setrlimit(RLIMIT_NOFILE, &most);
    int fd, opened = 0;
    while (opened < 5000 && (fd = socket(KEY, SOCK_RAW, V2)) >= 0)
        opened++;
    printf("%s after %s\n", tried(fd), opened > 500 ? "many" : "few");
}

/* Opens in a child that is killed while it asks, again and again. */
static void deed_killed(void)
{
    for (int i = 0; i < 50; i++) {
        int status;
        pid_t child = fork();
        if (!child)
            for (;;)
                close(socket(KEY, SOCK_RAW, V2));
        usleep(100 * (i % 7));
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
    }
    ask(key_socket(0), 1);
    printf("50 killed\n");
}

static void deed_descriptors(void)
{
    int before[64], after[64];
    for (int fd = 0; fd < 64; fd++)
        before[fd] = fcntl(fd, F_GETFD) >= 0;
    int made = key_socket(0);
    ask(made, 1);
    close(made);
    for (int fd = 0; fd < 64; fd++)
        after[fd] = fcntl(fd, F_GETFD) >= 0;
    for (int fd = 0; fd < 64; fd++)
        if (before[fd])
            printf("%d ", fd);
    printf(memcmp(before, after, sizeof before) ? "and others\n" : "and no others\n");
}

/* Policies of sockets, as ipsec_set_policy(3) makes them. */
struct policy {
    uint16_t len, exttype, type;
    uint8_t dir, reserved;
    uint32_t id, priority;
};
enum { DISCARD, NONE, IPSEC, ENTRUST, POLICY_BYPASS, IN = 1, OUT = 2 };

static struct policy policy(int type, int dir)
{
    return (struct policy){.len = 2, .exttype = 18, .type = type, .dir = dir};
}

static int put(int fd, int level, int name, const struct policy *p, socklen_t octets)
{
    return setsockopt(fd, level, name, p, octets);
}

static unsigned mark_of(int fd)
{
    unsigned mark = 0;
    socklen_t octets = sizeof mark;
    sure(getsockopt(fd, SOL_SOCKET, SO_MARK, &mark, &octets), "SO_MARK");
    return mark;
}

static void deed_options(void)
{
    int four = socket(AF_INET, SOCK_DGRAM, 0), six = socket(AF_INET6, SOCK_STREAM, 0);
    struct policy in = policy(POLICY_BYPASS, IN), out = policy(POLICY_BYPASS, OUT);
    in.exttype = 12; /* as iked */
    printf("four %s %s\n", tried(put(four, 0, 16, &in, 16)), tried(put(four, 0, 16, &out, 16)));
    printf("six %s %s\n", tried(put(six, 41, 34, &in, 16)), tried(put(six, 41, 34, &out, 16)));
    printf("equal %d\n", mark_of(four) && mark_of(four) == mark_of(six));

    unsigned own = 7, before = mark_of(four);
    printf("mark %s", tried(setsockopt(four, SOL_SOCKET, SO_MARK, &own, sizeof own)));
    printf(" %d\n", mark_of(four) == (before | 7));

    struct policy seen[4] = {policy(0, OUT)};
    socklen_t room = sizeof seen;
    printf("get %s", tried(getsockopt(four, 0, 16, seen, &room)));
    printf(" %d octets type %d dir %d\n", (int)room, seen[0].type, seen[0].dir);

    printf("other family %s %s\n", tried(put(four, 41, 34, &in, 16)),
           tried(put(six, 0, 16, &in, 16)));
    printf("short %s long %s none %s\n", tried(put(four, 0, 16, &in, 15)),
           tried(put(four, 0, 16, &in, 5000)), tried(put(four, 0, 16, &in, 0)));
    printf("address %s\n", tried(setsockopt(four, 0, 16, (void *)8, 16)));
    printf("kernel %s\n", tried(setsockopt(four, 0, 16, (void *)-4096L, 16)));
    printf("closed %s pipe %s\n", tried(put(63, 0, 16, &in, 16)), tried(put(1, 0, 16, &in, 16)));
    int unix_socket = socket(AF_UNIX, SOCK_DGRAM, 0);
    printf("unix %s\n", tried(put(unix_socket, 0, 16, &in, 16)));
    struct policy wrong = policy(9, IN), forward = policy(POLICY_BYPASS, 3);
    printf("type %s dir %s\n", tried(put(four, 0, 16, &wrong, 16)),
           tried(put(four, 0, 16, &forward, 16)));
    printf("cleared %s", tried(setsockopt(four, 0, 16, NULL, 0)));
    printf(" %d\n", mark_of(four) == 7);

    unsigned char info[168] = {[160] = 1};
    printf("xfrm %s", tried(setsockopt(four, 0, 17, info, sizeof info)));
    room = sizeof seen;
    seen[0] = policy(0, OUT);
    getsockopt(four, 0, 16, seen, &room);
    printf(" type %d\n", seen[0].type);
    printf("xfrm get %s\n", tried(getsockopt(four, 0, 17, info, &room)));
}

/* UDP_ENCAP: values, who may, and what has no such option. */
static int encap(int fd, int value)
{
    return setsockopt(fd, 17, 100, &value, sizeof value);
}

static int encap_of(int fd)
{
    int value = -1;
    socklen_t room = sizeof value;
    return getsockopt(fd, 17, 100, &value, &room) ? -errno : value;
}

static void deed_encap(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0), value = 2;
    printf("at first %d\n", encap_of(fd));
    printf("esp in udp %s", tried(encap(fd, 2)));
    printf(" %d\n", encap_of(fd));
    printf("of old drafts %s", tried(encap(fd, 1)));
    printf(" %d\n", encap_of(fd));
    printf("l2tp %s", tried(encap(fd, 3)));
    printf(" %d\n", encap_of(fd));
    printf("none %s", tried(encap(fd, 0)));
    printf(" %d\n", encap_of(fd));
    printf("unknown %s\n", tried(encap(fd, 77)));
    printf("tcp %s\n", tried(encap(tcp, 2)));
    printf("closed %s pipe %s\n", tried(encap(63, 2)), tried(encap(1, 2)));
    printf("short %s", tried(setsockopt(fd, 17, 100, &value, 3)));
    printf(" address %s\n", tried(setsockopt(fd, 17, 100, (void *)8, 4)));
    unsigned char one = 0;
    socklen_t room = 1;
    encap(fd, 2);
    printf("room %s", tried(getsockopt(fd, 17, 100, &one, &room)));
    printf(" %d %d\n", one, (int)room);
    setsockopt(fd, SOL_SOCKET, SO_MARK, &room, sizeof room);
    printf("after a mark %d\n", encap_of(fd));
}

/* What a user may: `ipsec` in either direction, and back. */
static void deed_user(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct {
        struct policy policy;
        struct { uint16_t len, proto; uint8_t mode, level; uint16_t r1; uint32_t reqid, r2; } one;
    } esp = {policy(IPSEC, OUT), {16, 50, 1, 2, 0, 0, 0}};
    esp.policy.len = 4;
    unsigned char info[168] = {[160] = 1};
    unsigned mark = 7;
    for (int type = DISCARD; type <= POLICY_BYPASS; type++) {
        struct policy p = policy(type, OUT);
        printf("%s ", tried(type == IPSEC ? setsockopt(fd, 0, 16, &esp, sizeof esp)
                                          : put(fd, 0, 16, &p, 16)));
    }
    printf("xfrm %s", tried(setsockopt(fd, 0, 17, info, sizeof info)));
    printf(" mark %s\n", tried(setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark)));
}

/* Another thread changes value and descriptor while the supervisor looks. */
static struct policy shared;
static volatile int is_over, shared_encap;

static void *flipper(void *unused)
{
    int null = open("/dev/null", O_RDWR), sock = socket(AF_INET, SOCK_DGRAM, 0);
    (void)unused;
    while (!is_over) {
        shared = policy(POLICY_BYPASS, IN);
        shared_encap = 2;
        dup2(sock, 60);
        shared = policy(77, OUT);
        shared_encap = 77;
        shared.len = 0xffff;
        dup2(null, 60);
    }
    return NULL;
}

static void deed_flips(void)
{
    pthread_t thread;
    int good = 0, other = 0;
    pthread_create(&thread, NULL, flipper, NULL);
    for (int i = 0; i < 1000; i++) {
        if (!setsockopt(60, 0, 16, &shared, sizeof shared))
            good++;
        else if (errno != EINVAL && errno != EBADF && errno != ENOTSOCK && errno != EPERM)
            other = errno;
        if (setsockopt(60, 17, 100, (int *)&shared_encap, 4) && errno != ENOPROTOOPT
            && errno != EBADF && errno != ENOTSOCK && errno != EPERM)
            other = errno;
        int told = encap_of(60);
        if (told != 0 && told != 2 && told != -EBADF && told != -ENOTSOCK && told != -EPERM)
            other = 1000 + told;
    }
    is_over = 1;
    pthread_join(thread, NULL);
    printf("%s, %s\n", other ? strerrorname_np(other) : "nothing strange",
           good < 1000 ? "some refused" : "none refused");
}

static void deed_killed_options(void)
{
    struct policy p = policy(POLICY_BYPASS, IN);
    for (int i = 0; i < 50; i++) {
        int status;
        pid_t child = fork();
        if (!child)
            for (int fd = socket(AF_INET, SOCK_DGRAM, 0);;)
                put(fd, 0, 16, &p, 16), encap(fd, 2), encap_of(fd);
        usleep(100 * (i % 7));
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
    }
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    printf("%s\n", tried(put(fd, 0, 16, &p, 16)));
}

/* How long system calls take, in nanoseconds each: NAME TIMES, for bench/bench_run.py. */
static int pair[2], spare;

static void time_getppid(void)
{
    syscall(SYS_getppid);
}

static void time_write_read(void)
{
    char octets[64] = {0};
    if (write(pair[0], octets, sizeof octets) != read(pair[1], octets, sizeof octets))
        die("write and read");
}

static void time_send_recv(void)
{
    char octets[64] = {0};
    if (send(pair[0], octets, sizeof octets, 0) != recv(pair[1], octets, sizeof octets, 0))
        die("send and recv");
}

static void time_socket_close(void)
{
    close(sure(socket(AF_INET, SOCK_DGRAM, 0), "socket"));
}

static void time_poll(void)
{
    struct pollfd two[2] = {{.fd = pair[0], .events = POLLOUT}, {.fd = pair[1], .events = POLLIN}};
    sure(poll(two, 2, 0), "poll");
}

static void time_peek(void)
{
    char octet;
    if (recv(pair[1], &octet, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN)
        die("peek");
}

static void time_pf_key(void)
{
    ask(spare, 1);
}

static void time_pf_key_peek(void)
{
    struct header h = request(REGISTER, 0, 1);
    sure(send(spare, &h, sizeof h, 0), "send");
    sure(recv(spare, &h, sizeof h, MSG_PEEK | MSG_DONTWAIT), "peek");
    reply(spare, REGISTER, 1);
}

static void deed_time(char **argv)
{
    static const struct {
        const char *name;
        void (*call)(void);
    } kinds[] = {
        {"getppid", time_getppid},           {"write+read", time_write_read},
        {"send+recv", time_send_recv},       {"socket+close", time_socket_close},
        {"poll", time_poll},                 {"peek", time_peek},
        {"pf_key", time_pf_key},             {"pf_key+peek", time_pf_key_peek},
    };
    struct timespec begin, end;
    sure(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), "socketpair");
    spare = !strncmp(argv[2], "pf_key", 6) ? key_socket(0) : 0;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(argv[2], kinds[i].name))
            continue;
        long times = atol(argv[3]);
        clock_gettime(CLOCK_MONOTONIC, &begin);
        for (long n = 0; n < times; n++)
            kinds[i].call();
        clock_gettime(CLOCK_MONOTONIC, &end);
        printf("%.1f\n", ((end.tv_sec - begin.tv_sec) * 1e9 + end.tv_nsec - begin.tv_nsec) / times);
    }
}

int main(int argc, char **argv)
{
    struct {
        const char *name;
        void (*plain)(void);
        void (*with)(char **);
    } deeds[] = {
        {"errors", deed_errors, 0},     {"open", deed_open, 0},         {"ways", deed_ways, 0},
        {"peek", deed_peek, 0},         {"peek-msg", deed_peek_msg, 0}, {"poll", deed_poll, 0},
        {"elsewhere", deed_elsewhere, 0},                               {"id", deed_id, 0},
        {"waits", deed_waits, 0},       {"flags", deed_flags, 0},       {"zero", deed_zero, 0},
        {"fork", deed_fork, 0},         {"exec", 0, deed_exec},         {"use", 0, deed_use},
        {"pass", deed_pass, 0},         {"threads", deed_threads, 0},   {"raw", deed_raw, 0},
        {"foreign", deed_foreign, 0},   {"shutdown", deed_shutdown, 0}, {"dump", deed_dump, 0},
        {"listen", deed_listen, 0},     {"asks", deed_asks, 0},         {"signals", deed_signals, 0},
        {"full", deed_full, 0},         {"many", deed_many, 0},         {"killed", deed_killed, 0},
        {"descriptors", deed_descriptors, 0},                           {"time", 0, deed_time},
        {"options", deed_options, 0},   {"user", deed_user, 0},         {"flips", deed_flips, 0},
        {"killed-options", deed_killed_options, 0},                     {"encap", deed_encap, 0},
    };
    if (argc > 2 && !strcmp(argv[1], "when-told")) {
        is_told = 1;
        argv++;
    }
    for (size_t i = 0; argc > 1 && i < sizeof deeds / sizeof deeds[0]; i++)
        if (!strcmp(argv[1], deeds[i].name)) {
            if (deeds[i].plain)
                deeds[i].plain();
            else
                deeds[i].with(argv);
            return 0;
        }
    fprintf(stderr, "usage: client DEED [ARGUMENT ...]\n");
    return 2;
}
