-- ngx.ctx: a table per request. The request remembers only its slot in a table of tables.

local ffi = require "ffi"
local base = require "resty.core.base"
local misc = require "resty.core.misc"

local C = ffi.C
local get_request = base.get_request
local new_tab = base.new_tab
local ref_in_table = base.ref_in_table
local FFI_NO_REQ_CTX = base.FFI_NO_REQ_CTX
local FFI_OK = base.FFI_OK
local setmetatable = setmetatable
local type = type
local error = error

ffi.cdef[[
int ngx_http_lua_ffi_get_ctx_ref(ngx_http_request_t *r, int *in_ssl_phase, int *ssl_ctx_ref);
int ngx_http_lua_ffi_set_ctx_ref(ngx_http_request_t *r, int ref);
]]

local _M = { _VERSION = base.version }

local tables = {}
debug.getregistry().ngx_lua_ctx_tables = tables

local in_ssl_phase = ffi.new("int[1]")
local ssl_slot = ffi.new("int[1]")

-- A request inherits from the table of its connection's TLS handshake: that one is its metatable
-- and therefore its own __index.
local function make_table(r, given)
    local handshake = ssl_slot[0] > 0 and tables[ssl_slot[0]] or nil
    local ctx = given or new_tab(0, 4)
    if in_ssl_phase[0] ~= 0 then
        if handshake then
            return handshake
        end
        ctx.__index = ctx
    elseif handshake then
        setmetatable(ctx, handshake)
    end
    if C.ngx_http_lua_ffi_set_ctx_ref(r, ref_in_table(tables, ctx)) == FFI_OK then
        return ctx
    end
    return nil
end

local function get_ctx_table(given)
    local r = get_request()
    if not r then
        error("no request found")
    end
    local slot = C.ngx_http_lua_ffi_get_ctx_ref(r, in_ssl_phase, ssl_slot)
    if slot >= 0 then
        return tables[slot]
    end
    if slot == FFI_NO_REQ_CTX then
        error("no request ctx found")
    end
    return make_table(r, given)
end

local function set_ctx_table(ctx)
    if type(ctx) ~= "table" then
        error("ctx should be a table while getting a " .. type(ctx))
    end
    local r = get_request()
    if not r then
        error("no request found")
    end
    local slot = C.ngx_http_lua_ffi_get_ctx_ref(r, nil, nil)
    if slot == FFI_NO_REQ_CTX then
        error("no request ctx found")
    end
    if slot >= 0 then
        tables[slot] = ctx
    else
        C.ngx_http_lua_ffi_set_ctx_ref(r, ref_in_table(tables, ctx))
    end
end

_M.get_ctx_table = get_ctx_table
misc.register_ngx_magic_key_getter("ctx", get_ctx_table)
misc.register_ngx_magic_key_setter("ctx", set_ctx_table)

return _M
