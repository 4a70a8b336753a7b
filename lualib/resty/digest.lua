-- What resty.md5, resty.sha1 and the others of the family are: a running digest of OpenSSL's.
-- digest(name, bytes) makes such a module.

local ffi = require "ffi"

local C = ffi.C
local ffi_gc = ffi.gc
local ffi_string = ffi.string
local setmetatable = setmetatable

ffi.cdef[[
void *ngx_http_lua_ffi_digest_new(const char *name);
int ngx_http_lua_ffi_digest_reset(void *digest);
int ngx_http_lua_ffi_digest_update(void *digest, const void *data, size_t len);
int ngx_http_lua_ffi_digest_final(void *digest, unsigned char *to);
void ngx_http_lua_ffi_digest_free(void *digest);
]]

return function(name, bytes)
    local _M = { _VERSION = "0.17" }
    local mt = { __index = _M }
    local buffer = ffi.new("unsigned char[?]", bytes)

    function _M.new(_)
        local digest = C.ngx_http_lua_ffi_digest_new(name)
        if digest == nil then
            return nil
        end
        return setmetatable({ _ctx = ffi_gc(digest, C.ngx_http_lua_ffi_digest_free) }, mt)
    end

    function _M.update(self, s, length)
        return C.ngx_http_lua_ffi_digest_update(self._ctx, s, length or #s) == 1
    end

    -- The digest's bytes; nil when it was asked for before.
    function _M.final(self)
        if C.ngx_http_lua_ffi_digest_final(self._ctx, buffer) == 1 then
            return (ffi_string(buffer, bytes))
        end
        return nil
    end

    function _M.reset(self)
        return C.ngx_http_lua_ffi_digest_reset(self._ctx) == 1
    end

    return _M
end
