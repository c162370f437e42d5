"""An IKE daemon's sockets, which set UDP_ENCAP: `ike_sockets.py [bypass] ADDRESS/PORT ...`.

With `bypass` each also has the policies that IKE daemons give theirs. What it gets it prints by the
line, as the socket's number and the octets in hexadecimal. It obeys

    send NUMBER ADDRESS PORT HEX
    connect NUMBER ADDRESS PORT
    set NUMBER VALUE        prints the value that getsockopt(2) gives then, or the errno's name
    close NUMBER
"""

import errno
import os
import selectors
import socket
import struct
import sys

SOL_UDP, UDP_ENCAP, ESPINUDP = 17, 100, 2
POLICY_OPTION = {socket.AF_INET: (socket.SOL_IP, 16), socket.AF_INET6: (41, 34)}
BYPASS, DIRECTIONS = 4, (1, 2)


def opened(where: str, *, bypasses: bool) -> socket.socket:
    """A bound socket, with UDP_ENCAP."""
    address, _, port = where.partition("/")
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for direction in DIRECTIONS if bypasses else ():
        octets = struct.pack("=HHHBxII", 2, 18, BYPASS, direction, 0, 0)
        sock.setsockopt(*POLICY_OPTION[sock.family], octets)
    sock.setsockopt(SOL_UDP, UDP_ENCAP, ESPINUDP)
    sock.bind((address, int(port)))
    return sock


def obey(sockets: list[socket.socket], verb: str, number: str, *words: str) -> None:
    """Do what a line says."""
    sock = sockets[int(number)]
    if verb == "send":
        address, port, octets = words
        sock.sendto(bytes.fromhex(octets), (address, int(port)))
    elif verb == "connect":
        address, port = words
        sock.connect((address, int(port)))
    elif verb == "set":
        try:
            sock.setsockopt(SOL_UDP, UDP_ENCAP, int(words[0]))
            print("set", sock.getsockopt(SOL_UDP, UDP_ENCAP), flush=True)
        except OSError as error:
            print("set", errno.errorcode[error.errno or 0], flush=True)
    elif verb == "close":
        sock.close()
        print("closed", flush=True)


def main() -> None:
    """Serve until there are no more lines."""
    bypasses, *places = sys.argv[1:] if sys.argv[1] == "bypass" else ["", *sys.argv[1:]]
    sockets = [opened(where, bypasses=bool(bypasses)) for where in places]
    waits = selectors.DefaultSelector()
    for number, sock in enumerate(sockets):
        waits.register(sock, selectors.EVENT_READ, number)
    waits.register(0, selectors.EVENT_READ)
    print("ready", *(sock.getsockopt(SOL_UDP, UDP_ENCAP) for sock in sockets), flush=True)
    while True:
        for key, _ in waits.select():
            if key.data is not None:
                print(key.data, sockets[key.data].recv(65536).hex(), flush=True)
                continue
            lines = os.read(0, 4096).decode()  # whoever tells us writes whole lines
            if not lines:
                return
            for line in map(str.split, lines.splitlines()):
                if line[0] == "close":
                    waits.unregister(sockets[int(line[1])])
                obey(sockets, *line)


if __name__ == "__main__":
    main()
