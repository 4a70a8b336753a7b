// The charset filter: adds the charset to Content-Type, and recodes bodies between charsets that a
// charset_map joins.
#include <algorithm>
#include <memory>

#include "conf/binder.h"
#include "conf/parser.h"
#include "conf/values.h"
#include "core/text.h"
#include "server/config.h"
#include "server/http/file_read.h"
#include "server/http/recode.h"
#include "server/http/request.h"
#include "server/http/type_set.h"
#include "server/http/variables.h"

namespace server {

namespace {

// A charset directive's argument.
struct Charset {
    enum Kind : uint8_t { unset, off, given } kind = unset;
    ComplexValue name;           // a name or a variable
};

struct Map {
    std::string from, to;
    CharsetTable table;
};

struct Conf {
    Charset charset, source;
    conf::Setting<bool> override_given{false};
    conf::Setting<TypeSet> types{TypeSet{"text/html", "text/xml", "text/plain",
                                         "text/vnd.wap.wml", "application/javascript",
                                         "application/rss+xml"}};
    std::vector<std::shared_ptr<Map>> maps;      // of the http level
};

const Module& module();

// ---- configuration ----

Conf& shared() {
    Configuration& configuration = Configuration::current();
    conf::Level& http = *configuration.http_level();
    return *static_cast<Conf*>(configuration.binder().own(http, module().index));
}

conf::Result<void> set(Charset& to, const conf::Line& line, bool may_be_off) {
    if (to.kind != Charset::unset) return conf::detail::duplicate();
    if (may_be_off && line.arg(0) == "off") {
        to.kind = Charset::off;
        return {};
    }
    to.kind = Charset::given;
    if (!line.arg(0).starts_with('$')) {
        to.name = ComplexValue(line.arg(0));
        return {};
    }
    auto value = ComplexValue::compile(line.arg(0), line);
    if (!value) return value.take_error();
    to.name = std::move(*value);
    return {};
}

conf::Result<void> set_charset(Conf& conf, const conf::Line& line) {
    return set(conf.charset, line, true);
}
conf::Result<void> set_source(Conf& conf, const conf::Line& line) {
    return set(conf.source, line, false);
}

conf::Error invalid(core::Slice value) {
    return conf::Error{"invalid value \"" + std::string(value) + "\""};
}

// "D0B0": the bytes of one UTF-8 character.
bool read_bytes(core::Slice text, std::string& bytes) {
    if (text.empty() || text.size() % 2) return false;
    for (size_t i = 0; i < text.size(); i += 2) {
        auto byte = core::parse_hex(text.substr(i, 2), 255);
        if (!byte) return false;
        bytes += char(*byte);
    }
    return true;
}

conf::Result<void> read_row(CharsetTable& table, const conf::Node& row, conf::Binder& binder) {
    if (row.args.size() != 1 || row.has_block) {
        return binder.error_at(row.place, "invalid parameters number");
    }
    auto from = core::parse_hex(row.name, 255);
    if (!from) return binder.error_at(row.place, invalid(row.name).what);
    bool good;
    if (table.utf8()) {
        std::string bytes;
        good = read_bytes(row.arg(0), bytes) && table.map_utf8(uint8_t(*from), bytes);
    } else {
        auto to = core::parse_hex(row.arg(0), 255);
        good = to.has_value();
        if (good) table.map(uint8_t(*from), uint8_t(*to));
    }
    if (!good) return binder.error_at(row.place, invalid(row.arg(0)).what);
    return {};
}

conf::Result<void> add_rows(CharsetTable& table, const std::vector<conf::Node>& rows,
                            const conf::Line& line) {
    conf::Binder& binder = line.binder;
    for (const conf::Node& row : rows) {
        conf::Result<void> read;
        if (row.name == "include" && row.args.size() == 1) {
            std::vector<conf::Node> included;
            conf::ParseOptions options;
            options.prefix = binder.prefix;
            options.conf_prefix = binder.conf_prefix;
            auto parsed = conf::parse_include(row.arg(0), row.place, options, binder.tree(),
                                              included);
            read = parsed ? add_rows(table, included, line) : std::move(parsed);
        } else {
            read = read_row(table, row, binder);
        }
        if (!read) return read;
    }
    return {};
}

conf::Result<void> add_map(Conf& conf, const conf::Line& line) {
    std::string from(line.arg(0)), to(line.arg(1));
    std::string both = "\"" + from + "\" and \"" + to + "\"";
    if (core::iequals(from, to)) {
        return conf::Error{"\"charset_map\" between the same charsets " + both};
    }
    if (core::iequals(from, "utf-8")) {
        return conf::Error{"\"charset_map\" with \"utf-8\" charset should be given in the second "
                           "column"};
    }
    for (auto& map : conf.maps) {
        if ((core::iequals(map->from, from) && core::iequals(map->to, to)) ||
            (core::iequals(map->from, to) && core::iequals(map->to, from))) {
            return conf::Error{"duplicate \"charset_map\" between " + both};
        }
    }
    bool utf8 = core::iequals(to, "utf-8");
    auto map = std::make_shared<Map>(Map{from, to, CharsetTable(utf8)});
    auto added = add_rows(map->table, line.node.children, line);
    if (!added) return added;
    conf.maps.push_back(std::move(map));
    return {};
}

// The recoder between two charsets; false: no map joins them.
bool find_recoder(core::Slice from, core::Slice to, Recoder& recoder) {
    for (auto& map : shared().maps) {
        if (core::iequals(map->from, from) && core::iequals(map->to, to)) {
            recoder = Recoder(map->table, Recoder::forward);
            return true;
        }
        if (core::iequals(map->from, to) && core::iequals(map->to, from)) {
            recoder = Recoder(map->table, Recoder::backward);
            return true;
        }
    }
    return false;
}

conf::Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (!outer) return {};
    if (conf.charset.kind == Charset::unset) conf.charset = outer->charset;
    if (conf.source.kind == Charset::unset) conf.source = outer->source;
    return {};
}

// Charsets that are named in one place must be joined by a map, or no response could be right.
conf::Result<void> check_maps(Configuration& configuration) {
    if (!configuration.http_level()) return {};
    for (conf::Level* level : configuration.levels) {
        auto* conf = static_cast<const Conf*>(level->get(module().index));
        if (!conf || conf->charset.kind != Charset::given || conf->source.kind != Charset::given ||
            !conf->charset.name.is_constant() || !conf->source.name.is_constant()) {
            continue;
        }
        core::Slice from = conf->source.name.constant(), to = conf->charset.name.constant();
        Recoder recoder;
        if (core::iequals(from, to) || find_recoder(from, to, recoder)) continue;
        return conf::Error{"no \"charset_map\" between the charsets \"" + std::string(from) +
                           "\" and \"" + std::string(to) + "\""};
    }
    return {};
}

// ---- responses ----

// The charset that the response is to have; null data: it is left alone.
core::Slice wanted_charset(Request& request, const Conf& conf) {
    const Response& response = request.response;
    if (request.parent) {
        core::Slice main = request.main->response.charset;
        return main.empty() ? core::Slice{} : main;
    }
    if (response.content_type.empty() || conf.charset.kind != Charset::given) return {};
    if (!response.charset.empty()) {
        if (!conf.override_given) return {};
    } else if (!conf.types.value.matches(request)) {
        return {};
    }
    return conf.charset.name.evaluate(request);
}

void set_response_charset(Request& request, core::Slice charset) {
    if (request.parent) return;
    int status = request.response.status;
    // Old browsers took a redirect's charset for that of the page it leads to.
    bool redirect = status == 301 || status == 302;
    // A script that gave a type with a charset meant it.
    bool has_own = request.response.content_type.find("charset=") != core::Slice::npos;
    request.response.charset = redirect || has_own ? core::Slice{} : charset;
}

bool begin_recoding(Request& request, core::Slice from, core::Slice to) {
    Recoder recoder;
    if (!find_recoder(from, to, recoder)) {
        LOG(request.log, error, 0, "no \"charset_map\" between the charsets \"%.*s\" and \"%.*s\"",
            int(from.size()), from.data(), int(to.size()), to.data());
        return false;
    }
    request.need_state<Recoder>(module()) = recoder;
    request.filter_need_in_memory = true;
    if (recoder.changes_length() && !request.parent) {
        request.response.content_length = -1;
        request.response.allow_ranges = false;
    }
    request.want_body(FilterSlot::charset);
    return true;
}

Verdict filter_header(Request& request) {
    const Conf& conf = request.conf<Conf>(module());
    core::Slice to = wanted_charset(request, conf);
    if (!to.data() || to.empty()) return Verdict::pass();
    core::Slice from = request.response.charset;
    if (from.empty()) {
        if (conf.source.kind != Charset::given) {
            set_response_charset(request, to);
            return Verdict::pass();
        }
        from = conf.source.name.evaluate(request);
    }
    if (core::iequals(from, to)) {
        set_response_charset(request, to);
        return Verdict::pass();
    }
    if (request.response.headers.has(HeaderId::content_encoding) &&
        !request.response.headers.value(HeaderId::content_encoding).empty()) {
        return Verdict::pass();
    }
    if (begin_recoding(request, from, to)) set_response_charset(request, to);
    return Verdict::pass();
}

Verdict filter_body(Request& request, core::Chain& chain) {
    auto* recoder = request.state<Recoder>(module());
    if (!recoder) return Verdict::pass();
    static thread_local LineBuffer recoded;
    core::Chain out;
    while (core::Buffer* buffer = chain.pop()) {
        PieceReader reader(request, *buffer);
        for (core::Slice piece = reader.next(); !piece.empty(); piece = reader.next()) {
            recoded.clear();
            recoder->feed(piece, recoded);
            out.add_copy(recoded.text());
        }
        uint8_t marks = buffer->flags & (core::Buffer::last | core::Buffer::flush);
        core::Chain::release(buffer);
        if (reader.failed()) return Verdict::reject(500);
        if (marks) out.add_mark(marks);
    }
    chain = std::move(out);
    return Verdict::pass();
}

constexpr uint32_t contexts = conf::in_any_http | conf::in_location_if;
constexpr conf::Directive directives[] = {
    {"charset", contexts, conf::takes(1), conf::call<set_charset>},
    {"source_charset", contexts, conf::takes(1), conf::call<set_source>},
    {"override_charset", contexts, conf::takes_flag(), conf::field<&Conf::override_given>},
    {"charset_types", conf::in_any_http, conf::takes_at_least(1), conf::field<&Conf::types>},
    {"charset_map", conf::in_http, conf::takes_block(2, 2), conf::call<add_map>},
};

// A location without a charset of its own still recodes subrequests of one that has.
constexpr Filter filters[] = {
    {FilterSlot::charset, filter_header, filter_body,
     [](const void* conf) {
         auto& it = *static_cast<const Conf*>(conf);
         return it.charset.kind == Charset::given || it.source.kind == Charset::given;
     }},
};

constinit const Module charset_filter{
    .name = "charset",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .filters = filters,
    .prepare = check_maps,
    .has_request_state = true,
};
const Module& module() { return charset_filter; }
REGISTER_MODULE(charset_filter);

}  // namespace

}  // namespace server
