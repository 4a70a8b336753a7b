"""lua_handlers: changes on disk are live without a reload, whole or not at all, in every worker."""
import os
import shutil
import socket
import subprocess
import threading

import pytest

from runner.client import Connection, get, request_bytes
from runner.server import wait_until

LOCATIONS = "lua_handlers /h/ handlers;"
HTTP = 'lua_package_path "@PREFIX@/lib/?.lua;;";'


def handler(text):
    return 'return function() return "%s" end\n' % text


def up(server, **parts):
    os.makedirs(server.path("handlers"), exist_ok=True)
    server.up(**{"locations": LOCATIONS, "http": HTTP, **parts})


def put(server, name, text):
    """As editors do: another file takes the place of the old one."""
    path = server.path("handlers", name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fresh = os.path.join(os.path.dirname(path), ".new-" + os.path.basename(path))
    with open(fresh, "w") as file:
        file.write(text)
    os.rename(fresh, path)


def answer(server, path):
    response = get(server.port, path)
    return response.text() if response.status == 200 else response.status


def becomes(server, path, wanted, timeout=30):
    assert wait_until(lambda: answer(server, path) == wanted, timeout), \
        (answer(server, path), server.log())


def test_edit_add_rename_delete(server):
    put(server, "a.lua", handler("one"))
    up(server)
    assert answer(server, "/h/a") == "one"
    put(server, "a.lua", handler("two"))
    becomes(server, "/h/a", "two")
    server.write("handlers/a.lua", handler("three"))         # in place
    becomes(server, "/h/a", "three")
    put(server, "b.lua", handler("b"))
    becomes(server, "/h/b", "b")
    os.rename(server.path("handlers/a.lua"), server.path("handlers/c.lua"))
    becomes(server, "/h/c", "three")
    becomes(server, "/h/a", 404)
    os.unlink(server.path("handlers/c.lua"))
    becomes(server, "/h/c", 404)


def test_folders_that_come_move_and_go(server):
    up(server)
    os.makedirs(server.path("handlers/x/y"))
    server.write("handlers/x/y/z.lua", handler("deep"))
    becomes(server, "/h/x/y/z", "deep")
    put(server, "x/y/later.lua", handler("later"))
    becomes(server, "/h/x/y/later", "later")
    os.rename(server.path("handlers/x"), server.path("handlers/moved"))
    becomes(server, "/h/moved/y/z", "deep")
    becomes(server, "/h/x/y/z", 404)
    put(server, "moved/y/z.lua", handler("edited there"))
    becomes(server, "/h/moved/y/z", "edited there")
    shutil.rmtree(server.path("handlers/moved"))
    becomes(server, "/h/moved/y/z", 404)
    server.write("elsewhere/z.lua", handler("moved in"))
    os.rename(server.path("elsewhere"), server.path("handlers/x"))
    becomes(server, "/h/x/z", "moved in")


def test_the_folder_itself_is_a_link_that_moves_on(server):
    for release in ("one", "two"):
        server.write("releases/%s/a.lua" % release, handler(release))
    os.symlink(server.path("releases/one"), server.path("handlers"))
    server.up(locations=LOCATIONS)
    assert answer(server, "/h/a") == "one"
    os.symlink(server.path("releases/two"), server.path("next"))
    os.rename(server.path("next"), server.path("handlers"))
    becomes(server, "/h/a", "two")
    server.write("releases/two/a.lua", handler("three"))
    becomes(server, "/h/a", "three")


def test_a_folder_that_comes_late(server):
    server.up(locations=LOCATIONS)
    assert answer(server, "/h/a") == 404
    server.write("handlers/a.lua", handler("late"))
    becomes(server, "/h/a", "late")
    put(server, "a.lua", handler("edited"))
    becomes(server, "/h/a", "edited")


def test_a_folder_that_goes(server):
    server.write("handlers/a.lua", handler("first"))
    server.up(locations=LOCATIONS)
    assert answer(server, "/h/a") == "first"
    os.rename(server.path("handlers"), server.path("elsewhere"))
    becomes(server, "/h/a", 404)
    os.rename(server.path("elsewhere"), server.path("handlers"))
    becomes(server, "/h/a", "first")
    shutil.rmtree(server.path("handlers"))
    becomes(server, "/h/a", 404)
    server.write("handlers/a.lua", handler("second"))
    becomes(server, "/h/a", "second")


def from_both_workers(server, path, version):
    """Waits until each of two workers has answered with its number and this version."""
    wanted = {"0 " + version, "1 " + version}
    seen = set()

    def both():
        seen.add(answer(server, path))
        return wanted <= seen
    assert wait_until(both, 30), (seen, server.log())


NUMBERED = "return function() return ngx.worker.id() .. ' %s' end"
TWO_WORKERS = {"workers": 2, "listen": "listen 127.0.0.1:@PORT@ reuseport;"}


def test_a_broken_version_is_not_served(server):
    put(server, "a.lua", NUMBERED % "good")
    up(server, **TWO_WORKERS)
    from_both_workers(server, "/h/a", "good")
    put(server, "a.lua", "return function() return 'bad'\n")
    failed = 'handlers/a.lua" failed, its last good version goes on: '
    assert wait_until(lambda: failed in server.log(), 30)    # nobody has asked for it
    assert "a.lua:2: " in server.log()
    for _ in range(40):
        assert answer(server, "/h/a") in ("0 good", "1 good")
    assert server.log().count(failed) == 1                   # by one of the workers
    put(server, "a.lua", "local x = nil\nreturn x.y\n")
    assert wait_until(lambda: "a.lua:2: attempt to index" in server.log(), 30)
    put(server, "a.lua", NUMBERED % "healed")
    from_both_workers(server, "/h/a", "healed")
    assert 'handlers/a.lua" works again' in server.log()


def test_what_is_wrong_with_a_file(server):
    wrong = {
        "syntax.lua": ("return function(", "syntax.lua:1: "),
        "raises.lua": ("\nerror('no luck')", "raises.lua:2: no luck"),
        "nothing.lua": ("local x = 1", "it returned nil where a function or a table of functions "
                        "by method is expected"),
        "number.lua": ("return 1", "it returned number where"),
        "empty.lua": ("", "it returned nil where"),
        "typo.lua": ("return { get = function() end }", "has a function that is no method"),
        "no_methods.lua": ("return { version = 1 }", "has no functions"),
        "binary.lua": ("\x1bLJ", "attempt to load chunk with wrong mode"),
        "x/_access.lua": ("return {}", "it returned table where a function is expected"),
        "y/_filter.lua": ("return {}", 'functions "header" and "body" is expected'),
        "x/a.lua": (handler("never"), None), "y/a.lua": (handler("never"), None),
        "exits.lua": ("ngx.exit(403)", 'exits.lua" failed: '),
    }
    for name, (text, _) in wrong.items():
        server.write("handlers/" + name, text)
    up(server)
    for name, (_, why) in wrong.items():
        assert wait_until(lambda text=why: not text or text in server.log(), 30), (name, why)
        if not name.startswith(("exits", "x/_", "y/_")):
            assert answer(server, "/h/" + name[:-4]) == 500, name


def test_required_modules_two_levels_deep(server):
    server.write("lib/inner.lua", "return { text = 'one' }")
    server.write("lib/outer.lua", "local inner = require 'inner'\n"
                 "return { text = function() return inner.text end }")
    put(server, "a.lua", "local outer = require 'outer'\nlocal calls = 0\n"
        "return function() calls = calls + 1 return outer.text() .. ' ' .. calls end")
    up(server)
    assert answer(server, "/h/a") == "one 1"
    assert answer(server, "/h/a") == "one 2"
    server.write("lib/inner.lua", "return { text = 'two' }")
    assert wait_until(lambda: str(answer(server, "/h/a")).startswith("two"), 30), server.log()
    assert answer(server, "/h/a") == "two 2"                 # its state has begun anew
    server.write("lib/inner.lua", "return { text = 'three' ")
    failed = 'lib/inner.lua" failed, its last good version goes on: '
    assert wait_until(lambda: answer(server, "/h/a") and failed in server.log(), 30)
    assert str(answer(server, "/h/a")).startswith("two")
    server.write("lib/inner.lua", "return { text = 'four' }")
    assert wait_until(lambda: str(answer(server, "/h/a")).startswith("four"), 30), server.log()
    assert 'lib/inner.lua" works again' in server.log()


def test_a_module_that_was_missing(server):
    put(server, "a.lua", "local m = require 'comes.later'\nreturn function() return m end")
    up(server)
    assert answer(server, "/h/a") == 500
    assert "module 'comes.later' not found" in server.log()
    server.write("lib/comes/later.lua", "return 'here'")
    becomes(server, "/h/a", "here")


def test_links_out_of_the_tree_hidden_files_and_leftovers(server):
    outside = server.write("outside/secret.lua", handler("secret"))
    up(server)
    os.symlink(outside, server.path("handlers/file.lua"))
    os.symlink(server.path("outside"), server.path("handlers/folder"))
    os.symlink(server.path("handlers"), server.path("handlers/loop"))
    put(server, "inside.lua", handler("inside"))
    os.symlink("inside.lua", server.path("handlers/alias.lua"))
    for name in (".hidden.lua", "x.lua~", ".x.lua.swp", "#x.lua#", "_helper.lua", "x.lua.bak"):
        server.write("handlers/" + name, handler("no"))
    put(server, "last.lua", handler("last"))
    becomes(server, "/h/last", "last")
    becomes(server, "/h/alias", "inside")
    for path in ("file", "folder/secret", "loop/inside", ".hidden", "x", "x.lua", "_helper",
                 "%23x", "../outside/secret", "..%2foutside%2fsecret", "%2e%2e/outside/secret"):
        assert answer(server, "/h/" + path) in (404, 400), path
    assert "leads out of" in server.log()
    os.unlink(server.path("handlers/inside.lua"))            # now a link goes there instead
    os.symlink(outside, server.path("handlers/inside.lua"))
    becomes(server, "/h/inside", 404)


def test_a_file_is_served_when_it_is_written(server):
    put(server, "a.lua", handler("old"))
    up(server)
    assert answer(server, "/h/a") == "old"
    # In place: truncated, then written slowly. Every part of it compiles.
    with open(server.path("handlers/a.lua"), "w") as file:
        file.write("local text = 'begun'\nreturn function() return text end")
        file.flush()
        for _ in range(20):
            assert answer(server, "/h/a") == "old"
        file.seek(0)
        file.write("local text = 'whole'\nreturn function() return text end")
        file.flush()
        assert answer(server, "/h/a") == "old"
    becomes(server, "/h/a", "whole")
    with open(server.path("handlers/new.lua"), "w") as file:
        for _ in range(20):
            assert answer(server, "/h/new") == 404
        file.write(handler("new"))
    becomes(server, "/h/new", "new")


def test_a_writer_that_never_closes(server):
    put(server, "a.lua", handler("old"))
    up(server)
    assert answer(server, "/h/a") == "old"
    with open(server.path("handlers/a.lua"), "w") as file:
        file.write(handler("kept open"))
        file.flush()
        becomes(server, "/h/a", "kept open")


def test_requests_finish_on_the_code_they_started_with(server):
    put(server, "a.lua", "return function() ngx.say('old') ngx.flush(true)\n"
        "while not ngx.shared.flags:get('go') do ngx.sleep(0.01) end ngx.say('old end') end")
    put(server, "go.lua", "return function() ngx.shared.flags:set('go', true) end")
    up(server, http=HTTP + "lua_shared_dict flags 100k;")
    with Connection(server.port) as connection:
        connection.send(request_bytes(target="/h/a"))
        while b"old" not in connection.buffer:
            assert connection.fill()
        put(server, "a.lua", handler("new"))
        becomes(server, "/h/a", "new")
        get(server.port, "/h/go")
        assert connection.read_response().text() == "old\nold end\n"


def test_who_waits_for_a_file_may_leave(server):
    """The first version of a file is loaded by requests; one of them goes before that is over."""
    up(server, http=HTTP + "lua_shared_dict flags 100k;", locations=LOCATIONS + """
        location /sub {
            lua_check_client_abort on;
            content_by_lua_block { ngx.location.capture("/h/a") }
        }
        location /begun { content_by_lua_block { ngx.print(ngx.shared.flags:get("begun") or 0) } }
        location /go { content_by_lua_block { ngx.shared.flags:set("go", true) } }""")
    put(server, "a.lua", "ngx.shared.flags:incr('begun', 1, 0) "
        "while not ngx.shared.flags:get('go') do ngx.sleep(0.01) end " + handler("first"))
    # Loaded in the background, then by the request as well.
    becomes(server, "/begun", "1")
    with socket.create_connection(("127.0.0.1", server.port)) as stream:
        stream.sendall(b"GET /sub HTTP/1.1\r\nHost: x\r\n\r\n")
        becomes(server, "/begun", "2")
    assert answer(server, "/go") == ""
    becomes(server, "/h/a", "first")
    put(server, "a.lua", handler("second"))
    becomes(server, "/h/a", "second")


def test_guards_are_never_off(server):
    put(server, "in/_access.lua", "return function() return 403 end")
    put(server, "in/a.lua", handler("secret"))
    up(server)
    assert answer(server, "/h/in/a") == 403
    stop = threading.Event()
    seen = []

    def ask():
        while not stop.is_set():
            seen.append(answer(server, "/h/in/a"))

    thread = threading.Thread(target=ask)
    thread.start()
    guard = server.path("handlers/in/_access.lua")
    for turn in range(10):
        if turn % 2:                                         # as vim does with a backup
            os.rename(guard, guard + "~")
            server.write("handlers/in/_access.lua", "return function() return 403 end -- vim")
            os.unlink(guard + "~")
        else:
            server.write("handlers/in/_access.lua", "return function() return 403, -- broken")
        count = len(seen)
        assert wait_until(lambda at=count: len(seen) > at + 3, 30)
    stop.set()
    thread.join(30)
    assert set(seen) == {403}
    os.unlink(guard)
    becomes(server, "/h/in/a", "secret")


def test_every_worker_sees_it(server):
    put(server, "a.lua", NUMBERED % "one")
    up(server, **TWO_WORKERS)
    for version in ("one", "two", "three"):
        put(server, "a.lua", NUMBERED % version)
        from_both_workers(server, "/h/a", version)
        answers = {answer(server, "/h/a") for _ in range(50)}
        assert answers <= {"0 " + version, "1 " + version}


def overflow(server):
    """More events than the kernel keeps: two files written in turn, so that none are joined."""
    with open("/proc/sys/fs/inotify/max_queued_events") as file:
        limit = int(file.read())
    one, two = (os.open(server.path("handlers", name), os.O_WRONLY | os.O_CREAT)
                for name in ("noise1", "noise2"))
    for _ in range(limit // 2 + 100):
        os.pwrite(one, b"x", 0)
        os.pwrite(two, b"x", 0)
    os.close(one)
    os.close(two)


def test_more_changes_than_the_kernel_tells_of(server):
    put(server, "keep.lua", handler("old"))
    put(server, "go.lua", handler("old"))
    up(server)
    assert answer(server, "/h/keep") == "old"
    server.signal("STOP", server.workers()[0])
    try:
        overflow(server)
        for turn in range(500):
            server.write("handlers/f%d.lua" % (turn % 50), handler("turn %d" % turn))
        server.write("handlers/x/y.lua", handler("new folder"))
        os.unlink(server.path("handlers/go.lua"))
        put(server, "keep.lua", handler("new"))
    finally:
        server.signal("CONT", server.workers()[0])
    becomes(server, "/h/keep", "new", 30)
    becomes(server, "/h/go", 404, 30)
    becomes(server, "/h/f49", "turn 499", 30)
    becomes(server, "/h/x/y", "new folder", 30)


def test_many_files(server):
    for folder in range(20):
        os.makedirs(server.path("handlers/d%d" % folder))
        for name in range(50):
            with open(server.path("handlers/d%d/f%d.lua" % (folder, name)), "w") as file:
                file.write(handler("%d %d" % (folder, name)))
    up(server)
    assert answer(server, "/h/d19/f49") == "19 49"
    put(server, "d15/f40.lua", handler("edited"))
    becomes(server, "/h/d15/f40", "edited")


def test_a_reload_while_a_file_is_broken(server):
    put(server, "a.lua", handler("good"))
    put(server, "b.lua", "return function(")
    up(server, workers=2)
    assert answer(server, "/h/a") == "good"
    server.signal("HUP")
    old = server.workers()
    assert wait_until(lambda: not set(old) & set(server.workers()), 30)
    assert answer(server, "/h/a") == "good"
    put(server, "a.lua", handler("after"))
    becomes(server, "/h/a", "after")
    assert answer(server, "/h/b") == 500
    put(server, "b.lua", handler("b"))
    becomes(server, "/h/b", "b")


def limit_watching(server, what, count):
    """Starts the server where the kernel grants so many inotify instances or watches."""
    limit = "/proc/sys/user/max_inotify_" + what
    script = 'echo %d > %s || exit 1; exec "$@"' % (count, limit)
    server.binary = server.write("limited", '#!/bin/sh\nexec unshare -Ur sh -c \'%s\' sh "%s" "$@"'
                                 % (script, server.binary))
    os.chmod(server.binary, 0o755)
    test = ["unshare", "-Ur", "sh", "-c", "echo %d > %s" % (count, limit)]
    if subprocess.run(test, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no user namespaces here")


@pytest.mark.parametrize("what, count, reason", [("instances", 0, "Too many open files"),
                                                 ("watches", 2, "No space left on device")])
def test_where_the_kernel_does_not_watch(server, what, count, reason):
    put(server, "a.lua", handler("one"))
    put(server, "x/y/b.lua", handler("b"))
    limit_watching(server, what, count)
    up(server, main="master_process off;")
    assert answer(server, "/h/a") == "one"
    put(server, "a.lua", handler("two"))
    server.write("handlers/x/y/b.lua", handler("b in place"))
    put(server, "x/z/c.lua", handler("new"))
    becomes(server, "/h/a", "two", 30)
    becomes(server, "/h/x/y/b", "b in place", 30)
    becomes(server, "/h/x/z/c", "new", 30)
    os.unlink(server.path("handlers/a.lua"))
    becomes(server, "/h/a", 404, 30)
    said = [line for line in server.log().splitlines() if "are looked for every second" in line]
    assert len(said) == 1 and reason in said[0], server.log()
