-- More of ngx.re: splitting, and settings of the engine.

local ffi = require "ffi"
local base = require "resty.core.base"
local regex = require "resty.core.regex"

local C = ffi.C
local sub = string.sub
local bit_band = require("bit").band
local re_match_compile = regex.re_match_compile
local destroy_compiled_regex = regex.destroy_compiled_regex
local get_string_buf = base.get_string_buf
local get_size_ptr = base.get_size_ptr
local new_tab = base.new_tab
local error = error
local math_max, math_min = math.max, math.min
local tostring = tostring
local type = type

ffi.cdef[[
int ngx_http_lua_ffi_set_jit_stack_size(int size, unsigned char *errstr, size_t *errstr_size);
]]

local _M = { version = base.version }

local no_match = -1              -- PCRE2_ERROR_NOMATCH
local dfa_flag = 0x02
local error_bytes = 128
local pieces_expected = 4
local own_ctx = {}

-- The next separator from ctx.pos (counted from 0) on: where it begins, where the text goes on
-- behind it (counted from 1), and its first group. nil at the end, or with an error behind it.
local function next_separator(compiled, flags, subj, ctx)
    local rc = C.ngx_http_lua_ffi_exec_regex(compiled, flags, subj, #subj, math_max(ctx.pos, 0))
    if rc == no_match then
        return nil
    end
    if rc < 0 then
        return nil, nil, nil, "pcre_exec() failed: " .. rc
    end
    if rc == 0 then
        if bit_band(flags, dfa_flag) == 0 then
            return nil, nil, nil, "capture size too small"
        end
        rc = 1
    end
    local captures = compiled.captures
    local from, to = captures[0], captures[1]
    if from < 0 or to < 0 then
        return nil
    end
    ctx.pos = from == to and to + 1 or to
    local group
    if compiled.ncaptures > 0 and rc > 1 then
        group = sub(subj, captures[2] + 1, captures[3])
    end
    return from + 1, to + 1, group
end

-- Fills res with the pieces; returns their number and where the rest of the text begins.
local function split_pieces(compiled, flags, subj, ctx, max, res)
    local count, pieces = 0, 1
    local start = ctx.pos
    local empty_at
    ctx.pos = start - 1
    while max <= 0 or pieces < max do
        local from, to, group, err = next_separator(compiled, flags, subj, ctx)
        if err then
            return nil, err
        end
        if not from then
            break
        end
        if empty_at then
            start = empty_at
        end
        if from == to then
            empty_at = from
        end
        if from > start or not empty_at then
            pieces = pieces + 1
            count = count + 1
            res[count] = sub(subj, start, from - 1)
            if group then
                count = count + 1
                res[count] = group
            end
            start = to
            if start > #subj then
                break
            end
        end
    end
    return count, start
end

function _M.split(subj, pattern, opts, ctx, max, res)
    subj = tostring(subj)
    if not ctx then
        ctx = own_ctx
        ctx.pos = 1
    elseif not ctx.pos then
        ctx.pos = 1
    end
    max = max or 0
    if not res then
        res = new_tab(max > 0 and math_min(max, pieces_expected) or pieces_expected, 0)
    elseif type(res) ~= "table" then
        error("res is not a table", 2)
    end
    if ctx.pos > #subj then
        res[1] = nil
        return res
    end
    local compiled, kept, flags = re_match_compile(pattern, opts)
    if compiled == nil then
        return nil, kept
    end
    local count, start = split_pieces(compiled, flags, subj, ctx, max, res)
    if not kept then
        destroy_compiled_regex(compiled)
    end
    if not count then
        return nil, start
    end
    if max <= 0 and start > #subj then
        -- nothing is behind the last separator: empty pieces at the end do not count
        while count > 0 and res[count] == "" do
            res[count] = nil
            count = count - 1
        end
    else
        count = count + 1
        res[count] = sub(subj, start)
    end
    res[count + 1] = nil
    return res
end

function _M.opt(option, value)
    if option ~= "jit_stack_size" then
        error("unrecognized option name", 2)
    end
    if not regex.is_regex_cache_empty() then
        error("changing jit stack size is not allowed when some regexs have already been "
              .. "compiled and cached", 2)
    end
    local why = get_string_buf(error_bytes)
    local length = get_size_ptr()
    length[0] = error_bytes
    if C.ngx_http_lua_ffi_set_jit_stack_size(value, why, length) ~= base.FFI_OK then
        error(ffi.string(why, length[0]), 2)
    end
end

return _M
