"""The command line: tests of the configuration, signals by -s, versions, sockets and pid files."""
import os
import re
import stat

import pytest

from runner.client import Connection, request_bytes
from runner.server import StartError, alive, children, wait_until
from scenarios.conftest import end_process


def test_test_option(server):
    server.setup()
    done = server.run("-t")
    assert done.returncode == 0, done.stdout
    assert re.search(r"configuration file %s syntax is ok" % server.path("conf/server.conf"),
                     done.stdout), done.stdout
    assert "test is successful" in done.stdout


def test_quiet_test_option(server):
    server.setup()
    done = server.run("-t", "-q")
    assert (done.returncode, done.stdout) == (0, "")


def test_test_option_with_an_error(server):
    server.configure("events { }\nhttp {\n    server {\n        lisen 80;\n    }\n}\n")
    done = server.run("-t")
    assert done.returncode == 1
    assert '[emerg]' in done.stdout and 'unknown directive "lisen"' in done.stdout
    assert server.path("conf/server.conf") + ":4" in done.stdout
    assert "test failed" in done.stdout


def test_test_option_compiles_lua(server):
    server.setup(locations="location = /x { content_by_lua_block { if } }")
    done = server.run("-t")
    if "test is successful" in done.stdout:
        pytest.fail("-t accepts Lua that does not compile")
    assert done.returncode == 1


def test_dump_option(server):
    server.write("conf/extra.conf", "location = /extra { return 204; }\n")
    server.setup(locations="include extra.conf;")
    done = server.run("-T")
    assert done.returncode == 0
    for name in ("server.conf", "extra.conf"):
        assert "# configuration file %s:" % server.path("conf", name) in done.stdout
    assert "location = /extra { return 204; }" in done.stdout


def test_versions(server):
    server.setup()
    short = server.run("-v")
    assert short.returncode == 0 and re.match(r"nginx version: \S+/1\.\d+\.\d+", short.stdout)
    long = server.run("-V")
    assert long.returncode == 0 and long.stdout.startswith(short.stdout.split("\n")[0][:20])
    assert "configure arguments:" in long.stdout


def test_help(server):
    done = server.run("-h")
    assert done.returncode == 0 and "-g" in done.stdout and "-s" in done.stdout


def test_unknown_option(server):
    done = server.run("-Y")
    assert done.returncode != 0 and done.stdout


def test_signals_by_command(server):
    server.up()
    before = server.workers()
    assert server.run("-s", "reload").returncode == 0
    assert wait_until(lambda: set(server.workers()) - set(before), 10)
    os.rename(server.path("logs/error.log"), server.path("logs/error.old"))
    assert server.run("-s", "reopen").returncode == 0
    assert wait_until(lambda: os.path.exists(server.path("logs/error.log")))
    process = server.process
    assert server.run("-s", "quit").returncode == 0
    assert process.wait(15) == 0
    done = server.run("-s", "stop")
    assert done.returncode != 0 and "server.pid" in done.stdout
    assert server.run("-s", "nonsense").returncode != 0


def test_stop_by_command(server):
    server.up()
    assert server.run("-s", "stop").returncode == 0
    assert server.process.wait(5) == 0


def test_pid_file(server):
    server.up()
    pid_file = server.path("logs/server.pid")
    assert server.read(pid_file).strip() == str(server.process.pid)
    process = server.process
    server.signal("TERM")
    assert process.wait(5) == 0
    assert not os.path.exists(pid_file)


def test_global_directives(server):
    server.setup()
    text = server.read("conf/server.conf").replace("daemon off;\n", "")
    server.configure(text)
    server.args = ["-g", "daemon off;"]
    server.start()
    assert server.process.poll() is None and server.workers()


def test_daemon(server):
    master = server.up_in_background()
    tree = [master, *children(master)]
    try:
        assert master != server.process.pid and len(tree) == 2 and all(map(alive, tree))
        assert server.run("-s", "quit").returncode == 0
        assert wait_until(lambda: not any(map(alive, tree)), 10)
    finally:
        end_process(master)


def test_no_master(server):
    server.up(main="master_process off;")
    assert server.workers() == []
    with Connection(server.port) as connection:
        connection.send(request_bytes(target="/lua"))
        assert connection.read_response().status == 200


def test_unix_socket(server):
    path = server.path("logs/server.sock")
    server.up(listen="listen unix:%s; listen 127.0.0.1:@PORT@;" % path)
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    with Connection(None, host=path) as connection:
        connection.send(request_bytes())
        assert connection.read_response().text() == "hello\n"
    process = server.process
    server.signal("QUIT")
    assert process.wait(10) == 0
    assert not os.path.exists(path)


def test_ipv6(server):
    server.up(listen="listen [::1]:@PORT@; listen 127.0.0.1:@PORT@;")
    with Connection(server.port, host="::1") as connection:
        connection.send(request_bytes())
        assert connection.read_response().text() == "hello\n"


def test_address_in_use(server):
    server.up()
    second = type(server)()
    try:
        second.port = server.port
        second.setup()
        with pytest.raises(StartError) as failed:
            second.start(wait_port=False)
            code = second.process.wait(15)
            raise StartError("ended", second.output() + second.log(), code)
        assert failed.value.code and "Address already in use" in failed.value.output
    finally:
        second.stop()
        second.remove()


def test_missing_configuration(server):
    done = server.run("-t")
    assert done.returncode == 1 and "No such file or directory" in done.stdout
