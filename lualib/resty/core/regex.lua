-- ngx.re.match, find, gmatch, sub, gsub on the compiled expressions of lua/api/regex.cpp, and the
-- caches of them (flag "o").

local ffi = require "ffi"
local bit = require "bit"
local string_buffer = require "string.buffer"
local base = require "resty.core.base"
require "resty.core.time"
require "resty.core.phase"

local C = ffi.C
local ffi_string = ffi.string
local ffi_gc = ffi.gc
local ffi_cast = ffi.cast
local ffi_copy = ffi.copy
local bor = bit.bor
local band = bit.band
local byte = string.byte
local sub = string.sub
local get_string_buf = base.get_string_buf
local new_tab = base.new_tab
local setmetatable = setmetatable
local tostring = tostring
local tonumber = tonumber
local type = type
local error = error

ffi.cdef[[
typedef struct {
    ngx_str_t  value;
    void      *lengths;
    void      *values;
} ngx_http_lua_complex_value_t;

typedef struct {
    void                          *pool;
    unsigned char                 *name_table;
    int                            name_count;
    int                            name_entry_size;
    int                            ncaptures;
    int                           *captures;
    void                          *regex;
    void                          *regex_sd;
    ngx_http_lua_complex_value_t  *replace;
    const char                    *pattern;
} ngx_http_lua_regex_t;

ngx_http_lua_regex_t *ngx_http_lua_ffi_compile_regex(const unsigned char *pat, size_t pat_len,
    int flags, int pcre_opts, unsigned char *errstr, size_t errstr_size);
int ngx_http_lua_ffi_exec_regex(ngx_http_lua_regex_t *re, int flags, const unsigned char *s,
    size_t len, int pos);
void ngx_http_lua_ffi_destroy_regex(ngx_http_lua_regex_t *re);
int ngx_http_lua_ffi_compile_replace_template(ngx_http_lua_regex_t *re,
    const unsigned char *replace_data, size_t replace_len);

struct ngx_http_lua_script_engine_s;
typedef struct ngx_http_lua_script_engine_s *ngx_http_lua_script_engine_t;

ngx_http_lua_script_engine_t *ngx_http_lua_ffi_create_script_engine(void);
void ngx_http_lua_ffi_init_script_engine(ngx_http_lua_script_engine_t *e,
    const unsigned char *subj, ngx_http_lua_regex_t *compiled, int count);
void ngx_http_lua_ffi_destroy_script_engine(ngx_http_lua_script_engine_t *e);
size_t ngx_http_lua_ffi_script_eval_len(ngx_http_lua_script_engine_t *e,
    ngx_http_lua_complex_value_t *cv);
size_t ngx_http_lua_ffi_script_eval_data(ngx_http_lua_script_engine_t *e,
    ngx_http_lua_complex_value_t *cv, unsigned char *dst);
uint32_t ngx_http_lua_ffi_max_regex_cache_size(void);
const char *ngx_http_lua_ffi_pcre_version(void);
]]

local _M = { version = base.version }

ngx.re = new_tab(0, 5)

local no_match = -1              -- PCRE2_ERROR_NOMATCH
local error_bytes = 256

-- ---- flags ----

local compile_once_flag, dfa_flag, jit_flag = 0x01, 0x02, 0x04
local duplicate_names_flag, no_utf_check_flag = 0x08, 0x10

local caseless, multiline, dotall, extended = 0x8, 0x400, 0x20, 0x80
local anchored, utf, duplicate_names = 0x80000000, 0x80000, 0x40
-- ALT_BSUX, ALLOW_EMPTY_CLASS and MATCH_UNSET_BACKREF together: PCRE 1's JAVASCRIPT_COMPAT
local javascript = 0x2 + 0x1 + 0x200

-- character = { our flag, PCRE2's option }
local meanings = {
    [byte("o")] = { compile_once_flag, 0 },
    [byte("j")] = { jit_flag, 0 },
    [byte("d")] = { dfa_flag, 0 },
    [byte("i")] = { 0, caseless },
    [byte("m")] = { 0, multiline },
    [byte("s")] = { 0, dotall },
    [byte("x")] = { 0, extended },
    [byte("a")] = { 0, anchored },
    [byte("u")] = { 0, utf },
    [byte("U")] = { no_utf_check_flag, utf },
    [byte("D")] = { duplicate_names_flag, duplicate_names },
    [byte("J")] = { 0, javascript },
}

local parsed_flags, parsed_options = {}, {}

local function parse_opts(opts)
    local flags = parsed_flags[opts]
    if flags then
        return flags, parsed_options[opts]
    end
    flags = 0
    local options = 0
    for i = 1, #opts do
        local meaning = meanings[byte(opts, i)]
        if not meaning then
            error('unknown flag "' .. sub(opts, i, i) .. '" (flags "' .. opts .. '")', 3)
        end
        flags = bor(flags, meaning[1])
        options = bor(options, meaning[2])
    end
    parsed_flags[opts], parsed_options[opts] = flags, options
    return flags, options
end

-- ---- caches ----

-- Two generations of [opts][regex] tables: what was used since the last change of generation lives
-- on. A lookup makes no key, so that it allocates nothing.
local young, old = {}, {}
local young_count = 0
local generation_max
local cache_is_empty = true

local function cache_find(opts, regex)
    local of_opts = young[opts]
    return of_opts and of_opts[regex]
end

local function cache_store(opts, regex, compiled)
    if young_count >= generation_max then
        old, young, young_count = young, {}, 0
    end
    local of_opts = young[opts]
    if not of_opts then
        of_opts = {}
        young[opts] = of_opts
    end
    of_opts[regex] = compiled
    young_count = young_count + 1
    cache_is_empty = false
end

local function cache_find_old(opts, regex)
    local of_opts = old[opts]
    local compiled = of_opts and of_opts[regex]
    if compiled then
        cache_store(opts, regex, compiled)
    end
    return compiled
end

local function cache_enabled()
    if not generation_max then
        local max = C.ngx_http_lua_ffi_max_regex_cache_size()
        generation_max = max > 1 and (max - max % 2) / 2 or max
    end
    return generation_max > 0
end

function _M.is_regex_cache_empty()
    return cache_is_empty
end

-- ---- compiling ----

local function destroy_compiled_regex(compiled)
    C.ngx_http_lua_ffi_destroy_regex(ffi_gc(compiled, nil))
end
_M.destroy_compiled_regex = destroy_compiled_regex

local function compile(regex, flags, options)
    local why = get_string_buf(error_bytes)
    local compiled = C.ngx_http_lua_ffi_compile_regex(regex, #regex, flags, options, why,
                                                      error_bytes)
    if compiled == nil then
        return nil, ffi_string(why)
    end
    return ffi_gc(compiled, C.ngx_http_lua_ffi_destroy_regex)
end

-- The compiled expression, whether it is kept, and the flags; or nil and the reason.
local function re_match_compile(regex, opts)
    opts = opts or ""
    local flags, options = parse_opts(opts)
    if type(regex) ~= "string" then
        regex = tostring(regex)
    end
    local kept = band(flags, compile_once_flag) ~= 0 and cache_enabled()
    if not kept then
        local compiled, why = compile(regex, flags, options)
        return compiled, compiled and kept or why, flags
    end
    local compiled = cache_find(opts, regex) or cache_find_old(opts, regex)
    if not compiled then
        local why
        compiled, why = compile(regex, flags, options)
        if not compiled then
            return nil, why
        end
        cache_store(opts, regex, compiled)
    end
    return compiled, true, flags
end
_M.re_match_compile = re_match_compile

-- ---- matching ----

local function add_named_captures(compiled, flags, res)
    local table_entry = compiled.name_table
    local all = band(flags, duplicate_names_flag) ~= 0
    for _ = 1, compiled.name_count do
        local capture = res[table_entry[0] * 256 + table_entry[1]]
        local name = ffi_string(table_entry + 2)
        if not all then
            res[name] = capture
        elseif capture then
            local list = res[name]
            if list then
                list[#list + 1] = capture
            else
                res[name] = { capture }
            end
        end
        table_entry = table_entry + compiled.name_entry_size
    end
end

local function collect_captures(compiled, rc, subj, flags, res)
    local captures = compiled.captures
    local last = compiled.ncaptures
    res = res or new_tab(last, compiled.name_count + 1)
    for i = 0, last do
        local from = captures[2 * i]
        if i < rc and from >= 0 then
            res[i] = sub(subj, from + 1, captures[2 * i + 1])
        else
            res[i] = false
        end
    end
    if compiled.name_count > 0 then
        add_named_captures(compiled, flags, res)
    end
    return res
end
_M.collect_captures = collect_captures

-- Runs one match. Returns how many groups are set, nil for no match, or nil and the reason.
local function run(compiled, flags, subj, pos)
    local rc = C.ngx_http_lua_ffi_exec_regex(compiled, flags, subj, #subj, pos)
    if rc > 0 then
        return rc
    end
    if rc == no_match then
        return nil
    end
    if rc < 0 then
        return nil, "pcre_exec() failed: " .. rc
    end
    if band(flags, dfa_flag) == 0 then
        return nil, "capture size too small"
    end
    return 1
end

local function start_of(ctx)
    local pos = ctx.pos
    if not pos or pos <= 0 then
        return 0
    end
    return pos - 1
end

function ngx.re.match(subj, regex, opts, ctx, res)
    subj = tostring(subj)
    local compiled, kept, flags = re_match_compile(regex, opts)
    if not compiled then
        return nil, kept
    end
    local rc, why = run(compiled, flags, subj, ctx and start_of(ctx) or 0)
    if rc then
        if ctx then
            ctx.pos = compiled.captures[1] + 1
        end
        res = collect_captures(compiled, rc, subj, flags, res)
    else
        res = nil
    end
    if not kept then
        destroy_compiled_regex(compiled)
    end
    if why then
        return nil, why
    end
    return res
end

local function group_range(compiled, rc, group)
    if group > compiled.ncaptures then
        return nil, nil, "nth out of bound"
    end
    if group >= rc then
        return nil, nil
    end
    local from, to = compiled.captures[2 * group] + 1, compiled.captures[2 * group + 1]
    if from < 0 or to < 0 then
        return nil, nil
    end
    return from, to
end

function ngx.re.find(subj, regex, opts, ctx, nth)
    subj = tostring(subj)
    local compiled, kept, flags = re_match_compile(regex, opts)
    if not compiled then
        return nil, nil, kept
    end
    local from, to
    local rc, why = run(compiled, flags, subj, ctx and start_of(ctx) or 0)
    if rc then
        if ctx then
            ctx.pos = compiled.captures[1] + 1
        end
        from, to, why = group_range(compiled, rc, nth and nth > 0 and nth or 0)
    end
    if not kept then
        destroy_compiled_regex(compiled)
    end
    if why then
        return nil, nil, why
    end
    if not rc then
        return nil
    end
    return from, to
end

-- ---- iterating ----

local function iterator_end(self)
    if not self.kept then
        destroy_compiled_regex(self.compiled)
    end
    self.compiled = nil
    self.pos = nil
end

-- Behind a match; one further when it was empty, so that the walk ends.
local function next_position(compiled)
    local from, to = compiled.captures[0], compiled.captures[1]
    return from == to and to + 1 or to
end

local iterator_mt = {
    __call = function(self)
        local pos = self.pos
        if not pos then
            return nil
        end
        local compiled, subj, flags = self.compiled, self.subj, self.flags
        local rc, why = run(compiled, flags, subj, pos)
        if not rc then
            iterator_end(self)
            if why then
                return nil, why
            end
            return nil
        end
        local res = collect_captures(compiled, rc, subj, flags)
        self.pos = next_position(compiled)
        if self.pos > #subj and compiled.captures[0] == compiled.captures[1] then
            iterator_end(self)
        end
        return res
    end,
}

function ngx.re.gmatch(subj, regex, opts)
    local compiled, kept, flags = re_match_compile(regex, opts)
    if not compiled then
        return nil, kept
    end
    return setmetatable({
        compiled = compiled,
        kept = kept,
        flags = flags,
        subj = tostring(subj),
        pos = 0,
    }, iterator_mt)
end

-- ---- replacing ----

local chars_t = ffi.typeof("const char *")
local template_cache, function_cache = {}, {}
local replacing_count = 0
local engine

local function template_engine(subj, compiled, rc)
    if not engine then
        engine = ffi_gc(C.ngx_http_lua_ffi_create_script_engine(),
                        C.ngx_http_lua_ffi_destroy_script_engine)
    end
    C.ngx_http_lua_ffi_init_script_engine(engine, subj, compiled, rc)
    return engine
end

-- The expressions used for replacing are kept apart: each has its template with it.
local function cached_replacing(opts, regex, replace)
    local of_opts = (replace and template_cache or function_cache)[opts]
    local found = of_opts and of_opts[regex]
    return replace and found and found[replace] or (not replace and found) or nil
end

local function cache_replacing(opts, regex, replace, compiled)
    if replacing_count >= C.ngx_http_lua_ffi_max_regex_cache_size() then
        return false
    end
    replacing_count = replacing_count + 1
    local cache = replace and template_cache or function_cache
    local of_opts = cache[opts]
    if not of_opts then
        of_opts = {}
        cache[opts] = of_opts
    end
    if not replace then
        of_opts[regex] = compiled
    elseif of_opts[regex] then
        of_opts[regex][replace] = compiled
    else
        of_opts[regex] = { [replace] = compiled }
    end
    return true
end

-- `replace` is the template; nil when `func` does the replacing.
local function re_sub_compile(regex, opts, replace, func)
    opts = opts or ""
    local flags, options = parse_opts(opts)
    local kept = band(flags, compile_once_flag) ~= 0
    if func then
        replace = nil
    end
    local compiled = kept and cached_replacing(opts, regex, replace)
    if compiled then
        return compiled, true, flags
    end
    local why
    compiled, why = compile(regex, flags, options)
    if not compiled then
        return nil, why
    end
    if replace
        and C.ngx_http_lua_ffi_compile_replace_template(compiled, replace, #replace) ~= 0
    then
        destroy_compiled_regex(compiled)
        return nil, "failed to compile the replacement template"
    end
    return compiled, kept and cache_replacing(opts, regex, replace, compiled), flags
end
_M.re_sub_compile = re_sub_compile

local function put_template(out, compiled, subj, rc)
    local template = compiled.replace
    if template.lengths == nil then
        out:putcdata(template.value.data, template.value.len)
        return
    end
    local e = template_engine(subj, compiled, rc)
    local length = tonumber(C.ngx_http_lua_ffi_script_eval_len(e, template))
    local room = out:reserve(length)
    C.ngx_http_lua_ffi_script_eval_data(e, template, room)
    out:commit(length)
end

-- Puts subj with its matches replaced into `out`; returns how often, or nil and the reason.
local function replace_matches(out, compiled, flags, subj, func, global)
    local text = ffi_cast(chars_t, subj)
    local count, done, pos = 0, 0, 0
    repeat
        local rc, why = run(compiled, flags, subj, pos)
        if why then
            return nil, why
        end
        if not rc then
            break
        end
        count = count + 1
        local captures = compiled.captures
        out:putcdata(text + done, captures[0] - done)
        done, pos = captures[1], next_position(compiled)
        if func then
            out:put(tostring(func(collect_captures(compiled, rc, subj, flags))))
        else
            put_template(out, compiled, subj, rc)
        end
    until not global or pos > #subj
    if count > 0 then
        out:putcdata(text + done, #subj - done)
    end
    return count
end

-- One buffer is kept; a replacement inside a replacement function makes another.
local spare_buffer = string_buffer.new()

local function substitute(subj, regex, replace, opts, global)
    local func
    if type(replace) == "function" then
        func = replace
    else
        replace = tostring(replace)
    end
    if type(regex) ~= "string" then
        regex = tostring(regex)
    end
    local compiled, kept, flags = re_sub_compile(regex, opts, replace, func)
    if not compiled then
        return nil, nil, kept
    end
    subj = tostring(subj)
    local out = spare_buffer or string_buffer.new()
    spare_buffer = nil
    local count, why = replace_matches(out, compiled, flags, subj, func, global)
    if not kept then
        destroy_compiled_regex(compiled)
    end
    local res = subj
    if count and count > 0 then
        res = out:get()
    end
    out:reset()
    spare_buffer = out
    if not count then
        return nil, nil, why
    end
    return res, count
end

function ngx.re.sub(subj, regex, replace, opts)
    return substitute(subj, regex, replace, opts, false)
end

function ngx.re.gsub(subj, regex, replace, opts)
    return substitute(subj, regex, replace, opts, true)
end

-- ---- for libraries that build on this module ----

local grow_ratio = 2

function _M.set_buf_grow_ratio(ratio)
    grow_ratio = ratio
end

-- Room for new_len bytes behind buf's first len ones, moved when it has to grow.
function _M.check_buf_size(buf, buf_size, pos, len, new_len, own)
    if new_len > buf_size then
        buf_size = math.max(buf_size * grow_ratio, new_len)
        local larger = get_string_buf(buf_size, own)
        ffi_copy(larger, buf, len)
        buf, pos = larger, larger + len
    end
    return buf, buf_size, pos, new_len
end

return _M
