"""resty.upstream.healthcheck: servers that fail are left out by all workers, and come back."""
import http.server
import threading

import pytest

from runner.client import get
from runner.server import wait_until

HTTP = """
    lua_shared_dict health 1m;
    lua_socket_log_errors off;
    upstream group { server 127.0.0.1:%d max_fails=0; server 127.0.0.1:%d max_fails=0;
                     server 127.0.0.1:1 backup; }
    upstream unwatched { server 127.0.0.1:%d; }
    init_worker_by_lua_block {
        assert(require("resty.upstream.healthcheck").spawn_checker {
            shm = "health", upstream = "group", type = "http", interval = 30, timeout = 300,
            fall = 2, rise = 2, valid_statuses = { 200 }, concurrency = 2,
            http_req = "GET /health HTTP/1.0\\r\\n\\r\\n",
        })
    }
"""
LOCATIONS = """
    location = /status {
        content_by_lua_block {
            ngx.print(require("resty.upstream.healthcheck").status_page())
        }
    }
    location = /metrics {
        content_by_lua_block {
            ngx.print(require("resty.upstream.healthcheck").prometheus_status_page())
        }
    }
    location = /wrong {
        content_by_lua_block {
            local spawn = require("resty.upstream.healthcheck").spawn_checker
            local options = {}
            for _, more in ipairs { { "type", "tcp" }, { "type", "http" }, { "http_req", "x" },
                                    { "shm", "none" }, { "shm", "health" },
                                    { "upstream", "none" } } do
                ngx.say(select(2, spawn(options)))
                options[more[1]] = more[2]
            end
            ngx.say(select(2, spawn(options)))
        }
    }
    location = /proxy { proxy_pass http://group; }
"""


class Backend:
    """Answers with its number; /health with a status that can be changed."""

    def __init__(self, number):
        backend = self
        self.status = 200

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(backend.status if self.path == "/health" else 200)
                self.end_headers()
                self.wfile.write(b"%d" % number)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def backends():
    both = [Backend(1), Backend(2)]
    yield both
    for one in both:
        one.server.shutdown()
        one.server.server_close()


def test_down_and_up(server, backends):
    first, second = backends
    server.up(workers=2, http=HTTP % (first.port, second.port, first.port), locations=LOCATIONS)

    def state(port):
        page = get(server.port, "/status").text()
        assert "Upstream unwatched (NO checkers)" in page
        return "UP" if "        127.0.0.1:%d UP" % port in page.split("Upstream unw")[0] else "DOWN"

    def everywhere(port, wanted):
        return wait_until(lambda: all(state(port) == wanted for _ in range(12)), 5, 0.05)

    assert everywhere(1, "DOWN")                 # the backup, where nobody listens
    assert everywhere(first.port, "UP")
    first.status = 503
    assert everywhere(first.port, "DOWN")
    assert {get(server.port, "/proxy").text() for _ in range(10)} == {"2"}
    metrics = get(server.port, "/metrics").text()
    endpoint = 'nginx_upstream_status_info{name="group",endpoint="127.0.0.1:%d"' % first.port
    assert endpoint + ',status="UP",role="PRIMARY"} 0\n' in metrics
    assert endpoint + ',status="DOWN",role="PRIMARY"} 1\n' in metrics
    assert 'nginx_upstream_status_info{name="group",status="UP"} 1\n' in metrics
    assert 'nginx_upstream_status_info{name="unwatched",status="UNKNOWN"} 1\n' in metrics
    first.status = 200
    assert everywhere(first.port, "UP")
    assert {get(server.port, "/proxy").text() for _ in range(20)} == {"1", "2"}
    assert "is turned down after 2 failure(s)" in server.log()
    assert "is turned up after 2 success(es)" in server.log()


def test_options(server, backends):
    first, second = backends
    server.up(http=HTTP % (first.port, second.port, first.port), locations=LOCATIONS)
    assert get(server.port, "/wrong").text().splitlines() == [
        '"type" option required', 'only "http" and "https" type are supported right now',
        '"http_req" option required', '"shm" option required', 'shm "none" not found',
        "no upstream specified", "failed to get primary peers: upstream not found"]
