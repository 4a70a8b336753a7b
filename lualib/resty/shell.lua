-- Runs a command and collects what it prints, without blocking the worker.

local signal = require "resty.signal"
local pipe = require "ngx.pipe"

local concat = table.concat
local kill = signal.kill
local sleep = ngx.sleep
local spawn_thread = ngx.thread.spawn
local wait_thread = ngx.thread.wait
local tostring = tostring

local _M = { version = 0.03 }

local buffer_bytes = 32 * 1024
local output_bytes_max = 128 * 1024
local grace_seconds = 0.001          -- between TERM and KILL

local function end_process(proc)
    local pid = proc:pid()
    if not pid then
        return true
    end
    local ok, err = kill(pid, "TERM")
    if not ok then
        return nil, "failed to kill process " .. pid .. ": " .. tostring(err)
    end
    sleep(grace_seconds)
    kill(pid, "KILL")
    return true
end

-- Ends the process; the reason, with what went wrong meanwhile.
local function give_up(proc, err)
    local ok, more = end_process(proc)
    err = tostring(err)
    if not ok then
        err = err .. "; " .. tostring(more)
    end
    return err
end

-- Fills `pieces` with the stream up to its end; returns an error when it did not come to that.
local function collect(proc, pieces, max_size, method)
    local size = 0
    while size <= max_size do
        local data, err, partial = proc[method](proc, max_size - size + 1)
        data = data or partial
        if data then
            pieces[#pieces + 1] = data
            size = size + #data
        end
        if err == "closed" then
            return nil
        end
        if err then
            return err
        end
    end
    return "too much data"
end

local function feed(proc, stdin)
    if stdin and stdin ~= "" then
        local bytes, err = proc:write(stdin)
        if not bytes then
            return nil, "failed to write to stdin: " .. give_up(proc, err)
        end
    end
    local ok, err = proc:shutdown("stdin")
    if not ok then
        return nil, "failed to shutdown stdin: " .. give_up(proc, err)
    end
    return true
end

-- Whether it succeeded, its output, its errors, and how it ended; or nil thrice and the reason.
function _M.run(command, stdin, timeout, max_size)
    max_size = max_size or output_bytes_max
    local proc, err = pipe.spawn(command, { buffer_size = buffer_bytes })
    if not proc then
        return nil, nil, nil, "failed to spawn: " .. tostring(err)
    end
    proc:set_timeouts(timeout, timeout, timeout, timeout)
    local fed
    fed, err = feed(proc, stdin)
    if not fed then
        return nil, nil, nil, err
    end

    local out, errors = {}, {}
    local readers = {
        stdout = spawn_thread(collect, proc, out, max_size, "stdout_read_any"),
        stderr = spawn_thread(collect, proc, errors, max_size, "stderr_read_any"),
    }
    local ok, reason, status = proc:wait()
    if ok == nil and reason ~= "exited" then
        reason = give_up(proc, reason)
        return nil, concat(out), concat(errors), "failed to wait for process: " .. reason
    end
    for _, stream in ipairs({ "stdout", "stderr" }) do
        local done, failure = wait_thread(readers[stream])
        if not done then
            return nil, concat(out), concat(errors),
                   "failed to wait " .. stream .. " thread: " .. tostring(failure)
        end
        if failure then
            return nil, concat(out), concat(errors),
                   "failed to read " .. stream .. ": " .. tostring(failure)
        end
    end
    return ok, concat(out), concat(errors), reason, status
end

return _M
