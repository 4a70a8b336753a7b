-- Active health checks of upstream groups. Every worker runs the timer; a key of the shared
-- dictionary that lives for one interval lets one of them do the round. What a round changes is
-- published as a new version, which the other workers take over at their next turn.
--
-- Keys, each with the upstream's name behind the colon: "v:" version; "l:" the lock; "d:" peer is
-- down, "ok:" and "nok:" successes and failures in a row, followed by ":p" (primary) or ":b"
-- (backup) and the peer's number.

local upstream = require "ngx.upstream"

local concat = table.concat
local floor, max, min = math.floor, math.max, math.min
local log, DEBUG, ERR, WARN = ngx.log, ngx.DEBUG, ngx.ERR, ngx.WARN
local match = string.match
local ipairs, pcall, tonumber, tostring = ipairs, pcall, tonumber, tostring
local spawn, wait = ngx.thread.spawn, ngx.thread.wait
local tcp = ngx.socket.tcp
local timer_at = ngx.timer.at

local interval_s_default, interval_s_min, lock_margin_s = 1, 0.002, 0.001
local timeout_ms_default = 1000
local fall_default, rise_default = 5, 2

local _M = { _VERSION = "0.08" }

local debugging = ngx.config.debug
local checkers = {}                   -- by upstream: how many check it

-- Each names itself in the log.
local function warn(...)
    log(WARN, "healthcheck: ", ...)
end

local function errlog(...)
    log(ERR, "healthcheck: ", ...)
end

local function debug(...)
    if debugging then
        log(DEBUG, "healthcheck: ", ...)
    end
end

local function peer_key(prefix, name, backup, id)
    return prefix .. ":" .. name .. (backup and ":b" or ":p") .. id
end

-- ---- what a check's outcome does to a peer ----

-- Counts one more outcome of a kind in a row, and forgets the other kind; how many it are.
local function count(self, kind, other, backup, id)
    local dict = self.dict
    local key = peer_key(kind, self.upstream, backup, id)
    local times, err = dict:incr(key, 1, 0)
    if not times then
        errlog("failed to incr peer ", kind, " key: ", err)
        return 0
    end
    if times == 1 then
        local ok
        ok, err = dict:set(peer_key(other, self.upstream, backup, id), 0)
        if not ok then
            errlog("failed to set peer ", other, " key: ", err)
        end
    end
    return times
end

local function turn(self, peer, backup, id, down)
    local ok, err = upstream.set_peer_down(self.upstream, backup, id, down)
    if not ok then
        errlog("failed to set peer down: ", err)
        return
    end
    peer.down = down
    ok, err = self.dict:set(peer_key("d", self.upstream, backup, id), down or nil)
    if not ok then
        errlog("failed to set peer down state: ", err)
    end
    self.changed = true
end

local function failed(self, peer, backup, id, ...)
    if not peer.down then
        errlog(...)
    end
    debug("peer ", peer.name, " was checked to be not ok")
    local times = count(self, "nok", "ok", backup, id)
    if not peer.down and times >= self.fall then
        warn("peer ", peer.name, " is turned down after ", times, " failure(s)")
        turn(self, peer, backup, id, true)
    end
end

local function passed(self, peer, backup, id)
    debug("peer ", peer.name, " was checked to be ok")
    local times = count(self, "ok", "nok", backup, id)
    if peer.down and times >= self.rise then
        warn("peer ", peer.name, " is turned up after ", times, " success(es)")
        turn(self, peer, backup, id, false)
    end
end

-- ---- one check ----

local function connect(self, socket, peer)
    local host, port = match(peer.name, "^(.*):(%d+)$")
    if not host then
        return socket:connect(peer.name)
    end
    return socket:connect(host, self.port or tonumber(port))
end

-- Nil when the peer is well, else what to log of it.
local function probe(self, socket, peer)
    local ok, err = connect(self, socket, peer)
    if not ok then
        return "failed to connect to ", err
    end
    if self.type == "https" then
        ok, err = socket:sslhandshake(nil, self.host, self.ssl_verify)
        if not ok then
            return "failed to ssl handshake to ", err
        end
    end
    ok, err = socket:send(self.http_req)
    if not ok then
        return "failed to send request to ", err
    end
    local line
    line, err = socket:receive()
    if not line then
        return "failed to receive status line from ", err
    end
    if not self.statuses then
        return
    end
    local status = tonumber(match(line, "^[Hh][Tt][Tt][Pp]/%d+%.%d+%s+(%d+)"))
    if not status then
        return "bad status line from ", line
    end
    if not self.statuses[status] then
        return "bad status code from ", status
    end
end

local function check_peer(self, peer, backup, id)
    local socket, err = tcp()
    if not socket then
        errlog("failed to create stream socket: ", err)
        return
    end
    socket:settimeout(self.timeout)
    local what
    what, err = probe(self, socket, peer)
    socket:close()
    if what then
        failed(self, peer, backup, id, what, peer.name, ": ", err)
    else
        passed(self, peer, backup, id)
    end
end

local function check_range(self, peers, backup, from, to)
    for i = from, to do
        check_peer(self, peers[i], backup, i - 1)
    end
end

-- ---- a round ----

local function describe(backup, from, to)
    local kind = backup and "backup" or "primary"
    if from == to then
        return kind .. " peer " .. from - 1
    end
    return kind .. " peers " .. from - 1 .. " to " .. to - 1
end

-- In as many threads as allowed, this one included; each takes its share in turn.
local function check_peers(self, peers, backup)
    local total = #peers
    if total == 0 then
        return
    end
    local share = floor((total + self.concurrency - 1) / self.concurrency)
    local threads = {}
    for from = 1, total, share do
        local to = min(from + share - 1, total)
        if to < total then
            if debugging then
                debug("spawn a thread checking ", describe(backup, from, to))
            end
            threads[#threads + 1] = spawn(check_range, self, peers, backup, from, to)
        else
            if debugging then
                debug("check ", describe(backup, from, to))
            end
            check_range(self, peers, backup, from, to)
        end
    end
    for _, thread in ipairs(threads) do
        wait(thread)
    end
end

-- Takes over what another worker published of these peers.
local function adopt(self, peers, backup)
    for i, peer in ipairs(peers) do
        local down, err = self.dict:get(peer_key("d", self.upstream, backup, i - 1))
        if err then
            errlog("failed to get peer down state: ", err)
        end
        down = down and true or false
        if down ~= (peer.down and true or false) then
            local ok
            ok, err = upstream.set_peer_down(self.upstream, backup, i - 1, down)
            if ok then
                peer.down = down
            else
                errlog("failed to set peer down: ", err)
            end
        end
    end
end

local function catch_up(self)
    local version, err = self.dict:get("v:" .. self.upstream)
    if err then
        errlog("failed to get peers version: ", err)
    elseif not version then
        -- The dictionary was emptied: what this worker knows is published anew.
        self.changed = self.changed or self.version > 0
    elseif self.version < version then
        debug("upgrading peers version to ", version)
        adopt(self, self.primary_peers, false)
        adopt(self, self.backup_peers, true)
        self.version = version
    end
end

-- One worker holds it for nearly the whole interval, so the next turn finds it free.
local function take_lock(self)
    local key = "l:" .. self.upstream
    local ok, err = self.dict:add(key, true, self.interval - lock_margin_s)
    if not ok and err ~= "exists" then
        errlog('failed to add key "', key, '": ', err)
    end
    return ok
end

local function publish(self)
    debug("publishing peers version ", self.version + 1)
    local version, err = self.dict:incr("v:" .. self.upstream, 1, 0)
    if not version then
        errlog("failed to publish new peers version: ", err)
        return
    end
    self.version = version
    self.changed = nil
end

local function run_round(self)
    debug("run a check cycle")
    catch_up(self)
    if take_lock(self) then
        check_peers(self, self.primary_peers, false)
        check_peers(self, self.backup_peers, true)
    end
    if self.changed then
        publish(self)
    end
end

local function on_timer(premature, self)
    if premature then
        return
    end
    local ok, err = pcall(run_round, self)
    if not ok then
        errlog("failed to run healthcheck cycle: ", err)
    end
    ok, err = timer_at(self.interval, on_timer, self)
    if not ok then
        if err ~= "process exiting" then
            errlog("failed to create timer: ", err)
        end
        checkers[self.upstream] = (checkers[self.upstream] or 0) - 1
    end
end

-- ---- starting ----

local function check_options(options)
    local kind, dict = options.type, options.shm and ngx.shared[options.shm]
    if not kind then
        return nil, '"type" option required'
    end
    if kind ~= "http" and kind ~= "https" then
        return nil, 'only "http" and "https" type are supported right now'
    end
    if not options.http_req then
        return nil, '"http_req" option required'
    end
    if not options.shm then
        return nil, '"shm" option required'
    end
    if not dict then
        return nil, 'shm "' .. tostring(options.shm) .. '" not found'
    end
    if not options.upstream then
        return nil, "no upstream specified"
    end
    return dict
end

local function set_of(list)
    if not list then
        return nil
    end
    local set = {}
    for _, value in ipairs(list) do
        set[value] = true
    end
    return set
end

function _M.spawn_checker(options)
    local dict, err = check_options(options)
    if not dict then
        return nil, err
    end
    local name = options.upstream
    local primary, backup
    primary, err = upstream.get_primary_peers(name)
    if not primary then
        return nil, "failed to get primary peers: " .. err
    end
    backup, err = upstream.get_backup_peers(name)
    if not backup then
        return nil, "failed to get backup peers: " .. err
    end
    local interval = options.interval and max(options.interval / 1000, interval_s_min)
    local checker = {
        upstream = name, primary_peers = primary, backup_peers = backup, dict = dict, version = 0,
        type = options.type, http_req = options.http_req, port = options.port,
        host = options.host, ssl_verify = options.ssl_verify ~= false,
        interval = interval or interval_s_default,
        timeout = options.timeout or timeout_ms_default,
        fall = options.fall or fall_default, rise = options.rise or rise_default,
        concurrency = max(options.concurrency or 1, 1),
        statuses = set_of(options.valid_statuses),
    }
    checkers[name] = (checkers[name] or 0) + 1
    if debugging and options.no_timer then
        on_timer(false, checker)
        return true
    end
    local ok
    ok, err = timer_at(0, on_timer, checker)
    if not ok then
        checkers[name] = checkers[name] - 1
        return nil, "failed to create timer: " .. err
    end
    return true
end

-- ---- status pages ----

local function is_checked(name)
    return (checkers[name] or 0) > 0
end

local function add_text_peers(lines, peers)
    for _, peer in ipairs(peers) do
        lines[#lines + 1] = "        " .. peer.name .. (peer.down and " DOWN\n" or " UP\n")
    end
end

-- The text of one group, appended; nil and why not.
local function add_text_group(lines, name)
    local primary, err = upstream.get_primary_peers(name)
    if not primary then
        return nil, "failed to get primary peers in upstream " .. name .. ": " .. err
    end
    local backup
    backup, err = upstream.get_backup_peers(name)
    if not backup then
        return nil, "failed to get backup peers in upstream " .. name .. ": " .. err
    end
    lines[#lines + 1] = "Upstream " .. name .. (is_checked(name) and "" or " (NO checkers)")
                        .. "\n    Primary Peers\n"
    add_text_peers(lines, primary)
    lines[#lines + 1] = "    Backup Peers\n"
    add_text_peers(lines, backup)
    return true
end

function _M.status_page()
    local names, err = upstream.get_upstreams()
    if not names then
        return "failed to get upstream names: " .. err
    end
    local lines = {}
    for i, name in ipairs(names) do
        if i > 1 then
            lines[#lines + 1] = "\n"
        end
        local ok
        ok, err = add_text_group(lines, name)
        if not ok then
            return err
        end
    end
    return concat(lines)
end

local metric = "nginx_upstream_status_info"

-- The state of a whole group: "UP", "DOWN" or "UNKNOWN".
local function add_group_metrics(lines, name, state)
    for _, one in ipairs { "UP", "DOWN", "UNKNOWN" } do
        lines[#lines + 1] = metric .. '{name="' .. name .. '",status="' .. one .. '"} '
                            .. (one == state and 1 or 0) .. "\n"
    end
end

local function add_peer_line(lines, name, peer, role, status, value)
    lines[#lines + 1] = metric .. '{name="' .. name .. '",endpoint="' .. peer.name .. '",status="'
                        .. status .. '",role="' .. role .. '"} ' .. value .. "\n"
end

-- Whether any of the peers is up.
local function add_peer_metrics(lines, name, peers, role)
    local any_up = false
    for _, peer in ipairs(peers or {}) do
        any_up = any_up or not peer.down
        add_peer_line(lines, name, peer, role, "UP", peer.down and 0 or 1)
        add_peer_line(lines, name, peer, role, "DOWN", peer.down and 1 or 0)
    end
    return any_up
end

function _M.prometheus_status_page()
    local names, err = upstream.get_upstreams()
    if not names then
        return nil, "failed to get upstream names: " .. err
    end
    local lines = { "# HELP ", metric, " The running status of nginx upstream\n# TYPE ", metric,
                    " gauge\n" }
    for _, name in ipairs(names) do
        if is_checked(name) then
            local primary = add_peer_metrics(lines, name, upstream.get_primary_peers(name),
                                             "PRIMARY")
            local backup = add_peer_metrics(lines, name, upstream.get_backup_peers(name), "BACKUP")
            add_group_metrics(lines, name, (primary or backup) and "UP" or "DOWN")
        else
            add_group_metrics(lines, name, "UNKNOWN")
        end
    end
    return concat(lines)
end

return _M
