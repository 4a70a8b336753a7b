// The gunzip filter: unpacks gzip responses for clients that do not take gzip.
#include "conf/values.h"
#include "core/text.h"
#include "server/http/file_read.h"
#include "server/http/gunzip_stream.h"
#include "server/http/gzip_accept.h"
#include "server/http/request.h"

namespace server {

namespace {

struct Conf {
    conf::Setting<bool> enabled{false};
    conf::Setting<conf::BufferSizes> buffers{conf::BufferSizes{32, 4096}};
};

const Module& module();

Verdict filter_header(Request& request) {
    Response& response = request.response;
    if (!core::iequals(response.headers.value(HeaderId::content_encoding), "gzip")) {
        return Verdict::pass();
    }
    note_gzip_vary(request);
    if (accepts_gzip(request)) return Verdict::pass();
    request.need_state<GunzipStream>(module());
    response.headers.remove(HeaderId::content_encoding);
    response.content_length = -1;
    response.allow_ranges = false;
    response.headers.remove(HeaderId::accept_ranges);
    weaken_etag(request);
    request.filter_need_in_memory = true;
    request.want_body(FilterSlot::gunzip);
    return Verdict::pass();
}

Verdict filter_body(Request& request, core::Chain& chain) {
    auto* stream = request.state<GunzipStream>(module());
    if (!stream || request.header_only || request.method == Method::head) return Verdict::pass();
    core::Chain out;
    while (core::Buffer* buffer = chain.pop()) {
        PieceReader reader(request, *buffer);
        bool good = true;
        for (core::Slice piece = reader.next(); good && !piece.empty(); piece = reader.next()) {
            good = stream->feed(piece, out);
        }
        uint8_t marks = buffer->flags & (core::Buffer::last | core::Buffer::flush);
        core::Chain::release(buffer);
        if (!good) LOG(request.log, error, 0, "inflate() failed: 0, %d", stream->error());
        if (!good || reader.failed()) return Verdict::reject(500);
        if (!marks) continue;
        stream->flush(out);
        if ((marks & core::Buffer::last) && !stream->complete()) {
            LOG(request.log, error, 0, "inflate() returned %d on response end", Z_OK);
            return Verdict::reject(500);
        }
        out.add_mark(marks);
    }
    chain = std::move(out);
    return Verdict::pass();
}

constexpr conf::Directive directives[] = {
    {"gunzip", conf::in_any_http, conf::takes_flag(), conf::field<&Conf::enabled>},
    {"gunzip_buffers", conf::in_any_http, conf::takes(2), conf::field<&Conf::buffers>},
};

constexpr Filter filters[] = {
    {FilterSlot::gunzip, filter_header, filter_body,
     [](const void* conf) { return static_cast<const Conf*>(conf)->enabled.value; }},
};

constinit const Module gunzip{
    .name = "gunzip",
    .conf = conf_of<Conf>,
    .directives = directives,
    .filters = filters,
    .has_request_state = true,
};
const Module& module() { return gunzip; }
REGISTER_MODULE(gunzip);

}  // namespace

}  // namespace server
