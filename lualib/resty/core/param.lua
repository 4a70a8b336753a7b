-- ngx.arg: the arguments of set_by_lua, and the piece of body that a body filter sees.

local ffi = require "ffi"
local base = require "resty.core.base"
require "resty.core.phase"

local C = ffi.C
local ffi_string = ffi.string
local get_request = base.get_request
local get_string_buf = base.get_string_buf
local FFI_AGAIN = base.FFI_AGAIN
local get_phase = ngx.get_phase
local error = error

ffi.cdef[[
void ngx_http_lua_ffi_get_setby_param(ngx_http_request_t *r, int idx, unsigned char **data,
    size_t *len);
int ngx_http_lua_ffi_get_body_filter_param_eof(ngx_http_request_t *r);
int ngx_http_lua_ffi_get_body_filter_param_body(ngx_http_request_t *r, unsigned char **data_p,
    size_t *len_p);
int ngx_http_lua_ffi_copy_body_filter_param_body(ngx_http_request_t *r, unsigned char *data);
]]

local data = ffi.new("unsigned char *[1]")
local size = ffi.new("size_t[1]")

local function set_argument(r, index)
    C.ngx_http_lua_ffi_get_setby_param(r, index, data, size)
    if size[0] == 0 then
        return nil
    end
    return (ffi_string(data[0], size[0]))
end

local function body_piece(r)
    data[0] = nil
    local rc = C.ngx_http_lua_ffi_get_body_filter_param_body(r, data, size)
    if rc == FFI_AGAIN then
        -- it lies in several buffers
        local buffer = get_string_buf(size[0])
        C.ngx_http_lua_ffi_copy_body_filter_param_body(r, buffer)
        return (ffi_string(buffer, size[0]))
    end
    if size[0] == 0 then
        return ""
    end
    return (ffi_string(data[0], size[0]))
end

getmetatable(ngx.arg).__index = function(_, index)
    local r = get_request()
    if not r then
        error("no request found")
    end
    local phase = get_phase()
    if phase == "set" then
        return set_argument(r, index)
    end
    if phase ~= "body_filter" then
        error("API disabled in the current context")
    end
    if index == 1 then
        return body_piece(r)
    end
    if index == 2 then
        return C.ngx_http_lua_ffi_get_body_filter_param_eof(r) == 1
    end
    return nil
end

return { version = base.version }
