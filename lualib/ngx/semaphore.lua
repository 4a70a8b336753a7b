-- Semaphores between light threads and requests of one worker.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_gc = ffi.gc
local ffi_string = ffi.string
local get_request = base.get_request
local get_string_buf = base.get_string_buf
local get_size_ptr = base.get_size_ptr
local errmsg = base.get_errmsg_ptr()
local FFI_OK = base.FFI_OK
local FFI_ERROR = base.FFI_ERROR
local FFI_DECLINED = base.FFI_DECLINED
local yield = coroutine._yield
local error = error
local setmetatable = setmetatable
local tonumber = tonumber
local type = type

ffi.cdef[[
struct ngx_http_lua_sema_s;
typedef struct ngx_http_lua_sema_s ngx_http_lua_sema_t;

int ngx_http_lua_ffi_sema_new(ngx_http_lua_sema_t **psem, int n, char **errmsg);
int ngx_http_lua_ffi_sema_post(ngx_http_lua_sema_t *sem, int n);
int ngx_http_lua_ffi_sema_count(ngx_http_lua_sema_t *sem);
int ngx_http_lua_ffi_sema_wait(ngx_http_request_t *r, ngx_http_lua_sema_t *sem, int wait_ms,
    unsigned char *errstr, size_t *errlen);
void ngx_http_lua_ffi_sema_gc(ngx_http_lua_sema_t *sem);
]]

local _M = { version = base.version }
local mt = { __index = _M }

local error_bytes = 128
local made = ffi.new("ngx_http_lua_sema_t *[1]")

function _M.new(count)
    count = tonumber(count) or 0
    if count < 0 then
        error("no negative number", 2)
    end
    if C.ngx_http_lua_ffi_sema_new(made, count, errmsg) == FFI_ERROR then
        return nil, ffi_string(errmsg[0])
    end
    return setmetatable({ sem = ffi_gc(made[0], C.ngx_http_lua_ffi_sema_gc) }, mt)
end

local function check(self)
    if type(self) ~= "table" or type(self.sem) ~= "cdata" then
        error("not a semaphore instance", 3)
    end
    return self.sem
end

function _M.wait(self, seconds)
    local sem = check(self)
    local r = get_request()
    if not r then
        error("no request found")
    end
    local milliseconds = tonumber(seconds) * 1000
    if milliseconds < 0 then
        error("no negative number", 2)
    end
    local why = get_string_buf(error_bytes)
    local length = get_size_ptr()
    length[0] = error_bytes
    local rc = C.ngx_http_lua_ffi_sema_wait(r, sem, milliseconds, why, length)
    if rc == FFI_OK then
        return true
    end
    if rc == FFI_DECLINED then
        return nil, "timeout"
    end
    if rc == FFI_ERROR then
        return nil, ffi_string(why, length[0])
    end
    -- no tail call: this frame keeps the semaphore alive meanwhile
    local ok, err = yield()
    return ok, err
end

function _M.post(self, count)
    local sem = check(self)
    count = count and tonumber(count) or 1
    if count < 1 then
        error("positive number required", 2)
    end
    C.ngx_http_lua_ffi_sema_post(sem, count)
    return true
end

-- How many may come in at once; negative: how many wait.
function _M.count(self)
    return (C.ngx_http_lua_ffi_sema_count(check(self)))
end

return _M
