"""In steady state a keep-alive request takes nothing from the heap."""
import os
import subprocess

import pytest

from runner.client import Connection, request_bytes
from runner.server import ROOT, binary_path
from scenarios.conftest import ScenarioServer

SOURCE = os.path.join(ROOT, "tests", "scenarios", "count_allocations.c")
REQUESTS = 200
COUNTERS = """
    location = /allocations { content_by_lua_block {
        local ffi = package.loaded.ffi
        pcall(ffi.cdef, "uint64_t counted_allocations(void);")
        ngx.say(tonumber(ffi.C.counted_allocations()))
    } }
    location = /collected { content_by_lua_block {
        collectgarbage() collectgarbage() collectgarbage("stop")
        ngx.say(collectgarbage("count") * 1024)
    } }
    location = /used { content_by_lua_block { ngx.say(collectgarbage("count") * 1024) } }
"""


def is_sanitized():
    found = subprocess.run(["nm", "-D", binary_path()], text=True, capture_output=True,
                           check=False).stdout
    return "__asan_init" in found


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("counter") / "count.so")
    hook = ["-DCOUNT_BY_HOOK"] if is_sanitized() else []
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", *hook, "-o", path, SOURCE], check=True)
    return path


@pytest.fixture
def counting(counter):
    with ScenarioServer(env={"LD_PRELOAD": counter}) as server:
        server.env["ASAN_OPTIONS"] += ":verify_asan_link_order=0"
        server.write("handlers/say.lua", "return function(p) ngx.say('hello') end")
        server.write("handlers/deep/er/text.lua", "return { GET = function() return 'hello' end }")
        server.write("auto.lua", "ngx.say('hello')")
        server.up(locations=COUNTERS + """
            location /files/ { root html; }
            lua_handlers /h/ handlers;
            location = /auto { lua_code_cache auto; content_by_lua_file auto.lua; }
            location = /small { content_by_lua_block { ngx.say("hello") } }
            location = /proxied { proxy_pass http://itself/files/small.txt; }
        """, http="""
            upstream itself { server 127.0.0.1:@PORT@; keepalive 2;
                              keepalive_requests 1000000; }""")
        os.makedirs(server.path("html/files"), exist_ok=True)
        with open(server.path("html/files/small.txt"), "w") as file:
            file.write("x" * 500)
        yield server


def ask(connection, target):
    connection.send(request_bytes(target=target, close=False))
    response = connection.read_response()
    assert response.status == 200, target
    return response.text()


def growth(connection, target, question):
    """What the answer to `question` grows by over REQUESTS requests."""
    for _ in range(REQUESTS):
        ask(connection, target)
        ask(connection, question)
    before, alone = (float(ask(connection, question)) for _ in range(2))
    for _ in range(REQUESTS):
        ask(connection, target)
    return float(ask(connection, question)) - alone - (alone - before)


@pytest.mark.parametrize("target", ["/", "/small", "/files/small.txt", "/proxied", "/h/say",
                                    "/h/deep/er/text", "/auto"])
def test_no_heap_allocation(counting, target):
    with Connection(counting.port) as connection:
        assert growth(connection, target, "/allocations") == 0


def test_counter_counts(counting):
    """A test that cannot fail would be none: this request allocates."""
    with Connection(counting.port) as connection:
        before = float(ask(connection, "/allocations"))
        with Connection(counting.port) as other:
            ask(other, "/pid")
        assert float(ask(connection, "/allocations")) > before


@pytest.mark.parametrize("target", ["/small", "/h/say", "/h/deep/er/text"])
def test_hello_leaves_no_garbage(counting, target):
    with Connection(counting.port) as connection:
        ask(connection, "/collected")
        assert growth(connection, target, "/used") == 0
