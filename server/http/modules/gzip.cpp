// The gzip filter: compresses response bodies as they pass. Compressors are kept and used again, so
// that a response costs no allocation of their quarter of a megabyte.
#include <zlib.h>

#include <memory>
#include <vector>

#include "conf/binder.h"
#include "conf/values.h"
#include "server/http/file_read.h"
#include "server/http/gzip_accept.h"
#include "server/http/request.h"
#include "server/http/type_set.h"

namespace server {

namespace {

struct Conf {
    conf::Setting<bool> enabled{false};
    conf::Setting<bool> no_buffer{false};
    conf::Setting<TypeSet> types{TypeSet{"text/html"}};
    conf::Setting<int> level{1};
    conf::Setting<conf::Bytes> window{conf::Bytes{1 << MAX_WBITS}};
    conf::Setting<conf::Bytes> hash{conf::Bytes{1 << (MAX_MEM_LEVEL - 1 + 7)}};
    conf::Setting<conf::Bytes> min_length{conf::Bytes{20}};
    conf::Setting<conf::Bytes> postpone{conf::Bytes{0}};
    conf::Setting<conf::BufferSizes> buffers{conf::BufferSizes{32, 4096}};
    int window_bits = MAX_WBITS;
    int memory_level = MAX_MEM_LEVEL - 1;
};

// ---- compressors ----

struct Compressor {
    z_stream stream{};
    int level, window_bits, memory_level;
};

constexpr size_t idle_compressors_max = 16;

std::vector<std::unique_ptr<Compressor>>& idle_compressors() {
    struct Pool {
        std::vector<std::unique_ptr<Compressor>> idle;
        ~Pool() {
            for (auto& one : idle) deflateEnd(&one->stream);
        }
    };
    static thread_local Pool pool;
    return pool.idle;
}

// Null when there is no memory.
Compressor* take_compressor(int level, int window_bits, int memory_level) {
    auto& idle = idle_compressors();
    for (auto& one : idle) {
        if (one->level != level || one->window_bits != window_bits ||
            one->memory_level != memory_level) {
            continue;
        }
        Compressor* taken = one.release();
        one = std::move(idle.back());
        idle.pop_back();
        return taken;
    }
    auto fresh = std::make_unique<Compressor>();
    fresh->level = level;
    fresh->window_bits = window_bits;
    fresh->memory_level = memory_level;
    constexpr int gzip_wrapper = 16;
    int result = deflateInit2(&fresh->stream, level, Z_DEFLATED, window_bits + gzip_wrapper,
                              memory_level, Z_DEFAULT_STRATEGY);
    return result == Z_OK ? fresh.release() : nullptr;
}

void give_back(Compressor* compressor) {
    std::unique_ptr<Compressor> it(compressor);
    auto& idle = idle_compressors();
    if (idle.size() < idle_compressors_max && deflateReset(&it->stream) == Z_OK) {
        idle.push_back(std::move(it));
    } else {
        deflateEnd(&it->stream);
    }
}

// ---- one response ----

const Module& module();

struct State {
    Compressor* compressor = nullptr;
    core::Chunk* chunk = nullptr;      // what is compressed but not yet sent on
    uint64_t bytes_in = 0, bytes_out = 0;
    bool finished = false;
    bool begun = false;                // what postpone_gzipping holds back is enough
    core::Chain held;

    ~State() {
        if (compressor) give_back(compressor);
        if (chunk) chunk->drop();
    }
};

bool is_candidate(const Request& request, const Conf& conf) {
    const Response& response = request.response;
    if (response.status != 200 && response.status != 403 && response.status != 404) return false;
    if (request.header_only || response.headers.find(HeaderId::content_encoding)) return false;
    if (response.content_length != -1 && response.content_length < conf.min_length->count) {
        return false;
    }
    return conf.types.value.matches(request);
}

Verdict filter_header(Request& request) {
    const Conf& conf = request.conf<Conf>(module());
    if (!is_candidate(request, conf)) return Verdict::pass();
    note_gzip_vary(request);
    if (!accepts_gzip(request)) return Verdict::pass();

    // A body that is known to be short needs no large window.
    int window_bits = conf.window_bits, memory_level = conf.memory_level;
    int64_t length = request.response.content_length;
    constexpr int lookahead = 262, window_bits_least = 9;
    while (length > 0 && window_bits > window_bits_least &&
           length < (1 << (window_bits - 1)) - lookahead) {
        --window_bits;
        if (memory_level > 1) --memory_level;
    }
    auto& state = request.need_state<State>(module());
    state.compressor = take_compressor(conf.level, window_bits, memory_level);
    if (!state.compressor) {
        LOG(request.log, alert, 0, "deflateInit2() failed");
        return Verdict::reject(500);
    }
    Response& response = request.response;
    response.headers.set(HeaderId::content_encoding, "gzip");
    response.content_length = -1;
    response.allow_ranges = false;
    response.headers.remove(HeaderId::accept_ranges);
    weaken_etag(request);
    request.filter_need_in_memory = true;
    request.want_body(FilterSlot::gzip);
    return Verdict::pass();
}

// Sends on what is compressed.
void emit(State& state, core::Chain& out) {
    if (!state.chunk) return;
    if (state.chunk->used == 0) return;
    core::Chunk* chunk = std::exchange(state.chunk, nullptr);
    out.add({chunk->data(), chunk->used}, chunk);
}

// Runs the compressor until it has taken all of `text` and, for a flush or the end, given all.
bool compress(Request& request, State& state, core::Slice text, int mode, core::Chain& out) {
    z_stream& stream = state.compressor->stream;
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
    stream.avail_in = uInt(text.size());
    state.bytes_in += text.size();
    for (;;) {
        if (!state.chunk) state.chunk = core::Chunk::take();
        core::Chunk& chunk = *state.chunk;
        stream.next_out = reinterpret_cast<Bytef*>(chunk.data() + chunk.used);
        stream.avail_out = uInt(chunk.room());
        int result = deflate(&stream, mode);
        if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR) {
            LOG(request.log, alert, 0, "deflate() failed: %d, %d", mode, result);
            return false;
        }
        size_t written = chunk.room() - stream.avail_out;
        state.bytes_out += written;
        chunk.used += uint32_t(written);
        bool full = stream.avail_out == 0;
        if (full) emit(state, out);
        if (!full && stream.avail_in == 0) return true;
    }
}

// postpone_gzipping: nothing is compressed before so much is there. False: not yet.
bool begin(State& state, int64_t postpone, core::Chain& chain) {
    bool enough = state.held.bytes() + chain.bytes() >= postpone;
    for (const core::Buffer* at = chain.head(); at && !enough; at = at->next) {
        enough = at->flags & (core::Buffer::last | core::Buffer::flush);
    }
    state.held.append(std::move(chain));
    if (!enough) return false;
    state.begun = true;
    chain = std::move(state.held);
    return true;
}

Verdict filter_body(Request& request, core::Chain& chain) {
    auto* state = request.state<State>(module());
    if (!state || !state->compressor) return Verdict::pass();
    const Conf& conf = request.conf<Conf>(module());
    if (!state->begun && !begin(*state, conf.postpone->count, chain)) return Verdict::pass();
    core::Chain out;
    bool whole = true;
    while (core::Buffer* buffer = chain.pop()) {
        PieceReader reader(request, *buffer);
        for (core::Slice piece = reader.next(); whole && !piece.empty(); piece = reader.next()) {
            whole = compress(request, *state, piece, Z_NO_FLUSH, out);
        }
        uint8_t flags = buffer->flags;
        core::Chain::release(buffer);
        if (!whole || reader.failed()) return Verdict::reject(500);
        if (flags & core::Buffer::last) {
            if (!compress(request, *state, {}, Z_FINISH, out)) return Verdict::reject(500);
            emit(*state, out);
            out.add_mark(core::Buffer::last);
            give_back(std::exchange(state->compressor, nullptr));
            state->finished = true;
            break;
        }
        if (flags & core::Buffer::flush) {
            if (!compress(request, *state, {}, Z_SYNC_FLUSH, out)) return Verdict::reject(500);
            emit(*state, out);
            out.add_mark(core::Buffer::flush);
        }
    }
    if (conf.no_buffer && state->compressor) emit(*state, out);
    chain = std::move(out);
    return Verdict::pass();
}

Value gzip_ratio(Request& request, core::Slice, uintptr_t) {
    auto* state = request.state<State>(module());
    if (!state || !state->finished || state->bytes_out == 0) return Value::none();
    uint64_t whole = state->bytes_in / state->bytes_out;
    uint64_t hundredths = (state->bytes_in * 100 / state->bytes_out) % 100;
    uint64_t thousandths = (state->bytes_in * 1000 / state->bytes_out) % 10;
    if (thousandths > 4 && ++hundredths > 99) {
        ++whole;
        hundredths = 0;
    }
    core::Appender to(request.arena, 32);
    to.append_number(int64_t(whole));
    to.append('.');
    to.append(char('0' + hundredths / 10));
    to.append(char('0' + hundredths % 10));
    return to.take();
}

// ---- configuration ----

conf::Result<void> merge(Conf& conf, const Conf*, conf::Binder&) {
    auto bits = [](int64_t bytes, int most, int least) {
        for (int bit = most; bit >= least; --bit) {
            if (bytes == int64_t(1) << bit) return bit;
        }
        return -1;
    };
    conf.window_bits = bits(conf.window.value.count, MAX_WBITS, 9);
    if (conf.window_bits < 0) {
        return conf::Error{"\"gzip_window\" directive must be 512, 1k, 2k, 4k, 8k, 16k, or 32k"};
    }
    int hash_bits = bits(conf.hash.value.count, MAX_MEM_LEVEL - 1 + 7 + 1, 9);
    if (hash_bits < 0) {
        return conf::Error{"\"gzip_hash\" directive must be 512, 1k, 2k, 4k, 8k, 16k, 32k, 64k, "
                           "or 128k"};
    }
    conf.memory_level = std::max(hash_bits - 7, 1);
    return {};
}

using namespace conf;
constexpr Directive directives[] = {
    {"gzip", in_any_http | in_location_if, takes_flag(), field<&Conf::enabled>},
    {"gzip_buffers", in_any_http, takes(2), field<&Conf::buffers>},
    {"gzip_types", in_any_http, takes_at_least(1), field<&Conf::types>},
    {"gzip_comp_level", in_any_http, takes(1), field_within<&Conf::level, 1, 9>},
    {"gzip_window", in_any_http, takes(1), field<&Conf::window>},
    {"gzip_hash", in_any_http, takes(1), field<&Conf::hash>},
    {"postpone_gzipping", in_any_http, takes(1), field<&Conf::postpone>},
    {"gzip_no_buffer", in_any_http, takes_flag(), field<&Conf::no_buffer>},
    {"gzip_min_length", in_any_http, takes(1), field<&Conf::min_length>},
};

constexpr Variable variables[] = {{"gzip_ratio", gzip_ratio, Variable::volatile_}};

constexpr Filter filters[] = {
    {FilterSlot::gzip, filter_header, filter_body,
     [](const void* conf) { return static_cast<const Conf*>(conf)->enabled.value; }},
};

constinit const Module gzip{
    .name = "gzip",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .variables = variables,
    .filters = filters,
    .has_request_state = true,
};
const Module& module() { return gzip; }
REGISTER_MODULE(gzip);

}  // namespace

}  // namespace server
