-- What every FFI topic shares: scratch buffers, result codes, the current request. Third-party
-- libraries use these helpers under the same names, so they are an interface.

local ffi = require "ffi"
local new_tab = require "table.new"
local clear_tab = require "table.clear"
local exdata = require "thread.exdata"

local error = error
local select = select
local ceil = math.ceil
local ffi_new = ffi.new
local subsystem = ngx.config.subsystem

-- require() is not compiled by the JIT: answer for loaded modules in Lua, so that a require on a
-- hot path costs a table lookup.
do
    local original = require
    local loaded = package.loaded
    local loading = loaded[...]          -- the mark of a module that is being loaded

    getfenv(0).require = function(name)
        local module = loaded[name]
        if not module then
            return original(name)
        end
        if module == loading then
            error("loop or previous error loading module '" .. name .. "'")
        end
        return module
    end
end

local function declare_once(type_name, text)
    if not pcall(ffi.typeof, type_name) then
        ffi.cdef(text)
    end
end

declare_once("ngx_str_t", [[
    typedef struct {
        size_t                 len;
        const unsigned char   *data;
    } ngx_str_t;
]])
declare_once("ngx_http_request_t", "typedef struct ngx_http_request_s ngx_http_request_t;")
declare_once("ngx_http_lua_ffi_str_t", [[
    typedef struct {
        int                    len;
        const unsigned char   *data;
    } ngx_http_lua_ffi_str_t;
]])

local _M = new_tab(0, 24)

_M.version = "0.1.33"
_M.new_tab = new_tab
_M.clear_tab = clear_tab

_M.FFI_OK = 0
_M.FFI_ERROR = -1
_M.FFI_AGAIN = -2
_M.FFI_BUSY = -3
_M.FFI_DONE = -4
_M.FFI_DECLINED = -5
_M.FFI_ABORT = -6
_M.FFI_NO_REQ_CTX = -100
_M.FFI_BAD_CONTEXT = -101

local error_pointer

-- char *[1], shared by all calls that report an error through a pointer.
function _M.get_errmsg_ptr()
    error_pointer = error_pointer or ffi_new("char *[1]")
    return error_pointer
end

local size_pointer

-- size_t[1], likewise.
function _M.get_size_ptr()
    size_pointer = size_pointer or ffi_new("size_t[1]")
    return size_pointer
end

local bytes_t = ffi.typeof("char[?]")
local buffer
local buffer_size = 4096

function _M.get_string_buf_size()
    return buffer_size
end

function _M.set_string_buf_size(size)
    if size > 0 then
        buffer = nil
        buffer_size = ceil(size)
    end
end

-- The shared buffer, valid until the next call of any function here; a new one when it is too small
-- or `own` is asked for.
function _M.get_string_buf(size, own)
    if own or size > buffer_size then
        return ffi_new(bytes_t, size)
    end
    if not buffer then
        buffer = ffi_new(bytes_t, buffer_size)
    end
    return buffer
end

-- Index 0 of such a table heads the chain of free slots, as luaL_ref keeps it.
local free_head = 0

function _M.ref_in_table(slots, value)
    if value == nil then
        return -1
    end
    local slot = slots[free_head]
    if slot and slot ~= 0 then
        slots[free_head] = slots[slot]
    else
        slot = #slots + 1
    end
    slots[slot] = value
    return slot
end

function _M.allows_subsystem(...)
    for i = 1, select("#", ...) do
        if select(i, ...) == subsystem then
            return
        end
    end
    error("unsupported subsystem: " .. subsystem, 2)
end

-- The request (or timer, or worker phase) whose code runs; nil in init_by_lua.
function _M.get_request()
    local r = exdata()
    if r ~= nil then
        return r
    end
end

return _M
