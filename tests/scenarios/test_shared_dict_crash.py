"""Workers killed in the middle of changes to a shared dictionary: the others and the next ones go
on with everything but the key that was being written. tests/unit/lua/shared_dict_test.cpp does the
same a thousand times over (RESTY_KILLS=1000); here it is whole servers."""
import os
import random
import signal
import time

from runner.client import get
from runner.server import wait_until

KILLS = int(os.environ.get("RESTY_SERVER_KILLS", "6"))
KEYS = 200

CHANGES = """
    lua_shared_dict busy 2m;
    lua_shared_dict notes 100k;
    init_worker_by_lua_block {
        local busy, notes, id = ngx.shared.busy, ngx.shared.notes, ngx.worker.id()
        local keys = %d
        local function value_of(key) return (key .. ";"):rep(math.random(40)) end
        local function name_of(n) return "own" .. id .. "." .. n end
        math.randomseed(ngx.now() * 1000 + ngx.worker.pid())
        local again = not notes:add("begun" .. id, true)
        for n = 1, keys do
            local key = name_of(n)
            local value = busy:get(key)
            if not value then
                busy:set(key, key .. ";")
                if again then notes:incr("lost", 1, 0) end
            elseif value ~= (key .. ";"):rep(#value / (#key + 1)) then
                notes:incr("torn", 1, 0)
            end
        end
        local function change()
            local key = name_of(math.random(keys))
            busy:set(key, value_of(key))
            busy:incr("count", 1, 0)
            busy:lpush("list" .. id, key)
            if math.random(3) == 1 then busy:rpop("list" .. id) end
            if busy:llen("list" .. id) > 300 then busy:delete("list" .. id) end
            busy:set("passing" .. math.random(500), value_of("x"), 0.05)
        end
        ngx.timer.at(0, function()
            while not ngx.worker.exiting() do
                for _ = 1, 100 do change() end
                ngx.sleep(0)
            end
        end)
    }
""" % KEYS

ASK = """
    location = /state { content_by_lua_block {
        local busy, notes = ngx.shared.busy, ngx.shared.notes
        local present = 0
        for id = 0, 1 do
            for n = 1, %d do
                if busy:get("own" .. id .. "." .. n) then present = present + 1 end
            end
        end
        ngx.say(present, " ", notes:get("lost") or 0, " ", notes:get("torn") or 0, " ",
                busy:get("count") or 0)
    } }
""" % KEYS


def state(server):
    return [int(word) for word in get(server.port, "/state", timeout=5).text().split()]


def test_killed_workers_leave_shared_dicts_whole(server):
    server.up(workers=2, http=CHANGES, locations=ASK)
    chance = random.Random(3)
    count = 0
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.05, 0.15))
        os.kill(chance.choice(server.workers()), signal.SIGKILL)
        present, lost, torn, now = state(server)       # nobody holds the lock
        assert now > count, "the counter has gone back"
        count = now
        assert torn == 0
        assert present >= 2 * KEYS - 1 and lost <= KILLS
        assert wait_until(lambda: len(server.workers()) == 2, 20)
    assert wait_until(lambda: state(server)[0] == 2 * KEYS, 5)
    present, lost, torn, now = state(server)
    assert torn == 0 and lost <= KILLS and now > count
    print("kills %d lost %d" % (KILLS, lost))
