-- Which module came from which file, and who required it, so that a change of a file reaches
-- everything made from it (lua_code_cache auto, lua_handlers). Loaded by lua/sources.cpp, which
-- watches the files and hands over `native`. "Users" are modules by name and files by "@path".

local loaded = package.loaded
local running = coroutine.running
local error, next, pairs, pcall, type = error, next, pairs, pcall, type
local sub = string.sub
local getinfo, searchpath, traceback = debug.getinfo, package.searchpath, debug.traceback
local loadstring, tostring, xpcall = loadstring, tostring, xpcall

local native = ...
local previous = require                 -- the server's own, or Lua's
local abandoned_after = 60               -- seconds

-- What marks a module that is being loaded.
local sentinel
package.preload["resty.core.modules.mark"] = function(name)
    sentinel = loaded[name]
    return true
end
require "resty.core.modules.mark"

local file_of = {}        -- a module's file, by the module's name
local modules_of = {}     -- the names it was loaded by, by the file
local users_of = {}       -- who required it: a set, by the module's name
local good = {}           -- the last good value of a module that is to be loaded anew, by its name
local failed = {}         -- modules whose newest version is no good: its file's path, by the name
local changed = {}        -- modules whose file changed while they were being loaded

-- ---- who loads what ----

local main_thread = {}
local loading = {}        -- what a thread loads right now: a user, by the thread
local busy, busy_since = 0, 0

local function thread()
    return running() or main_thread
end

local function begin(user)
    local me = thread()
    local before = loading[me]
    loading[me] = user
    if busy == 0 then
        busy_since = native.now()
    end
    busy = busy + 1
    return me, before
end

local function finish(me, before)
    loading[me] = before
    busy = busy - 1
    if busy <= 0 then
        busy = 0
        loading = {}
    end
end

-- A thread that was killed while it loaded something leaves its mark.
local function drop_abandoned()
    if busy > 0 and native.now() - busy_since > abandoned_after then
        busy, loading = 0, {}
    end
end

local function add_user(name, user)
    local users = users_of[name]
    if not users then
        users = {}
        users_of[name] = users
    end
    users[user] = true
end

-- Code that requires something outside of its own loading is known by its file.
local function user_by_source(level)
    local info = getinfo(level + 1, "S")
    local source = info and info.source
    if not source or sub(source, 1, 1) ~= "@" then
        return nil
    end
    local file = native.absolute(sub(source, 2))
    local names = modules_of[file]
    return names and next(names) or "@" .. file
end

-- ---- require ----

local function load_anew(name)
    local me, before = begin(name)
    local ok, result = pcall(previous, name)
    finish(me, before)
    local last = good[name]
    good[name] = nil
    if ok then
        if failed[name] then
            native.healed(failed[name])
            failed[name] = nil
        end
        if changed[name] then            -- what was loaded is the older version
            changed[name] = nil
            good[name] = loaded[name]
            loaded[name] = nil
        end
        return result
    end
    changed[name] = nil
    if last == nil then
        if loaded[name] == sentinel then
            loaded[name] = nil
        end
        error(result, 0)
    end
    loaded[name] = last
    failed[name] = file_of[name]
    native.failed(file_of[name], tostring(result))
    return last
end

local function require(name)
    local module = loaded[name]
    if busy == 0 and module and module ~= sentinel then
        return module
    end
    if type(name) ~= "string" then
        return previous(name)
    end
    drop_abandoned()
    local user = loading[thread()] or user_by_source(2)
    if user then
        add_user(name, user)
    end
    if module and (module ~= sentinel or busy > 0) then
        return previous(name)            -- there, or being loaded by this thread or another
    end
    -- Nobody waits for a file that is being written while there is a version that works. What is
    -- being loaded itself would keep that version.
    if busy == 0 and good[name] ~= nil and native.being_written(file_of[name]) then
        return good[name]
    end
    return load_anew(name)
end

-- In place of Lua's own loader of files.
local function install_loader()
    local loaders = package.loaders
    local loader = loaders[3]
    loaders[3] = function(name)
        local path = searchpath(name, package.path)
        if not path then
            return loader(name)          -- for its list of places
        end
        local file = native.absolute(path)
        file_of[name] = file
        modules_of[file] = modules_of[file] or {}
        modules_of[file][name] = true
        local text, why = native.read(path)
        local chunk
        if text then
            chunk, why = loadstring(text, "@" .. path)
        end
        if chunk then
            return chunk
        end
        error("error loading module '" .. name .. "' from file '" .. path .. "':\n\t" .. why, 0)
    end
end

-- ---- changes ----

local function make_stale(name, seen)
    if seen[name] then
        return
    end
    seen[name] = true
    if sub(name, 1, 1) == "@" then
        native.user_changed(sub(name, 2))
        return
    end
    local value = loaded[name]
    if value == sentinel then
        changed[name] = true
    elseif value ~= nil and file_of[name] then
        good[name] = value
        loaded[name] = nil
    end
    local users = users_of[name]
    if users then
        for user in pairs(users) do
            make_stale(user, seen)
        end
    end
end

-- The file has changed: what came from it, and what came from that, is loaded anew when it is
-- wanted next. Modules that could not be loaded get another chance: what they lacked may be there.
local function file_changed(path)
    local seen = {}
    for name in pairs(modules_of[path] or {}) do
        make_stale(name, seen)
    end
    for name in pairs(failed) do
        make_stale(name, seen)
    end
end

-- Runs the chunk of a file of ours (a handler): true and its value, or false and what went wrong
-- with the stack.
local function run_file(path, chunk)
    local me, before = begin("@" .. path)
    local ok, value = xpcall(chunk, function(why)
        return { why = tostring(why), stack = traceback("", 2) }
    end)
    finish(me, before)
    if ok then
        return true, value
    end
    if type(value) == "table" then
        return false, value.why, value.stack
    end
    return false, tostring(value), ""
end

install_loader()
getfenv(0).require = require

return { run_file = run_file, file_changed = file_changed }
