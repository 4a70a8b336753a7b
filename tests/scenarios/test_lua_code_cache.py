"""lua_code_cache auto: *_by_lua_file and required modules are taken up when their files change."""
import os
import signal
import time

import pytest

from runner.client import get
from runner.server import wait_until

HTTP = ('lua_code_cache auto; lua_package_path "@PREFIX@/lib/?.lua;@PREFIX@/lib/?/init.lua;;";'
        "lua_shared_dict kept 100k;")
LOCATIONS = """
location = /file { content_by_lua_file lua/file.lua; }
location = /block {
    content_by_lua_block { ngx.print(require("outer").text(), " ", require("outer").calls()) }
}
location ~ ^/any/(?<name>\\w+)$ { content_by_lua_file lua/$name.lua; }
location = /filtered {
    access_by_lua_file lua/access.lua;
    header_filter_by_lua_file lua/header.lua;
    body_filter_by_lua_file lua/body.lua;
    set_by_lua_file $value lua/set.lua;
    content_by_lua_block { ngx.print(ngx.var.value) }
}
location = /count { content_by_lua_block { ngx.print((ngx.shared.kept:incr("n", 1, 0))) } }
location = /id { content_by_lua_block { ngx.print(ngx.worker.id()) } }
location = /ticks { content_by_lua_block { ngx.print(ngx.shared.kept:get("ticks") or 0) } }
"""


def put(server, name, text):
    path = server.path(name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)


def answer(server, path):
    response = get(server.port, path)
    return response.text() if response.status == 200 else response.status


def becomes(server, path, wanted):
    assert wait_until(lambda: answer(server, path) == wanted, 30), \
        (answer(server, path), server.log())


def up(server, **parts):
    server.up(**{"http": HTTP, "locations": LOCATIONS, **parts})


def test_files(server):
    server.write("lua/file.lua", "ngx.print('one')")
    up(server)
    for _ in range(3):
        assert answer(server, "/file") == "one"
    put(server, "lua/file.lua", "ngx.print('two')")
    becomes(server, "/file", "two")
    server.write("lua/file.lua", "ngx.print('three')")
    becomes(server, "/file", "three")
    assert answer(server, "/any/file") == "three"
    assert answer(server, "/any/other") == 404
    put(server, "lua/other.lua", "ngx.print('other')")
    becomes(server, "/any/other", "other")
    put(server, "lua/other.lua", "ngx.print('changed')")
    becomes(server, "/any/other", "changed")
    os.unlink(server.path("lua/other.lua"))
    becomes(server, "/any/other", 404)


def watches(pid):
    """How many files and folders a process has the kernel watch."""
    count = 0
    for name in os.listdir("/proc/%d/fdinfo" % pid):
        with open("/proc/%d/fdinfo/%s" % (pid, name), encoding="utf-8") as info:
            count += info.read().count("inotify wd:")
    return count


def test_paths_that_nothing_is_at_are_not_followed(server):
    """They are what clients ask for: as many as they like."""
    for i in range(10):
        server.write("lua/%d/file.lua" % i, "ngx.print('%d')" % i)
    up(server, locations=LOCATIONS + """
        location ~ ^/deep/(?<name>.+)$ { content_by_lua_file lua/$name.lua; }""")
    assert answer(server, "/deep/0/late/file") == 404
    before = watches(server.workers()[0])
    assert {answer(server, "/deep/%d/late/file" % i) for i in range(10)} == {404}
    assert watches(server.workers()[0]) == before
    server.write("lua/0/late/file.lua", "ngx.print('late')")
    becomes(server, "/deep/0/late/file", "late")
    server.write("lua/0/late/file.lua", "ngx.print('edited')")
    becomes(server, "/deep/0/late/file", "edited")


def test_a_broken_file_and_a_healed_one(server):
    server.write("lua/file.lua", "ngx.print('good')")
    up(server)
    assert answer(server, "/file") == "good"
    put(server, "lua/file.lua", "ngx.print('bad'")
    failed = 'lua/file.lua" failed, its last good version goes on: '
    assert wait_until(lambda: answer(server, "/file") == "good" and failed in server.log(), 30)
    assert "file.lua:1: " in server.log()
    for _ in range(10):
        assert answer(server, "/file") == "good"
    assert server.log().count(failed) == 1
    put(server, "lua/file.lua", "ngx.print('healed')")
    becomes(server, "/file", "healed")
    assert 'lua/file.lua" works again' in server.log()


def test_a_worker_that_nobody_has_asked_yet(server):
    text = "ngx.print(ngx.worker.id(), ' good')"
    server.write("lua/file.lua", text)
    up(server, workers=2, listen="listen 127.0.0.1:@PORT@ reuseport;")
    seen = set()
    assert wait_until(lambda: seen.add(answer(server, "/id")) or seen == {"0", "1"}, 30)
    put(server, "lua/file.lua", "ngx.print('bad'")
    assert wait_until(lambda: "its last good version goes on" in server.log(), 30)
    assert {answer(server, "/file") for _ in range(50)} <= {"0 good", "1 good"}
    assert server.log().count("its last good version goes on") == 1


def test_a_file_that_is_being_written(server):
    server.write("lua/file.lua", "ngx.print('old')")
    up(server)
    assert answer(server, "/file") == "old"
    with open(server.path("lua/file.lua"), "w") as file:
        file.write("ngx.print('half')")
        file.flush()
        for _ in range(20):
            assert answer(server, "/file") == "old"
        file.write(" ngx.print(' and half')")
    becomes(server, "/file", "half and half")


@pytest.mark.parametrize("name,path,text", [
    ("lua/file.lua", "/file", "ngx.print('%s')\n"),
    ("lib/outer.lua", "/block",
     "return { text = function() return '%s' end, calls = function() return 1 end }\n")])
def test_a_file_that_is_written_once_more_at_once(server, name, path, text):
    for module, source in MODULES.items():
        server.write(module, source)
    server.write(name, text % "old")
    up(server)
    assert answer(server, path).startswith("old")
    # The worker is told of the first change when the second one is under way.
    worker = server.workers()[0]
    os.kill(worker, signal.SIGSTOP)
    try:
        server.write(name, text % "between")
        file = open(server.path(name), "w")
        file.write(text % "half")
        file.flush()
    finally:
        os.kill(worker, signal.SIGCONT)
    with file:
        for _ in range(5):
            file.write("-- more\n")
            file.flush()
            wrote = time.monotonic()
            said = answer(server, path)
            # After a second without a write it counts as complete.
            assert said.startswith("old") or time.monotonic() - wrote > 0.5, said
        file.seek(0)
        file.truncate()
        file.write(text % "whole")
    assert wait_until(lambda: str(answer(server, path)).startswith("whole"), 30), server.log()


def test_every_phase(server):
    for name, text in {"access": "ngx.ctx.a = 'one'", "header": "ngx.header['X-A'] = ngx.ctx.a",
                       "body": "ngx.arg[1] = ngx.arg[1]", "set": "return 'one'"}.items():
        server.write("lua/%s.lua" % name, text)
    up(server)
    assert answer(server, "/filtered") == "one"
    put(server, "lua/set.lua", "return 'two'")
    becomes(server, "/filtered", "two")
    put(server, "lua/header.lua", "ngx.header['X-A'] = 'changed'")
    assert wait_until(lambda: get(server.port, "/filtered").get("X-A") == "changed", 30)
    put(server, "lua/body.lua", "ngx.arg[1] = ngx.arg[1]:upper()")
    becomes(server, "/filtered", "TWO")
    put(server, "lua/access.lua", "ngx.exit(403)")
    becomes(server, "/filtered", 403)


MODULES = {
    "lib/inner/init.lua": "return { text = 'one' }",
    "lib/outer.lua": "local inner = require 'inner'\nlocal calls = 0\nreturn {\n"
                     "text = function() return inner.text end,\n"
                     "calls = function() calls = calls + 1 return calls end }",
}


def test_modules_two_levels_deep(server):
    for name, text in MODULES.items():
        server.write(name, text)
    up(server)
    assert [answer(server, "/block") for _ in range(2)] == ["one 1", "one 2"]
    put(server, "lib/inner/init.lua", "return { text = 'two' }")
    assert wait_until(lambda: str(answer(server, "/block")).startswith("two"), 30), server.log()
    assert answer(server, "/block").startswith("two")
    put(server, "lib/inner/init.lua", "error('not this time')")
    failed = 'lib/inner/init.lua" failed, its last good version goes on: '
    assert wait_until(lambda: answer(server, "/block") and failed in server.log(), 30)
    assert answer(server, "/block").startswith("two")
    assert "init.lua:1: not this time" in server.log()
    put(server, "lib/inner/init.lua", "return { text = 'three' }")
    assert wait_until(lambda: str(answer(server, "/block")).startswith("three"), 30), server.log()
    put(server, "lib/outer.lua", MODULES["lib/outer.lua"].replace("inner.text", "'outer'"))
    assert wait_until(lambda: str(answer(server, "/block")).startswith("outer"), 30)


def test_a_module_that_lacks_another_is_tried_again(server):
    for name, text in MODULES.items():
        server.write(name, text)
    up(server)
    assert answer(server, "/block") == "one 1"
    put(server, "lib/outer.lua", MODULES["lib/outer.lua"].replace("'inner'", "'lacking'"))
    failed = 'lib/outer.lua" failed, its last good version goes on: '
    assert wait_until(lambda: answer(server, "/block") and failed in server.log(), 30)
    assert answer(server, "/block").startswith("one")
    server.write("lib/lacking.lua", "return { text = 'found' }")
    put(server, "lib/inner/init.lua", "return { text = 'unused' }")
    assert wait_until(lambda: str(answer(server, "/block")).startswith("found"), 30), server.log()


def test_modules_of_init_by_lua(server):
    for name, text in MODULES.items():
        server.write(name, text)
    up(server, http=HTTP + "init_by_lua_block { require 'outer' }", workers=2,
       listen="listen 127.0.0.1:@PORT@ reuseport;")
    assert answer(server, "/block").startswith("one")
    put(server, "lib/inner/init.lua", "return { text = 'two' }")

    def always():
        return all(str(answer(server, "/block")).startswith("two") for _ in range(20))
    assert wait_until(always, 30), server.log()


def test_what_is_not_code_stays(server):
    for name, text in MODULES.items():
        server.write(name, text)
    server.write("lua/file.lua", "ngx.print('one')")
    up(server, http=HTTP + """init_worker_by_lua_block {
        alive = 'since start'
        assert(ngx.timer.every(0.01, function() ngx.shared.kept:incr("ticks", 1, 0) end))
    }""", locations=LOCATIONS + 'location = /alive { content_by_lua_block { ngx.print(alive) } }')
    assert answer(server, "/count") == "1"
    worker = server.workers()
    put(server, "lua/file.lua", "ngx.print('two')")
    becomes(server, "/file", "two")
    put(server, "lib/inner/init.lua", "return { text = 'two' }")
    assert wait_until(lambda: str(answer(server, "/block")).startswith("two"), 30)
    ticks = int(answer(server, "/ticks"))
    assert wait_until(lambda: int(answer(server, "/ticks")) > ticks, 30)
    assert answer(server, "/count") == "2"
    assert answer(server, "/alive") == "since start"
    assert server.workers() == worker


def test_a_folder_of_modules_replaced_by_its_link(server):
    for release in ("one", "two"):
        server.write("releases/%s/outer.lua" % release,
                     "return { text = function() return '%s' end, calls = tostring }" % release)
    os.symlink(server.path("releases/one"), server.path("lib"))
    up(server, locations='location = /t { content_by_lua_block { '
       'ngx.print(require("outer").text()) } }')
    assert answer(server, "/t") == "one"
    os.symlink(server.path("releases/two"), server.path("next"))
    os.rename(server.path("next"), server.path("lib"))
    becomes(server, "/t", "two")
    put(server, "releases/two/outer.lua", "return { text = function() return 'three' end }")
    becomes(server, "/t", "three")


def test_where_openresty_refuses_to_wait(server):
    """The same with `lua_compat openresty`, where require() is Lua's own."""
    for name, text in MODULES.items():
        server.write(name, text)
    up(server, main="lua_compat openresty;")
    assert answer(server, "/block") == "one 1"
    put(server, "lib/inner/init.lua", "return { text = 'two' ")
    failed = 'lib/inner/init.lua" failed, its last good version goes on: '
    assert wait_until(lambda: answer(server, "/block") and failed in server.log(), 30)
    assert answer(server, "/block").startswith("one")
    put(server, "lib/inner/init.lua", "return { text = 'two' }")
    assert wait_until(lambda: str(answer(server, "/block")).startswith("two"), 30), server.log()
