"""No more file descriptors: those who are connected are served, those who come wait or are refused, and all is well again."""
import os
import resource
import time

from harness import ROOT, Server, case, check, equal, main
import http.client

EXAMPLE = os.path.join(ROOT, "examples", "models", "iris")


def get(connection):
    connection.request("GET", "/v2/health/live")
    reply = connection.getresponse()
    reply.read()
    return reply.status


@case
def out_of_descriptors():
    with Server(EXAMPLE) as server:
        pid = server.process.pid
        used = len(os.listdir("/proc/%d/fd" % pid))
        _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 8, most))
        connections = []
        for _ in range(4):
            connection = http.client.HTTPConnection(server.host, server.port, timeout=20)
            equal(get(connection), 200)
            connections.append(connection)
        import socket
        others = [socket.create_connection((server.host, server.port), 10) for _ in range(20)]
        time.sleep(0.3)
        spent = cpu(pid)
        time.sleep(1)
        check(cpu(pid) - spent < 0.5, "the server spins when it cannot accept: %.2f s of CPU in a second", cpu(pid) - spent)
        for connection in connections:
            equal(get(connection), 200, "a connection from before")
        for other in others:
            other.close()
        for connection in connections:
            connection.close()
        end = time.monotonic() + 10
        while True:
            try:
                connection = http.client.HTTPConnection(server.host, server.port, timeout=5)
                if get(connection) == 200:
                    break
            except OSError:
                check(time.monotonic() < end, "nobody is accepted any more")
                time.sleep(0.05)


def cpu(pid):
    with open("/proc/%d/stat" % pid) as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
