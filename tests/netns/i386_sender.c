/* One datagram by the system calls of i386, from a 64-bit program: i386_sender ADDRESS PORT */

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static long call(long number, long a, long b, long c, long d, long e, long f)
{
    long answer;
    register long r8 __asm__("r8") = f;
    __asm__ volatile("push %%rbp; mov %%r8, %%rbp; int $0x80; pop %%rbp"
                     : "=a"(answer), "+r"(r8)
                     : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
                     : "memory", "r9", "r10", "r11");
    return answer;
}

enum { SOCKET = 359, SENDTO = 369 };

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    /* where pointers of 32 bits lead */
    char *low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED)
        return 3;
    struct sockaddr_in *to = (struct sockaddr_in *)low;
    char *word = low + sizeof *to;
    to->sin_family = AF_INET;
    to->sin_port = htons(atoi(argv[2]));
    inet_pton(AF_INET, argv[1], &to->sin_addr);
    strcpy(word, "a datagram");
    long fd = call(SOCKET, AF_INET, SOCK_DGRAM, 0, 0, 0, 0);
    long sent = call(SENDTO, fd, (long)word, strlen(word), 0, (long)to, sizeof *to);
    printf("%s\n", fd >= 0 && sent == (long)strlen(word) ? "sent" : strerror(fd < 0 ? -fd : -sent));
    return 0;
}
