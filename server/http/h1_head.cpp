// The head gate, and the chunk decoder behind it.
#include "server/http/h1_head.h"

#include <llhttp.h>

#include <cstring>
#include <string>

#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/h1_request_line.h"
#include "server/http/request.h"

#if !defined(LLHTTP_STRICT_MODE) || !LLHTTP_STRICT_MODE
#error "llhttp must be built strict (LLHTTP_STRICT_MODE=1): its loose mode is open to smuggling"
#endif

namespace server {

HeadScan::Result HeadScan::bad(int status, const char* why) {
    status_ = uint16_t(status);
    why_ = why;
    return Result::bad;
}

// A line longer than a buffer is refused before its end has arrived.
HeadScan::Result HeadScan::line_length(size_t length, const HeadLimits& limits) {
    if (length <= limits.line_max) return Result::incomplete;
    if (!line_seen_) return bad(414, "client sent too long URI");
    return bad(494, "client sent too long header line");
}

// What cannot be the start of a request is refused at once (a TLS hello on a plain port), not when
// its line ends, which it may never do.
HeadScan::Result HeadScan::first_bytes(core::Slice bytes) {
    for (char c : bytes) {
        if (c == ' ') break;
        bool token = (c >= 'A' && c <= 'Z') || c == '_' || c == '-' || c == '\r';
        if (!token) return bad(400, "client sent invalid method");
    }
    return Result::incomplete;
}

// Behind the request line: whether the block expected is there.
bool HeadScan::take_known(core::Slice bytes, const HeadLimits& limits,
                          const HeadMemo::Entry* likely) {
    if (lf_only_ || !likely->begins(bytes.substr(block_))) return false;
    if (likely->longest_line > limits.line_max || block_ + likely->size > limits.total_max) {
        return false;
    }
    at_ = searched_ = block_ + likely->size;
    known_ = true;
    return true;
}

HeadScan::Result HeadScan::scan(core::Slice bytes, const HeadLimits& limits,
                                const HeadMemo::Entry* likely) {
    for (;;) {
        const char* from = bytes.data() + searched_;
        auto* newline = static_cast<const char*>(std::memchr(from, '\n', bytes.size() - searched_));
        if (!newline) {
            searched_ = uint32_t(bytes.size());
            if (!line_seen_ && first_bytes(bytes.substr(at_)) == Result::bad) return Result::bad;
            // A CR at the end is the line's own, or so it seems until more has arrived.
            size_t length = bytes.size() - at_ - bytes.ends_with('\r');
            if (line_length(length, limits) == Result::bad) return Result::bad;
            if (bytes.size() <= limits.total_max) return Result::incomplete;
            return bad(494, "client sent too large request header");
        }
        size_t end = size_t(newline - bytes.data());
        bool crlf = end > at_ && bytes[end - 1] == '\r';
        size_t length = end - at_ - crlf;
        size_t line = at_;
        at_ = searched_ = uint32_t(end + 1);
        if (length == 0 && !line_seen_) {       // blank lines before the request line
            if (at_ > limits.total_max) return bad(400, "client sent too many empty lines");
            start_ = at_;
            continue;
        }
        if (line_length(length, limits) == Result::bad) return Result::bad;
        if (at_ > limits.total_max) return bad(494, "client sent too large request header");
        if (!line_seen_) {
            if (first_bytes(bytes.substr(line, length)) == Result::bad) return Result::bad;
            lf_only_ = !crlf;
            line_end_ = uint32_t(line + length);
            block_ = at_;
            line_seen_ = true;
            if (likely && take_known(bytes, limits, likely)) return Result::complete;
        } else if (crlf == lf_only_) {
            return bad(400, "client sent header lines with mixed line ends");
        } else if (length > 0 && (bytes[line] == ' ' || bytes[line] == '\t')) {
            return bad(400, "client sent folded header line");
        }
        if (length == 0) return Result::complete;
    }
}

bool is_plain_name(core::Slice name, bool underscores) {
    for (char c : name) {
        if (core::is_alpha(c) || core::is_digit(c) || c == '-') continue;
        if (c == '_' && underscores) continue;
        return false;
    }
    return true;
}

namespace {

// What llhttp's callbacks write to; `parser->data` points here.
struct BlockReader {
    Request* request = nullptr;
    core::Slice name;
    core::Slice value;
    HeadError error;
    int count = 0;
    int count_max = 1000;
    bool in_trailers = false;
    // chunk decoding
    bool complete = false;
    bool progress = false;
    size_t idle_bytes = 0;         // of framing since something came of it
    size_t extension_bytes = 0;
    // A trailer field may arrive in pieces.
    std::string trailer_name, trailer_value;
    size_t trailer_bytes = 0;
};
constexpr size_t extension_bytes_max = 4096;
constexpr size_t idle_bytes_max = 4096;
constexpr size_t trailer_bytes_max = 32 * 1024;

BlockReader& reader(llhttp_t* parser) { return *static_cast<BlockReader*>(parser->data); }

int refuse(BlockReader& in, int status, const char* why) {
    if (!in.error.status) in.error = {status, why};
    return -1;
}

// Transfer-Encoding must be exactly "chunked", once. A list in which "chunked" is misplaced is
// malformed; another coding is one we do not have.
int check_transfer_encoding(BlockReader& in) {
    Request& request = *in.request;
    if (request.head.version < 11) {
        return refuse(in, 400, "client sent HTTP/1.0 request with \"Transfer-Encoding\" header");
    }
    if (request.headers.has(HeaderId::transfer_encoding)) {
        return refuse(in, 400, "client sent duplicate \"Transfer-Encoding\" header");
    }
    if (core::iequals(in.value, "chunked")) return 0;
    bool list = in.value.find(',') != core::Slice::npos;
    constexpr core::Slice ending = ", chunked";
    bool last = in.value.size() > ending.size() &&
                core::iequals(in.value.substr(in.value.size() - ending.size()), ending);
    if (in.value.empty() || (list && (!last || in.value[0] == ',' ||
                                      core::ifind(in.value, "chunked") != in.value.size() - 7 ||
                                      in.value.find('"') != core::Slice::npos))) {
        return refuse(in, 400, "client sent invalid \"Transfer-Encoding\" header");
    }
    return refuse(in, 501, "client sent unknown \"Transfer-Encoding\"");
}

int check_content_length(BlockReader& in) {
    Request& request = *in.request;
    if (request.headers.has(HeaderId::content_length)) {
        return refuse(in, 400, "client sent duplicate \"Content-Length\" header");
    }
    auto length = core::parse_number(in.value, INT64_MAX);
    if (!length) return refuse(in, 400, "client sent invalid \"Content-Length\" header");
    request.head.content_length = int64_t(*length);
    return 0;
}

int take_field(BlockReader& in) {
    Request& request = *in.request;
    in.value = core::trim(in.value);
    if (in.name.empty()) return refuse(in, 400, "client sent invalid header line");
    if (++in.count > in.count_max) return refuse(in, 400, "client sent too many header lines");
    HeaderId id = header_id(in.name);
    int checked = 0;
    if (id == HeaderId::other) {
        const CoreConf& conf = *request.server->root.core;
        if (!is_plain_name(in.name, conf.underscores_in_headers)) {
            LOG(request.log, info, 0, "client sent invalid header line: \"%.*s: %.*s\"",
                int(in.name.size()), in.name.data(), int(in.value.size()), in.value.data());
            if (conf.ignore_invalid_headers) return 0;
            return refuse(in, 400, "client sent invalid header line");
        }
    } else if (id == HeaderId::content_length) {
        checked = check_content_length(in);
    } else if (id == HeaderId::transfer_encoding) {
        checked = check_transfer_encoding(in);
    } else if (id == HeaderId::host && request.headers.has(HeaderId::host)) {
        return refuse(in, 400, "client sent duplicate host header");
    }
    if (checked != 0) return checked;
    request.headers.add(in.name, in.value, id);
    return 0;
}

int add_to_trailer(BlockReader& in, std::string& to, const char* at, size_t size) {
    in.progress = true;
    in.trailer_bytes += size;
    if (in.trailer_bytes > trailer_bytes_max) {
        return refuse(in, 400, "client sent too large trailers");
    }
    to.append(at, size);
    return 0;
}

// Trailers stay apart from the header fields: they must not change what was decided by those
// (RFC 9110 6.5.1).
int take_trailer(BlockReader& in) {
    core::Arena& arena = in.request->arena;
    if (in.trailer_name.empty()) return refuse(in, 400, "client sent invalid trailer");
    if (++in.count > in.count_max) return refuse(in, 400, "client sent too many trailers");
    in.request->trailers.add(arena.copy(in.trailer_name), arena.copy(core::trim(in.trailer_value)));
    in.trailer_name.clear();
    in.trailer_value.clear();
    return 0;
}

int on_field(llhttp_t* parser, const char* at, size_t size) {
    BlockReader& in = reader(parser);
    if (in.in_trailers) return add_to_trailer(in, in.trailer_name, at, size);
    in.name = {at, size};
    in.value = {};
    return 0;
}

int on_value(llhttp_t* parser, const char* at, size_t size) {
    BlockReader& in = reader(parser);
    if (in.in_trailers) return add_to_trailer(in, in.trailer_value, at, size);
    in.value = {at, size};
    return 0;
}

int on_value_complete(llhttp_t* parser) {
    BlockReader& in = reader(parser);
    return in.in_trailers ? take_trailer(in) : take_field(in);
}

int on_headers_complete(llhttp_t* parser) {
    parser->upgrade = 0;               // no tunnel before our own 101
    reader(parser).in_trailers = true;
    return 0;
}

int on_body(llhttp_t* parser, const char* at, size_t size) {
    BlockReader& in = reader(parser);
    in.progress = true;
    in.request->body.receive(*in.request, {at, size}, false);
    return 0;
}

int on_chunk(llhttp_t* parser) {
    BlockReader& in = reader(parser);
    in.progress = true;
    uint64_t most = uint64_t(in.request->core().client_max_body_size->count);
    if (most == 0) most = uint64_t(INT64_MAX) / 2;
    uint64_t so_far = uint64_t(in.request->body.size());
    if (parser->content_length <= most && so_far <= most - parser->content_length) return 0;
    return refuse(in, 413, "client intended to send too large chunked body");
}

int on_extension(llhttp_t* parser, const char*, size_t size) {
    BlockReader& in = reader(parser);
    in.extension_bytes += size;
    if (in.extension_bytes <= extension_bytes_max) return 0;
    return refuse(in, 400, "client sent too long chunk extension");
}

int on_complete(llhttp_t* parser) {
    reader(parser).complete = true;
    return HPE_PAUSED;
}

const llhttp_settings_t& head_settings() {
    static const llhttp_settings_t settings = [] {
        llhttp_settings_t made;
        llhttp_settings_init(&made);
        made.on_header_field = on_field;
        made.on_header_value = on_value;
        made.on_header_value_complete = on_value_complete;
        made.on_headers_complete = on_headers_complete;
        made.on_body = on_body;
        made.on_chunk_header = on_chunk;
        made.on_chunk_extension_name = on_extension;
        made.on_chunk_extension_value = on_extension;
        made.on_message_complete = on_complete;
        return made;
    }();
    return settings;
}

// A parser that has already read the request line "POST / HTTP/1.x": the gate reads request lines
// itself (methods and bytes that strict llhttp does not take), and for the header block and the
// framing the line's version is all that matters.
const llhttp_t& primed_parser(bool http_1_0) {
    static const auto prime = [](const char* line) {
        llhttp_t parser;
        llhttp_init(&parser, HTTP_REQUEST, &head_settings());
        llhttp_execute(&parser, line, std::strlen(line));
        return parser;
    };
    static const llhttp_t parser_1_1 = prime("POST / HTTP/1.1\r\n");
    static const llhttp_t parser_1_0 = prime("POST / HTTP/1.0\r\n");
    return http_1_0 ? parser_1_0 : parser_1_1;
}

// A header block whose lines end in LF, with CRLF instead.
core::Slice with_crlf(Request& request, core::Slice block) {
    core::Appender text(request.arena, block.size() + 64);
    for (char c : block) {
        if (c == '\n') text.append('\r');
        text.append(c);
    }
    return text.take();
}

HeadError check_framing(Request& request) {
    bool chunked = request.headers.has(HeaderId::transfer_encoding);
    if (chunked && request.head.content_length >= 0) {
        return {400, "client sent \"Content-Length\" and \"Transfer-Encoding\" headers"};
    }
    request.body.chunked = chunked;
    request.body.content_length = request.head.content_length;
    core::Slice expect = request.headers.value(HeaderId::expect);
    request.body.expects_continue = request.body.present() && request.head.version >= 11 &&
                                    core::iequals(expect, "100-continue");
    return {};
}

}  // namespace

namespace {

// One memo serves all connections of the process.
HeadMemo memo;

HeadError parse_block(Request& request, core::Slice block, llhttp__internal_s** parser) {
    BlockReader in;
    in.request = &request;
    in.count_max = int(*request.server->root.core->max_headers);
    llhttp_t local = primed_parser(request.head.version == 10);
    local.data = &in;
    llhttp_errno_t result = llhttp_execute(&local, block.data(), block.size());
    if (in.error.status) return in.error;
    if (result != HPE_OK && result != HPE_PAUSED) return {400, "client sent invalid header line"};
    if (HeadError error = check_framing(request); error.status) return error;
    if (HeadError error = check_host(request); error.status) return error;
    if (request.body.chunked) {
        auto* kept = request.arena.make<BlockReader>(in);
        *parser = request.arena.make<llhttp_t>(local);
        (*parser)->data = kept;
        kept->in_trailers = true;
        kept->count = 0;
    }
    return {};
}

}  // namespace

HeadError parse_head(Request& request, core::Slice bytes, const HeadScan& scan,
                     llhttp__internal_s** parser, const HeadMemo::Entry** known) {
    core::Slice line = bytes.substr(scan.start(), scan.line_end() - scan.start());
    if (HeadError error = parse_request_line(request, line); error.status) return error;
    core::Slice block = bytes.substr(scan.block(), scan.end() - scan.block());
    if (scan.lf_only()) return parse_block(request, with_crlf(request, block), parser);

    if (!scan.known()) *known = memo.find(block);
    if (*known && (*known)->count <= *request.server->root.core->max_headers) {
        (*known)->apply(request, block.data());
        return {};
    }
    bool from_target = !request.head.host.empty();
    if (HeadError error = parse_block(request, block, parser); error.status) return error;
    if (!from_target) *known = memo.learn(block, request);
    return {};
}

ChunkResult decode_chunks(Request& request, llhttp__internal_s* parser, core::Slice bytes) {
    // Fed in pieces, so that framing bytes which lead to nothing are noticed (leading zeros
    // without end).
    constexpr size_t piece_bytes = 2048;
    BlockReader& in = reader(parser);
    in.request = &request;
    ChunkResult result;
    while (result.used < bytes.size() && !in.complete) {
        uint64_t in_chunk = std::min<uint64_t>(parser->content_length, 1 << 20);
        size_t piece = std::max(piece_bytes, size_t(in_chunk));
        piece = std::min(piece, bytes.size() - result.used);
        const char* from = bytes.data() + result.used;
        in.progress = false;
        llhttp_errno_t error = llhttp_execute(parser, from, piece);
        if (error == HPE_PAUSED && in.complete) {
            result.used += size_t(llhttp_get_error_pos(parser) - from);
            break;
        }
        if (error != HPE_OK) {
            result.status = in.error.status ? in.error.status : 400;
            return result;
        }
        result.used += piece;
        in.idle_bytes = in.progress ? 0 : in.idle_bytes + piece;
        if (in.idle_bytes > idle_bytes_max) {
            result.status = 400;
            return result;
        }
    }
    result.complete = in.complete;
    return result;
}

}  // namespace server
