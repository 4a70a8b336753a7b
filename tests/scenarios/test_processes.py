"""What processes do with sockets, users and their manager."""
import os
import pwd
import socket
import time

import pytest

from runner.client import get
from runner.server import alive, free_port, wait_until


def owner(pid):
    return os.stat("/proc/%d" % pid).st_uid


def title(pid):
    with open("/proc/%d/cmdline" % pid, "rb") as file:
        return file.read().split(b"\0")[0].decode()


def test_titles(server):
    server.up(workers=2)
    assert wait_until(lambda: len(server.workers()) == 2 and
                      all(title(pid) == "nginx: worker process" for pid in server.workers()))
    assert title(server.process.pid).startswith("nginx: master process " + server.binary)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users")
def test_workers_change_user(server):
    server.up(user="user nobody nogroup;\n")
    nobody = pwd.getpwnam("nobody").pw_uid
    assert wait_until(lambda: server.workers() and owner(server.workers()[0]) == nobody)
    assert owner(server.process.pid) == 0
    server.signal("USR1")
    assert wait_until(lambda: os.stat(server.path("logs/error.log")).st_uid == nobody)


def test_a_user_that_does_not_exist(server):
    server.setup(user="user nobody-of-that-name;\n")
    done = server.run("-t")
    if os.geteuid() == 0:
        assert done.returncode == 1 and 'getpwnam("nobody-of-that-name") failed' in done.stdout
    else:
        assert "makes sense only if" in done.stdout


def test_every_worker_has_a_reuseport_socket(server):
    listen = "listen 127.0.0.1:@PORT@ reuseport;"
    server.up(workers=3, listen=listen)
    assert wait_until(lambda: len(server.workers()) == 3)
    for workers in (3, 5, 1):
        server.setup(workers=workers, listen=listen)
        assert server.reload()
        assert wait_until(lambda count=workers: len(server.workers()) == count, 10)
        time.sleep(0.1)
        for _ in range(20):
            assert get(server.port, timeout=3).status == 200


def test_an_address_below_a_wildcard(server):
    wide, other = free_port(), "127.0.0.2"
    server.up(http="""
        server { listen *:%d; location / { return 200 any; } }
        server { listen %s:%d; location / { return 200 special; } }""" % (wide, other, wide))
    assert get(wide).text() == "any"
    with socket.create_connection((other, wide), 5) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.recv(4096).endswith(b"special")


def test_reload_without_a_master(server):
    main = "master_process off;"
    server.up(main=main, locations="location = /v { return 200 one; }")
    assert get(server.port, "/v").text() == "one"
    server.setup(main=main, locations="location = /v { return 200 two; }")
    server.signal("HUP")
    assert wait_until(lambda: get(server.port, "/v").text() == "two")
    server.configure("events { } nonsense;")
    server.signal("HUP")
    assert wait_until(lambda: 'unknown directive "nonsense"' in server.log())
    assert get(server.port, "/v").text() == "two"


def test_the_service_manager_is_told(server):
    path = server.path("logs/notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(10)
        server.env["NOTIFY_SOCKET"] = path
        server.up()
        ready = manager.recv(512).decode()
        assert "READY=1" in ready and "MAINPID=%d" % server.process.pid in ready
        server.signal("HUP")
        assert manager.recv(512).decode().startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert "READY=1" in manager.recv(512).decode()
        process = server.process
        server.signal("QUIT")
        assert manager.recv(512).decode() == "STOPPING=1"
        assert process.wait(5) == 0


def test_a_second_hup_while_the_first_is_under_way(server):
    server.up(workers=2)
    for _ in range(5):
        server.signal("HUP")
    assert wait_until(lambda: server.log().count("reconfiguring") >= 1 and
                      len(server.workers()) == 2, 10)
    time.sleep(0.3)
    assert len(server.workers()) == 2 and get(server.port).status == 200


def test_a_pid_file_that_moves(server):
    server.up()
    server.setup(main="", log="access_log off;")
    text = server.read("conf/server.conf").replace("logs/server.pid", "logs/moved.pid")
    server.configure(text)
    server.signal("HUP")
    assert wait_until(lambda: server.read("logs/moved.pid").strip() == str(server.process.pid))
    assert not os.path.exists(server.path("logs/server.pid"))
    assert alive(server.process.pid)


def test_worker_shutdown_timeout_ends_a_slow_client(server):
    server.setup()
    text = server.read("conf/server.conf").replace("worker_shutdown_timeout 10s",
                                                   "worker_shutdown_timeout 500ms")
    server.configure(text)
    server.start()
    with socket.create_connection(("127.0.0.1", server.port), 5) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nab")
        time.sleep(0.2)
        started = time.monotonic()
        server.signal("QUIT")
        server.process.wait(8)
        assert time.monotonic() - started < 4


AGENT = """
init_by_lua_block { assert(require("ngx.process").enable_privileged_agent(%(connections)d)) }
init_worker_by_lua_block {
    local process = require "ngx.process"
    if process.type() == "privileged agent" then
        ngx.timer.at(0, function()
            ngx.log(ngx.WARN, "agent ", ngx.worker.pid(), " of ", process.get_master_pid(), " as ",
                    io.popen("id -u"):read("*l"), ", worker ", tostring(ngx.worker.id()))
        end)
        ngx.timer.every(0.01, function()
            if ngx.shared.orders:get("leave") then
                ngx.shared.orders:delete("leave")
                process.signal_graceful_exit()
            end
        end)
    end
}
exit_worker_by_lua_block {
    ngx.log(ngx.WARN, require("ngx.process").type(), " leaves")
}
lua_shared_dict orders 16k;
"""


def agents(server):
    return [pid for pid in server.workers() if title(pid) == "nginx: privileged agent process"]


def test_privileged_agent(server):
    server.up(http=AGENT % {"connections": 10},
              user="user nobody nogroup;\n" if os.geteuid() == 0 else "",
              locations='location = /leave { content_by_lua_block {'
                        ' ngx.shared.orders:set("leave", true) ngx.say("told") } }')
    assert wait_until(lambda: len(agents(server)) == 1 and "worker nil" in server.log())
    first = agents(server)[0]
    assert "agent %d of %d as %d, worker nil" % (first, server.process.pid, os.getuid()) \
        in server.log()
    assert get(server.port, "/leave").text() == "told\n"
    assert wait_until(lambda: agents(server) not in ([], [first]), 5)
    assert "privileged agent leaves" in server.log()


def test_privileged_agent_without_connections(server):
    server.up(http=AGENT % {"connections": 0})
    refusal = "0 worker_connection is not enough, privileged agent process cannot be spawned"
    assert wait_until(lambda: refusal in server.log())
    assert agents(server) == []
