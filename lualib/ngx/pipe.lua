-- Child processes and the pipes to their standard streams. See pipe.md.

local ffi = require "ffi"
local base = require "resty.core.base"
require "resty.core.phase"

local C = ffi.C
local ffi_new = ffi.new
local ffi_string = ffi.string
local get_phase = ngx.get_phase
local get_request = base.get_request
local get_size_ptr = base.get_size_ptr
local get_string_buf = base.get_string_buf
local FFI_OK = base.FFI_OK
local FFI_ERROR = base.FFI_ERROR
local FFI_DECLINED = base.FFI_DECLINED
local FFI_AGAIN = base.FFI_AGAIN
local FFI_BAD_CONTEXT = base.FFI_BAD_CONTEXT
local yield = coroutine._yield
local concat = table.concat
local find = string.find
local error = error
local ipairs = ipairs
local tonumber = tonumber
local tostring = tostring
local select = select
local type = type

ffi.cdef[[
typedef struct ngx_http_lua_pipe_s ngx_http_lua_pipe_t;

typedef struct {
    int                     _pid;
    uintptr_t               write_timeout;
    uintptr_t               stdout_read_timeout;
    uintptr_t               stderr_read_timeout;
    uintptr_t               wait_timeout;
    ngx_http_lua_pipe_t    *pipe;
} ngx_http_lua_ffi_pipe_proc_t;

int ngx_http_lua_ffi_pipe_spawn(ngx_http_request_t *r, ngx_http_lua_ffi_pipe_proc_t *proc,
    const char *file, const char **argv, int merge_stderr, size_t buffer_size,
    const char **environ, unsigned char *errbuf, size_t *errbuf_size);
int ngx_http_lua_ffi_pipe_proc_read(ngx_http_request_t *r, ngx_http_lua_ffi_pipe_proc_t *proc,
    int from_stderr, int reader_type, size_t length, unsigned char **buf, size_t *buf_size,
    unsigned char *errbuf, size_t *errbuf_size);
int ngx_http_lua_ffi_pipe_get_read_result(ngx_http_request_t *r,
    ngx_http_lua_ffi_pipe_proc_t *proc, int from_stderr, unsigned char **buf, size_t *buf_size,
    unsigned char *errbuf, size_t *errbuf_size);
ssize_t ngx_http_lua_ffi_pipe_proc_write(ngx_http_request_t *r,
    ngx_http_lua_ffi_pipe_proc_t *proc, const unsigned char *data, size_t len,
    unsigned char *errbuf, size_t *errbuf_size);
ssize_t ngx_http_lua_ffi_pipe_get_write_result(ngx_http_request_t *r,
    ngx_http_lua_ffi_pipe_proc_t *proc, unsigned char *errbuf, size_t *errbuf_size);
int ngx_http_lua_ffi_pipe_proc_shutdown_stdin(ngx_http_lua_ffi_pipe_proc_t *proc,
    unsigned char *errbuf, size_t *errbuf_size);
int ngx_http_lua_ffi_pipe_proc_shutdown_stdout(ngx_http_lua_ffi_pipe_proc_t *proc,
    unsigned char *errbuf, size_t *errbuf_size);
int ngx_http_lua_ffi_pipe_proc_shutdown_stderr(ngx_http_lua_ffi_pipe_proc_t *proc,
    unsigned char *errbuf, size_t *errbuf_size);
int ngx_http_lua_ffi_pipe_proc_wait(ngx_http_request_t *r, ngx_http_lua_ffi_pipe_proc_t *proc,
    char **reason, int *status, unsigned char *errbuf, size_t *errbuf_size);
int ngx_http_lua_ffi_pipe_proc_kill(ngx_http_lua_ffi_pipe_proc_t *proc, int signal,
    unsigned char *errbuf, size_t *errbuf_size);
void ngx_http_lua_ffi_pipe_proc_destroy(ngx_http_lua_ffi_pipe_proc_t *proc);
]]

local _M = { version = base.version }

local error_bytes = 256
local room_bytes = 512
local buffer_size_default = 4096
local timeout_default = 10000        -- milliseconds
local timeout_max = 0xffffffff

local room = ffi_new("unsigned char[?]", room_bytes)
local data_pointer = ffi_new("unsigned char *[1]")
local data_size = ffi_new("size_t[1]")
local reason = ffi_new("char *[1]")
local status = ffi_new("int[1]")

local function check(proc)
    if type(proc) ~= "cdata" then
        error("not a process instance", 3)
    end
end

-- The buffer for an error text, and where its length goes.
local function error_room()
    local size = get_size_ptr()
    size[0] = error_bytes
    return get_string_buf(error_bytes), size
end

local function current_request()
    local r = get_request()
    if not r then
        error("no request found", 3)
    end
    return r
end

-- ---- reading ----

-- What the call before has read. More than fits into `room` is asked for once more.
local function taken(r, proc, from_stderr)
    local size = data_size[0]
    if data_pointer[0] ~= nil then
        return (ffi_string(room, size))
    end
    local own = ffi_new("unsigned char[?]", size)
    data_pointer[0] = own
    local why, length = error_room()
    C.ngx_http_lua_ffi_pipe_get_read_result(r, proc, from_stderr, data_pointer, data_size, why,
                                            length)
    return (ffi_string(own, data_size[0]))
end

local function read(proc, from_stderr, reader, count)
    check(proc)
    local r = current_request()
    data_pointer[0] = room
    data_size[0] = room_bytes
    local why, length = error_room()
    local rc = C.ngx_http_lua_ffi_pipe_proc_read(r, proc, from_stderr, reader, count,
                                                 data_pointer, data_size, why, length)
    if rc == FFI_AGAIN then
        yield()
        data_pointer[0] = room
        data_size[0] = room_bytes
        why, length = error_room()
        rc = C.ngx_http_lua_ffi_pipe_get_read_result(r, proc, from_stderr, data_pointer,
                                                     data_size, why, length)
    end
    if rc == FFI_OK then
        return taken(r, proc, from_stderr)
    end
    local err = ffi_string(why, length[0])
    if rc == FFI_BAD_CONTEXT then
        error(err, 2)
    end
    if rc == FFI_DECLINED then
        return nil, err, taken(r, proc, from_stderr)
    end
    return nil, err
end

local read_all, read_bytes, read_line, read_any = 0, 1, 2, 3

local methods = {}

for from_stderr, name in ipairs({ "stdout", "stderr" }) do
    from_stderr = from_stderr - 1

    methods[name .. "_read_all"] = function(proc)
        local data, err, partial = read(proc, from_stderr, read_all, 0)
        return data, err, partial
    end

    methods[name .. "_read_line"] = function(proc)
        local data, err, partial = read(proc, from_stderr, read_line, 0)
        return data, err, partial
    end

    methods[name .. "_read_bytes"] = function(proc, count)
        if count < 0 then
            error("bad len argument", 2)
        end
        if count == 0 then
            return ""
        end
        local data, err, partial = read(proc, from_stderr, read_bytes, count)
        return data, err, partial
    end

    methods[name .. "_read_any"] = function(proc, max)
        max = tonumber(max)
        if not max or max <= 0 then
            error("bad max argument", 2)
        end
        local data, err, partial = read(proc, from_stderr, read_any, max)
        return data, err, partial
    end
end

-- ---- writing ----

local function as_text(data)
    local kind = type(data)
    if kind == "string" then
        return data
    end
    if kind == "table" then
        return concat(data)
    end
    if kind == "number" then
        return tostring(data)
    end
    error("bad data arg: string, number, or table expected, got " .. kind, 3)
end

function methods.write(proc, data)
    check(proc)
    local r = current_request()
    data = as_text(data)
    local why, length = error_room()
    local rc = C.ngx_http_lua_ffi_pipe_proc_write(r, proc, data, #data, why, length)
    if rc == FFI_AGAIN then
        yield()
        why, length = error_room()
        rc = C.ngx_http_lua_ffi_pipe_get_write_result(r, proc, why, length)
    end
    if rc >= 0 then
        return (tonumber(rc))
    end
    local err = ffi_string(why, length[0])
    if rc == FFI_BAD_CONTEXT then
        error(err, 2)
    end
    return nil, err
end

local shutdowns = {
    stdin = C.ngx_http_lua_ffi_pipe_proc_shutdown_stdin,
    stdout = C.ngx_http_lua_ffi_pipe_proc_shutdown_stdout,
    stderr = C.ngx_http_lua_ffi_pipe_proc_shutdown_stderr,
}

function methods.shutdown(proc, direction)
    check(proc)
    local shutdown = shutdowns[direction]
    if not shutdown then
        error("bad shutdown arg: " .. tostring(direction), 2)
    end
    local why, length = error_room()
    if shutdown(proc, why, length) == FFI_ERROR then
        return nil, ffi_string(why, length[0])
    end
    return true
end

-- ---- the process ----

function methods.pid(proc)
    return proc._pid
end

function methods.wait(proc)
    check(proc)
    local r = current_request()
    local why, length = error_room()
    local rc = C.ngx_http_lua_ffi_pipe_proc_wait(r, proc, reason, status, why, length)
    if rc == FFI_AGAIN then
        -- no tail call: this frame keeps the process alive meanwhile
        local ok, how, code = yield()
        return ok, how, code
    end
    if rc == FFI_BAD_CONTEXT then
        error(ffi_string(why, length[0]), 2)
    end
    if rc == FFI_ERROR then
        return nil, ffi_string(why, length[0])
    end
    return rc == FFI_OK, ffi_string(reason[0]), status[0]
end

function methods.kill(proc, signal)
    check(proc)
    if type(signal) ~= "number" then
        error("bad signal arg: number expected, got " .. tostring(signal), 2)
    end
    local why, length = error_room()
    if C.ngx_http_lua_ffi_pipe_proc_kill(proc, signal, why, length) == FFI_ERROR then
        return nil, ffi_string(why, length[0])
    end
    return true
end

local timeout_names = { "write_timeout", "stdout_read_timeout", "stderr_read_timeout",
                        "wait_timeout" }

local function set_timeouts(proc, level, ...)
    for n, name in ipairs(timeout_names) do
        local timeout = select(n, ...)
        if timeout then
            if timeout < 0 or timeout > timeout_max then
                error("bad " .. name .. " option", level)
            end
            proc[name] = timeout
        end
    end
end

function methods.set_timeouts(proc, ...)
    set_timeouts(proc, 3, ...)
end

local Process = ffi.metatype("ngx_http_lua_ffi_pipe_proc_t", {
    __gc = C.ngx_http_lua_ffi_pipe_proc_destroy,
    __index = methods,
})

-- ---- starting ----

-- A null-terminated array that C takes, up to the first hole; the strings live as long as `list`.
local function strings(list)
    local count = 0
    for _ in ipairs(list) do
        count = count + 1
    end
    local array = ffi_new("const char *[?]", count + 1)
    for i = 1, count do
        array[i - 1] = list[i]
    end
    return array
end

local function as_arguments(command)
    local kind = type(command)
    if kind == "string" then
        return { "/bin/sh", "-c", command }
    end
    if kind ~= "table" then
        error("bad args arg: table expected, got " .. kind, 3)
    end
    for i, argument in ipairs(command) do
        if type(argument) ~= "string" then
            command[i] = tostring(argument)
        end
    end
    if command[1] == nil then
        error("bad args arg: non-empty table expected", 3)
    end
    return command
end

local function check_environment(list)
    if type(list) ~= "table" then
        error("bad environ option: table expected, got " .. type(list), 3)
    end
    for i, entry in ipairs(list) do
        if type(entry) ~= "string" then
            error("bad value at index " .. i .. " of environ option: string expected, got "
                  .. type(entry), 3)
        end
        if not find(entry, "=", 2, true) then
            error("bad value at index " .. i .. " of environ option: 'name=[value]' format "
                  .. "expected, got '" .. entry .. "'", 3)
        end
    end
end

local no_options = {}

function _M.spawn(command, options)
    if get_phase() == "init" then
        error("API disabled in the current context", 2)
    end
    command = as_arguments(command)
    options = options or no_options
    local buffer_size = tonumber(options.buffer_size or buffer_size_default)
    if not buffer_size or buffer_size < 1 then
        error("bad buffer_size option", 2)
    end
    local environment = options.environ
    if environment then
        check_environment(environment)
    end
    local proc = Process()
    set_timeouts(proc, 3,
                 options.write_timeout or timeout_default,
                 options.stdout_read_timeout or timeout_default,
                 options.stderr_read_timeout or timeout_default,
                 options.wait_timeout or timeout_default)
    local arguments = strings(command)
    local variables
    if environment and environment[1] then
        variables = strings(environment)
    end
    local why, length = error_room()
    if C.ngx_http_lua_ffi_pipe_spawn(get_request(), proc, command[1], arguments,
                                     options.merge_stderr and 1 or 0, buffer_size, variables,
                                     why, length) == FFI_ERROR then
        return nil, ffi_string(why, length[0])
    end
    return proc
end

return _M
