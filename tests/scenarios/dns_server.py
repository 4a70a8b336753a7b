"""A dnsmasq of a test's own, on a loopback address of its own."""
import os
import random
import shutil
import signal
import socket
import subprocess
import time

DNSMASQ = shutil.which("dnsmasq", path=os.environ.get("PATH", "") + ":/usr/sbin")


def loopback_address():
    return "127.%d.%d.%d" % tuple(random.randint(2, 250) for _ in range(3))


class Dns:
    """Serves `hosts` (name -> list of addresses) with a TTL of one second."""

    def __init__(self, directory, port=None, args=()):
        self.address = loopback_address()
        self.port = port or random.randint(20000, 29999)
        self.hosts_path = os.path.join(directory, "dns-%s.hosts" % self.address)
        self.args = list(args)
        self.process = None
        self.hosts = {}

    @property
    def server(self):
        return "%s:%d" % (self.address, self.port)

    def start(self):
        self.write()
        self.process = subprocess.Popen(
            [DNSMASQ, "-k", "-u", "root", "--conf-file=/dev/null", "--pid-file=", "--no-resolv",
             "--no-hosts", "--listen-address=" + self.address, "--bind-interfaces",
             "--port=%d" % self.port, "--local=/#/", "--local-ttl=1", "--neg-ttl=1",
             "--addn-hosts=" + self.hosts_path, *self.args],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.wait()
        return self

    def wait(self):
        """Until it answers; its socket is there before it reads anything."""
        end = time.monotonic() + 5
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(0.05)
            query = b"\0\1\1\0\0\1\0\0\0\0\0\0\5probe\4test\0\0\1\0\1"
            while time.monotonic() < end:
                try:
                    probe.sendto(query, (self.address, self.port))
                    probe.recv(512)
                    return
                except OSError:
                    time.sleep(0.01)
        raise AssertionError("dnsmasq does not answer")

    def write(self):
        with open(self.hosts_path, "w", encoding="ascii") as file:
            for name, addresses in self.hosts.items():
                for address in addresses:
                    file.write("%s %s\n" % (address, name))

    def set(self, **hosts):
        """Names (with `_` for a dot) get new addresses, none for no such name."""
        for name, addresses in hosts.items():
            self.hosts[name.replace("_", ".")] = addresses
        self.write()
        if self.process:
            self.process.send_signal(signal.SIGHUP)
            time.sleep(0.05)
            self.wait()

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
