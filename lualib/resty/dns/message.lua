-- DNS messages (RFC 1035): builds queries, reads replies. Pure text work, for resty.dns.resolver.

local byte, char, sub, format = string.byte, string.char, string.sub, string.format
local gsub = string.gsub
local concat = table.concat
local floor = math.floor

local _M = {}

local TYPE_SOA = 6
local SECTION_AN, SECTION_NS, SECTION_AR = 1, 2, 3
local header_bytes = 12
local label_bytes_max, name_bytes_max = 63, 255
local pointers_max = 127              -- followed in one name: more is a loop

local errors = { "format error", "server failure", "name error", "not implemented", "refused" }

-- ---- queries ----

-- "www.test." as labels; nil when it cannot be a name. The root is "." or "".
local function encode_name(name)
    if name == "" or name == "." then
        return "\0"
    end
    if sub(name, -1) == "." then
        name = sub(name, 1, -2)
    end
    local bad = false
    local encoded = gsub(name .. ".", "([^.]*)%.", function(label)
        if label == "" or #label > label_bytes_max then
            bad = true
        end
        return char(#label % 256) .. label
    end)
    if bad or #encoded + 1 > name_bytes_max then
        return nil
    end
    return encoded .. "\0"
end

local function two_bytes(number)
    return char(floor(number / 256) % 256, number % 256)
end

function _M.query(id, name, qtype, recurse)
    local encoded = encode_name(name)
    if not encoded then
        return nil, "bad name"
    end
    -- flags; one question, no records
    return concat { two_bytes(id), recurse and "\1\0" or "\0\0", "\0\1\0\0\0\0\0\0", encoded,
                    two_bytes(qtype), "\0\1" }
end

-- ---- reading; positions count from 1, every reader gives the value and where it ended ----

-- Nil when the message ends before it.
local function number16(buf, pos)
    local high, low = byte(buf, pos, pos + 1)
    return low and high * 256 + low
end

local function number32(buf, pos)
    local a, b, c, d = byte(buf, pos, pos + 3)
    return d and ((a * 256 + b) * 256 + c) * 256 + d
end

local function decode_name(buf, pos)
    local labels, count, after, pointers = {}, 0, nil, 0
    local length = byte(buf, pos)
    while length ~= 0 do
        if not length then
            return nil, "truncated"
        end
        if length >= 0xc0 then
            local low = byte(buf, pos + 1)
            if not low then
                return nil, "truncated"
            end
            pointers = pointers + 1
            if pointers > pointers_max then
                return nil, "name with a loop in the DNS response"
            end
            after = after or pos + 2
            pos = (length - 0xc0) * 256 + low + 1
        elseif length > label_bytes_max then
            return nil, "bad label in the DNS response"
        else
            if pos + length > #buf then
                return nil, "truncated"
            end
            count = count + 1
            labels[count] = sub(buf, pos + 1, pos + length)
            pos = pos + 1 + length
        end
        length = byte(buf, pos)
    end
    return concat(labels, "."), after or pos + 1
end

-- A name that must fill the record from `pos` to its end.
local function name_to_end(buf, pos, record, what)
    local name, after = decode_name(buf, pos)
    if not name then
        return nil, after
    end
    if after ~= record.after then
        return nil, format("bad %s record length: %d ~= %d", what, after - record.start,
                           record.after - record.start)
    end
    return name
end

-- ---- record types: each sets its fields of the answer; true, or nil and why not ----

local readers = {}

local function name_field(field)
    return function(buf, record, answer)
        local name, err = name_to_end(buf, record.start, record, "cname")
        answer[field] = name
        return name, err
    end
end

readers[2] = name_field("nsdname")
readers[5] = name_field("cname")
readers[12] = name_field("ptrdname")

readers[1] = function(buf, record, answer)
    if record.length ~= 4 then
        return nil, "bad A record value length: " .. record.length
    end
    if not record.complete then
        return nil, "truncated"
    end
    answer.address = format("%d.%d.%d.%d", byte(buf, record.start, record.after - 1))
    return true
end

readers[28] = function(buf, record, answer)
    if record.length ~= 16 then
        return nil, "bad AAAA record value length: " .. record.length
    end
    if not record.complete then
        return nil, "truncated"
    end
    local groups = {}
    for i = 1, 8 do
        groups[i] = format("%x", number16(buf, record.start + 2 * i - 2))
    end
    answer.address = concat(groups, ":")
    return true
end

readers[15] = function(buf, record, answer)
    if record.length < 3 then
        return nil, "bad MX record value length: " .. record.length
    end
    answer.preference = number16(buf, record.start)
    local name, err = name_to_end(buf, record.start + 2, record, "cname")
    answer.exchange = name
    return name, err
end

readers[33] = function(buf, record, answer)
    local start = record.start
    if record.length < 7 then
        return nil, "bad SRV record value length: " .. record.length
    end
    answer.priority = number16(buf, start)
    answer.weight = number16(buf, start + 2)
    answer.port = number16(buf, start + 4)
    local name, err = name_to_end(buf, start + 6, record, "srv")
    answer.target = name
    return name, err
end

readers[TYPE_SOA] = function(buf, record, answer)
    local mname, pos = decode_name(buf, record.start)
    if not mname then
        return nil, pos
    end
    local rname
    rname, pos = decode_name(buf, pos)
    if not rname then
        return nil, pos
    end
    if pos + 20 ~= record.after then
        return nil, format("bad soa record length: %d ~= %d", pos + 20 - record.start,
                           record.length)
    end
    answer.mname, answer.rname = mname, rname
    for i, field in ipairs { "serial", "refresh", "retry", "expire", "minimum" } do
        answer[field] = number32(buf, pos + 4 * i - 4)
    end
    return true
end

-- One text, or a list of them. A length that runs over the record's end is cut there.
local function text_field(field)
    return function(buf, record, answer)
        if not record.complete then
            return nil, "truncated"
        end
        local pos, last = record.start, record.after - 1
        local texts = {}
        while pos <= last do
            local stop = math.min(pos + byte(buf, pos), last)
            texts[#texts + 1] = sub(buf, pos + 1, stop)
            pos = stop + 1
        end
        answer[field] = texts[2] and texts or texts[1] or ""
        return true
    end
end

readers[16] = text_field("txt")
readers[99] = text_field("spf")

-- ---- replies ----

-- The record at `pos`, appended to the answers unless they are nil; gives where it ends.
local function read_record(buf, pos, section, answers)
    local name, at = decode_name(buf, pos)
    if not name then
        return nil, at
    end
    local length = number16(buf, at + 8)
    if not length then
        return nil, "truncated"
    end
    local start = at + 10
    local after = start + length
    local answer = { section = section, name = name, type = number16(buf, at),
                     class = number16(buf, at + 2), ttl = number32(buf, at + 4) }
    local complete = after <= #buf + 1
    local reader = answers and readers[answer.type]
    if reader then
        local record = { start = start, after = after, length = length, complete = complete }
        local ok, err = reader(buf, record, answer)
        if not ok then
            return nil, err
        end
    end
    if not complete then
        return nil, "truncated"
    end
    if not answers then
        return after
    end
    if not reader then
        answer.rdata = sub(buf, start, after - 1)
    end
    answers[#answers + 1] = answer
    return after
end

local function read_section(buf, pos, count, section, answers)
    local err
    for _ = 1, count do
        pos, err = read_record(buf, pos, section, answers)
        if not pos then
            return nil, err
        end
    end
    return pos
end

-- Where the records begin, behind the one question; or nil and why not.
local function skip_question(buf)
    local count = number16(buf, 5)
    if count ~= 1 then
        return nil, format("bad number of questions in DNS response: %d", count)
    end
    local name, pos = decode_name(buf, header_bytes + 1)
    if not name then
        return nil, pos
    end
    local class = number16(buf, pos + 2)
    if not class then
        return nil, "truncated"
    end
    if class ~= 1 then
        return nil, format("unknown query class %d in DNS response", class)
    end
    return pos + 4
end

-- The answers, or nil and why not: "truncated" when TCP may do better, "id mismatch" (with the id)
-- when it is no reply to this query.
function _M.parse(buf, id, options)
    if #buf < header_bytes then
        return nil, "truncated"
    end
    local its_id = number16(buf, 1)
    if its_id ~= id then
        return nil, "id mismatch", its_id
    end
    local high, low = byte(buf, 3, 4)
    if high < 0x80 then
        return nil, "bad QR flag in the DNS response"
    end
    if floor(high / 2) % 2 == 1 then
        return nil, "truncated"
    end
    local pos, err = skip_question(buf)
    if not pos then
        return nil, err
    end
    local answers = {}
    local code = low % 16
    if code ~= 0 then
        answers.errcode = code
        answers.errstr = errors[code] or "unknown"
    end
    local authority = options and (options.authority_section or options.qtype == TYPE_SOA)
    local additional = options and options.additional_section
    pos, err = read_section(buf, pos, number16(buf, 7), SECTION_AN, answers)
    if pos and (authority or additional) then
        pos, err = read_section(buf, pos, number16(buf, 9), SECTION_NS, authority and answers)
    end
    if pos and additional then
        pos, err = read_section(buf, pos, number16(buf, 11), SECTION_AR, answers)
    end
    if not pos then
        return nil, err
    end
    return answers
end

return _M
