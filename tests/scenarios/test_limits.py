"""limit_conn and limit_req with clients at the same time, and over reloads."""
import threading

from runner.client import get


def test_limit_conn_counts_requests_at_work(server):
    server.up(workers=2, http="limit_conn_zone $arg_key zone=conns:64k;",
              locations="location /t { limit_conn conns 2; echo_sleep 0.4; echo ok; }")
    statuses = []
    threads = [threading.Thread(target=lambda: statuses.append(get(server.port, "/t?key=a").status))
               for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 200, 503, 503, 503]
    assert get(server.port, "/t?key=a").status == 200
    assert 'limiting connections by zone "conns"' in server.log()


def test_limit_conn_lets_go_when_clients_leave(server):
    server.up(http="limit_conn_zone $arg_key zone=conns:64k;",
              locations="location /t { limit_conn conns 1; echo_sleep 0.1; echo ok; }")
    for _ in range(3):
        assert get(server.port, "/t?key=a").status == 200


def test_limit_req_counts_over_workers_and_reloads(server):
    server.up(workers=2, http="limit_req_zone $arg_key zone=reqs:64k rate=1r/m;",
              locations="location /t { limit_req zone=reqs; echo ok; }")
    assert get(server.port, "/t?key=a").status == 200
    for _ in range(4):
        assert get(server.port, "/t?key=a").status == 503
    assert server.reload()
    assert get(server.port, "/t?key=a").status == 503
    assert get(server.port, "/t?key=b").status == 200
